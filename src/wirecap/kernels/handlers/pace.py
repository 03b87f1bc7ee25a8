"""A handler that takes its time: a fixed number of packets per second, without using the CPU."""

from __future__ import annotations

from wirecap.kernels.base.jit import kernel
from wirecap.kernels.base.libc import monotonic_ns, sleep_ns
from wirecap.kernels.pool.handler_loop import PROCESS_SIGNATURE

INTERVAL_PS, FREE_AT_NS, FREE_AT_PS, SCRATCH = 0, 1, 2, 8


@kernel(PROCESS_SIGNATURE)
def pace(arena, address, captured, original, timestamp, n, state):
    """Return when a handler that takes state[INTERVAL_PS] picoseconds per packet would be done with n packets.

    A thread that was idle starts afresh; one that was woken late does not fall behind.
    """
    scratch = state[SCRATCH:]
    now = monotonic_ns(scratch)
    if state[FREE_AT_NS] < now - 2_000_000:  # longer than any late wake-up, so it was idle
        state[FREE_AT_NS], state[FREE_AT_PS] = now, 0
    picoseconds = state[FREE_AT_PS] + n * state[INTERVAL_PS]
    state[FREE_AT_NS] += picoseconds // 1000
    state[FREE_AT_PS] = picoseconds % 1000
    while now < state[FREE_AT_NS]:
        sleep_ns(state[FREE_AT_NS] - now, scratch)
        now = monotonic_ns(scratch)
    return 0
