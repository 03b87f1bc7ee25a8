"""Wait for a moment of the monotonic clock: sleep through most of it, watch the clock for the rest.

The words are those of a sender's ``control`` (kernels/send.py).  How long before the moment the sleep ends, the
margin, follows the lateness of past wake-ups: it grows at once and shrinks slowly.
"""

from __future__ import annotations

import time

from numba import types

from wirecap.kernels.atomics import load
from wirecap.kernels.jit import PURE, inline
from wirecap.kernels.libc import monotonic_ns

STOP, START_NS, UNTIL_NS, PACED, POSITION, MARGIN_NS, LATEST_NS, LAST_NS, REWRITE = range(9)
CONTROL_WORDS = 16

LEAST_MARGIN_NS, MOST_MARGIN_NS = 20_000, 400_000
_SPARE_NS = 10_000
_SHRINK = 64  # of what the margin has too much, one part in so many goes at each wake-up
_CLOCK_MONOTONIC, _TIMER_ABSTIME = 1, 1  # linux/time.h

if PURE:

    def sleep_until(moment_ns, scratch):
        time.sleep(max(0, moment_ns - time.monotonic_ns()) * 1e-9)

else:
    _clock_nanosleep = types.ExternalFunction(
        "clock_nanosleep", types.int32(types.int32, types.int32, types.intp, types.intp)
    )

    @inline
    def sleep_until(moment_ns, scratch):
        """Sleep until a moment of CLOCK_MONOTONIC; absolute, so that no delay adds up."""
        scratch[2] = moment_ns // 1_000_000_000
        scratch[3] = moment_ns % 1_000_000_000
        _clock_nanosleep(_CLOCK_MONOTONIC, _TIMER_ABSTIME, scratch.ctypes.data + 16, 0)


@inline
def adapt_margin(margin_ns, late_ns):
    """The next margin, given how late a sleep ended."""
    wanted = min(max(late_ns + _SPARE_NS, LEAST_MARGIN_NS), MOST_MARGIN_NS)
    if wanted >= margin_ns:
        return wanted
    return margin_ns - (margin_ns - wanted) // _SHRINK


@inline
def wait_until(moment_ns, control, scratch):
    """True at the moment; False when STOP is set, or where UNTIL_NS comes well before it."""
    now = monotonic_ns(scratch)
    while now < moment_ns:
        margin = control[MARGIN_NS]
        if load(control, STOP) or (now >= control[UNTIL_NS] and moment_ns - now > 2 * margin):
            return False
        wake = min(moment_ns, max(control[UNTIL_NS], now)) - margin
        if wake > now:
            sleep_until(wake, scratch)
            control[MARGIN_NS] = adapt_margin(margin, monotonic_ns(scratch) - wake)
        now = monotonic_ns(scratch)
    return True
