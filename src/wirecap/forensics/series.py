"""What happened when, in bounded memory: the last half minute by the millisecond, all of it in some points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.int64]

RECENT_MS = 1 << 15
POINTS = 1600
UNKNOWN = -1
SPREAD_MOST = 1 << 12
"""Milliseconds that a chunk's packets are spread over: in a file, years may lie between two of them."""


class Recent:
    """Packets in each of the last RECENT_MS milliseconds, in ``rows`` rows: int32 (rows, RECENT_MS), a ring."""

    def __init__(self, rows: int) -> None:
        self._counts = np.zeros((rows, RECENT_MS), np.int32)
        self._end = 0
        """The first millisecond that has not been entered."""

    @property
    def first_ms(self) -> int:
        """The earliest millisecond that is still known."""
        return max(0, self._end - RECENT_MS)

    def advance(self, now_ms: int) -> None:
        """Make room up to ``now_ms``; what is RECENT_MS older is forgotten."""
        if now_ms >= self._end + RECENT_MS:
            self._counts[:] = 0
        elif now_ms >= self._end:
            self._counts[:, np.arange(self._end, now_ms + 1) % RECENT_MS] = 0
        self._end = max(self._end, now_ms + 1)

    def add(self, row: int, ms: Words, packets: Words) -> None:
        """Packets of these milliseconds; those that are no longer known are counted at the earliest that is."""
        np.add.at(self._counts[row], np.clip(ms, self.first_ms, max(0, self._end - 1)) % RECENT_MS, packets)

    def between(self, first_ms: int, end_ms: int) -> NDArray[np.int32]:
        """A copy, int32 (rows, end - first), of milliseconds that are known."""
        found: NDArray[np.int32] = self._counts[:, np.arange(first_ms, end_ms) % RECENT_MS]
        return found


class History:
    """Numbers since the start, in points of equal width: 1 ms at first, twice as wide whenever POINTS are not enough.

    A series that is summed holds packets in each point; one that is a peak holds the largest value, UNKNOWN if there
    was none.
    """

    def __init__(self) -> None:
        self._shift = 0
        self._sums: dict[str, Words] = {}
        self._peaks: dict[str, Words] = {}
        self.points = 0
        """How many points have begun."""

    @property
    def width_ms(self) -> int:
        return 1 << self._shift

    def add(self, name: str, ms: Words, values: Words) -> None:
        np.add.at(self._series(self._sums, name), self._places(ms), values)

    def peak(self, name: str, ms: Words, values: Words) -> None:
        np.maximum.at(self._series(self._peaks, name, UNKNOWN), self._places(ms), values)

    def reach(self, ms: int) -> None:
        """The time has come to ``ms``, whether anything happens or not."""
        while ms >> self._shift >= POINTS:
            self._fold()
        self.points = max(self.points, (ms >> self._shift) + 1)

    def named(self, start: str) -> dict[str, Words]:
        """The series whose names begin like this, by the rest of their names, in order."""
        found = {**self._sums, **self._peaks}
        return {name[len(start) :]: found[name][: self.points] for name in sorted(found) if name.startswith(start)}

    def _series(self, where: dict[str, Words], name: str, nothing: int = 0) -> Words:
        if name not in where:
            where[name] = np.full(POINTS, nothing, np.int64)
        return where[name]

    def _places(self, ms: Words) -> Words:
        places: Words = np.clip(ms >> self._shift, 0, POINTS - 1)
        return places

    def _fold(self) -> None:
        self._shift += 1
        self.points = (self.points + 1) // 2
        for series in self._sums.values():
            _halve(series, series.reshape(-1, 2).sum(axis=1), 0)
        for series in self._peaks.values():
            _halve(series, series.reshape(-1, 2).max(axis=1), UNKNOWN)


def _halve(series: Words, half: Words, nothing: int) -> None:
    series[: POINTS // 2], series[POINTS // 2 :] = half, nothing


def by_millisecond(first_ms: Words, last_ms: Words, packets: Words) -> tuple[Words, Words]:
    """Chunks as (milliseconds, packets): those of one that spans several are spread evenly."""
    spans = last_ms - first_ms
    whole = spans <= 0
    ms, counts = [first_ms[whole]], [packets[whole]]
    for first, span, count in zip(first_ms[~whole].tolist(), spans[~whole].tolist(), packets[~whole], strict=True):
        places = min(span + 1, SPREAD_MOST)
        ms.append(np.linspace(first, first + span, places).astype(np.int64))
        counts.append(np.diff((count * np.arange(places + 1)) // places))
    return np.concatenate(ms), np.concatenate(counts)
