"""The capture thread of a file: scan records into rows, filter them, hand them over, take slots back."""

from __future__ import annotations

from wirecap.kernels import scan_state as at
from wirecap.kernels.atomics import load, store
from wirecap.kernels.handle import PROCESS
from wirecap.kernels.jit import i64, inline, kernel, words
from wirecap.kernels.lanes import EMPTY, pop, wait
from wirecap.kernels.pcap_read import scan
from wirecap.kernels.pool import (
    BLOCK,
    FILL_COUNT,
    FILL_SLOT,
    FREE,
    FREE_SLOTS,
    INTERFACE,
    LANE_MASK,
    PHASE,
    POOL,
    RECYCLED,
    RING_WORDS,
    RUN,
    SLOT_WORDS,
    STATE,
    TAKEN,
    TAKEN_OCTETS,
    hand_over,
    lane,
    open_slot,
)

UNWANTED = RING_WORDS  # a word of the home queue: packets that the filter did not want
STOPPED = -1
WAIT_NS = 100_000_000


@inline
def reclaim_blocks(pool, held):
    """Take recycled slots back; the blocks that their packets lay in are held once less."""
    base = lane(pool, pool.tallies.shape[0])
    while True:
        slot = pop(pool.lanes, base, pool.control[LANE_MASK])
        if slot == EMPTY:
            return
        m = slot * SLOT_WORDS
        held[pool.meta[m + BLOCK]] -= 1
        store(pool.meta, m + STATE, pool.meta[m + STATE] - RECYCLED + FREE)
        pool.free_slots[0, pool.queues[FREE_SLOTS]] = slot
        pool.queues[FREE_SLOTS] += 1


@inline
def take_slot(pool):
    """The slot that is being filled, or a new one; EMPTY when there is none."""
    slot = pool.queues[FILL_SLOT]
    if slot == EMPTY:
        slot = open_slot(pool, 0)
        pool.queues[FILL_SLOT] = slot
        pool.queues[FILL_COUNT] = 0
    return slot


@inline
def keep(pool, state, held, slot, filled, kept):
    """``kept`` more packets lie in the slot, behind ``filled`` others."""
    m = slot * SLOT_WORDS
    if filled == 0:
        block = (pool.address[slot, 0] - 1) // state[at.BLOCK_BYTES]
        held[block] += 1
        pool.meta[m + BLOCK] = block
        pool.meta[m + INTERFACE] = state[at.INTERFACE]
    pool.queues[FILL_COUNT] = filled + kept


@inline
def pass_slot(pool, depths):
    """Hand over the slot that is being filled."""
    slot = pool.queues[FILL_SLOT]
    pool.queues[FILL_SLOT] = EMPTY
    count = pool.queues[FILL_COUNT]
    pool.queues[FILL_COUNT] = 0
    hand_over(pool, 0, slot, count, depths)


@kernel(i64(POOL, words, words, words, PROCESS, words, words, words))
def file_loop(pool, state, interfaces, held, select, select_state, depths, scratch):
    """Read on until the scan needs Python (returns state[STOP]) or the engine stops (returns STOPPED).

    state, interfaces, held: files/reader.py's; select: the filter, applied here while the packets' bytes are in
    this CPU's cache; depths: scratch int64 (C,).  The one home queue is 0.
    """
    size = pool.address.shape[1]
    while load(pool.control, PHASE) == RUN:
        reclaim_blocks(pool, held)
        slot = take_slot(pool)
        if slot == EMPTY:
            wait(pool.lanes, lane(pool, pool.tallies.shape[0]), WAIT_NS, scratch)
            continue
        filled = pool.queues[FILL_COUNT]
        address, captured = pool.address[slot, filled:], pool.captured[slot, filled:]
        original, stamp = pool.original[slot, filled:], pool.stamp[slot, filled:]
        count = scan(pool.arena, state, interfaces, address, captured, original, stamp, size - filled)
        if count == 0:
            if filled:
                pass_slot(pool, depths)
            return state[at.STOP]
        octets = 0
        for i in range(count):
            octets += captured[i]
        kept = select(pool.arena, address, captured, original, stamp, count, select_state)
        pool.queues[TAKEN] += count
        pool.queues[TAKEN_OCTETS] += octets
        pool.queues[UNWANTED] += count - kept
        if kept:
            keep(pool, state, held, slot, filled, kept)
        several = state[at.KNOWN] > 1  # then the next row may be another interface's
        if filled + kept >= size - size // 4 or (several and kept):
            pass_slot(pool, depths)
    return STOPPED
