"""Write a capture file in the background: formatting packets and writing them overlap.

The caller takes a buffer, fills it with whole records from ``buffer.start`` on, and submits it with the
number of packets it put there.  One thread per sink writes.  When a write fails, what is in the file is cut
back to its last whole record, and the error says how much that is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import queue
import stat
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wirecap.errors import UsageError, WirecapError
from wirecap.files.buffers import Buffer, Buffers
from wirecap.files.live_index import LiveIndex, with_index
from wirecap.files.reader import being_read
from wirecap.files.reserve import UNKNOWN
from wirecap.files.retention import UNBOUNDED, Space
from wirecap.files.shared import open_for_writing
from wirecap.files.targets import Compressed, Direct, Plain, Target
from wirecap.kernels.file.write import whole_of
from wirecap.linux import holders

_WRITABLE = "name a file that can be written"


def check_target(path: str, hint: str = _WRITABLE) -> None:
    """Raise what ``open_target`` would, as far as that is known without making the file or waiting for a pipe."""
    file = Path(path)
    try:
        if path == "-" or (file.is_symlink() and not file.exists()):
            return
        new = not file.exists()
        place = file.parent if new else file
        status = place.stat()
    except OSError as error:
        raise UsageError(f"{path}: {os.strerror(error.errno or 0)}", hint) from None
    reason = 0
    if stat.S_ISDIR(status.st_mode) != new:
        reason = errno.ENOTDIR if new else errno.EISDIR
    elif not os.access(place, os.W_OK):
        reason = errno.EACCES
    if reason:
        raise UsageError(f"{path}: {os.strerror(reason)}", hint)
    _check_not_read(path, status)


def _check_not_read(path: str, status: os.stat_result) -> None:
    if (status.st_dev, status.st_ino) in being_read:
        raise UsageError(f"{path}: the file is being read", "write to another name")


def _lock(path: str, fd: int) -> None:
    """Keep a file to this descriptor, as far as others ask; UsageError if somebody has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = holders.of_lock(os.fstat(fd)) or "another process"
        raise UsageError(f"{path}: {owner} is writing to it", "write to another name") from None
    except OSError:
        pass  # a file system without locks


def open_target(
    path: str, direct: bool = True, compression: str = "", independent: bool = False, space: Space = UNBOUNDED,
    most: int = UNKNOWN,
) -> Target:  # fmt: skip
    """Create path, or empty it; ``-`` is the standard output; compression is one of rotation.COMPRESSIONS or nothing.

    most: the bytes it will have at most, but for a packet.  Raises UsageError if that is impossible.
    """
    fd = os.dup(1) if path == "-" else open_file(path, empty=True)
    if compression:
        return Compressed(Plain(fd, space), compression, independent)
    if direct and path != "-" and stat.S_ISREG(os.fstat(fd).st_mode):
        return _open_direct(path, fd, space, most)
    return Plain(fd, space)


def open_file(path: str, empty: bool = False) -> int:
    """A file to write to, made if it is not there; its end is where writing goes on, or it is emptied.

    Raises UsageError if that is impossible, or if it is being read or written by somebody else.
    """
    try:
        fd = open_for_writing(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", _WRITABLE) from error
    status = os.fstat(fd)
    own = stat.S_ISREG(status.st_mode)
    try:
        _check_not_read(path, status)
        if own:
            _lock(path, fd)
    except UsageError:
        os.close(fd)
        raise
    if own:
        if empty:
            os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_END)
    return fd


def _open_direct(path: str, fd: int, space: Space, most: int) -> Target:
    try:
        cached_fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # a file that may be written but not read
        return Plain(fd, space)
    try:
        direct_fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:  # a file system that does not take O_DIRECT
        os.close(cached_fd)
        return Plain(fd, space)
    return Direct(direct_fd, cached_fd, fd, space, most)


_HINTS = {
    "ENOSPC": "free some space, or keep a ring of files with -b filesize: and -b files:",
    "EDQUOT": "the disk quota is used up",
    "EFBIG": "split the capture with -C or -b filesize:",
    "EPIPE": "the program that read the output ended",
}
_BOUNDED_HINTS = _HINTS | {"ENOSPC": "free some space, or give a smaller --limit, or --min-free as well"}


class SinkError(WirecapError):
    """Writing failed.  The file holds ``packets_written`` whole packets, ``bytes_written`` bytes in all."""

    def __init__(
        self, path: str, error: OSError, bytes_written: int, packets_written: int, bounded: bool = False
    ) -> None:
        """bounded: the files are held within bounds already."""
        name = errno.errorcode.get(error.errno or 0, "EIO")
        super().__init__(
            f"{path}: {error.strerror}; {packets_written} packets were written",
            (_BOUNDED_HINTS if bounded else _HINTS).get(name, f"the system said {name}"),
        )
        self.path, self.errno = path, error.errno
        self.bytes_written, self.packets_written = bytes_written, packets_written


@dataclass(frozen=True)
class _Part:
    """Whole records at [start, end) of the stream."""

    start: int
    end: int
    packets: int
    bytes: int = 0  # the packets' own, captured
    swapped: bool = False  # big-endian pcapng


@dataclass(frozen=True)
class _Write:
    buffer: Buffer
    offset: int  # of buffer.bytes[0] in the stream
    end: int  # bytes[:end] are written


class Sink:
    """One capture file that is being written.

    ``layout`` is kernels/file/write.py's; ``header`` is what the file starts with; ``compression`` is files/
    rotation.py's ``compression_of`` the name that was asked for, ``independent``
    asks for a frame for each write; ``indexed`` for an index beside the file; ``most`` is how many bytes it will
    have at most, but for a packet.  Any call may raise the
    SinkError of a write that failed since; it is raised once, and everything after it is ignored.
    """

    def __init__(
        self,
        path: str,
        header: bytes,
        layout: int,
        buffers: Buffers | None = None,
        direct: bool = True,
        compression: str = "",
        independent: bool = False,
        space: Space = UNBOUNDED,
        indexed: bool = False,
        most: int = UNKNOWN,
    ) -> None:
        self.path = "standard output" if path == "-" else path
        self.layout = layout
        self._bounded = space is not UNBOUNDED
        if indexed:
            myself = weakref.proxy(self)  # else a closed file's memory stays until Python looks for circles
            space = with_index(space, lambda: myself.size)
        self._offset, self._carry = 0, b""
        self._target = open_target(path, direct, compression, independent, space, most)
        self._buffers = buffers or Buffers()
        aligned = self._target.granule > 1
        self._carry = header if aligned else b""  # bytes that follow the last write
        self._offset = 0 if aligned else len(header)  # of the carry in the stream
        self._parts = deque([_Part(0, len(header), 0)])  # submitted, not yet written whole
        self._written = 0
        self._written_bytes = 0
        self._error: SinkError | None = None
        self._raised = False
        self._finished = False
        self._flushed = len(header)
        self._start(header)
        indexed = indexed and Path(path).is_file()
        self._index = LiveIndex(path, header, self._buffers) if indexed else None
        self._work: queue.SimpleQueue[_Write | bytes | threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"write {self.path}", daemon=True)
        self._thread.start()

    @property
    def size(self) -> int:
        """Bytes of the stream so far, written or not."""
        return self._offset + len(self._carry)

    @property
    def packets_written(self) -> int:
        """Packets that are in the file; final after ``close``."""
        return self._error.packets_written if self._error else self._written

    @property
    def bytes_written(self) -> int:
        """Those packets' captured bytes, without the file's own."""
        return self._written_bytes

    @property
    def note(self) -> str:
        """Why there is no index, once the file is closed; "" if there is one, or none was asked for."""
        return self._index.note if self._index else ""

    @property
    def cached(self) -> bool:
        """A file that goes through the page cache because its file system has no direct writes."""
        target = self._target
        return isinstance(target, Plain) and target.regular and self.path != "standard output"

    @property
    def done(self) -> bool:
        """Finished, and all of it in the file."""
        return not self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """A write failed: the next call that may raise will tell."""
        return self._error is not None

    def acquire(self, timeout_s: float | None = None) -> Buffer | None:
        """A buffer to fill, None if all were busy for timeout_s seconds (None: wait)."""
        self._check()
        buffer = self._buffers.take(timeout_s)
        if buffer is not None:
            buffer.start, buffer.offset = len(self._carry), self._offset
            buffer.bytes[: buffer.start] = np.frombuffer(self._carry, dtype=np.uint8)
        return buffer

    def enlarge(self, buffer: Buffer, room: int) -> None:
        """Make an acquired buffer large enough for so many bytes of records."""
        self._buffers.enlarge(buffer, buffer.start + room)

    def submit(self, buffer: Buffer, end: int, packets: int, data: int = 0, swapped: bool = False) -> None:
        """Write the buffer's records, bytes[start:end]: whole, with so many packets of so many captured bytes."""
        if self._error:
            self._buffers.give_back(buffer)
            self._check()
            return
        granules_end = end - end % self._target.granule
        self._parts.append(_Part(self._offset + buffer.start, self._offset + end, packets, data, swapped))
        self._carry = buffer.bytes[granules_end:end].tobytes()
        if self._index:
            self._buffers.share(buffer)
            self._index.add(buffer, end)
        self._work.put(_Write(buffer, self._offset, granules_end))
        self._offset += granules_end

    def write(self, records: bytes) -> None:
        """Write whole records that hold no packet, such as statistics."""
        buffer = self.acquire()
        if buffer is None:
            return
        self.enlarge(buffer, len(records))
        end = buffer.start + len(records)
        buffer.bytes[buffer.start : end] = np.frombuffer(records, dtype=np.uint8)
        self.submit(buffer, end, 0)

    def flush(self, wait: bool = False) -> None:
        """Make what was submitted visible to readers of the file soon, or, with wait, before this returns."""
        self._check()
        if self._flushed < self.size:
            self._flushed = self.size
            self._work.put(self._carry)
        if wait:
            done = threading.Event()
            self._work.put(done)
            done.wait()
            self._check()

    def finish(self) -> None:
        """Begin to close the file, without waiting for it."""
        if not self._finished:
            self._finished = True
            self._work.put(self._carry)
            self._work.put(None)

    def close(self) -> None:
        """Write what is left and close the file."""
        self.finish()
        self._thread.join()
        self._check()

    def _start(self, header: bytes) -> None:
        """Write the header at once: a capture without packets is a capture file too."""
        try:
            if self._target.granule > 1:
                self._target.write_end(header)
            else:
                self._target.write(memoryview(header))
        except OSError as error:
            self._target.close()
            raise SinkError(self.path, error, 0, 0, self._bounded) from error

    def _check(self) -> None:
        if self._error and not self._raised:
            self._raised = True
            raise self._error

    def _batches(self) -> Iterator[list[_Write] | bytes | threading.Event]:
        """What is to be done next, until all is; buffers that wait go to the disk together."""
        writes: list[_Write] = []
        while True:
            try:
                work = self._work.get(block=not writes)
            except queue.Empty:
                yield writes
                writes = []
                continue
            if isinstance(work, _Write):
                writes.append(work)
                if len(writes) < self._target.at_once:
                    continue
            if writes:
                yield writes
                writes = []
            if work is None:
                return
            if not isinstance(work, _Write):
                yield work

    def _run(self) -> None:
        for work in self._batches():
            if isinstance(work, threading.Event):
                work.set()
                continue
            try:
                if not self._error:
                    self._do(work)
            except OSError as error:
                self._give_up(error, work)
            except Exception as error:  # a compressor's: the caller must not wait for a thread that died
                self._give_up(OSError(errno.EIO, str(error)), work)
            finally:
                for write in work if isinstance(work, list) else ():
                    self._buffers.give_back(write.buffer)
        try:
            self._target.close()
        except OSError as error:
            self._give_up(error, b"")
        if self._index:
            frames = self._target.frames if isinstance(self._target, Compressed) else []
            self._index.finish(frames, whole=not self._error)

    def _do(self, work: list[_Write] | bytes) -> None:
        if isinstance(work, bytes):
            self._target.write_end(work)
        else:
            self._target.write(*(each.buffer.bytes.data[: each.end] for each in work))
        self._count_written()

    def _give_up(self, error: OSError, work: list[_Write] | bytes) -> None:
        """Cut the file back to whole records, and remember the error for the next call."""
        if self._error:
            return
        self._count_written()
        size = self._target.written
        if self._parts:
            size, packets, data = self._salvage(self._parts[0], work)
            self._written += packets
            self._written_bytes += data
        try:
            self._target.truncate(size)
        except OSError:
            pass  # a failing device may refuse that too
        self._error = SinkError(self.path, error, size, self._written, self._bounded)

    def _count_written(self) -> None:
        while self._parts and self._parts[0].end <= self._target.written:
            part = self._parts.popleft()
            self._written += part.packets
            self._written_bytes += part.bytes

    def _salvage(self, part: _Part, work: list[_Write] | bytes) -> tuple[int, int, int]:
        """(end of the last whole record, packets, their bytes) of a part that was written only up to a point."""
        written = self._target.written
        if written == part.start:
            return part.start, 0, 0
        try:
            found = self._target.read_back(part.start, written)
        except OSError:
            found = b""
        if found is not None:
            data, base = np.frombuffer(bytearray(found), dtype=np.uint8), part.start
        elif isinstance(work, list):  # of one: such a target is given no more
            data, base = work[0].buffer.bytes[: written - work[0].offset], work[0].offset
        else:
            return part.start, 0, 0
        position, packets, length = whole_of(self.layout, data, part.start - base, len(data), part.swapped)
        return base + position, packets, length
