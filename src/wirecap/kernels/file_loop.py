"""The capture thread of a file: scan records into rows, hand them over, take slots back."""

from __future__ import annotations

from wirecap.kernels import scan_state as at
from wirecap.kernels.atomics import load, store
from wirecap.kernels.jit import i64, inline, kernel, words
from wirecap.kernels.lanes import EMPTY, pop, wait
from wirecap.kernels.pcap_read import scan
from wirecap.kernels.pool import (
    BLOCK,
    FILL_SLOT,
    FREE,
    FREE_SLOTS,
    INTERFACE,
    LANE_MASK,
    PHASE,
    POOL,
    RECYCLED,
    RUN,
    SLOT_WORDS,
    STATE,
    TAKEN,
    TAKEN_OCTETS,
    hand_over,
    lane,
    open_slot,
)

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


@kernel(i64(POOL, words, words, words, words, words))
def file_loop(pool, state, interfaces, held, depths, scratch):
    """Read on until the scan needs Python (returns state[STOP]) or the engine stops (returns STOPPED).

    state, interfaces, held: files/reader.py's; depths: scratch int64 (C,).  The one home queue is 0.
    """
    size = pool.address.shape[1]
    while load(pool.control, PHASE) == RUN:
        reclaim_blocks(pool, held)
        slot = pool.queues[FILL_SLOT]
        if slot == EMPTY:
            slot = open_slot(pool, 0)
            if slot == EMPTY:
                wait(pool.lanes, lane(pool, pool.tallies.shape[0]), WAIT_NS, scratch)
                continue
            pool.queues[FILL_SLOT] = slot
        count = scan(
            pool.arena, state, interfaces, pool.address[slot], pool.captured[slot], pool.original[slot],
            pool.stamp[slot], size,
        )  # fmt: skip
        if count == 0:
            return state[at.STOP]
        m = slot * SLOT_WORDS
        block = (pool.address[slot, 0] - 1) // state[at.BLOCK_BYTES]
        held[block] += 1
        pool.meta[m + BLOCK] = block
        pool.meta[m + INTERFACE] = state[at.INTERFACE]
        octets = 0
        for i in range(count):
            octets += pool.captured[slot, i]
        pool.queues[TAKEN] += count
        pool.queues[TAKEN_OCTETS] += octets
        pool.queues[FILL_SLOT] = EMPTY
        hand_over(pool, 0, slot, count, depths)
    return STOPPED
