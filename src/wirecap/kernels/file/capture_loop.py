"""The capture thread of a file: scans records into rows, filters them, hands them over, and takes slots back."""

from __future__ import annotations

import numpy as np

from wirecap.kernels.base.atomics import load, store
from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import i64, words
from wirecap.kernels.file import read as at
from wirecap.kernels.file.read import scan
from wirecap.kernels.pool.handler_loop import process_at, state_of
from wirecap.kernels.pool.pool import (
    BLOCK,
    DESCRIBED,
    FILL_COUNT,
    FILL_SLOT,
    FREE,
    FREE_SLOTS,
    INTERFACE,
    PHASE,
    POOL,
    RECYCLED,
    RING_WORDS,
    RUN,
    SLOT_WORDS,
    STATE,
    TAKEN,
    TAKEN_BYTES,
    WORK_QUEUE_MASK,
    hand_over,
    open_slot,
    work_queue,
)
from wirecap.kernels.pool.work_queues import EMPTY, EMPTY_HANDED, pop, wait

# words of the home queue: packets that the filter rejected, and those of them that had options
UNWANTED, UNWANTED_OPTIONS = RING_WORDS, RING_WORDS + 1
STOPPED = -1
WAIT_NS = 100_000_000


@inline
def reclaim_blocks(pool, held):
    """Take back recycled slots, and release the blocks that hold their packets."""
    base = work_queue(pool, pool.tallies.shape[0])
    while True:
        slot = pop(pool.work_queues, base, pool.control[WORK_QUEUE_MASK])
        if slot == EMPTY:
            return
        m = slot * SLOT_WORDS
        held[pool.meta[m + BLOCK]] -= 1
        store(pool.meta, m + STATE, pool.meta[m + STATE] - RECYCLED + FREE)
        pool.free_slots[0, pool.queues[FREE_SLOTS]] = slot
        pool.queues[FREE_SLOTS] += 1


@inline
def take_slot(pool):
    """The slot that is being filled, or a new one; EMPTY if there is none."""
    slot = pool.queues[FILL_SLOT]
    if slot == EMPTY:
        slot = open_slot(pool, 0)
        pool.queues[FILL_SLOT] = slot
        pool.queues[FILL_COUNT] = 0
    return slot


@inline
def keep(pool, state, held, slot, filled, kept):
    """Record that the slot has ``kept`` more packets, after ``filled`` others."""
    m = slot * SLOT_WORDS
    if filled == 0:
        block = (pool.address[slot, 0] - 1) // state[at.BLOCK_BYTES]
        held[block] += 1
        pool.meta[m + BLOCK] = block
        pool.meta[m + INTERFACE] = state[at.INTERFACE]
        pool.meta[m + DESCRIBED] = state[at.DESCRIBED]
    pool.queues[FILL_COUNT] = filled + kept


@inline
def count_options(pool, state, address, captured, count):
    """How many of the packets have options, where the caller keeps what stands beside packets."""
    options = 0
    if state[at.KEEP]:
        for i in range(count):
            if at.has_options(pool.arena, address[i], np.int64(captured[i]), state[at.SWAPPED]):
                options += 1
    return options


@inline
def pass_slot(pool, depths):
    """Hand over the slot that is being filled."""
    slot = pool.queues[FILL_SLOT]
    pool.queues[FILL_SLOT] = EMPTY
    count = pool.queues[FILL_COUNT]
    pool.queues[FILL_COUNT] = 0
    hand_over(pool, 0, slot, count, depths)


@kernel(i64(POOL, words, words, words, i64, words, words, words))
def file_loop(pool, state, interfaces, held, select, filters, depths, scratch):
    """Read on until the scan needs Python (returns state[STOP]) or the engine stops (returns STOPPED).

    state, interfaces, held: see files/reader.py; select: the filter's address, which is called here because the
    packets' bytes are in this CPU's cache; filters: its states (``by_interface``); depths: scratch, int64 (C,).
    The only home queue is 0.
    """
    size = pool.address.shape[1]
    while load(pool.control, PHASE) == RUN:
        reclaim_blocks(pool, held)
        slot = take_slot(pool)
        if slot == EMPTY:
            wait(pool.work_queues, work_queue(pool, pool.tallies.shape[0]), EMPTY_HANDED, WAIT_NS, scratch)
            continue
        filled = pool.queues[FILL_COUNT]
        address, captured = pool.address[slot, filled:], pool.captured[slot, filled:]
        original, timestamp = pool.original[slot, filled:], pool.timestamp[slot, filled:]
        count = scan(pool.arena, state, interfaces, address, captured, original, timestamp, size - filled)
        if count == 0:
            if filled:
                pass_slot(pool, depths)
            return state[at.STOP]
        byte_count = 0
        for i in range(count):
            byte_count += captured[i]
        options = count_options(pool, state, address, captured, count)
        first, end = state_of(filters, state[at.INTERFACE])  # the row's packets have one link type
        kept = process_at(select, pool.arena, address, captured, original, timestamp, count, filters[first:end])
        pool.queues[TAKEN] += count
        pool.queues[TAKEN_BYTES] += byte_count
        store(pool.queues, UNWANTED, pool.queues[UNWANTED] + count - kept)  # after TAKEN, for whoever reads both
        if kept < count:
            pool.queues[UNWANTED_OPTIONS] += options - count_options(pool, state, address, captured, kept)
        if kept:
            keep(pool, state, held, slot, filled, kept)
        several = state[at.KNOWN] > 1  # then the next row may belong to another interface
        if filled + kept >= size - size // 4 or (several and kept):
            pass_slot(pool, depths)
    return STOPPED
