"""Write a capture file in the background: formatting packets and writing them overlap.

The caller takes a buffer, fills it with whole records from ``buffer.start`` on, and submits it with the
number of packets it put there.  One thread per sink writes.  When a write fails, what is in the file is cut
back to its last whole record, and the error says how much that is.
"""

from __future__ import annotations

import errno
import queue
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from wirecap.errors import WirecapError
from wirecap.files.buffers import Buffer, Buffers
from wirecap.files.target import open_target
from wirecap.kernels.pcap_write import whole_records

_HINTS = {
    "ENOSPC": "free some space, or keep a ring of files with -b filesize: and -b files:",
    "EDQUOT": "the disk quota is used up",
    "EFBIG": "split the capture with -C or -b filesize:",
    "EPIPE": "the program that read the output ended",
}


class SinkError(WirecapError):
    """Writing failed.  The file holds ``packets_written`` whole packets, ``bytes_written`` bytes in all."""

    def __init__(self, path: str, error: OSError, bytes_written: int, packets_written: int) -> None:
        name = errno.errorcode.get(error.errno or 0, "EIO")
        super().__init__(
            f"{path}: {error.strerror}; {packets_written} packets were written",
            _HINTS.get(name, f"the system said {name}"),
        )
        self.path, self.errno = path, error.errno
        self.bytes_written, self.packets_written = bytes_written, packets_written


@dataclass(frozen=True)
class _Part:
    """Whole records at [start, end) of the stream."""

    start: int
    end: int
    packets: int
    octets: int = 0  # the packets' own, captured


@dataclass(frozen=True)
class _Write:
    buffer: Buffer
    offset: int  # of buffer.octets[0] in the stream
    end: int  # octets[:end] are written


class Sink:
    """One capture file that is being written.

    ``layout`` is kernels/pcap_write.py's; ``header`` is what the file starts with; ``compression`` is files/
    rotation.py's ``compression_of`` the name that was asked for.  Any call may raise the
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
    ) -> None:
        self.path = "standard output" if path == "-" else path
        self.layout = layout
        self._target = open_target(path, direct, compression)
        self._buffers = buffers or Buffers()
        aligned = self._target.granule > 1
        self._carry = header if aligned else b""  # bytes that follow the last write
        self._offset = 0 if aligned else len(header)  # of the carry in the stream
        self._parts = deque([_Part(0, len(header), 0)])  # submitted, not yet written whole
        self._written = 0
        self._written_octets = 0
        self._error: SinkError | None = None
        self._raised = False
        self._finished = False
        self._flushed = len(header)
        self._start(header)
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
    def octets_written(self) -> int:
        """Those packets' captured bytes, without the file's own."""
        return self._written_octets

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
            buffer.octets[: buffer.start] = np.frombuffer(self._carry, dtype=np.uint8)
        return buffer

    def submit(self, buffer: Buffer, end: int, packets: int, octets: int = 0) -> None:
        """Write the buffer's records, octets[start:end]: whole, with so many packets of so many captured bytes."""
        if self._error:
            self._buffers.give_back(buffer)
            self._check()
            return
        granules_end = end - end % self._target.granule
        self._parts.append(_Part(self._offset + buffer.start, self._offset + end, packets, octets))
        self._carry = buffer.octets[granules_end:end].tobytes()
        self._work.put(_Write(buffer, self._offset, granules_end))
        self._offset += granules_end

    def write(self, records: bytes) -> None:
        """Write whole records that hold no packet, such as statistics."""
        buffer = self.acquire()
        if buffer is None:
            return
        end = buffer.start + len(records)
        if end > len(buffer.octets):
            self._buffers.give_back(buffer)
            raise ValueError(f"{len(records)} bytes do not fit a buffer")
        buffer.octets[buffer.start : end] = np.frombuffer(records, dtype=np.uint8)
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
            raise SinkError(self.path, error, 0, 0) from error

    def _check(self) -> None:
        if self._error and not self._raised:
            self._raised = True
            raise self._error

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
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
                if isinstance(work, _Write):
                    self._buffers.give_back(work.buffer)
        try:
            self._target.close()
        except OSError as error:
            self._give_up(error, b"")

    def _do(self, work: _Write | bytes) -> None:
        if isinstance(work, bytes):
            self._target.write_end(work)
        else:
            self._target.write(work.buffer.octets.data[: work.end])
        self._count_written()

    def _give_up(self, error: OSError, work: _Write | bytes) -> None:
        """Cut the file back to whole records, and remember the error for the next call."""
        if self._error:
            return
        self._count_written()
        size = self._target.written
        if self._parts:
            size, packets, octets = self._salvage(self._parts[0], work)
            self._written += packets
            self._written_octets += octets
        try:
            self._target.truncate(size)
        except OSError:
            pass  # a failing device may refuse that too
        self._error = SinkError(self.path, error, size, self._written)

    def _count_written(self) -> None:
        while self._parts and self._parts[0].end <= self._target.written:
            part = self._parts.popleft()
            self._written += part.packets
            self._written_octets += part.octets

    def _salvage(self, part: _Part, work: _Write | bytes) -> tuple[int, int, int]:
        """(end of the last whole record, packets, their bytes) of a part that was written only up to a point."""
        written = self._target.written
        if written == part.start:
            return part.start, 0, 0
        try:
            found = self._target.read_back(part.start, written)
        except OSError:
            found = b""
        if found is not None:
            octets, base = np.frombuffer(bytearray(found), dtype=np.uint8), part.start
        elif isinstance(work, _Write):
            octets, base = work.buffer.octets[: written - work.offset], work.offset
        else:
            return part.start, 0, 0
        position, packets, length = whole_records(self.layout, octets, part.start - base, len(octets))
        return base + int(position), int(packets), int(length)
