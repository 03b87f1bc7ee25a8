"""The flow table: finding, beginning and ending flows, in memory that is there from the beginning.

When a flow ends is decided by its packets' times alone, with the next packet of the flow or when the sweep comes by,
whichever is first: so the records are the same however often the sweep comes.
"""

from __future__ import annotations

from wirecap.kernels.base.atomics import load, store
from wirecap.kernels.base.jit import inline, inline_always
from wirecap.kernels.base.views import peek
from wirecap.kernels.flows.keys import tag_of
from wirecap.kernels.flows.layout import (
    ACTIVE,
    ACTIVE_NS,
    CAPTURED,
    CLOSED,
    EMPTY_FIRST,
    END,
    ENTRY_WORDS,
    EPOCH,
    EVICTED,
    FIRST,
    FLAGS,
    FREE,
    HAND,
    HEAD,
    HELD,
    HIGH,
    IDLE,
    IDLE_NS,
    KEY,
    LAST,
    LINGER_NS,
    LOST,
    LOST_BYTES,
    LOST_PACKETS,
    MADE,
    MORE,
    MOST_HELD,
    NEVER,
    NEXT_FREE,
    NOW,
    PACKETS,
    REASON,
    REVERSE_FLAGS,
    ROOM,
    SWEEP_AT,
    TAIL,
    TCP_FLAGS,
    TICK_BITS,
)

_CANDIDATES = 16
"""Flows of which the one that was silent longest makes room for a new one."""
_BOTH_FLAGS = TCP_FLAGS | TCP_FLAGS << REVERSE_FLAGS


@inline_always
def tick_of(control, time):
    return min(max(0, time - control[EPOCH] >> TICK_BITS), NEVER - 1)


@inline_always
def later(time, ns):
    """time + ns, or the latest time that there is."""
    return EMPTY_FIRST if time > EMPTY_FIRST - ns else time + ns


@inline_always
def is_empty(entries, base):
    """Whether no packet has come since the last record."""
    return peek(entries, base + PACKETS) | peek(entries, base + PACKETS + 1) == 0


@inline_always
def is_key_of(entries, base, keys, at):
    """Whether an entry has the key at keys[at:]."""
    different = (
        peek(entries, base) ^ peek(keys, at) | peek(entries, base + 1) ^ peek(keys, at + 1)
        | peek(entries, base + 2) ^ peek(keys, at + 2) | peek(entries, base + 3) ^ peek(keys, at + 3)
        | peek(entries, base + 4) ^ peek(keys, at + 4)
    )  # fmt: skip
    return different == 0


@inline
def find(entries, index, keys, at, tag):
    """The entry of a key, -1 if there is none."""
    mask = index.size - 1
    place = tag & mask
    while True:
        word = peek(index, place)
        if word == 0:
            return -1
        if word >> 32 == tag:
            entry = (word & 0xFFFFFFFF) - 1
            if is_key_of(entries, entry * ENTRY_WORDS, keys, at):
                return entry
        place = place + 1 & mask


@inline
def room_in(control, ring):
    """Free places in the ring."""
    return ring.size // ENTRY_WORDS - (control[HEAD] - load(control, TAIL))


@inline
def emit(control, entries, ring, base, reason):
    """Make a record of an entry; without room in the ring it is counted and lost."""
    control[MADE + reason] += 1
    head = control[HEAD]
    if room_in(control, ring) <= 0:
        control[LOST] += 1
        control[LOST_PACKETS] += entries[base + PACKETS] + entries[base + PACKETS + 1]
        control[LOST_BYTES] += entries[base + CAPTURED]
        return
    at = (head & ring.size // ENTRY_WORDS - 1) * ENTRY_WORDS
    for j in range(ENTRY_WORDS):
        ring[at + j] = entries[base + j]
    ring[at + FLAGS] |= reason << REASON
    store(control, HEAD, head + 1)


@inline
def remove(control, entries, index, due, entry):
    """Take a flow out of the table."""
    base, mask = entry * ENTRY_WORDS, index.size - 1
    hole = tag_of(entries, base, control) & mask
    while index[hole] & 0xFFFFFFFF != entry + 1:
        hole = hole + 1 & mask
    place = hole
    while True:  # what stands behind it moves up, if it may
        place = place + 1 & mask
        word = index[place]
        if word == 0:
            break
        home = word >> 32 & mask
        if (place - home & mask) >= (place - hole & mask):
            index[hole] = word
            hole = place
    index[hole] = 0
    entries[base + NEXT_FREE], entries[base + KEY] = control[FREE], -1
    control[FREE] = entry + 1
    control[HELD] -= 1
    due[entry] = NEVER


@inline
def clear(entries, base):
    """Forget what was counted, once there is a record of it: the flow goes on."""
    for j in range(PACKETS, CAPTURED + 1):
        entries[base + j] = 0
    entries[base + FIRST] = EMPTY_FIRST
    entries[base + FLAGS] &= ~_BOTH_FLAGS
    entries[base + MORE] = 0


@inline
def settle(control, entries, index, due, ring, entry, now):
    """End what has ended of a flow at a time: True if the flow is no longer in the table.

    A flow that is active for too long stays, without packets, so that it keeps its direction.
    """
    base = entry * ENTRY_WORDS
    first, last, why = entries[base + FIRST], entries[base + LAST], IDLE
    quiet = later(last, control[IDLE_NS])
    if entries[base + FLAGS] >> CLOSED & 1 and later(last, control[LINGER_NS]) < quiet:
        quiet, why = later(last, control[LINGER_NS]), END
    old = later(first, control[ACTIVE_NS])
    if old <= now and old < quiet:
        emit(control, entries, ring, base, ACTIVE)
        clear(entries, base)
        old = EMPTY_FIRST
    if quiet <= now:
        if not is_empty(entries, base):
            emit(control, entries, ring, base, why)
        remove(control, entries, index, due, entry)
        return True
    due[entry] = tick_of(control, min(quiet, old))
    return False


@inline
def finish_flow(control, entries, index, due, ring, entry, reason):
    """End a flow, whatever its times say."""
    if not is_empty(entries, entry * ENTRY_WORDS):
        emit(control, entries, ring, entry * ENTRY_WORDS, reason)
    remove(control, entries, index, due, entry)


@inline
def evict(control, entries, index, due, ring):
    """Make room in a full table: of some flows in a row, the one that was silent longest goes."""
    capacity = due.size
    at = control[HAND]
    oldest, chosen = EMPTY_FIRST, 0
    for _ in range(min(_CANDIDATES, capacity)):
        if at >= capacity:
            at = 0
        last = entries[at * ENTRY_WORDS + LAST]
        if last < oldest:
            oldest, chosen = last, at
        at += 1
    control[HAND] = at
    finish_flow(control, entries, index, due, ring, chosen, EVICTED)


@inline
def begin(control, entries, index, due, ring, keys, at, tag, time):
    """Put a flow that is not there into the table; returns its entry."""
    if control[HELD] == due.size:
        evict(control, entries, index, due, ring)
    entry = control[FREE] - 1
    if entry >= 0:
        control[FREE] = entries[entry * ENTRY_WORDS + NEXT_FREE]
    else:
        entry = control[HIGH]
        control[HIGH] = entry + 1
    control[HELD] += 1
    control[MOST_HELD] = max(control[MOST_HELD], control[HELD])
    mask = index.size - 1
    place = tag & mask
    while index[place]:
        place = place + 1 & mask
    index[place] = tag << 32 | entry + 1
    base = entry * ENTRY_WORDS
    for j in range(5):
        entries[base + j] = keys[at + j]
    entries[base + FLAGS] = 0
    clear(entries, base)
    entries[base + LAST] = time
    due[entry] = tick_of(control, later(time, min(control[IDLE_NS], control[ACTIVE_NS])))
    return entry


@inline
def sweep(control, entries, index, due, ring, count):
    """Look at ``count`` entries and end what has ended; returns how many were looked at."""
    high, at = control[HIGH], control[SWEEP_AT]
    tick = tick_of(control, control[NOW])
    count = min(count, high)
    for looked in range(count):
        if at >= high:
            at = 0
        if due[at] <= tick:
            if room_in(control, ring) < ROOM:
                control[SWEEP_AT] = at
                return looked
            settle(control, entries, index, due, ring, at, control[NOW])
        at += 1
    control[SWEEP_AT] = at
    return count
