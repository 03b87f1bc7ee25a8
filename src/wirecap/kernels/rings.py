"""The four verbs on a receive queue's two kernel rings: reserve, submit (fill), peek, release (RX).

All rings of an engine are mapped side by side into one region, seen as int64 and as uint32 words; a
queue's words in Pool.queues say where its rings are.  Producer and consumer are the kernel's free-running
uint32 counters (Linux: Documentation/networking/af_xdp.rst); ours are int64 and wrapped when stored.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from wirecap.kernels.atomics import load, store
from wirecap.kernels.jit import inline, lengths, words
from wirecap.kernels.libc import getsockopt_words, kick
from wirecap.kernels.pool import FREE_CELLS, QUEUE_WORDS, RING_WORDS, TAKEN

# words of a home queue in Pool.queues: indices of uint32 words, except *_DESCRIPTORS: of int64 words
(
    FILL_PRODUCER, FILL_CONSUMER, FILL_FLAGS, FILL_DESCRIPTORS, FILL_MASK,
    RX_PRODUCER, RX_CONSUMER, RX_DESCRIPTORS, RX_MASK,
    SOCKET,  # file descriptor, or -1 for the memory NIC
    SUBMITTED,  # cells ever put on the fill ring; SUBMITTED - TAKEN = attached
    TARGET, TARGET_MOST, TARGET_LEAST,  # how many to keep attached, and its bounds
    LEAST_LEFT, WINDOW_END, WINDOW_TAKEN, HOLD,  # fewest unused cells in this window; its end, ns; TAKEN before; ns
    SHORT,  # 1 while the pool had fewer free cells than the target wanted
    LOST, LOST_EXHAUSTED, LOST_LATE,  # packets that found no attached cell: seen so far, and why
    MEMORY_STATISTICS,  # index of the memory NIC's counters among the int64 words
) = range(RING_WORDS, RING_WORDS + 23)  # fmt: skip

NEED_WAKEUP = 1  # XDP_RING_NEED_WAKEUP
SOL_XDP, XDP_STATISTICS = 283, 7
FILL_RING_EMPTY = 4  # index into struct xdp_statistics, in 64-bit words
STATISTICS_WORDS = 6
STAMP_BYTES = 8  # the XDP program's stamp lies right before the packet
HEADROOM_BYTES = 256 + STAMP_BYTES  # XDP_PACKET_HEADROOM and ours: stamp and headers share a cache line
WINDOW_NS, HOLD_NS, HOLD_MOST_NS = 50_000_000, 500_000_000, 60_000_000_000


class Rings(NamedTuple):
    """The mapped rings and the UMEM, as words."""

    words: Any  # int64: descriptors
    halves: Any  # uint32: the same memory; producers, consumers, flags
    cells: Any  # int64: the UMEM; the stamp of a packet at address a is cells[a // 8 - 1]
    unstamped: Any  # int64 (1,): not 0 once the XDP program found no room for a stamp


RINGS = types.NamedTuple((words, lengths, words, words), Rings)


@inline
def peek(pool, rings, q):
    """How many packets lie in the RX ring."""
    return (load(rings.halves, pool.queues[q + RX_PRODUCER]) - pool.queues[q + TAKEN]) & 0xFFFFFFFF


@inline
def release(pool, rings, q):
    """Tell the kernel that all packets up to TAKEN were read."""
    store(rings.halves, pool.queues[q + RX_CONSUMER], wrap(pool.queues[q + TAKEN]))


@inline
def submit(pool, rings, queue):
    """Attach free cells, the most recently freed first (still in cache), up to the target."""
    q = queue * QUEUE_WORDS
    queues = pool.queues
    attached = queues[q + SUBMITTED] - queues[q + TAKEN]
    top = queues[q + FREE_CELLS]
    wanted = queues[q + TARGET] - attached
    queues[q + SHORT] = 1 if wanted > top else 0
    # The kernel publishes its consumer late: never run over entries that it may still read.
    unread = (queues[q + SUBMITTED] - load(rings.halves, queues[q + FILL_CONSUMER])) & 0xFFFFFFFF
    count = min(wanted, top, queues[q + FILL_MASK] + 1 - unread)
    if count <= 0:
        return 0
    base, mask, place = queues[q + FILL_DESCRIPTORS], queues[q + FILL_MASK], queues[q + SUBMITTED]
    for i in range(count):
        rings.words[base + ((place + i) & mask)] = pool.free_cells[queue, top - 1 - i]
    queues[q + FREE_CELLS] = top - count
    queues[q + SUBMITTED] = place + count
    store(rings.halves, queues[q + FILL_PRODUCER], wrap(place + count))
    if queues[q + SOCKET] >= 0 and load(rings.halves, queues[q + FILL_FLAGS]) & NEED_WAKEUP:
        kick(queues[q + SOCKET])
    return count


@inline
def adapt(pool, q, left, now):
    """Keep as many cells attached as scheduling gaps need, and no more: few cells stay in cache and TLB.

    A look that finds under a quarter of the target left was nearly too late: the target goes to its upper
    bound at once and stays there for HOLD, twice as long each time.  Otherwise it shrinks by an eighth in
    every window that never saw less than three quarters left.  A queue that would not use half of the upper
    bound in a window has nothing to gain from few cells, and gets the upper bound.
    """
    queues = pool.queues
    target = queues[q + TARGET]
    if left < queues[q + LEAST_LEFT]:
        queues[q + LEAST_LEFT] = left
        if left * 4 < target and target < queues[q + TARGET_MOST]:
            target = queues[q + TARGET_MOST]
            queues[q + TARGET] = queues[q + LEAST_LEFT] = target
            queues[q + HOLD] = min(max(2 * queues[q + HOLD], HOLD_NS), HOLD_MOST_NS)
            queues[q + WINDOW_END] = now + queues[q + HOLD]
    if now >= queues[q + WINDOW_END]:
        if queues[q + TAKEN] - queues[q + WINDOW_TAKEN] < queues[q + TARGET_MOST] // 2:
            queues[q + TARGET] = queues[q + TARGET_MOST]
        elif queues[q + LEAST_LEFT] * 4 > target * 3:
            queues[q + TARGET] = max(target - target // 8, queues[q + TARGET_LEAST])
        queues[q + LEAST_LEFT] = queues[q + TARGET]
        queues[q + WINDOW_END] = now + WINDOW_NS
        queues[q + WINDOW_TAKEN] = queues[q + TAKEN]


@inline
def count_lost(pool, rings, q, exhausted, scratch):
    """Packets that found the fill ring empty since the last look, booked by cause.

    exhausted: the pool had no cell left to attach when it was last looked at; otherwise the capture thread
    came late.
    """
    queues = pool.queues
    if queues[q + SOCKET] >= 0:
        lost = getsockopt_words(queues[q + SOCKET], SOL_XDP, XDP_STATISTICS, STATISTICS_WORDS, scratch, FILL_RING_EMPTY)
    else:
        lost = load(rings.words, queues[q + MEMORY_STATISTICS] + FILL_RING_EMPTY)
    if lost > queues[q + LOST]:
        cause = LOST_EXHAUSTED if exhausted else LOST_LATE
        queues[q + cause] += lost - queues[q + LOST]
        queues[q + LOST] = lost


@inline
def wrap(counter):
    """The kernel's uint32 view of one of our counters."""
    return types.uint32(counter & 0xFFFFFFFF)
