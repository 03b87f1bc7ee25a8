"""A handler that takes its time: so many packets a second, without using the CPU."""

from __future__ import annotations

from wirecap.kernels.handle import PROCESS_SIGNATURE
from wirecap.kernels.jit import kernel
from wirecap.kernels.libc import monotonic_ns, sleep_ns

INTERVAL_PS, FREE_AT_NS, FREE_AT_PS, SCRATCH = 0, 1, 2, 8


@kernel(PROCESS_SIGNATURE)
def pace(arena, address, captured, original, stamp, n, state):
    """Return when a handler of one packet per state[INTERVAL_PS] picoseconds would be done with n packets.

    A thread that was idle starts anew; one that was woken late does not fall behind.
    """
    scratch = state[SCRATCH:]
    now = monotonic_ns(scratch)
    if state[FREE_AT_NS] < now - 2_000_000:  # longer than a late wake-up: it was idle
        state[FREE_AT_NS], state[FREE_AT_PS] = now, 0
    picoseconds = state[FREE_AT_PS] + n * state[INTERVAL_PS]
    state[FREE_AT_NS] += picoseconds // 1000
    state[FREE_AT_PS] = picoseconds % 1000
    while now < state[FREE_AT_NS]:
        sleep_ns(state[FREE_AT_NS] - now, scratch)
        now = monotonic_ns(scratch)
    return 0
