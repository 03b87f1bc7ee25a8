"""``wirecap.write``: a capture file that a program writes packet by packet or chunk by chunk, rotated if asked."""

from __future__ import annotations

import inspect
import threading
import time
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Never

import numpy as np
from numpy.typing import NDArray

from wirecap.config.arguments import are_texts, checked, path_of
from wirecap.config.capture import WriteConfig
from wirecap.engine.chunk import Chunk
from wirecap.engine.packet import Packet
from wirecap.errors import UsageError, WirecapError, suggest
from wirecap.files import headers
from wirecap.files.buffers import Buffer, Buffers
from wirecap.files.headers import Interface
from wirecap.files.rotation import Action, Rotation, compression_of, format_of
from wirecap.files.writer import Sink, check_target
from wirecap.kernels.base import jit
from wirecap.kernels.file.write import PCAP_NS, PCAP_US, PCAPNG_NS, put_rows
from wirecap.units import parse_size
from wirecap.version import __version__

WHOLE = 1 << 32
"""Without a snap length packets are not cut."""
LATEST = 2**63 - 1
"""The latest time, in ns since the epoch: a writer's row holds int64."""
BUFFERS, BUFFER_BYTES = 4, 1 << 20


class _Rows(NamedTuple):
    """Packets first to n of row ``slot`` of these tables; ``first`` counts from 0."""

    arena: NDArray[np.uint8]
    address: NDArray[np.int64]
    captured: NDArray[np.uint32]
    original: NDArray[np.uint32]
    timestamp: NDArray[np.int64]
    slot: int
    n: int


class PacketWriter:
    """A capture file, or a series of them, open for writing; use it in a ``with`` block, or close it.

    Packets stand in the file in the order in which they were written.  A write that fails, such as one on a full disk,
    raises a WirecapError at this or a later call, and again at every call after it; the file is cut back to its last
    whole packet, and the message says how many there are.  Threads may share a writer.
    """

    def __init__(self, config: WriteConfig, link_type: int | None = None) -> None:
        """link_type: LINKTYPE_ of packets that are given as bytes, Ethernet if None.

        Raises UsageError for a file that cannot be made.
        """
        self.config = config
        self.files: list[str] = []
        """The files so far, in order; one that left the ring is not among them."""
        self.packets_written = 0
        """Packets that are in the files; final once the writer is closed."""
        self._plain = Interface(linktype=headers.LINKTYPE_ETHERNET if link_type is None else link_type)
        self._layout = PCAPNG_NS
        if config.format == "pcap":
            self._layout = PCAP_NS if config.nanoseconds else PCAP_US
        self._compression = compression_of(config.path)
        self._rotation = Rotation(config, time.time_ns())
        check_target(self._rotation.path)
        jit.prepare([put_rows])
        self._buffers = Buffers(BUFFERS, BUFFER_BYTES)
        self._known: list[tuple[str, int, int]] = []
        self._sink: Sink | None = None
        self._buffer: Buffer | None = None
        self._position = self._in_buffer = self._in_file = 0
        self._failure: BaseException | None = None
        self._done = np.zeros(1, np.int64)
        self._closed = False
        self._lock = threading.RLock()
        one = np.zeros((1, 1), np.uint32)
        self._one = (np.zeros((1, 1), np.int64), one, one.copy(), np.zeros((1, 1), np.int64))
        if self._layout == PCAPNG_NS or link_type is not None:
            self._open()

    def write(
        self, what: Chunk | Packet | bytes | bytearray | memoryview, timestamp_ns: int | None = None,
        length: int | None = None,
    ) -> None:  # fmt: skip
        """Write a chunk, a packet, or the bytes of a packet.

        timestamp_ns: when it was captured, ns since the epoch; now if left out.  length: its bytes on the wire; as many
        as there are if left out.  These two are only for bytes.  Raises UsageError for what cannot be written, and
        WirecapError where writing failed.
        """
        if isinstance(what, (Chunk, Packet)):
            if timestamp_ns is not None or length is not None:
                raise UsageError("a chunk or a packet has its own times and lengths", "give them with bytes only")
            if isinstance(what, Packet):
                self._write_one(what.data, what.timestamp, what.length, what.interface, what.described)
            else:
                rows = _Rows(*what.tables(), what.slot, len(what))
                self._write(rows, what.interface, what.described)
        elif isinstance(what, (bytes, bytearray, memoryview)):
            if not memoryview(what).c_contiguous:  # every second byte of something, say
                what = bytes(what)
            size = memoryview(what).nbytes
            now = time.time_ns() if timestamp_ns is None else _time(timestamp_ns)
            on_wire = size
            if length is not None:
                on_wire = _whole("length", "bytes", length, "leave it out if all were captured")
            self._write_one(what, now, on_wire, "", self._plain)
        else:
            raise UsageError(f"{type(what).__name__} is not a packet", "write a chunk, a packet or bytes")

    def _write_one(self, data: Any, timestamp: int, length: int, interface: str, described: Interface) -> None:
        bytes_ = np.frombuffer(data, np.uint8).copy() if len(data) else np.zeros(1, np.uint8)
        size = memoryview(data).nbytes
        if size > described.largest:
            raise UsageError(f"a packet of {size} bytes is too long", f"write at most {described.largest}")
        if not size <= length < 1 << 32:
            raise UsageError(f"a packet of {size} bytes cannot have had {length} on the wire", "leave length out")
        with self._lock:
            address, captured, original, stamp = self._one
            captured[0, 0], original[0, 0], stamp[0, 0] = size, length, timestamp
            self._write(_Rows(bytes_, address, captured, original, stamp, 0, 1), interface, described)

    def _write(self, rows: _Rows, interface: str, described: Interface) -> None:
        with self._lock:
            self._check()
            try:
                self._put(rows, interface, described)
            except UsageError:
                raise
            except BaseException as error:
                self._failure = error
                raise

    def _check(self) -> None:
        if self._failure:
            raise self._failure
        if self._closed:
            raise UsageError(f"{self.config.path}: the writer is closed", "write before its with block ends")

    def _put(self, rows: _Rows, interface: str, described: Interface) -> None:
        number = self._number_of(interface, described)
        snaplen = min(self.config.snaplen, WHOLE)
        first = 0
        while first < rows.n:
            buffer = self._place()
            n = min(rows.n, first + self._rotation.full_packets - self._in_file)
            full = self._rotation.full_bytes - buffer.offset
            position = put_rows(
                self._layout, buffer.bytes, self._position, full, rows.arena, rows.address, rows.captured,
                rows.original, rows.timestamp, rows.slot, first, n, snaplen, number, self._done,
            )  # fmt: skip
            done = int(self._done[0])
            self._in_buffer += done - first
            self._in_file += done - first
            if done == first and self._position == buffer.start:
                assert self._sink
                self._sink.enlarge(buffer, int(rows.captured[rows.slot, first]) + 64)
            elif done < n:  # the buffer is full, or the file is
                self._position = int(position)
                self._submit()
            self._position, first = int(position) if self._buffer else 0, int(done)

    def _place(self) -> Buffer:
        """The buffer to write on in, after a change of files if it is time for that."""
        if self.config.rings and self._in_file:
            size = self._sink.size if self._sink else 0
            if self._buffer:
                size = self._buffer.offset + self._position
            if self._rotation.decide(size, self._in_file, time.time_ns(), waiting=True) is Action.NEXT_FILE:
                self._next_file()
        if self._buffer is None:
            assert self._sink
            self._buffer = self._sink.acquire()
            assert self._buffer
            self._position = self._buffer.start
        return self._buffer

    def _submit(self) -> None:
        if self._buffer and self._sink:
            buffer, self._buffer = self._buffer, None
            packets, self._in_buffer = self._in_buffer, 0
            self._sink.submit(buffer, self._position, packets)

    def _number_of(self, interface: str, described: Interface) -> int:
        """The number of a packet's interface in the file; it is described there if it was not before."""
        key = (described.name or interface, described.linktype, described.snaplen)
        if key in self._known:
            if self._sink is None:
                self._open()
            return self._known.index(key) if self._layout == PCAPNG_NS else 0
        if self._layout != PCAPNG_NS and self._known and self._known[0][1] != key[1]:
            raise UsageError(
                f"{self.config.path}: a pcap file has only one link type, but these packets have"
                f" {self._known[0][1]} and {key[1]}", "write pcapng",
            )  # fmt: skip
        self._known.append(key)
        if self._sink is None:
            self._open()
        elif self._layout == PCAPNG_NS:
            self._submit()
            self._sink.write(self._description(*key))
        return len(self._known) - 1 if self._layout == PCAPNG_NS else 0

    def _description(self, name: str, link_type: int, snaplen: int) -> bytes:
        return headers.interface_description(name, self._snaplen(link_type, snaplen), link_type)

    def _snaplen(self, link_type: int, snaplen: int) -> int:
        return min(self.config.snaplen, snaplen or Interface(link_type).largest)

    def _open(self) -> None:
        path = self._rotation.path
        if self._layout == PCAPNG_NS:
            header = headers.section_header(f"wirecap {__version__}", self.config.comments)
            header += b"".join(self._description(*key) for key in self._known)
        else:
            _, link_type, snaplen = self._known[0] if self._known else ("", self._plain.linktype, 0)
            if not self._known:
                self._known.append(("", link_type, snaplen))
            header = headers.pcap_header(self._snaplen(link_type, snaplen), link_type, self._layout == PCAP_NS)
        self._sink = Sink(path, header, self._layout, self._buffers, True, self._compression)
        self._in_file = 0
        self.files.append(path)

    def _next_file(self) -> None:
        self._end_file()
        removed = self._rotation.next_file(time.time_ns())
        if removed is not None:
            with suppress(OSError):
                Path(removed).unlink()
            with suppress(ValueError):
                self.files.remove(removed)
        try:
            self._open()
        except UsageError as error:  # the first file could be made, so this is a failed run
            raise WirecapError(error.message, error.hint) from None

    def _end_file(self) -> None:
        if self._sink:
            sink = self._sink
            try:
                self._submit()
                sink.close()
            finally:
                sink.finish()
                self._sink = self._buffer = None
                self.packets_written += sink.packets_written

    def flush(self) -> None:
        """Return once everything written so far is in the file."""
        with self._lock:
            self._check()
            try:
                self._submit()
                if self._sink:
                    self._sink.flush(wait=True)
            except BaseException as error:
                self._failure = error
                raise

    def close(self) -> None:
        """Write what is left and close the file; raises the WirecapError of a write that failed since the last call."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._sink is None and not self.files and self._failure is None:
                self._open()  # a capture without packets is a capture file too
            self._end_file()

    def __enter__(self) -> PacketWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except WirecapError:
            if kind is None:
                raise  # else what happened in the block is what its caller gets to see


def write(
    path: str | PathLike[str], *, format: str | None = None, link_type: int | None = None, snaplen: int | None = None,
    nanoseconds: bool = False, comments: tuple[str, ...] = (), file_bytes: int | str | None = None,
    file_packets: int | None = None, file_s: float | None = None, files: int | None = None, **unknown: Never,
) -> PacketWriter:  # fmt: skip
    """A writer for packets, chunks and bytes: ``with wirecap.write("x.pcapng") as out: out.write(chunk)``.

    The name says the format (.pcap: pcap, else pcapng, unless ``format`` says otherwise) and the compression (.gz,
    .zst, .lz4, .xz, .bz2).  link_type: LINKTYPE_ of packets given as bytes, Ethernet if None.  snaplen: the most bytes
    that are kept of a packet.  nanoseconds: in a pcap file; pcapng's times always are.  comments: on the whole file.

    file_bytes (a number, or text such as "100MB"), file_packets and file_s (seconds) begin the next file, whichever
    comes first; ``files`` keeps only so many, and removes the oldest.  The files' names are dumpcap's:
    ``x_00001_20141105093000.pcapng``.  Raises UsageError for bad arguments and files that cannot be made.
    """
    if unknown:
        known = list(inspect.signature(write).parameters)[1:-1]
        name = next(iter(unknown))
        raise UsageError(f"unknown option {name!r}", suggest(name, known) or f"the options are {', '.join(known)}")
    path = path_of("the output file", path)
    checked({"format": format or "", "nanoseconds": nanoseconds, "link_type": link_type, "file_s": file_s})
    if not are_texts(comments):
        raise UsageError(f"comments must be a list of texts, not {comments!r}", 'write comments=("...",)')
    return PacketWriter(
        WriteConfig(
            path=path, format=format or format_of(path), nanoseconds=nanoseconds, comments=tuple(comments),
            snaplen=WHOLE if snaplen is None else _positive("snaplen", snaplen),
            ring_bytes=_size(file_bytes), ring_packets=_positive("file_packets", file_packets),
            ring_ns=None if file_s is None else _positive("file_s", round(file_s * 1e9)),
            ring_files=_positive("files", files),
        ),
        link_type,
    )  # fmt: skip


def _size(given: int | str | None) -> Any:
    return _positive("file_bytes", parse_size(given) if isinstance(given, str) else given)


def _time(given: Any) -> int:
    """ns since the epoch.  Raises UsageError for what cannot be that, such as seconds as a float."""
    hint = "use time.time_ns() for now, and round(seconds * 1e9) for seconds"
    stamp = _whole("timestamp_ns", "nanoseconds since 1970", given, hint)
    if not 0 <= stamp <= LATEST:
        raise UsageError(f"timestamp_ns must be 0 to {LATEST} nanoseconds since 1970, not {given!r}", hint)
    return stamp


def _whole(name: str, unit: str, value: Any, hint: str) -> int:
    if not isinstance(value, (int, np.integer)):
        raise UsageError(f"{name} must be a whole number of {unit}, not {value!r}", hint)
    return int(value)


def _positive(name: str, value: Any) -> Any:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise UsageError(f"{name} must be a positive number, not {value!r}", "leave it out for no limit")
    return value
