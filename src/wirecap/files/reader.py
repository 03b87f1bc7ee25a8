"""Open a capture file and fill rows of descriptors from it; the packet bytes stay where they are.

A regular file is mapped.  A pipe, or a file that is decompressed while it is read, is streamed through blocks.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import mmap
import os
import stat
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from wirecap.errors import UsageError
from wirecap.files import headers
from wirecap.files.decompression import ByteSource, is_compressed, open_source
from wirecap.files.headers import Interface
from wirecap.kernels.file import read as at
from wirecap.kernels.file.read import scan
from wirecap.linux.syscall import libc

being_read: list[tuple[int, int]] = []
"""(device, inode) of every file that is open for reading: emptying one of them would kill the process (SIGBUS)."""

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.int64]

BLOCK_BYTES = 4 << 20
BLOCKS = 8
LONG_BLOCKS, LONGEST_STREAMED = 3, (128 << 20) + at.BLOCK_MARGIN
_UNBOUNDED = 1 << 62

LARGE_BYTES = 16 << 20
"""Of files of at least this size, a thread of its own reads pages ahead of the scan."""
MADV_POPULATE_READ = 22  # asm-generic/mman-common.h
PIECE_BYTES, AHEAD_BYTES, AHEAD_WAIT_S = 4 << 20, 64 << 20, 0.001


def describe_scan_error(state: Words) -> tuple[str, str]:
    """(message, hint or "") for the error in a scan's state."""
    code, wanted, got = int(state[at.ERROR]), int(state[at.WANTED]), int(state[at.GOT])
    what = "block" if state[at.FORMAT] == at.PCAPNG else "packet header"
    if code == at.CUT_HEADER:
        return f"truncated dump file; tried to read a {what} of {wanted} bytes, only got {got}", ""
    if code == at.CUT_PACKET and state[at.FORMAT] == at.PCAP:
        header = int(state[at.HEADER])
        return f"truncated dump file; tried to read {wanted - header} captured bytes, only got {got - header}", ""
    if code == at.CUT_PACKET:
        return f"truncated dump file; tried to read a block of {wanted} bytes, only got {got}", ""
    damaged = "the file is damaged from here on; the packets before it are whole"
    return {
        at.ABSURD_LENGTH: f"invalid captured length {wanted}, more than the maximum of {got}",
        at.BLOCK_LENGTH: f"invalid block length {wanted}",
        at.TRAILER: f"block lengths differ: {wanted} before and {got} after the block",
        at.NO_INTERFACE: f"packet of interface {wanted}, which the section does not describe",
        at.PACKET_IN_BLOCK: f"packet of {wanted} captured bytes in a block of {got}",
    }[code], damaged


@dataclass(frozen=True)
class Description:
    """A whole block of a pcapng file that holds no packet; swapped: in a big-endian section."""

    kind: int
    block: bytes
    swapped: bool


def note_of_times(outside: int) -> list[str]:
    """One line about so many packets whose time int64 ns cannot hold; nothing if there are none."""
    packets = "1 packet is" if outside == 1 else f"{outside} packets are"
    note = f"{packets} from before 1677 or after 2262: the nearest time that 64-bit nanoseconds can hold is taken"
    return [note] if outside else []


MOST_INTERFACES = 1 << 15
"""Of one file, in all its sections: they are kept in memory, and a description takes 20 bytes of a file, or less where
it is compressed.  Joined files have one or a few each."""
PACKET_BLOCKS = (at.OBSOLETE_PACKET, at.SIMPLE_PACKET, at.ENHANCED_PACKET)
LONGEST_BEFORE, MOST_BEFORE_INTERFACE = 1 << 20, 4 << 20
"""Bytes of one block, and of all, that are read before the first interface: names and secrets may stand there."""

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

    ``descriptions`` are the blocks that hold no packet and were read so far, for one who writes them elsewhere and
    takes them out; ``keep_blocks`` asks for those of all types.  ``state[DESCRIBED]`` counts them.
    """

    def __init__(self, path: str, feed: Feed, status: os.stat_result | None = None) -> None:
        self.path = path
        self.size = status.st_size if status and isinstance(feed, Mapped) else None
        """Bytes of the file, None if unknown; ``offset`` goes up to it."""
        self.arena: Bytes = feed.arena
        self.held: Words = feed.held
        self.state: Words = np.zeros(at.STATE_WORDS, dtype=np.int64)
        self.table: Words = np.zeros(16 * at.INTERFACE_WORDS, dtype=np.int64)
        self.interfaces: list[Interface] = []
        self.descriptions: deque[Description] = deque()
        self.feed = feed
        self._failed = False
        self.place: Callable[[int], int] = lambda offset: offset
        """Where in the file is what was read as the byte at an offset: a feed may leave parts out."""
        feed.prepare(self.state)
        self.state[at.LONGEST_BLOCK] = at.MAX_BLOCK
        self._read_start()
        self._make_room()
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
        self, address: Words, captured: Lengths, original: Lengths, timestamp: Words, limit: int,
        timeout_s: float | None = None,
    ) -> tuple[int, Progress]:  # fmt: skip
        """Fill a row with packets of one interface: (their number, READY), or (0, why there are none)."""
        while True:
            n = int(scan(self.arena, self.state, self.table, address, captured, original, timestamp, limit))
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
            message, hint = describe_scan_error(self.state)
            self._fail(self.feed.damage or message, hint or _WHOLE)  # damaged data unpack into nonsense first
        return Progress.READY

    def keep_blocks(self) -> None:
        """From now on blocks of all types go into ``descriptions``, as far as the feed can hold them whole."""
        self.state[at.KEEP] = 1 << 32 if isinstance(self.feed, Mapped) else self.state[at.BLOCK_BYTES]

    def close(self) -> None:
        self.feed.close()
        self._forget()

    def __enter__(self) -> CaptureFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_over(self) -> bool:
        """Everything that can be read was: to the end, or to a damaged place."""
        return self._failed or bool(self.state[at.STOP] in (at.ENDED, at.FAILED))

    def _fail(self, message: str, hint: str) -> NoReturn:
        self._failed = True
        raise UsageError(f"{self.path}: {message} at offset {self.place(self.offset)}", hint)

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
        self.state[at.LENGTHS] = header.lengths
        self.state[at.POSITION] += headers.PCAP_HEADER_BYTES
        self._add(header.interface)

    def _read_descriptions(self) -> None:
        """Take in the interfaces before the first packet; of a pipe, those that are there already, at least one."""
        while int(self.state[at.POSITION]) < MOST_BEFORE_INTERFACE or self.interfaces:
            start = self._peek(12)
            if len(start) < 12:
                if self.state[at.FINAL] or self.interfaces:
                    return
                self._refill(None)
                continue
            kind = int.from_bytes(start[:4], "big" if self.state[at.SWAPPED] else "little")
            descriptive = kind in (headers.SECTION_HEADER, headers.INTERFACE_DESCRIPTION)
            total = int.from_bytes(start[4:8], "big" if self.state[at.SWAPPED] else "little")
            if not descriptive and (self.interfaces or kind in PACKET_BLOCKS or not 12 <= total <= LONGEST_BEFORE):
                return
            self._describe(None)

    def _describe(self, timeout_s: float | None) -> Progress:
        """Take in the block at the position, which holds no packet."""
        start = self._peek(12)
        try:
            section = headers.is_section_header(start)
            swapped = headers.section_is_swapped(start) if section else bool(self.state[at.SWAPPED])
            kind, total = (int.from_bytes(start[k : k + 4], "big" if swapped else "little") for k in (0, 4))
            described = section or kind == headers.INTERFACE_DESCRIPTION
            if total < 12 or total % 4 or (described and total > at.MAX_BLOCK):
                raise headers.FormatError(f"invalid block length {total}", "the file is damaged")
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
            self.learn(Description(kind, block, swapped))
        except headers.FormatError as error:
            self._fail(str(error), error.hint or _WHOLE)
        self.state[at.POSITION] += total
        return Progress.READY

    def learn(self, described: Description) -> None:
        """Take in what a block says, wherever it was read.  Raises FormatError."""
        if described.kind == headers.SECTION_HEADER:
            headers.check_section(described.block, described.swapped)
            self.state[at.SWAPPED] = described.swapped
            self.state[at.SECTION] = len(self.interfaces)
        elif described.kind == headers.INTERFACE_DESCRIPTION:
            self._add(headers.read_interface(described.block, described.swapped))
        self.descriptions.append(described)
        self.state[at.DESCRIBED] += 1

    def _add(self, interface: Interface) -> None:
        if len(self.interfaces) == MOST_INTERFACES:
            raise headers.FormatError(f"more than {MOST_INTERFACES:,} interfaces are described", _WHOLE)
        base = len(self.interfaces) * at.INTERFACE_WORDS
        if base == len(self.table):
            self.table = np.concatenate([self.table, np.zeros_like(self.table)])
        self.table[base : base + at.INTERFACE_WORDS] = interface.words()
        self.interfaces.append(interface)
        self.state[at.KNOWN] = len(self.interfaces)
        longest = interface.largest + at.BLOCK_MARGIN
        self.state[at.LONGEST_BLOCK] = max(int(self.state[at.LONGEST_BLOCK]), longest)

    def _make_room(self) -> None:
        """A stream's blocks are as long as the packets that may come; a mapped file has them all."""
        longest = max((interface.largest for interface in self.interfaces), default=0) + at.BLOCK_MARGIN
        if isinstance(self.feed, Streamed) and longest > self.feed.block_bytes:
            self.feed.enlarge(self.state, min(longest, LONGEST_STREAMED))
            self.arena, self.held = self.feed.arena, self.feed.held


def open_capture(path: str) -> CaptureFile:
    """Open a pcap or pcapng file, plain, or compressed by gzip, Zstandard, xz, bzip2 or lz4; ``-`` is standard input.

    Raises UsageError if it cannot be opened or is no capture file.
    """
    if not path:
        raise UsageError("the capture file has no name", "name a file, or give - for standard input")
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
    mappable = stat.S_ISREG(status.st_mode) and status.st_size > 0 and not is_compressed(start)
    if mappable and os.lseek(fd, 0, os.SEEK_CUR) == len(start):
        try:
            return Mapped(fd, status.st_size)
        except OSError:  # a file system without mmap: read it like a pipe
            pass
    return Streamed(open_source(fd, start))


class Progress(enum.Enum):
    """What came of an attempt to go on."""

    READY = "ready"  # scan again
    BUSY = "busy"  # the next block is still held by chunks; scan again when some were recycled
    IDLE = "idle"  # a pipe has nothing to read yet
    ENDED = "ended"


class Feed(Protocol):
    arena: Bytes
    held: Words

    @property
    def damage(self) -> str:
        """What is wrong with the data that come next, as far as that is known; else empty."""

    def prepare(self, state: Words) -> None: ...

    def refill(self, state: Words, timeout_s: float | None) -> Progress:
        """Get more bytes after state[END], or set state[FINAL]; may raise ValueError or OSError."""

    def close(self) -> None: ...


class _ReadOnlyPages:
    """Gives NumPy a mapping as a plain array: kernels have one signature, for arrays that may be written.

    The pages themselves are read-only: a kernel that writes to them would be killed by the CPU.
    """

    def __init__(self, pages: mmap.mmap) -> None:
        self.pages = pages
        address = np.frombuffer(pages, dtype=np.uint8).__array_interface__["data"][0]
        self.__array_interface__: dict[str, Any] = {
            "shape": (len(pages),), "typestr": "|u1", "data": (address, False), "version": 3,
        }  # fmt: skip


class Mapped:
    """A regular file, mapped whole.  It must not be truncated while it is read (SIGBUS)."""

    damage = ""

    def __init__(self, fd: int, size: int) -> None:
        pages = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
        pages.madvise(mmap.MADV_SEQUENTIAL)
        os.close(fd)
        self.arena: Bytes = np.asarray(_ReadOnlyPages(pages))
        self.held: Words = np.zeros(1, dtype=np.int64)
        self.until = size
        """Where reading will end: no page behind it is fetched ahead."""

    def prepare(self, state: Words) -> None:
        state[at.END] = len(self.arena)
        state[at.FINAL] = 1
        state[at.BLOCK_BYTES] = _UNBOUNDED

    def refill(self, state: Words, timeout_s: float | None) -> Progress:
        return Progress.ENDED

    def map_ahead(self, state: Words, stopped: threading.Event) -> None:
        """Stay some way ahead of the scan, so that it meets no page fault; for a thread of its own."""
        address, size, done = self.arena.ctypes.data, self.until, 0
        while done < size and not stopped.is_set():
            position = int(state[at.POSITION])
            if done > position + AHEAD_BYTES:
                stopped.wait(AHEAD_WAIT_S)
                continue
            done = max(done, position // PIECE_BYTES * PIECE_BYTES)
            start, length = ctypes.c_void_p(address + done), ctypes.c_size_t(min(PIECE_BYTES, size - done))
            if libc.madvise(start, length, MADV_POPULATE_READ):
                return  # before Linux 5.14, or the file shrinks
            done += PIECE_BYTES

    def close(self) -> None:
        self.arena = np.zeros(0, dtype=np.uint8)


class PagesAhead:
    """The thread that keeps the pages of a large mapped file ahead of its scan; none for any other."""

    def __init__(self, file: CaptureFile) -> None:
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        if isinstance(file.feed, Mapped) and file.feed.arena.size >= LARGE_BYTES:
            arguments = (file.state, self._stopped)
            self._thread = threading.Thread(
                target=file.feed.map_ahead, args=arguments, name="wirecap pages", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread:
            self._thread.join()


class Streamed:
    """A ring of blocks.  ``held`` counts the chunks that point into each block; a held one is not reused."""

    def __init__(self, source: ByteSource, block_bytes: int = BLOCK_BYTES, blocks: int = BLOCKS) -> None:
        self._source = source
        self.block_bytes = block_bytes
        self._block = 0
        self._skip = 0
        self.arena: Bytes = np.zeros(block_bytes * blocks, dtype=np.uint8)
        self.held: Words = np.zeros(blocks, dtype=np.int64)

    @property
    def damage(self) -> str:
        """What is wrong with the compressed data that come next, as far as that is known; else empty."""
        return self._source.damage

    def prepare(self, state: Words) -> None:
        state[at.BLOCK_BYTES] = self.block_bytes

    def enlarge(self, state: Words, block_bytes: int) -> None:
        """Have longer blocks from now on, before the first chunk: packets may be longer than any was thought to be."""
        unread = self.arena[state[at.POSITION] : state[at.END]]
        self.block_bytes, self._block = block_bytes, 0
        self.arena = np.zeros(block_bytes * LONG_BLOCKS, dtype=np.uint8)  # memory is taken where it is touched
        self.held = np.zeros(LONG_BLOCKS, dtype=np.int64)
        self.arena[: unread.size] = unread
        state[at.ORIGIN] += state[at.POSITION]
        state[at.POSITION], state[at.END], state[at.BLOCK_BYTES] = 0, unread.size, block_bytes

    def refill(self, state: Words, timeout_s: float | None) -> Progress:
        if self._skip:
            return self._discard(state, timeout_s)
        if state[at.END] == (self._block + 1) * self.block_bytes:
            if state[at.POSITION] == self._block * self.block_bytes:
                return self._pass_over(state)
            if not self._next_block(state):
                return Progress.BUSY
        end = int(state[at.END])
        count = self._read(end, (self._block + 1) * self.block_bytes, timeout_s)
        if count is None:
            return Progress.IDLE
        state[at.END] += count
        state[at.FINAL] = count == 0
        return Progress.READY

    def _read(self, start: int, end: int, timeout_s: float | None) -> int | None:
        return self._source.read_into(self.arena.data[start:end], timeout_s)

    def _next_block(self, state: Words) -> bool:
        """Go on in the next block of the ring; a record that is cut at this one's end moves there."""
        following = (self._block + 1) % len(self.held)
        if self.held[following]:
            return False
        position, end, start = int(state[at.POSITION]), int(state[at.END]), following * self.block_bytes
        self.arena[start : start + end - position] = self.arena[position:end]
        state[at.POSITION], state[at.END] = start, start + end - position
        state[at.ORIGIN] += position - start
        self._block = following
        return True

    def _pass_over(self, state: Words) -> Progress:
        """The record fills the whole block: skip it if it is no packet."""
        kind = int.from_bytes(self.arena[state[at.POSITION] :][:4].tobytes(), "big" if state[at.SWAPPED] else "little")
        if state[at.FORMAT] != at.PCAPNG or kind in (1, 2, 3, 6, 0x0A0D0D0A):
            raise ValueError(f"a record of {state[at.WANTED]} bytes is too long to be streamed")
        state[at.TOO_LONG] += 1
        self._skip = int(state[at.WANTED]) - self.block_bytes
        state[at.END] = state[at.POSITION]
        state[at.ORIGIN] += self.block_bytes
        return Progress.READY

    def _discard(self, state: Words, timeout_s: float | None) -> Progress:
        start = self._block * self.block_bytes
        count = self._read(start, start + min(self._skip, self.block_bytes), timeout_s)
        if count is None:
            return Progress.IDLE
        if count == 0:
            raise ValueError(f"the last block is cut short by {self._skip} bytes")
        state[at.ORIGIN] += count
        self._skip -= count
        return Progress.READY

    def close(self) -> None:
        self._source.close()
