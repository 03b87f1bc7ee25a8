"""A handler thread that works straight on its receive rings: no capture thread, no pool behind the ring.

The Type II engines of the paper (DNA, netmap): the cells of a ring are all there is.  While the handler is at work
nobody takes packets, and those that find no cell are lost.
"""

from __future__ import annotations

from wirecap.kernels.atomics import load
from wirecap.kernels.capture import IDLE_MS, book_lost, drained, flush_rest, turn
from wirecap.kernels.forward import forward_chunk, tend
from wirecap.kernels.handle import CHAIN, CLOSED, PROCESS, TIMED_OUT, _at, admit, pass_on, run_chain
from wirecap.kernels.jit import i64, inline, kernel, table, words
from wirecap.kernels.lanes import EMPTY, pop
from wirecap.kernels.libc import monotonic_ns, poll_in
from wirecap.kernels.pool import ABORT, CLOSE, FILL_COUNT, LANE_MASK, PHASE, POOL, QUEUE_WORDS, lane
from wirecap.kernels.rings import RINGS, SHORT
from wirecap.kernels.wires import WIRES

SHORT_IDLE_MS = 1
_DIRECT = (POOL, RINGS, words, i64, i64, PROCESS, words, CHAIN, table, words, words, words, words)


@inline
def receive(pool, rings, mine, wait_fd, consumer, idle_ms, depths, scratch):
    """Take what lies in the rings of ``mine``: a chunk's slot; TIMED_OUT when there is none; CLOSED at the end.

    What was handled goes back onto the fill rings first.  idle_ms: how long to wait for packets.
    """
    phase = load(pool.control, PHASE)
    if phase == ABORT:
        book_lost(pool, rings, mine)
        return CLOSED
    now = monotonic_ns(scratch)
    happened = waiting = 0
    for i in range(mine.size):
        happened += turn(pool, rings, mine[i], now, 0, depths, scratch)
        q = mine[i] * QUEUE_WORDS
        waiting += pool.queues[q + FILL_COUNT] + pool.queues[q + SHORT]
    slot = pop(pool.lanes, lane(pool, consumer), pool.control[LANE_MASK])
    if slot != EMPTY:
        return slot
    if phase >= CLOSE and happened == 0 and drained(pool, rings, mine):
        if flush_rest(pool, mine, depths):
            return TIMED_OUT  # there is a chunk now
        book_lost(pool, rings, mine)
        return CLOSED
    if happened == 0:  # a writer that has the cells, or the slots, gives them back without waking this thread
        poll_in(wait_fd, SHORT_IDLE_MS if waiting or phase >= CLOSE else idle_ms, scratch)
    return TIMED_OUT


@kernel(i64(POOL, RINGS, words, i64, i64, i64, words, i64, words, words))
def receive_chunk(pool, rings, mine, wait_fd, consumer, select, select_state, idle_ms, depths, scratch):
    """``next_chunk`` (kernels/handle.py) without a capture thread."""
    slot = receive(pool, rings, mine, wait_fd, consumer, idle_ms, depths, scratch)
    if slot < 0:
        return slot
    return slot << 32 | admit(pool, consumer, slot, _at(select), select_state)


@kernel(i64(*_DIRECT))
def direct_loop(
    pool, rings, mine, wait_fd, consumer, select, select_state, chain, states, settings, failure, depths, scratch
):
    """``handler_loop`` (kernels/handle.py) without a capture thread.

    mine: the home queues that this thread receives from; wait_fd: readable when one of them has packets.
    """
    while True:
        slot = receive(pool, rings, mine, wait_fd, consumer, IDLE_MS, depths, scratch)
        if slot == CLOSED:
            return 0
        if slot == TIMED_OUT:
            continue
        kept = admit(pool, consumer, slot, select, select_state)
        if run_chain(pool, slot, kept, chain, states, settings, failure):
            return 1
        pass_on(pool, slot, settings)


@kernel(i64(*_DIRECT, WIRES, words, words, words))
def direct_forward_loop(
    pool, rings, mine, wait_fd, consumer, select, select_state, chain, states, settings, failure, depths, scratch,
    wires, sending, choice, wanted,
):  # fmt: skip
    """``forward_loop`` (kernels/forward.py) without a capture thread."""
    busy = False
    while True:
        slot = receive(pool, rings, mine, wait_fd, consumer, SHORT_IDLE_MS if busy else IDLE_MS, depths, scratch)
        if slot == CLOSED:
            return 0
        if slot == TIMED_OUT:
            busy = tend(pool, rings, wires)
            continue
        busy = True
        if forward_chunk(
            pool, rings, wires, consumer, slot, select, select_state, chain, states, settings, sending, choice, wanted,
            failure, scratch,
        ):  # fmt: skip
            return 1
