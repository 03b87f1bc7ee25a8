"""A part of a capture file behind a URL, streamed."""

from __future__ import annotations

from wirecap.files.boundary import first_record
from wirecap.files.decompression import open_source
from wirecap.files.part import Range, learn
from wirecap.files.reader import CaptureFile, Progress, Streamed, Words
from wirecap.files.urls import RangeSource
from wirecap.kernels.file import read as at

HEAD_BYTES = 1 << 16
"""So much is read at once until a file's header is known."""


class StreamedPart(Streamed):
    """The records of a stream that begin in a range (as files/part.py's MappedPart)."""

    def __init__(self, source: RangeSource) -> None:
        super().__init__(source)
        self.source = source
        self.stop: int | None = None

    def begin(self, state: Words, start: int, stop: int) -> None:
        """Read the records from start on and before stop; what was read so far stays where it is at the start."""
        self.stop = stop
        state[at.FINAL] = 0
        if start != state[at.ORIGIN] + state[at.POSITION]:
            self._block = 0
            self.source.place = start
            state[at.POSITION], state[at.END], state[at.ORIGIN] = 0, 0, start

    def refill(self, state: Words, timeout_s: float | None) -> Progress:
        source = self.source
        if self.stop is None:
            source.until = min(source.size, source.place + HEAD_BYTES)
            return super().refill(state, timeout_s)
        offset = int(state[at.ORIGIN] + state[at.POSITION])
        if offset >= self.stop:
            state[at.END], state[at.FINAL] = state[at.POSITION], 1
            return Progress.READY
        source.until = min(source.size, max(self.stop, offset + int(state[at.WANTED])))
        return super().refill(state, timeout_s)


def open_remote(url: str, size: int, of: Range | None) -> CaptureFile | None:
    """A part of a file behind a URL, or all of it; None if no record is found in the part.  Raises UsageError or
    OSError."""
    source = RangeSource(url, size)
    if of is None:
        return CaptureFile(url, Streamed(open_source(-1, source.read(0, min(4, size)).tobytes(), source)))
    feed = StreamedPart(source)
    file = CaptureFile(url, feed)
    start = of.start
    if of.begin == 0 and start is None:
        start = file.offset
    elif start is None:
        start = first_record(file, source.read, of.begin, of.end, size)
    if start is None:
        file.close()
        return None
    learn(file, of.context)
    feed.begin(file.state, start, of.end)
    return file
