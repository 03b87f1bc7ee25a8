"""A part of a compressed file: the gzip members or Zstandard frames that begin in a range of its bytes.

Where one begins is a guess, as with records: bytes that look like a header, behind which records follow each other.
Places in such a file are marks, which are in order: where a frame begins, and how many of its uncompressed bytes stand
before the record.  A record that begins in one frame may end in the next; that one's first record has a mark behind it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

import numpy as np

from wirecap.errors import UsageError
from wirecap.files.boundary import WINDOWS, Bytes, first_record
from wirecap.files.decompression import codec_of
from wirecap.files.part import Range, learn
from wirecap.files.reader import CaptureFile, Progress, Streamed, Words
from wirecap.kernels.file import read as at

INSIDE_BITS = 32
PIECE_BYTES, SCAN_BYTES = 1 << 16, 1 << 20
_NO_END = 1 << 60
_FIRST_SECOND = 24, 28
_HEADERS = {
    b"\x1f\x8b": re.compile(rb"\x1f\x8b\x08[\0\x04]\0\0\0\0", re.DOTALL),  # a member without a name or a time
    b"\x28\xb5": re.compile(rb"\x28\xb5\x2f\xfd"),
    b"\x50\x2a": re.compile(rb"\x50\x2a\x4d\x18\x04\0\0\0"),  # pzstd's frames have one to be skipped before them
}

Read = Callable[[int, int], bytes]
"""Gets two offsets in the file as it is stored; returns the bytes between them."""


def has_frames(start: bytes) -> bool:
    """Whether a file that begins like this may be of several frames, which are found by their headers."""
    return start[:2] in _HEADERS and codec_of(start) is not None


def frame_of(mark: int) -> int:
    """Where the frame begins that a mark is in."""
    return mark >> INSIDE_BITS


def reading(path: str) -> Read:
    """Of a local file.  Raises OSError."""

    def read(begin: int, end: int) -> bytes:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, end - begin, begin)
        finally:
            os.close(fd)

    return read


class FrameSource:
    """The uncompressed bytes of frames, from the one that begins at ``first`` on.

    ``edge``: how many bytes come before the first frame that begins at or behind ``stop``, or before the end of the
    file; once that is known, only bytes before it are given, and of those behind it as many as are ``asked`` for.
    """

    def __init__(self, read: Read, size: int, first: int) -> None:
        self._read, self.size = read, size
        self._codec = codec_of(read(0, min(4, size)))
        self.go_to(first)

    def go_to(self, first: int, stop: int = _NO_END) -> None:
        """Begin again, at this frame."""
        assert self._codec
        self.first, self.stop, self.damage = first, stop, ""
        self._place, self._done, self._frames = first, 0, self._codec()
        self.edge, self.next_frame, self.asked = _NO_END, self.size, 0

    def read_into(self, view: memoryview, timeout_s: float | None) -> int:
        if self.damage:
            raise ValueError(self.damage)
        count = 0
        while count < len(view):
            self._look_for_edge()
            room = min(len(view) - count, max(self.edge, self.asked) - self._done)
            if room <= 0:
                break
            try:
                out = self._frames.feed(room)
            except ValueError as error:
                self.damage = str(error)
                if count:
                    break
                raise
            view[count : count + len(out)] = out
            count, self._done = count + len(out), self._done + len(out)
            if not out and not self._frames.pending and not self._more():
                if not self._frames.whole and not count:
                    raise ValueError("the compressed data ends early")
                break
        return count

    def _look_for_edge(self) -> None:
        begins = self._place - len(self._frames.pending)
        if self.edge == _NO_END and self._frames.at_edge and begins >= self.stop:
            self.edge, self.next_frame = self._done, begins

    def _more(self) -> bool:
        if self._place >= self.size:  # servers refuse a range of nothing
            return False
        data = self._read(self._place, min(self.size, self._place + PIECE_BYTES))
        self._place += len(data)
        self._frames.pending = data
        return bool(data)

    def mark(self, offset: int) -> int:
        """The mark of a place, by how many bytes of the source come before it."""
        frame, inside = (self.next_frame, offset - self.edge) if offset >= self.edge else (self.first, offset)
        return (frame << INSIDE_BITS) + inside

    def close(self) -> None: ...


class FramedPart(Streamed):
    """The records of a compressed stream that begin in the frames of a range."""

    def __init__(self, source: FrameSource) -> None:
        super().__init__(source)
        self.source = source

    def begin(self, state: Words, frame: int, inside: int, stop: int) -> None:
        """Read the records from a mark on that begin before the first frame at or behind ``stop``."""
        self.source.go_to(frame, stop)
        self.source.asked = inside
        self._block = 0
        state[at.POSITION] = state[at.END] = state[at.ORIGIN] = state[at.FINAL] = 0
        while left := inside - int(state[at.ORIGIN]):
            count = self.source.read_into(self.arena.data[: min(left, self.block_bytes)], None)
            if not count:
                break
            state[at.ORIGIN] += count

    def refill(self, state: Words, timeout_s: float | None) -> Progress:
        source, offset = self.source, int(state[at.ORIGIN] + state[at.POSITION])
        if offset < source.edge < _NO_END:  # of what is behind it, the rest of this record is wanted
            source.asked = offset + int(state[at.WANTED])
        progress = super().refill(state, timeout_s) if offset < source.edge else Progress.READY
        if offset >= source.edge:
            state[at.END], state[at.FINAL] = state[at.POSITION], 1
        elif source.edge < _NO_END and source.next_frame < source.size:
            state[at.FINAL] = 0
        return progress


def candidates(read: Read, begin: int, end: int, size: int) -> Iterator[int]:
    """Where a frame's header may be, from begin on and before end."""
    pattern = _HEADERS[read(0, 2)]
    for place in range(begin, end, SCAN_BYTES):
        until = min(end, place + SCAN_BYTES)
        data = read(place, min(size, until + 8))
        yield from (place + one.start() for one in pattern.finditer(data) if place + one.start() < until)


def open_frames(path: str, read: Read, size: int, of: Range) -> CaptureFile | None:
    """The part of a file; None if no record is found in it.  Raises UsageError or OSError."""
    feed = FramedPart(FrameSource(read, size, 0))
    file = CaptureFile(path, feed)
    if of.begin == 0 and of.start is None:
        feed.begin(file.state, 0, file.offset, of.end)
        return file
    if of.start is not None:
        start = of.start
    else:
        found = _first(file, read, size, of)
        if found is None:
            file.close()
            return None
        start = found
    learn(file, of.context)
    feed.begin(file.state, frame_of(start), start & (1 << INSIDE_BITS) - 1, of.end)
    return file


def _first(file: CaptureFile, read: Read, size: int, of: Range) -> int | None:
    """The mark of the first record in the frames of a range, most likely."""
    head = _uncompressed(read, size, 0, _FIRST_SECOND[1])

    for frame in candidates(read, of.begin, of.end, size):
        try:
            data = _uncompressed(read, size, frame, WINDOWS[1])
        except (ValueError, UsageError):
            continue

        def pick(begin: int, end: int, data: Bytes = data) -> Bytes:
            return head[begin:end] if (begin, end) == _FIRST_SECOND else data[begin:end]

        inside = first_record(file, pick, 0, data.size, data.size)
        if inside is not None:
            return (frame << INSIDE_BITS) + inside
    return None


def _uncompressed(read: Read, size: int, frame: int, count: int) -> Bytes:
    """The first bytes from a frame on.  Raises ValueError for what is none."""
    data = np.zeros(count, np.uint8)
    source, done = FrameSource(read, size, frame), 0
    while done < count and (more := source.read_into(data.data[done:], None)):
        done += more
    return data[:done]


def mark_of(file: CaptureFile) -> int:
    """Where the next record begins: a mark in a file of frames, else an offset."""
    return file.feed.source.mark(file.offset) if isinstance(file.feed, FramedPart) else file.offset
