"""The memory for packets that are kept: records as a file has them, in segments of which the oldest is used again."""

from __future__ import annotations

from collections import deque

from wirecap.files.buffers import PAGE
from wirecap.files.reader import Bytes
from wirecap.linux import af_xdp

SEGMENT_BYTES = 1 << 20
SEGMENTS = 16
"""At least so many, so that the oldest one is a small part."""


class Segment:
    """``bytes`` (uint8): records in [0, end), of ``packets`` packets, none of them later than ``last_ns``.

    ``saved``: how many of these are in a file.  ``number`` counts segments, those that were used again too.
    """

    def __init__(self, number: int, room: Bytes) -> None:
        self.number, self.room, self.bytes = number, room, room
        self.end = self.packets = self.saved = 0
        self.last_ns = 0
        self.full = False


class Kept:
    """Segments in the order in which they were filled; all together they take at most ``size`` bytes.

    Memory that was never needed is never touched: the system gives it when it is first written to.
    """

    def __init__(self, size: int) -> None:
        segment = max(PAGE, min(SEGMENT_BYTES, size // SEGMENTS) // PAGE * PAGE)
        self.size = size // segment * segment
        whole = af_xdp.transparent(self.size)
        self._free = [whole[at : at + segment] for at in range(self.size - segment, -1, -segment)]
        self._segment_bytes = segment
        self._larger = 0  # bytes of segments for a record that is longer than a segment
        self._begun = 0
        self.segments: deque[Segment] = deque()
        self.let_go = 0
        """Packets whose memory was needed before anything had them saved."""

    @property
    def current(self) -> Segment | None:
        """The segment that has room, if any."""
        return self.segments[-1] if self.segments and not self.segments[-1].full else None

    @property
    def is_full(self) -> bool:
        """Whether the next segment takes the memory of the oldest."""
        return not self._free or self._larger > len(self._free) * self._segment_bytes

    def begin(self) -> Segment:
        """The next segment; there must be memory for it."""
        segment = Segment(self._begun, self._free.pop())
        self._begun += 1
        self.segments.append(segment)
        return segment

    def enlarge(self, segment: Segment, size: int) -> None:
        """Make an empty segment large enough for one record of so many bytes."""
        segment.bytes = af_xdp.transparent(size + -size % PAGE)
        self._larger += len(segment.bytes)

    def forget(self) -> None:
        """Let the oldest segment go."""
        oldest = self.segments.popleft()
        self.let_go += oldest.packets - oldest.saved
        if oldest.bytes is not oldest.room:
            self._larger -= len(oldest.bytes)
        self._free.append(oldest.room)

    @property
    def packets(self) -> int:
        """Packets that are kept and in no file."""
        return sum(segment.packets - segment.saved for segment in list(self.segments))

    @property
    def bytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(segment.end for segment in list(self.segments))
