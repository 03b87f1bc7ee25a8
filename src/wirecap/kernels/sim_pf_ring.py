"""PF_RING (Type I) in virtual time, packet by packet: the kernel copies, the application reads the copy.

Both run on the queue's core, and the kernel comes first: the handler works only while no packet lies in
the NIC's ring.  A packet is lost when it finds the NIC's ring full (capture drop), or when its copy finds
the ring of slots full (delivery drop).
"""

from __future__ import annotations

from wirecap.kernels.jit import i64, inline, kernel, words
from wirecap.kernels.sim_arrivals import ARRIVALS, NEVER
from wirecap.kernels.sim_work import work

# words of the state, counters among them
TAKEN, DELIVERED, NIC_FULL, SLOTS_FULL, BUSY_PS, ENDED_PS, KERNEL_PS = range(7)
FILLED, LEFT_PS = 7, 8  # copies waiting or being handled; what the first of them still takes
STATE_WORDS = 12


@inline
def handle(state, costs, seed, queue, now, until):
    """Let the handler work from ``now`` to ``until``: no copy comes in this time."""
    while state[FILLED] and now + state[LEFT_PS] <= until:
        now += state[LEFT_PS]
        state[DELIVERED] += 1
        state[FILLED] -= 1
        state[ENDED_PS] = now
        if state[FILLED]:
            state[LEFT_PS] = work(costs, seed, queue, state[DELIVERED], 1)
            state[BUSY_PS] += state[LEFT_PS]
    if state[FILLED]:
        state[LEFT_PS] -= until - now


@inline
def copy(state, costs, seed, queue, slots):
    """A copied packet reaches the slots, or finds them full."""
    if state[FILLED] == slots:
        state[SLOTS_FULL] += 1
        return
    state[TAKEN] += 1
    state[FILLED] += 1
    if state[FILLED] == 1:
        state[LEFT_PS] = work(costs, seed, queue, state[DELIVERED], 1)
        state[BUSY_PS] += state[LEFT_PS]


@kernel(i64(ARRIVALS, i64, words, i64, i64, i64, words, words))
def pf_ring(arrivals, queue, costs, seed, slots, kernel_ps, leaves, state):
    """All packets of one queue; how many there were.

    slots: copies that the kernel's ring holds, the one being handled included; kernel_ps: what the kernel takes
    for a packet; leaves: int64 (D,) zeros, when the packet that last lay in each descriptor of the NIC's ring
    was copied.  A copy is made at the end of its kernel time, and before an arrival at the same instant.
    """
    total = 0
    enter, copied, inside = 0, 0, 0  # next descriptor to fill, to copy, and how many are filled
    copied_at = 0  # when the kernel is through with what it has
    for run in range(arrivals.first[queue], arrivals.first[queue + 1]):
        for i in range(arrivals.size[run]):
            now = arrivals.start[run] + i * arrivals.interval[run]
            while inside and leaves[copied] <= now:
                copy(state, costs, seed, queue, slots)
                copied = copied + 1 if copied + 1 < leaves.size else 0
                inside -= 1
            if inside == 0:
                handle(state, costs, seed, queue, copied_at, now)
                copied_at = now
            if inside == leaves.size:
                state[NIC_FULL] += 1
                continue
            copied_at += kernel_ps
            state[KERNEL_PS] += kernel_ps
            leaves[enter] = copied_at
            enter = enter + 1 if enter + 1 < leaves.size else 0
            inside += 1
        total += arrivals.size[run]
    for _ in range(inside):
        copy(state, costs, seed, queue, slots)
    handle(state, costs, seed, queue, copied_at, NEVER - 1)
    return total
