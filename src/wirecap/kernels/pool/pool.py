"""The ring-buffer pool: who owns which cell and which slot, and the moves between owners.

    cell:  free stack -> fill ring (attached) -> RX ring -> a slot's row (captured) -> recycle -> free stack
                                             or -> TX ring (in transmission) -> queue of returned cells -> free stack
                     -> RX ring, with others of one packet -> copied into large-packet memory (kernels/pool/large.py)
                                                           -> free stack
    slot:  free stack -> FILLING -> CAPTURED -> RECYCLED -> free stack

Only the home capture thread touches a queue's stacks and its filling slot.  A handler owns a slot from
``pop`` to ``recycle``.  A slot's STATE word is its sequence number times 4 plus its state, so a single
compare-and-swap detects a chunk that is recycled twice, too late, or by a thread that does not own it.

There are 2 R slots for R * M cells, and ``spare_slots`` keeps the invariant that a cell never waits for a slot:
partial chunks are handed over only as long as full chunks would still have room for every cell.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from wirecap.kernels.base.atomics import compare_swap, fetch_add, load, store
from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import boolean, byte_array, i64, lengths, lengths_table, record, table, tables, words
from wirecap.kernels.pool.large import free, free_piece, is_large
from wirecap.kernels.pool.offload_policy import choose_capture_queue
from wirecap.kernels.pool.work_queues import EMPTY, HEAD, PLACES, TAIL, depth, is_idle, pop, push

FREE, FILLING, CAPTURED, RECYCLED = 0, 1, 2, 3
HELD_SHARE = 8  # one in so many of a queue's slots may be in use behind a consumer that gets packets at once

# Words of a slot in Pool.meta.  STATE: a compare-and-swap, for recycle; its stores, and all other words, are carried by
# the pushes that hand the slot on.
STATE, COUNT, KEPT, HOME, INTERFACE, BLOCK, OFFLOADED, DESCRIBED = range(8)  # DESCRIBED: a file's, before the chunk
LARGE = BLOCK  # of AF_XDP, which has no blocks: packets in large-packet memory
SLOT_WORDS = 8

# words of a home queue in Pool.queues
FREE_SLOTS, FREE_CELLS, FILL_SLOT, FILL_COUNT, FILL_SINCE, SEQUENCE = range(6)  # the pool's own state
CONSUMER, GROUP, CAPTURE_INTERFACE = range(6, 9)  # where its chunks go
TAKEN, TAKEN_BYTES, CHUNKS, OFFLOADED_CHUNKS = range(9, 13)  # counters
# Words of Rings.halves from which the merge learns that nothing is on its way: how many packets have arrived, and a
# word (its index + 1, 0 for none) that is not 0 while there are arrived packets that the first does not count.
# Release and acquire: whoever sees that word at 0 sees what was counted, and where packets wait now, before that.
ARRIVED, WAITING_AT = 14, 15
ADMITTED_AT = 13  # a word of Rings.ledger (index + 1, 0 for none): packets that have a timestamp, or are about to
QUEUE_WORDS = 64  # the rest, from RING_WORDS on, belongs to the source
RING_WORDS = 16

# Words of Pool.control, shared by all threads of an engine.  PHASE: acquire loads, so that who sees CLOSE finds every
# chunk; REFUSED, BUDGET and DECIDED: read-modify-writes; settings need no ordering.
PHASE, CLOCK_OFFSET, LIMIT, BUDGET, THRESHOLD, CAPACITY, ADVANCED, REFUSED, WORK_QUEUE_MASK = range(9)
DECIDED, RETURN_MASK, FOREIGN_CLOCK = 9, 10, 11  # the last: 1 if timestamps come from a NIC's clock
MERGING = 12  # 1 if the consumer of several home queues puts their packets in order of time
HASHED = 13  # 1 if the NIC's hash lies in front of each packet
CONTROL_WORDS = 16
RUN, DRAIN, CLOSE, FINISH, ABORT = range(5)  # CLOSE: handlers get no more chunks; FINISH: nor do writers
PAUSE = -1  # as RUN, but capture threads end where they are, and others go on from there

# words of a row of Pool.decisions, before the depths at the time
DECISION_HOME, DECISION_GROUP, DECISION_THRESHOLD, DECISION = range(4)
DECISION_WORDS = 4

# words of a row of Pool.handed: the times of a chunk's first and last packet, how many it has, who got it, and how many
# chunks were waiting there before it
FIRST_NS, LAST_NS, PACKETS, GIVEN_TO, DEPTH = range(5)
HANDED_WORDS = 8  # a cache line
HANDED_CHUNKS = 4096  # remembered for each home queue: 70 ms of full chunks at 14.88 Mp/s


class Pool(NamedTuple):
    """All the arrays of an engine: T slots in all, Q home queues, C consumers (handler threads, then writers)."""

    arena: Any  # uint8 (bytes,): the packet bytes
    address: Any  # int64 (T, M): where a packet starts in the arena
    captured: Any  # uint32 (T, M): bytes there
    original: Any  # uint32 (T, M): bytes on the wire; the same array as captured if the source never truncates
    timestamp: Any  # int64 (T, M): ns since the epoch, UTC
    meta: Any  # int64 (T * SLOT_WORDS,)
    queues: Any  # int64 (Q * QUEUE_WORDS,)
    free_slots: Any  # int64 (Q, T / Q): a stack per queue
    free_cells: Any  # int64 (Q, R * M): a stack per queue
    work_queues: Any  # int64: capture queues, then recycle queues (kernels/pool/work_queues.py)
    members: Any  # int64 (C, 1 + C); row g = how many, then the consumers of buddy group g
    control: Any  # int64 (CONTROL_WORDS,)
    tallies: Any  # int64 (C, Q, TALLY_WORDS): each consumer's counters, by home queue
    decisions: Any  # int64 (N, DECISION_WORDS + C): the last N offload decisions; N = 0: none are kept
    returned: Any  # int64: a queue of completed cells for each home queue; empty if nothing is transmitted
    handed: (
        Any  # int64 (Q, HANDED_CHUNKS, HANDED_WORDS): the last chunks of each home queue; n-th: row n % HANDED_CHUNKS
    )


POOL = record(
    Pool, byte_array, table, lengths_table, lengths_table, table, words, words, table, table, words, table, words,
    tables, table, words, tables,
)  # fmt: skip


class Rings(NamedTuple):
    """What a source shares with the kernel, mapped side by side; a queue's words in Pool.queues say what is where."""

    words: Any  # int64: descriptors, or a block's packets
    halves: Any  # uint32: the same memory; producers, consumers, flags, status words
    ledger: Any  # int64: what the XDP program and the capture thread exchange; a timestamp for each RX entry


RINGS = record(Rings, words, lengths, words)


@inline
def open_slot(pool, queue):
    """Take a free slot to fill; returns the slot, or EMPTY if there is none."""
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
    """Whether the free slots, if all were filled, could hold every cell that is not yet in a chunk."""
    return pool.queues[queue * QUEUE_WORDS + FREE_SLOTS] * pool.address.shape[1] >= cells_to_come


@inline
def is_due(pool, queue, now, timeout_ns):
    """Whether to hand over a slot before it is full: its consumer has nothing to do, or its time is over.

    A consumer with nothing to do gets it at once, unless whoever comes behind it holds so many of the queue's chunks
    that small ones would use up the slots.  A busy consumer gets it when it has no other chunk waiting; but one that
    merges queues can do nothing with another queue's packets before it has this one's.
    """
    q = queue * QUEUE_WORDS
    base = work_queue(pool, pool.queues[q + CONSUMER])
    slots = pool.free_slots.shape[1]
    few = slots - pool.queues[q + FREE_SLOTS] <= 1 + slots // HELD_SHARE
    if few and is_idle(pool.work_queues, base):
        return True
    if now - pool.queues[q + FILL_SINCE] < timeout_ns:
        return False
    return depth(pool.work_queues, base) == 0 or (few and load(pool.control, MERGING) == 1)


@inline
def hand_over(pool, queue, slot, count, depths):
    """Capture: pass a filled slot to a capture queue, its own or a buddy's.  depths: scratch, int64 (C,)."""
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
    remember(pool, queue, slot, count, consumer)
    store(pool.meta, m + STATE, pool.meta[m + STATE] - FILLING + CAPTURED)
    push(pool.work_queues, work_queue(pool, consumer), pool.control[WORK_QUEUE_MASK], slot)


@inline
def remember(pool, queue, slot, count, consumer):
    """Note a chunk that is about to be handed over, for whoever explains losses: a cache line a chunk."""
    q = queue * QUEUE_WORDS
    number = pool.queues[q + CHUNKS]
    row = pool.handed[queue, number & (HANDED_CHUNKS - 1)]
    row[FIRST_NS], row[LAST_NS] = pool.timestamp[slot, 0], pool.timestamp[slot, max(0, count - 1)]
    row[PACKETS], row[GIVEN_TO] = count, consumer
    row[DEPTH] = depth(pool.work_queues, work_queue(pool, consumer))
    store(pool.queues, q + CHUNKS, number + 1)


@inline
def offload(pool, home, group, depths):
    """Which capture queue of the buddy group gets a chunk; the decision is logged if that was asked for."""
    members = pool.members[group]
    for i in range(members[0]):
        depths[members[1 + i]] = depth(pool.work_queues, work_queue(pool, members[1 + i]))
    threshold = load(pool.control, THRESHOLD)
    chosen = choose_capture_queue(home, depths, members[1:], members[0], pool.control[CAPACITY], threshold)
    if pool.decisions.shape[0]:
        row = pool.decisions[fetch_add(pool.control, DECIDED, 1) % pool.decisions.shape[0]]
        row[DECISION_HOME], row[DECISION_GROUP], row[DECISION_THRESHOLD], row[DECISION] = home, group, threshold, chosen
        for i in range(depths.size):
            row[DECISION_WORDS + i] = depths[i]
    return chosen


@inline
def work_queue(pool, number):
    """The base of queue ``number`` in work_queues: consumers' capture queues, then home queues' recycle queues."""
    return number * (PLACES + pool.control[WORK_QUEUE_MASK] + 1)


@inline
def recycle(pool, slot, sequence):
    """Give a chunk back to its home pool; False, counted as refused, if it is not that chunk or is not captured."""
    if slot < 0 or slot >= pool.address.shape[0]:
        fetch_add(pool.control, REFUSED, 1)
        return False
    m = slot * SLOT_WORDS
    if not compare_swap(pool.meta, m + STATE, sequence * 4 + CAPTURED, sequence * 4 + RECYCLED):
        fetch_add(pool.control, REFUSED, 1)
        return False
    consumers = pool.tallies.shape[0]
    push(pool.work_queues, work_queue(pool, consumers + pool.meta[m + HOME]), pool.control[WORK_QUEUE_MASK], slot)
    return True


@inline
def reclaim(pool, queue, with_cells):
    """Take recycled slots, and their cells, back onto the free stacks; returns how many slots."""
    q = queue * QUEUE_WORDS
    base = work_queue(pool, pool.tallies.shape[0] + queue)
    slots = 0
    while True:
        slot = pop(pool.work_queues, base, pool.control[WORK_QUEUE_MASK])
        if slot == EMPTY:
            return slots
        m = slot * SLOT_WORDS
        if with_cells:
            count = pool.meta[m + COUNT]
            top = pool.queues[q + FREE_CELLS]
            if pool.meta[m + LARGE]:
                count = take_apart(pool, q, slot, count)
            for i in range(count):
                pool.free_cells[queue, top + i] = pool.address[slot, i]
            pool.queues[q + FREE_CELLS] = top + count
        store(pool.meta, m + STATE, pool.meta[m + STATE] - RECYCLED + FREE)
        pool.free_slots[queue, pool.queues[q + FREE_SLOTS]] = slot
        pool.queues[q + FREE_SLOTS] += 1
        slots += 1


@inline
def take_apart(pool, q, slot, count):
    """Free the large packets of a chunk that came home; how many cells are left, at the front of its row."""
    left = 0
    for i in range(count):
        address = pool.address[slot, i]
        if is_large(pool.queues, q, address):
            free(pool.arena, pool.queues, q, address)
        else:
            pool.address[slot, left] = address
            left += 1
    return left


@inline
def give_cells(pool, home, entries, first, mask, count):
    """Send completed cells home: ``count`` addresses from entry ``first`` of a completion ring.  For any thread.

    Release stores, which ``take_cells`` acquires: the home thread has the cells only after their sender.
    """
    base = home * (PLACES + pool.control[RETURN_MASK] + 1)
    ticket = fetch_add(pool.returned, base + TAIL, count)
    for i in range(count):
        place = base + PLACES + ((ticket + i) & pool.control[RETURN_MASK])
        store(pool.returned, place, entries[(first + i) & mask] + 1)


@inline
def take_cells(pool, queue):
    """Take completed cells back onto the free stack; returns how many.  For the home capture thread."""
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
        if is_large(pool.queues, q, cell):
            free_piece(pool.arena, pool.queues, q, cell)
        else:
            pool.free_cells[queue, top] = cell
            top += 1
        head += 1
    store(pool.returned, base + HEAD, head)
    pool.queues[q + FREE_CELLS] = top
    return head - first


@kernel(boolean(POOL, i64, i64))
def give_back(pool, slot, sequence):
    """``recycle`` for callers in Python."""
    return recycle(pool, slot, sequence)
