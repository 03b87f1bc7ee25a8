"""A capture file of which only some ranges are read, as if there were nothing between them."""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from itertools import accumulate

from wirecap.errors import UsageError
from wirecap.files.decompression import ByteSource, is_compressed, open_source
from wirecap.files.index import Ranges
from wirecap.files.reader import CaptureFile, Streamed, open_capture
from wirecap.files.stored import Stored
from wirecap.files.urls import RangeSource
from wirecap.find.plan import ReadPlan

BLOCK_BYTES, BLOCKS = 1 << 20, 3
"""Of a file's buffer: many may be open at once."""


class Parts:
    """The bytes of the ranges of a file, one after the other."""

    damage = ""

    def __init__(self, fd: int, ranges: Ranges) -> None:
        self._fd, self._ranges = fd, ranges
        self._at, self._done = 0, 0

    def read_into(self, view: memoryview, timeout_s: float | None) -> int | None:
        while self._at < len(self._ranges):
            begin, end = self._ranges[self._at]
            left = end - begin - self._done
            count = self._read(view[:left], begin + self._done) if left else 0
            if count:
                self._done += count
                return count
            self._at, self._done = self._at + 1, 0
        return 0

    def _read(self, view: memoryview, begin: int) -> int:
        return os.preadv(self._fd, [view], begin)

    def close(self) -> None:
        os.close(self._fd)


class PartsBehind(Parts):
    """Those of a file behind a URL."""

    def __init__(self, source: RangeSource, ranges: Ranges) -> None:
        super().__init__(-1, ranges)
        self._source = source

    def _read(self, view: memoryview, begin: int) -> int:
        end = min(begin + len(view), self._source.size)
        view[: max(0, end - begin)] = self._source.read(begin, end).data if end > begin else b""
        return max(0, end - begin)

    def close(self) -> None: ...


def open_narrowed(plan: ReadPlan) -> CaptureFile:
    """Raises UsageError as ``open_capture`` does, OSError for what a server does not give."""
    if plan.stored:
        return _open_stored(plan, plan.stored)
    if plan.ranges is None:
        return open_capture(plan.path)
    try:
        fd = os.open(plan.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        hint = "check the path" if error.errno == errno.ENOENT else "a capture file must be readable"
        raise UsageError(f"{plan.path}: {os.strerror(error.errno or 0)}", hint) from error
    ranges = plan.ranges or plan.header
    feed = Streamed(_source(fd, ranges, plan.stream), BLOCK_BYTES, BLOCKS)
    try:
        file = CaptureFile(plan.path, feed)
    except UsageError:
        feed.close()
        raise
    if not plan.stream:
        file.place = Placing(ranges)
    return file


def _open_stored(plan: ReadPlan, stored: Stored) -> CaptureFile:
    source = stored.source()
    ranges = [(0, stored.size)] if plan.ranges is None else plan.ranges or plan.header
    parts, compressed = PartsBehind(source, ranges), plan.stream or plan.ranges is None
    start = source.read(0, min(4, stored.size)).tobytes() if compressed else b""
    file = CaptureFile(plan.path, Streamed(open_source(-1, start, parts), BLOCK_BYTES, BLOCKS))
    if not is_compressed(start):
        file.place = Placing(ranges)
    return file


def _source(fd: int, ranges: Ranges, compressed: bool) -> ByteSource:
    parts = Parts(fd, ranges)
    return open_source(fd, os.pread(fd, 4, 0), parts) if compressed else parts


class Placing:
    """From an offset in the ranges' bytes to the one in the file."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._before = [0, *accumulate(end - begin for begin, end in ranges)]

    def __call__(self, offset: int) -> int:
        number = min(max(0, bisect_right(self._before, offset) - 1), len(self._ranges) - 1)
        return self._ranges[number][0] + offset - self._before[number]
