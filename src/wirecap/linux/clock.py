"""Converts the clock that the XDP program reads to nanoseconds since the epoch, UTC."""

from __future__ import annotations

import time


def offset_ns(clock: str) -> int:
    """What to add to a 'tai' or 'monotonic' timestamp to get UTC, in nanoseconds.

    CLOCK_TAI is a whole number of seconds ahead of CLOCK_REALTIME (0 if nobody has set the leap seconds in
    the kernel), so the offset is rounded to seconds.  The monotonic clock's offset is measured between two
    readings, taking the closest of a few pairs.
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
