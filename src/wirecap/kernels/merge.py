"""The writer's kernel: chunks of several home queues in, one output buffer in time order out.

Each home queue's packets are in order; the merge takes the earliest head.  It may take it only when no
queue can still bring an earlier one.  A queue with nothing at hand cannot, if every packet that its RX
ring ever held has come through here: then whatever comes later was stamped after now - slack, where slack
covers the moment between a packet's stamp and its visibility in the ring.  Stamps of a NIC's own clock have nothing
to do with now: there a queue with nothing at hand holds nobody up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from wirecap.kernels.atomics import load, prefetch
from wirecap.kernels.handle import PROCESS, admit
from wirecap.kernels.jit import i64, inline, kernel, octets, table, words
from wirecap.kernels.lanes import EMPTY, pop, wait
from wirecap.kernels.libc import realtime_ns
from wirecap.kernels.pcap_write import packet_room, put_packet
from wirecap.kernels.pool import (
    ABORT,
    ARRIVED,
    CAPACITY,
    COUNT,
    FOREIGN_CLOCK,
    HOME,
    INTERFACE,
    KEPT,
    LANE_MASK,
    PHASE,
    POOL,
    QUEUE_WORDS,
    SLOT_WORDS,
    STATE,
    WAITING_AT,
    lane,
    recycle,
)
from wirecap.kernels.rings import RINGS

SLACK_NS = 20_000_000
SHORT_SLACK_NS = 1_000_000
"""While the merge holds more than half of R chunks: better a packet out of order than one lost."""
AHEAD = 8
FOREVER = 1 << 62
WAIT_NS, IDLE_WAIT_NS = 500_000, 100_000_000
"""How long to sleep without a new chunk: with a packet that only waits for its time to pass, and with none."""

# why `merge` came back
FULL, FILE_FULL, IDLE, NEW_INTERFACE, CLOSED, ABORTED = range(6)

# words of Merge.counts
POSITION, WRITTEN, WRITTEN_OCTETS, LATE, LAST_STAMP, HELD, WANTED_INTERFACE, FIRST_STAMP = range(8)
# words of Merge.settings
LAYOUT, SNAPLEN, INTERFACES, FILE_END, PACKETS_LEFT, DEADLINE, CONSUMER, CLOSING, DIRECT = range(9)


class Merge(NamedTuple):
    """A writer's state; Q home queues, of which it serves ``mine``."""

    mine: Any  # int64 (n,): home queues
    pending: Any  # int64 (Q, places): slot + 1 by sequence number, 0 where it has not come yet
    following: Any  # int64 (Q,): sequence number of the next chunk
    head: Any  # int64 (Q,): slot being written, or EMPTY
    cursor: Any  # int64 (Q,): next packet of it
    seen: Any  # int64 (Q,): packets in all chunks that came
    last: Any  # int64 (Q,): stamp of the last packet taken
    counts: Any  # int64 (8,)
    settings: Any  # int64 (16,)


MERGE = types.NamedTuple((words, table, words, words, words, words, words, words, words), Merge)


def new_merge(queues: int, mine: list[int], slots: int) -> Merge:
    """The state before the first chunk; slots: per home queue."""
    places = 1 << (slots - 1).bit_length()
    cursor, seen, last = np.zeros((3, queues), np.int64)
    return Merge(
        np.array(mine, np.int64), np.zeros((queues, places), np.int64), np.zeros(queues, np.int64),
        np.full(queues, EMPTY, np.int64), cursor, seen, last, np.zeros(8, np.int64), np.zeros(16, np.int64),
    )  # fmt: skip


@inline
def collect(pool, merge, select, select_state):
    """Take in every chunk that waits, each under its home queue and sequence number."""
    settings = merge.settings
    base = lane(pool, settings[CONSUMER])
    while True:
        slot = pop(pool.lanes, base, pool.control[LANE_MASK])
        if slot == EMPTY:
            return
        m = slot * SLOT_WORDS
        if settings[DIRECT]:
            admit(pool, settings[CONSUMER], slot, select, select_state)
        home = pool.meta[m + HOME]
        merge.pending[home, (pool.meta[m + STATE] >> 2) & (merge.pending.shape[1] - 1)] = slot + 1
        merge.seen[home] += pool.meta[m + COUNT]
        merge.counts[HELD] += 1


@inline
def advance(pool, merge, queue):
    """Make the next chunk of a queue its head, if it has come; empty ones go straight home."""
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
    """(queue with the earliest packet, or EMPTY; latest stamp up to which it may be written)."""
    best, best_stamp, bound = np.int64(EMPTY), np.int64(FOREVER), np.int64(FOREVER)
    slack = SHORT_SLACK_NS if merge.counts[HELD] * 2 > pool.control[CAPACITY] else SLACK_NS
    for i in range(merge.mine.size):
        queue = merge.mine[i]
        if advance(pool, merge, queue):
            stamp = pool.stamp[merge.head[queue], merge.cursor[queue]]
            if stamp < best_stamp:
                bound = min(bound, best_stamp)
                best, best_stamp = queue, stamp
            else:
                bound = min(bound, stamp)
        elif not finished and not is_idle(pool, rings, merge, queue):
            bound = min(bound, merge.last[queue])
        elif not finished and not pool.control[FOREIGN_CLOCK]:
            bound = min(bound, now - slack)
    return best, bound


@inline
def is_idle(pool, rings, merge, queue):
    """True when every packet that had arrived came through here."""
    q = queue * QUEUE_WORDS
    arrived = pool.queues[q + ARRIVED]
    if (load(rings.halves, arrived) - merge.seen[queue]) & 0xFFFFFFFF:
        return False
    waiting = load(pool.queues, q + WAITING_AT)
    if waiting == 0:
        return True
    if load(rings.halves, waiting - 1):
        return False
    # What waited there may have been taken, and the word be another's by now.
    return ((load(rings.halves, arrived) - merge.seen[queue]) & 0xFFFFFFFF) == 0


@inline
def emit(pool, merge, queue, bound, out):
    """Write the head of a queue up to ``bound``; why it stopped: IDLE (done), FULL, FILE_FULL, NEW_INTERFACE."""
    counts, settings = merge.counts, merge.settings
    slot, place = merge.head[queue], merge.cursor[queue]
    m = slot * SLOT_WORDS
    kept, interface = pool.meta[m + KEPT], pool.meta[m + INTERFACE]
    if interface >= settings[INTERFACES]:
        counts[WANTED_INTERFACE] = interface
        return NEW_INTERFACE
    layout, snaplen, position = settings[LAYOUT], settings[SNAPLEN], counts[POSITION]
    reason = IDLE
    while place < kept and pool.stamp[slot, place] <= bound:
        if position >= settings[FILE_END] or settings[PACKETS_LEFT] <= 0:
            reason = FILE_FULL
            break
        if place + AHEAD < kept:
            prefetch(pool.arena, pool.address[slot, place + AHEAD])
        captured = np.int64(pool.captured[slot, place])
        if position + packet_room(layout, captured, snaplen) > out.size:
            reason = FULL
            break
        stamp = pool.stamp[slot, place]
        if stamp < counts[LAST_STAMP]:
            counts[LATE] += 1
        else:
            counts[LAST_STAMP] = stamp
        position = put_packet(
            layout, out, position, pool.arena, pool.address[slot, place], captured,
            np.int64(pool.original[slot, place]), stamp, snaplen, interface,
        )  # fmt: skip
        counts[WRITTEN] += 1
        counts[WRITTEN_OCTETS] += min(captured, snaplen)
        settings[PACKETS_LEFT] -= 1
        place += 1
    counts[POSITION] = position
    merge.cursor[queue] = place
    if place > 0:
        merge.last[queue] = pool.stamp[slot, place - 1]
    if place == kept:
        merge.head[queue] = EMPTY
        send_home(pool, merge, slot)
    return reason


@kernel(i64(POOL, RINGS, PROCESS, words, MERGE, octets, words))
def merge_packets(pool, rings, select, select_state, merge, out, scratch):
    """Write packets into ``out`` from counts[POSITION] on until something needs Python.

    Returns FULL (the next packet does not fit ``out``), FILE_FULL (a packet waits, but FILE_END is reached
    or PACKETS_LEFT used up), NEW_INTERFACE (it must be described first), IDLE (DEADLINE, CLOCK_REALTIME in
    ns, is over and nothing can be written), CLOSED (no packet will come), ABORTED.
    """
    settings = merge.settings
    while True:
        phase = load(pool.control, PHASE)
        if phase == ABORT:
            return ABORTED
        finished = phase >= settings[CLOSING]
        collect(pool, merge, select, select_state)
        now = realtime_ns(scratch)  # before the look at the rings: what comes later is stamped later
        queue, bound = choose_head(pool, rings, merge, finished, now)
        if queue != EMPTY and pool.stamp[merge.head[queue], merge.cursor[queue]] <= bound:
            reason = emit(pool, merge, queue, bound, out)
            if reason != IDLE:
                return reason
            continue
        if queue == EMPTY and finished:
            return CLOSED
        left = settings[DEADLINE] - now
        if left <= 0:
            return IDLE
        wait(
            pool.lanes, lane(pool, settings[CONSUMER]), min(left, IDLE_WAIT_NS if queue == EMPTY else WAIT_NS), scratch
        )
