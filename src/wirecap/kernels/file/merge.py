"""The writer's kernel: takes chunks of several home queues and writes one output buffer in order of time.

The packets of each home queue are in order; the merge takes the earliest head, but only once no queue can still
bring an earlier packet.  A queue with no chunk here cannot if every packet that its RX ring ever held has come
through here: then any later packet was timestamped after now - slack, where slack covers the moment between a
packet's timestamp and its appearance in the ring.  Where the XDP program counts packets before it timestamps them,
that count tells whether there is one between the two, and the slack is short.  A NIC's own clock has nothing to do
with now: with it, a queue that has no chunk here holds nobody up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from wirecap.kernels.base.atomics import load, prefetch
from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, i64, record, table, words
from wirecap.kernels.base.libc import realtime_ns
from wirecap.kernels.file.read import EARLIEST_NS, LATEST_NS, block_of, has_options
from wirecap.kernels.file.write import PCAPNG_COPY, packet_room, put_block, put_packet, timely
from wirecap.kernels.pool.handler_loop import admit
from wirecap.kernels.pool.large import MORE_CELLS
from wirecap.kernels.pool.pool import (
    ABORT,
    ADMITTED_AT,
    ARRIVED,
    CAPACITY,
    COUNT,
    DESCRIBED,
    FOREIGN_CLOCK,
    HOME,
    INTERFACE,
    KEPT,
    PHASE,
    POOL,
    QUEUE_WORDS,
    RINGS,
    SLOT_WORDS,
    STATE,
    WAITING_AT,
    WORK_QUEUE_MASK,
    recycle,
    work_queue,
)
from wirecap.kernels.pool.work_queues import EMPTY, EMPTY_HANDED, HOLDING, pop, wait

SLACK_NS = 20_000_000
SHORT_SLACK_NS = 1_000_000
"""Used where no packet lies between its timestamp and the ring; also while the merge holds more than half of R chunks:
a packet out of order is better than one lost."""
SET_BACK_NS = 1_000_000_000
"""A packet that is further ahead of the clock has its time from before that was set back: it waits for nobody, since
the next packets of all queues are earlier, and those behind it would wait, too."""
AHEAD = 8
FOREVER = LATEST_NS
WAIT_NS, IDLE_WAIT_NS = 500_000, 100_000_000
"""How long to sleep if no chunk arrives: while a packet waits only for its time to pass, and while there is none."""

LONGEST_NS = 60_000_000_000
"""No deadline is further away, unless the clock was set back since."""

# why `merge_packets` returned
FULL, FILE_FULL, IDLE, NEW_DESCRIPTION, CLOSED, ABORTED = range(6)

# words of Merge.counts
POSITION, WRITTEN, WRITTEN_BYTES, LATE, LAST_TIMESTAMP, HELD, WANTED = range(7)  # WANTED: descriptions, or bytes
MOVED, OPTIONS_LOST = 7, 8  # packets written with the nearest time the file can hold; packets whose options it cannot
# words of Merge.settings
LAYOUT, SNAPLEN, KNOWN, FILE_END, PACKETS_LEFT, DEADLINE, CONSUMER, CLOSING, DIRECT, SWAPPED, RECORDED = range(11)


class Merge(NamedTuple):
    """A writer's state, for Q home queues; it serves those in ``mine``."""

    mine: Any  # int64 (n,): home queues
    pending: Any  # int64 (Q, places): slot + 1 by sequence number, 0 if it has not arrived yet
    following: Any  # int64 (Q,): sequence number of the next chunk
    head: Any  # int64 (Q,): slot being written, or EMPTY
    cursor: Any  # int64 (Q,): its next packet
    seen: Any  # int64 (Q,): packets in all chunks that have arrived; MORE_CELLS counts what they take in rings beyond
    last: Any  # int64 (Q,): timestamp of the last packet taken
    counts: Any  # int64 (16,)
    settings: Any  # int64 (16,)


MERGE = record(Merge, words, table, words, words, words, words, words, words, words)


def new_merge(queues: int, mine: list[int], slots: int) -> Merge:
    """The state before the first chunk; slots: the number per home queue."""
    places = 1 << (slots - 1).bit_length()
    cursor, seen, last = np.zeros((3, queues), np.int64)
    counts = np.zeros(16, np.int64)
    counts[LAST_TIMESTAMP] = EARLIEST_NS
    return Merge(
        np.array(mine, np.int64), np.zeros((queues, places), np.int64), np.zeros(queues, np.int64),
        np.full(queues, EMPTY, np.int64), cursor, seen, last, counts, np.zeros(16, np.int64),
    )  # fmt: skip


@inline
def take_arrived(pool, merge, select, filters):
    """Take in every waiting chunk, and file it under its home queue and sequence number."""
    settings = merge.settings
    base = work_queue(pool, settings[CONSUMER])
    while True:
        slot = pop(pool.work_queues, base, pool.control[WORK_QUEUE_MASK])
        if slot == EMPTY:
            return
        m = slot * SLOT_WORDS
        if settings[DIRECT]:
            admit(pool, settings[CONSUMER], slot, select, filters)
        home = pool.meta[m + HOME]
        merge.pending[home, (pool.meta[m + STATE] >> 2) & (merge.pending.shape[1] - 1)] = slot + 1
        merge.seen[home] += pool.meta[m + COUNT]
        merge.counts[HELD] += 1


@inline
def advance(pool, merge, queue):
    """Make the next chunk of a queue its head, if it has arrived; empty chunks go straight home."""
    while merge.head[queue] == EMPTY:
        place = merge.following[queue] & (merge.pending.shape[1] - 1)
        slot = merge.pending[queue, place] - 1
        if slot == EMPTY:
            return False
        merge.pending[queue, place] = 0
        merge.following[queue] += 1
        if pool.meta[slot * SLOT_WORDS + KEPT]:
            merge.head[queue] = slot
            merge.cursor[queue] = 0
        else:
            send_home(pool, merge, slot)
    return True


@inline
def send_home(pool, merge, slot):
    recycle(pool, slot, load(pool.meta, slot * SLOT_WORDS + STATE) >> 2)
    merge.counts[HELD] -= 1


@inline
def choose_head(pool, rings, merge, finished, now):
    """(the queue with the earliest packet, or EMPTY; the latest timestamp up to which it may be written)."""
    best, best_timestamp, bound = np.int64(EMPTY), np.int64(FOREVER), np.int64(FOREVER)
    quiet = np.int64(FOREVER)  # what queues without a packet can still bring is later
    slack = SHORT_SLACK_NS if merge.counts[HELD] * 2 > pool.control[CAPACITY] else SLACK_NS
    for i in range(merge.mine.size):
        queue = merge.mine[i]
        if advance(pool, merge, queue):
            timestamp = pool.timestamp[merge.head[queue], merge.cursor[queue]]
            if timestamp < best_timestamp or best == EMPTY:
                bound = min(bound, best_timestamp)
                best, best_timestamp = queue, timestamp
            else:
                bound = min(bound, timestamp)
        elif not finished and not is_idle(pool, rings, merge, queue):
            bound = min(bound, merge.last[queue])
        elif not finished and not pool.control[FOREIGN_CLOCK]:
            quiet = min(quiet, now - (SHORT_SLACK_NS if is_empty(pool, rings, merge, queue) else slack))
    if best_timestamp <= now + SET_BACK_NS:
        bound = min(bound, quiet)
    return best, bound


@inline
def is_idle(pool, rings, merge, queue):
    """Whether every packet that has arrived on the queue has come through here."""
    q = queue * QUEUE_WORDS
    arrived = pool.queues[q + ARRIVED]
    if (load(rings.halves, arrived) - merge.seen[queue] - load(pool.queues, q + MORE_CELLS)) & 0xFFFFFFFF:
        return False
    waiting = load(pool.queues, q + WAITING_AT)
    if waiting == 0:
        return True
    if load(rings.halves, waiting - 1):
        return False
    # Those packets may have been taken in the meantime: then others may wait elsewhere, or the word is another block's.
    if load(pool.queues, q + WAITING_AT) != waiting:
        return False
    return ((load(rings.halves, arrived) - merge.seen[queue]) & 0xFFFFFFFF) == 0


@inline
def is_empty(pool, rings, merge, queue):
    """Whether every packet that the XDP program has counted on the queue has come through here.

    It counts a packet before it takes the time.  A packet that it counted and the kernel then refused never comes,
    after which this stays False.
    """
    q = queue * QUEUE_WORDS
    at = pool.queues[q + ADMITTED_AT]
    return at != 0 and load(rings.ledger, at - 1) == merge.seen[queue] + load(pool.queues, q + MORE_CELLS)


@inline
def emit(pool, merge, queue, bound, out):
    """Write the head of a queue up to ``bound``; returns why: IDLE (done), FULL, FILE_FULL or NEW_DESCRIPTION."""
    counts, settings = merge.counts, merge.settings
    slot, place = merge.head[queue], merge.cursor[queue]
    m = slot * SLOT_WORDS
    kept, interface = pool.meta[m + KEPT], pool.meta[m + INTERFACE]
    if pool.meta[m + DESCRIBED] > settings[KNOWN]:
        counts[WANTED] = pool.meta[m + DESCRIBED]
        return NEW_DESCRIPTION
    layout, snaplen, position, swapped = settings[LAYOUT], settings[SNAPLEN], counts[POSITION], settings[SWAPPED]
    reason = IDLE
    while place < kept and pool.timestamp[slot, place] <= bound:
        if position >= settings[FILE_END] or settings[PACKETS_LEFT] <= 0:
            reason = FILE_FULL
            break
        if place + AHEAD < kept:
            prefetch(pool.arena, pool.address[slot, place + AHEAD])
        address, captured = pool.address[slot, place], np.int64(pool.captured[slot, place])
        if layout == PCAPNG_COPY:
            room = block_of(pool.arena, address, captured, swapped)[1]
        else:
            room = packet_room(layout, captured, snaplen)
        if position + room > out.size:
            counts[WANTED] = room
            reason = FULL
            break
        timestamp = pool.timestamp[slot, place]
        if timestamp < counts[LAST_TIMESTAMP]:
            counts[LATE] += 1
        else:
            counts[LAST_TIMESTAMP] = timestamp
        nearest = timely(layout, timestamp)
        if nearest != timestamp:
            counts[MOVED] += 1
        if layout == PCAPNG_COPY:
            position = put_block(out, position, pool.arena, address, captured, snaplen, swapped)
        else:
            position = put_packet(
                layout, out, position, pool.arena, address, captured, np.int64(pool.original[slot, place]), nearest,
                snaplen, interface,
            )  # fmt: skip
            if settings[RECORDED] and has_options(pool.arena, address, captured, swapped):
                counts[OPTIONS_LOST] += 1
        counts[WRITTEN] += 1
        counts[WRITTEN_BYTES] += min(captured, snaplen)
        settings[PACKETS_LEFT] -= 1
        place += 1
    counts[POSITION] = position
    merge.cursor[queue] = place
    if place > 0:
        merge.last[queue] = pool.timestamp[slot, place - 1]
    if place == kept:
        merge.head[queue] = EMPTY
        send_home(pool, merge, slot)
    return reason


@kernel(i64(POOL, RINGS, i64, words, MERGE, byte_array, words))
def merge_packets(pool, rings, select, filters, merge, out, scratch):
    """Write packets into ``out`` from counts[POSITION] on, until something needs Python.

    Returns FULL (the next packet does not fit ``out``), FILE_FULL (a packet is waiting, but FILE_END is reached
    or PACKETS_LEFT used up), NEW_DESCRIPTION (counts[WANTED] of the file's must be written first), IDLE (DEADLINE,
    CLOCK_REALTIME in ns, has passed and nothing can be written), CLOSED (no more packets will come), ABORTED.
    """
    settings = merge.settings
    while True:
        phase = load(pool.control, PHASE)
        if phase == ABORT:
            return ABORTED
        finished = phase >= settings[CLOSING]
        take_arrived(pool, merge, select, filters)
        now = realtime_ns(scratch)  # before looking at the rings: packets that arrive later have later timestamps
        queue, bound = choose_head(pool, rings, merge, finished, now)
        if queue != EMPTY and pool.timestamp[merge.head[queue], merge.cursor[queue]] <= bound:
            reason = emit(pool, merge, queue, bound, out)
            if reason != IDLE:
                return reason
            continue
        if queue == EMPTY and finished:
            return CLOSED
        left = settings[DEADLINE] - now
        if left <= 0 or left > LONGEST_NS:
            return IDLE
        wait(
            pool.work_queues,
            work_queue(pool, settings[CONSUMER]),
            EMPTY_HANDED if queue == EMPTY else HOLDING,
            min(left, IDLE_WAIT_NS if queue == EMPTY else WAIT_NS),
            scratch,
        )
