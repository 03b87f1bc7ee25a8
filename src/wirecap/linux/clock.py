"""From the clock that the XDP program reads to nanoseconds since the epoch, UTC."""

from __future__ import annotations

import time


def offset_ns(clock: str) -> int:
    """What to add to a stamp of 'tai' or 'monotonic' to get UTC.

    CLOCK_TAI runs a whole number of seconds ahead of CLOCK_REALTIME (0 where nobody told the kernel the
    leap seconds), so that the offset is rounded to seconds.  The monotonic clock's offset is measured
    between two readings, the closest of a few.
    """
    if clock == "tai":
        return -round(time.clock_gettime(time.CLOCK_TAI) - time.time()) * 1_000_000_000
    best_gap, best = 1 << 62, 0
    for _ in range(5):
        before = time.monotonic_ns()
        real = time.time_ns()
        after = time.monotonic_ns()
        if after - before < best_gap:
            best_gap, best = after - before, real - (before + after) // 2
    return best
