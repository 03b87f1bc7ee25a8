"""Open a capture file and fill rows of descriptors from it; the packet bytes stay where they are."""

from __future__ import annotations

import errno
import os
import stat
import weakref
from collections.abc import Callable
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from wirecap.errors import UsageError
from wirecap.files import headers
from wirecap.files.feed import Mapped, Octets, Progress, Streamed, Words, being_read
from wirecap.files.interface import Interface
from wirecap.files.octet_source import GZIP_MAGIC, ZSTANDARD_MAGIC, open_source
from wirecap.files.scan_error import describe
from wirecap.kernels import scan_state as at
from wirecap.kernels.pcap_read import scan

Lengths = npt.NDArray[np.uint32]
_WHOLE = "the packets before it are whole"


class CaptureFile:
    """A pcap or pcapng file that is being read.

    ``arena`` (uint8) holds the bytes, ``state`` and ``table`` are what the kernel ``scan`` works on,
    ``interfaces`` says what the row's interface, ``state[INTERFACE]``, is.  Either call ``fill``, or call
    ``scan(arena, state, table, row..., limit)`` and, whenever it gives 0, ``advance``.  ``table`` may be
    another array after ``advance``.

    A chunk holds the block its first packet lies in, ``held[(address - 1) // state[BLOCK_BYTES]]``: count it
    up when the row is handed out (``fill`` does) and down when it is recycled (``release``).
    """

    def __init__(self, path: str, feed: Mapped | Streamed, status: os.stat_result | None = None) -> None:
        self.path = path
        self.size = status.st_size if status and isinstance(feed, Mapped) else None
        """Bytes of the file, None if unknown; ``offset`` goes up to it."""
        self.arena: Octets = feed.arena
        self.held: Words = feed.held
        self.state: Words = np.zeros(at.STATE_WORDS, dtype=np.int64)
        self.table: Words = np.zeros(16 * at.INTERFACE_WORDS, dtype=np.int64)
        self.interfaces: list[Interface] = []
        self.feed = feed
        feed.prepare(self.state)
        self._read_start()
        self._forget: Callable[[], object] = lambda: None
        if status and stat.S_ISREG(status.st_mode):
            being_read.append(identity := (status.st_dev, status.st_ino))
            self._forget = weakref.finalize(self, being_read.remove, identity)

    @property
    def offset(self) -> int:
        """Bytes of the (uncompressed) file that were scanned."""
        return int(self.state[at.ORIGIN] + self.state[at.POSITION])

    @property
    def kind(self) -> str:
        return "pcapng" if self.state[at.FORMAT] == at.PCAPNG else "pcap"

    def fill(
        self, address: Words, captured: Lengths, original: Lengths, stamp: Words, limit: int,
        timeout_s: float | None = None,
    ) -> tuple[int, Progress]:  # fmt: skip
        """Fill a row with packets of one interface: (their number, READY), or (0, why there are none)."""
        while True:
            n = int(scan(self.arena, self.state, self.table, address, captured, original, stamp, limit))
            if n:
                self.held[(int(address[0]) - 1) // int(self.state[at.BLOCK_BYTES])] += 1
                return n, Progress.READY
            progress = self.advance(timeout_s)
            if progress is not Progress.READY:
                return 0, progress

    def release(self, address: int) -> None:
        """The chunk whose first packet was at this address was recycled."""
        self.held[(address - 1) // int(self.state[at.BLOCK_BYTES])] -= 1

    def advance(self, timeout_s: float | None = None) -> Progress:
        """Do what ``state[STOP]`` asks for: read more, take in a description, raise UsageError.

        Waits for a pipe at most timeout_s seconds, None for ever.
        """
        stop = self.state[at.STOP]
        if stop == at.ENDED:
            return Progress.ENDED
        if stop == at.MORE:
            return self._refill(timeout_s)
        if stop == at.DESCRIPTION:
            return self._describe(timeout_s)
        if stop == at.FAILED:
            message, hint = describe(self.state)
            self._fail(self.feed.damage or message, hint or _WHOLE)  # damaged data unpack into nonsense first
        return Progress.READY

    def close(self) -> None:
        self.feed.close()
        self._forget()

    def __enter__(self) -> CaptureFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fail(self, message: str, hint: str) -> NoReturn:
        raise UsageError(f"{self.path}: {message} at offset {self.offset}", hint)

    def _refill(self, timeout_s: float | None) -> Progress:
        try:
            return self.feed.refill(self.state, timeout_s)
        except (ValueError, OSError) as error:
            text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            self._fail(text, _WHOLE)

    def _peek(self, count: int) -> bytes:
        """Up to count bytes from the position on, fewer if no more are there yet."""
        start = int(self.state[at.POSITION])
        return self.arena[start : min(start + count, int(self.state[at.END]))].tobytes()

    def _read_start(self) -> None:
        self.state[at.WANTED] = headers.PCAP_HEADER_BYTES
        while len(start := self._peek(headers.PCAP_HEADER_BYTES)) < headers.PCAP_HEADER_BYTES:
            if self.state[at.FINAL]:
                break
            self._refill(None)
        if not start:
            raise UsageError(f"{self.path}: the file is empty", "a capture file has at least a header")
        if headers.is_section_header(start):
            self.state[at.FORMAT] = at.PCAPNG
            self._read_descriptions()
            return
        try:
            if not headers.is_pcap(start):
                raise headers.name_format(start)
            if len(start) < headers.PCAP_HEADER_BYTES:
                raise headers.FormatError(
                    f"cut in its header: {len(start)} of {headers.PCAP_HEADER_BYTES} bytes", "it holds no packet"
                )
            header = headers.read_pcap_header(start)
        except headers.FormatError as error:
            raise UsageError(f"{self.path}: {error}", error.hint) from error
        self.state[at.SWAPPED], self.state[at.HEADER] = header.swapped, header.record_header_bytes
        self.state[at.POSITION] += headers.PCAP_HEADER_BYTES
        self._add(header.interface)

    def _read_descriptions(self) -> None:
        """Take in the interfaces before the first packet; of a pipe, those that are there already, at least one."""
        while True:
            start = self._peek(12)
            if len(start) < 12:
                if self.state[at.FINAL] or self.interfaces:
                    return
                self._refill(None)
                continue
            kind = int.from_bytes(start[:4], "big" if self.state[at.SWAPPED] else "little")
            if kind not in (headers.SECTION_HEADER, headers.INTERFACE_DESCRIPTION):
                return
            self._describe(None)

    def _describe(self, timeout_s: float | None) -> Progress:
        """Take in the section header or interface description at the position."""
        start = self._peek(12)
        try:
            section = headers.is_section_header(start)
            swapped = headers.section_is_swapped(start) if section else bool(self.state[at.SWAPPED])
            total = int.from_bytes(start[4:8], "big" if swapped else "little")
            if total < 12 or total % 4 or total > at.MAX_BLOCK:
                raise headers.FormatError(f"a pcapng block with the length {total}", "the file is damaged")
            block = self._peek(total)
            if len(block) < total:
                self.state[at.WANTED] = total
                if not self.state[at.FINAL]:
                    return self._refill(timeout_s)
                raise headers.FormatError(
                    f"truncated dump file; tried to read a block of {total} bytes, only got {len(block)}"
                )
            if block[-4:] != start[4:8]:
                raise headers.FormatError("a pcapng block whose two lengths differ", "the file is damaged")
            if section:
                headers.check_section(block, swapped)
                self.state[at.SWAPPED] = swapped
                self.state[at.SECTION] = len(self.interfaces)
            else:
                self._add(headers.read_interface(block, swapped))
        except headers.FormatError as error:
            self._fail(str(error), error.hint or _WHOLE)
        self.state[at.POSITION] += total
        return Progress.READY

    def _add(self, interface: Interface) -> None:
        base = len(self.interfaces) * at.INTERFACE_WORDS
        if base == len(self.table):
            self.table = np.concatenate([self.table, np.zeros_like(self.table)])
        self.table[base : base + at.INTERFACE_WORDS] = interface.words()
        self.interfaces.append(interface)
        self.state[at.KNOWN] = len(self.interfaces)


def open_capture(path: str) -> CaptureFile:
    """Open a pcap or pcapng file, plain, gzip or Zstandard; ``-`` is the standard input.

    Raises UsageError if it cannot be opened or is no capture file.
    """
    name = "standard input" if path == "-" else path
    try:
        fd = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(fd)
        feed = _open_feed(fd, status)
    except OSError as error:
        hint = "check the path" if error.errno == errno.ENOENT else "a capture file must be readable"
        raise UsageError(f"{name}: {os.strerror(error.errno or 0)}", hint) from error
    try:
        return CaptureFile(name, feed, status)
    except UsageError:
        feed.close()
        raise


def _open_feed(fd: int, status: os.stat_result) -> Mapped | Streamed:
    if stat.S_ISDIR(status.st_mode):
        os.close(fd)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    start = b""
    while len(start) < 4 and (more := os.read(fd, 4 - len(start))):
        start += more
    compressed = start.startswith((GZIP_MAGIC, ZSTANDARD_MAGIC))
    mappable = stat.S_ISREG(status.st_mode) and status.st_size > 0 and not compressed
    if mappable and os.lseek(fd, 0, os.SEEK_CUR) == len(start):
        try:
            return Mapped(fd, status.st_size)
        except OSError:  # a file system without mmap: read it like a pipe
            pass
    return Streamed(open_source(fd, start))
