"""Stretches of a capture file: what an index says of each, and where they lie in the file as it is stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wirecap.files.index import Index, Ranges


def joined(ranges: Sequence[tuple[int, int]]) -> Ranges:
    """In order, without overlaps."""
    found: Ranges = []
    for begin, end in sorted(ranges):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        elif end > begin:
            found.append((begin, end))
    return found


def of_frames(ranges: Sequence[tuple[int, int]], index: Index) -> Ranges:
    """The bytes of the file in which the frames are that hold these bytes of the stream."""
    frames = np.array(index.frames, np.int64)
    places = np.append(frames[:, 1], index.capture_bytes)
    found = []
    for begin, end in ranges:
        if end > begin:
            first = int(np.searchsorted(frames[:, 0], begin, "right")) - 1
            last = int(np.searchsorted(frames[:, 0], end, "left"))
            found.append((int(places[first]), int(places[last])))
    return joined(found)


def stored_ranges(ranges: Sequence[tuple[int, int]], index: Index, compressed: bool) -> Ranges:
    """Where in the file these bytes of the stream are, for each of them; all of it where it has no frames."""
    if not compressed:
        return list(ranges)
    if not index.frames:
        return [(0, index.capture_bytes)] * len(ranges)
    return [of_frames([(begin, max(end, begin + 1))], index)[0] for begin, end in ranges]
