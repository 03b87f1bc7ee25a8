"""A handler thread that works directly on its receive rings, without a capture thread or a pool behind the ring.

These are the paper's Type II engines (DNA, netmap): the cells of a ring are the only buffer.  While the handler works,
nobody takes packets, and packets that find no cell are lost.
"""

from __future__ import annotations

from wirecap.kernels.base.atomics import load
from wirecap.kernels.base.jit import kernel
from wirecap.kernels.base.libc import monotonic_ns, poll_in
from wirecap.kernels.pool.handler_loop import CLOSED, RECEIVE_SIGNATURE, TIMED_OUT
from wirecap.kernels.pool.pool import ABORT, CLOSE, FILL_COUNT, PHASE, QUEUE_WORDS, WORK_QUEUE_MASK, work_queue
from wirecap.kernels.pool.work_queues import EMPTY, pop
from wirecap.kernels.xdp.capture_loop import SHORT_IDLE_NS, book_lost, drained, flush_rest, turn
from wirecap.kernels.xdp.rings import SHORT


@kernel(RECEIVE_SIGNATURE)
def receive(pool, consumer, intake, wait_ns, scratch):
    """Take packets from the rings of ``intake.mine``: a chunk's slot, TIMED_OUT if there is none, CLOSED at the end.

    The kernel behind ``intake.receive``.  First the cells of handled packets go back onto the fill rings.  Waits for
    packets for at most wait_ns.
    """
    rings, mine = intake.rings, intake.mine
    phase = load(pool.control, PHASE)
    if phase == ABORT:
        book_lost(pool, rings, mine)
        return CLOSED
    now = monotonic_ns(scratch)
    happened = waiting = 0
    for i in range(mine.size):
        happened += turn(pool, rings, mine[i], now, 0, intake.depths, scratch)
        q = mine[i] * QUEUE_WORDS
        waiting += pool.queues[q + FILL_COUNT] + pool.queues[q + SHORT]
    slot = pop(pool.work_queues, work_queue(pool, consumer), pool.control[WORK_QUEUE_MASK])
    if slot != EMPTY:
        return slot
    if phase >= CLOSE and happened == 0 and drained(pool, rings, mine):
        if flush_rest(pool, mine, intake.depths):
            return TIMED_OUT  # there is a chunk to take now
        book_lost(pool, rings, mine)
        return CLOSED
    if happened == 0:  # a writer that holds the cells or the slots gives them back without waking this thread
        poll_in(intake.wait_fd, SHORT_IDLE_NS if waiting or phase >= CLOSE else wait_ns, scratch)
    return TIMED_OUT
