"""The loop of a capture thread over TPACKET_V3 rings: blocks in, chunks out, blocks back to the kernel."""

from __future__ import annotations

import numpy as np

from wirecap.kernels.af_packet import blocks as w
from wirecap.kernels.af_packet.blocks import closed_blocks, count_seen, head, is_full, let_go, open_block, take_packets
from wirecap.kernels.base.atomics import load, store
from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import i64, none, words
from wirecap.kernels.base.libc import epoll_in, monotonic_ns
from wirecap.kernels.pool.pool import (
    ABORT,
    ARRIVED,
    DRAIN,
    FILL_COUNT,
    FILL_SINCE,
    FILL_SLOT,
    FREE,
    FREE_SLOTS,
    PHASE,
    POOL,
    QUEUE_WORDS,
    RECYCLED,
    RINGS,
    SLOT_WORDS,
    STATE,
    TAKEN,
    TAKEN_BYTES,
    WAITING_AT,
    WORK_QUEUE_MASK,
    is_due,
    open_slot,
    work_queue,
)
from wirecap.kernels.pool.pool import BLOCK as HOLDER
from wirecap.kernels.pool.work_queues import EMPTY, pop
from wirecap.kernels.xdp.capture_loop import TIMEOUT_NS, WAIT_FD, flush

IDLE_MS, SHORT_IDLE_MS = 100, 1
BLOCKS_A_TURN = 8
DRAIN_NS = 1_000_000_000
"""The kernel passes the last block on within milliseconds; if it takes longer than this, packets are missing."""


@inline
def take_back(pool, rings, queue, held):
    """Take back recycled slots, and release the holders of their packets; returns how many slots."""
    q = queue * QUEUE_WORDS
    base = work_queue(pool, pool.tallies.shape[0] + queue)
    slots = 0
    while True:
        slot = pop(pool.work_queues, base, pool.control[WORK_QUEUE_MASK])
        if slot == EMPTY:
            return slots
        m = slot * SLOT_WORDS
        let_go(pool, rings, held, q, pool.meta[m + HOLDER])
        store(pool.meta, m + STATE, pool.meta[m + STATE] - RECYCLED + FREE)
        pool.free_slots[queue, pool.queues[q + FREE_SLOTS]] = slot
        pool.queues[q + FREE_SLOTS] += 1
        slots += 1


@inline
def slot_for(pool, queue, held, now, depths):
    """The slot that is being filled with packets of this holder, or a new one; EMPTY if there is none."""
    q = queue * QUEUE_WORDS
    queues = pool.queues
    slot, holder = queues[q + FILL_SLOT], queues[q + w.INTO]
    if slot != EMPTY and pool.meta[slot * SLOT_WORDS + HOLDER] != holder:
        flush(pool, queue, depths)
        slot = i64(EMPTY)
    if slot == EMPTY:
        slot = open_slot(pool, queue)
        if slot != EMPTY:
            queues[q + FILL_SLOT], queues[q + FILL_SINCE] = slot, now
            pool.meta[slot * SLOT_WORDS + HOLDER] = holder
            held[queues[q + w.HELD] + holder] += 1
    return slot


@inline
def take_block(pool, rings, queue, held, now, depths):
    """Move the rest of the open block into slots; False if the slots run out."""
    q = queue * QUEUE_WORDS
    queues = pool.queues
    block = (queues[q + w.NEXT] - 1) % queues[q + w.BLOCKS]
    while queues[q + w.LEFT]:
        slot = slot_for(pool, queue, held, now, depths)
        if slot == EMPTY:
            return False
        filled = queues[q + FILL_COUNT]
        count = min(queues[q + w.LEFT], pool.address.shape[1] - filled)
        queues[q + TAKEN_BYTES] += take_packets(pool, rings, q, slot, filled, count)
        queues[q + TAKEN] += count
        queues[q + w.LEFT] -= count
        queues[q + FILL_COUNT] = filled + count
        # First count what has arrived, then what is left: the merge must never miss a packet in both.
        store(rings.halves, queues[q + ARRIVED], np.uint32(queues[q + TAKEN] & 0xFFFFFFFF))
        if queues[q + w.LEFT]:
            store(rings.halves, head(pool, q, block) + w.PACKETS, np.uint32(queues[q + w.LEFT]))
        if filled + count == pool.address.shape[1]:
            flush(pool, queue, depths)
    following = head(pool, q, queues[q + w.NEXT] % queues[q + w.BLOCKS]) + w.PACKETS
    store(pool.queues, q + WAITING_AT, following + 1)
    store(rings.halves, head(pool, q, block) + w.PACKETS, np.uint32(0))
    if queues[q + FILL_COUNT] and queues[q + w.INTO] == block:
        flush(pool, queue, depths)
    let_go(pool, rings, held, q, block)
    return True


@inline
def turn(pool, rings, queue, held, now, timeout_ns, depths, scratch):
    """Serve one queue once; returns how much happened (blocks taken + chunks that came back)."""
    q = queue * QUEUE_WORDS
    queues = pool.queues
    closed = closed_blocks(pool, rings, held, q)
    full = is_full(pool, held, q, closed)
    count_seen(pool, q, full, scratch)  # after looking at the blocks, so that it counts all their packets
    happened = take_back(pool, rings, queue, held)
    ready = queues[q + w.LEFT] == 0 or take_block(pool, rings, queue, held, now, depths)
    for _ in range(min(closed, BLOCKS_A_TURN)):
        if not ready:
            break
        open_block(pool, rings, held, q)
        ready = take_block(pool, rings, queue, held, now, depths)
        happened += 1
    if queues[q + FILL_COUNT] and is_due(pool, queue, now, timeout_ns):
        flush(pool, queue, depths)
    # Packets lost during this turn, before something came back, were also lost because the pool was full.
    queues[q + w.FULL] = full or is_full(pool, held, q, closed_blocks(pool, rings, held, q))
    return happened


@inline
def is_drained(pool, queue):
    """Whether every packet that the socket counted has been taken or lost."""
    q = queue * QUEUE_WORDS
    queues = pool.queues
    return queues[q + w.SEEN] == queues[q + TAKEN] + queues[q + w.LOST_EXHAUSTED] + queues[q + w.LOST_LATE]


@kernel(none(POOL, RINGS, words, words, words, words, words))
def packet_loop(pool, rings, mine, held, settings, depths, scratch):
    """Serve the home queues ``mine`` until the engine drains or aborts.

    held: chunks by holder (kernels/af_packet/blocks.py); settings: TIMEOUT_NS and WAIT_FD of
    kernels/xdp/capture_loop.py, the latter an epoll descriptor with edge-triggered sockets, because a socket stays
    readable while a handler holds its last block.  depths: scratch, int64 (C,); scratch: libc.scratch().
    """
    drain_end = i64(0)
    while True:
        phase = load(pool.control, PHASE)
        now = monotonic_ns(scratch)
        happened, waiting, drained = 0, 0, True
        for i in range(mine.size):
            happened += turn(pool, rings, mine[i], held, now, settings[TIMEOUT_NS], depths, scratch)
            q = mine[i] * QUEUE_WORDS
            waiting += pool.queues[q + FILL_COUNT] + pool.queues[q + w.FULL]
            drained &= is_drained(pool, mine[i])
        if phase == ABORT:
            return
        if phase >= DRAIN:
            if drain_end == 0:
                drain_end = now + DRAIN_NS
            stuck = now > drain_end and waiting == 0
            if happened == 0 and (drained or stuck):
                for i in range(mine.size):
                    if pool.queues[mine[i] * QUEUE_WORDS + FILL_COUNT]:
                        flush(pool, mine[i], depths)
                return
        if happened == 0:
            epoll_in(settings[WAIT_FD], SHORT_IDLE_MS if waiting or phase >= DRAIN else IDLE_MS, scratch)
