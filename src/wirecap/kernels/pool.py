"""The ring-buffer pool: who owns which cell and which slot, and the moves between owners.

    cell:  free stack -> fill ring (attached) -> RX ring -> a slot's row (captured) -> recycle -> free stack
                                             or -> TX ring (in transmission) -> lane of returned cells -> free stack
    slot:  free stack -> FILLING -> CAPTURED -> RECYCLED -> free stack

Only the home capture thread touches a queue's stacks and its filling slot.  A handler owns a slot from
``pop`` to ``recycle``.  A slot's STATE word is its sequence number times 4 plus its state, so that one
compare-and-swap tells a chunk that is recycled twice, or too late, or by someone who never had it.

There are 2 R slots for R * M cells, and ``spare_slots`` keeps an invariant: a cell never waits for a slot.
Partial chunks are handed over only while full ones would still find room for every cell.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from wirecap.kernels.atomics import compare_swap, fetch_add, load, store
from wirecap.kernels.jit import i64, inline, kernel, octets, table, words
from wirecap.kernels.lanes import EMPTY, HEAD, PLACES, TAIL, depth, pop, push
from wirecap.kernels.policy import choose

FREE, FILLING, CAPTURED, RECYCLED = 0, 1, 2, 3

# words of a slot in Pool.meta
STATE, COUNT, KEPT, HOME, INTERFACE, BLOCK, OFFLOADED = range(7)
SLOT_WORDS = 8

# words of a home queue in Pool.queues
FREE_SLOTS, FREE_CELLS, FILL_SLOT, FILL_COUNT, FILL_SINCE, SEQUENCE = range(6)  # the pool's own state
CONSUMER, GROUP, CAPTURE_INTERFACE = range(6, 9)  # where its chunks go
TAKEN, TAKEN_OCTETS, CHUNKS, PARTIAL_CHUNKS, OFFLOADED_CHUNKS = range(9, 14)  # counters
# Where Rings.halves tells the merge that nothing is on its way: how many packets arrived, and a word (its index + 1,
# 0 for none) that is not 0 while packets arrived that are not among them.
ARRIVED, WAITING_AT = 14, 15
QUEUE_WORDS = 64  # the rest, from RING_WORDS on, belongs to the source
RING_WORDS = 16

# words of Pool.control, shared by all threads of an engine
PHASE, CLOCK_OFFSET, LIMIT, BUDGET, THRESHOLD, CAPACITY, ADVANCED, REFUSED, LANE_MASK = range(9)
DECIDED, RETURN_MASK, FOREIGN_CLOCK = 9, 10, 11  # the last: 1 where stamps are of a NIC's clock
CONTROL_WORDS = 16
RUN, DRAIN, CLOSE, FINISH, ABORT = range(5)  # CLOSE: no more chunks for handlers; FINISH: nor for writers

# words of a row of Pool.decisions, before the depths that were seen
DECISION_HOME, DECISION_GROUP, DECISION_THRESHOLD, DECISION = range(4)
DECISION_WORDS = 4


class Pool(NamedTuple):
    """All the arrays of an engine; T slots in all, Q home queues, C consumers (handler threads, then writers)."""

    arena: Any  # uint8 (bytes,): the packet bytes
    address: Any  # int64 (T, M): where a packet starts in the arena
    captured: Any  # uint32 (T, M): bytes there
    original: Any  # uint32 (T, M): bytes on the wire; the same array as captured where a source never cuts
    stamp: Any  # int64 (T, M): ns since the epoch, UTC
    meta: Any  # int64 (T * SLOT_WORDS,)
    queues: Any  # int64 (Q * QUEUE_WORDS,)
    free_slots: Any  # int64 (Q, T / Q): a stack per queue
    free_cells: Any  # int64 (Q, R * M): a stack per queue
    lanes: Any  # int64: capture queues, then recycle queues (kernels/lanes.py)
    members: Any  # int64 (C, 1 + C); row g = how many, then the consumers of buddy group g
    control: Any  # int64 (CONTROL_WORDS,)
    tallies: Any  # int64 (C, Q, TALLY_WORDS): each consumer's counters, by home queue
    decisions: Any  # int64 (N, DECISION_WORDS + C): the last N offload decisions; N = 0: none are kept
    returned: Any  # int64: a lane of completed cells for each home queue; empty where nothing is transmitted


POOL = types.NamedTuple(
    (octets, table, types.uint32[:, ::1], types.uint32[:, ::1], table, words, words, table, table, words, table, words,
     types.int64[:, :, ::1], table, words),
    Pool,
)  # fmt: skip


@inline
def open_slot(pool, queue):
    """Take a free slot to fill; the slot, or EMPTY when there is none."""
    q = queue * QUEUE_WORDS
    top = pool.queues[q + FREE_SLOTS] - 1
    if top < 0:
        return EMPTY
    slot = pool.free_slots[queue, top]
    pool.queues[q + FREE_SLOTS] = top
    sequence = pool.queues[q + SEQUENCE]
    pool.queues[q + SEQUENCE] = sequence + 1
    m = slot * SLOT_WORDS
    store(pool.meta, m + STATE, sequence * 4 + FILLING)
    pool.meta[m + HOME] = queue
    pool.meta[m + INTERFACE] = pool.queues[q + CAPTURE_INTERFACE]
    pool.meta[m + OFFLOADED] = 0
    return slot


@inline
def spare_slots(pool, queue, cells_to_come):
    """True while the free slots, all filled whole, would hold every cell that is not yet in a chunk."""
    return pool.queues[queue * QUEUE_WORDS + FREE_SLOTS] * pool.address.shape[1] >= cells_to_come


@inline
def hand_over(pool, queue, slot, count, depths):
    """Capture: give a filled slot to a capture queue, its own or a buddy's.  depths: scratch, int64 (C,)."""
    q = queue * QUEUE_WORDS
    m = slot * SLOT_WORDS
    consumer = pool.queues[q + CONSUMER]
    if load(pool.control, ADVANCED) == 1:
        home = consumer
        consumer = offload(pool, home, pool.queues[q + GROUP], depths)
        if consumer != home:
            pool.meta[m + OFFLOADED] = 1
            pool.queues[q + OFFLOADED_CHUNKS] += 1
    pool.meta[m + COUNT] = count
    pool.queues[q + CHUNKS] += 1
    if count < pool.address.shape[1]:
        pool.queues[q + PARTIAL_CHUNKS] += 1
    store(pool.meta, m + STATE, pool.meta[m + STATE] - FILLING + CAPTURED)
    push(pool.lanes, lane(pool, consumer), pool.control[LANE_MASK], slot)


@inline
def offload(pool, home, group, depths):
    """Which capture queue of the buddy group gets a chunk; the decision is kept where a log was asked for."""
    members = pool.members[group]
    for i in range(members[0]):
        depths[members[1 + i]] = depth(pool.lanes, lane(pool, members[1 + i]))
    threshold = load(pool.control, THRESHOLD)
    chosen = choose(home, depths, members[1:], members[0], pool.control[CAPACITY], threshold)
    if pool.decisions.shape[0]:
        row = pool.decisions[fetch_add(pool.control, DECIDED, 1) % pool.decisions.shape[0]]
        row[DECISION_HOME], row[DECISION_GROUP], row[DECISION_THRESHOLD], row[DECISION] = home, group, threshold, chosen
        for i in range(depths.size):
            row[DECISION_WORDS + i] = depths[i]
    return chosen


@inline
def lane(pool, number):
    """Base of queue ``number`` in lanes: consumers' capture queues first, then home queues' recycle queues."""
    return number * (PLACES + pool.control[LANE_MASK] + 1)


@inline
def recycle(pool, slot, sequence):
    """Give a chunk back to its home pool; False when it is not that chunk, or not captured: refused, counted."""
    if slot < 0 or slot >= pool.address.shape[0]:
        fetch_add(pool.control, REFUSED, 1)
        return False
    m = slot * SLOT_WORDS
    if not compare_swap(pool.meta, m + STATE, sequence * 4 + CAPTURED, sequence * 4 + RECYCLED):
        fetch_add(pool.control, REFUSED, 1)
        return False
    consumers = pool.tallies.shape[0]
    push(pool.lanes, lane(pool, consumers + pool.meta[m + HOME]), pool.control[LANE_MASK], slot)
    return True


@inline
def reclaim(pool, queue, with_cells):
    """Take recycled slots, and their cells, back onto the free stacks; how many slots came."""
    q = queue * QUEUE_WORDS
    base = lane(pool, pool.tallies.shape[0] + queue)
    slots = 0
    while True:
        slot = pop(pool.lanes, base, pool.control[LANE_MASK])
        if slot == EMPTY:
            return slots
        m = slot * SLOT_WORDS
        if with_cells:
            count = pool.meta[m + COUNT]
            top = pool.queues[q + FREE_CELLS]
            for i in range(count):
                pool.free_cells[queue, top + i] = pool.address[slot, i]
            pool.queues[q + FREE_CELLS] = top + count
        store(pool.meta, m + STATE, pool.meta[m + STATE] - RECYCLED + FREE)
        pool.free_slots[queue, pool.queues[q + FREE_SLOTS]] = slot
        pool.queues[q + FREE_SLOTS] += 1
        slots += 1


@inline
def give_cells(pool, home, entries, first, mask, count):
    """Completed cells go home: ``count`` addresses from entry ``first`` of a completion ring.  Any thread."""
    base = home * (PLACES + pool.control[RETURN_MASK] + 1)
    ticket = fetch_add(pool.returned, base + TAIL, count)
    for i in range(count):
        place = base + PLACES + ((ticket + i) & pool.control[RETURN_MASK])
        store(pool.returned, place, entries[(first + i) & mask] + 1)


@inline
def take_cells(pool, queue):
    """Take completed cells back onto the free stack; how many came.  The home capture thread."""
    q = queue * QUEUE_WORDS
    base = queue * (PLACES + pool.control[RETURN_MASK] + 1)
    head = first = pool.returned[base + HEAD]
    top = pool.queues[q + FREE_CELLS]
    while True:
        place = base + PLACES + (head & pool.control[RETURN_MASK])
        cell = load(pool.returned, place) - 1
        if cell < 0:
            break
        store(pool.returned, place, 0)
        pool.free_cells[queue, top + head - first] = cell
        head += 1
    store(pool.returned, base + HEAD, head)
    pool.queues[q + FREE_CELLS] = top + head - first
    return head - first


@kernel(types.boolean(POOL, i64, i64))
def give_back(pool, slot, sequence):
    """``recycle`` for callers in Python."""
    return recycle(pool, slot, sequence)
