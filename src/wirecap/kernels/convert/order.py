"""Which packet of several inputs goes out next: the earliest, unless it repeats one of those before it.

Rows of N packets lie side by side, two for each input: one is given out while the other is filled.  A packet's slot is
k * N + i.  ``order`` gives out slots, and each packet's place in the output buffer, until a row is used up, the buffer
is full, or the file is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import i64, lengths_table, record, table, words
from wirecap.kernels.file.read import EARLIEST_NS

# why ``order`` returned
ROW_USED_UP, BUFFER_FULL, FILE_FULL, SLOTS_FULL, SEEN_FULL = range(5)

# words of the state
POSITION = 0  # where the next record goes in the buffer; ``order`` moves it on
ROOM = 1  # bytes of the buffer
WANTED = 2  # bytes of the record that did not fit
CHOSEN = 3  # packets in ``slots``
DUPLICATES = 4  # packets left out so far because they repeat another
UNORDERED = 5  # packets so far that were earlier than the one before them
LAST_NS = 6
FILE_END = 7  # no record begins at or behind this place of the buffer
PACKETS_LEFT = 8  # that fit the file
TIME_END = 9  # ns; a later packet belongs to the next file
NEXT_NS = 10  # the time of the packet that waits, when FILE_FULL is returned
SEQUENCE = 11  # packets that were compared so far
WINDOW = 12  # how many packets back a packet is compared with; 0: not at all
WINDOW_NS = 13  # how far back in time; -1: however far
SNAPLEN = 14
BYTES = 15  # of the packets in ``slots``, as cut
STATE_WORDS = 16


class Rows(NamedTuple):
    """K rows, N packets each."""

    address: Any  # int64 (K, N): into the input's arena
    captured: Any  # uint32 (K, N): bytes
    original: Any  # uint32 (K, N): bytes
    timestamp: Any  # int64 (K, N): ns since the epoch
    room: Any  # int64 (K, N): bytes of the packet's record
    interface: Any  # int64 (K, N): number of the input's interface
    first_digest: Any  # int64 (K, N)
    second_digest: Any  # int64 (K, N)
    place: Any  # int64 (K, N): where its record goes in the buffer, then where its bytes are; -1: nowhere


ROWS = record(Rows, table, lengths_table, lengths_table, table, table, table, table, table, table)


def new_rows(count: int, packets: int) -> Rows:
    shape = (count, packets)
    kinds = (np.int64, np.uint32, np.uint32, *([np.int64] * 6))
    return Rows(*(np.zeros(shape, kind) for kind in kinds))


class Seen(NamedTuple):
    """The packets that others are compared with: a ring of entries, chained by their digests."""

    newest: Any  # int64 (a power of two,): 1 + sequence number of the newest packet of such digests; 0: none
    entries: Any  # int64 (a power of two, ENTRY_WORDS)


FIRST, SECOND, TIME, BEFORE = range(4)
ENTRY_WORDS = 4
SEEN = record(Seen, words, table)


FIRST_SEEN = 1 << 14
"""Entries to begin with where a time bounds the window: so many stay in the cache."""


def new_seen(window: int, window_ns: int = -1) -> Seen:
    """For so many packets back; where a time bounds them, too, for fewer until ``order`` says SEEN_FULL."""
    entries = 1 << max(window, 1).bit_length()
    return _empty(min(entries, FIRST_SEEN) if window_ns >= 0 else entries)


def _empty(entries: int) -> Seen:
    return Seen(np.zeros(2 * entries, np.int64), np.zeros((entries, ENTRY_WORDS), np.int64))


def enlarged(seen: Seen, sequence: int) -> Seen:
    """Four times as many entries, with those there are; sequence: of the packet that comes next."""
    size = len(seen.entries)
    larger = _empty(4 * size)
    numbers = np.arange(max(0, sequence - size), sequence)
    entries = seen.entries[numbers % size]
    buckets = entries[:, FIRST] & len(larger.newest) - 1
    entries[:, BEFORE] = -1
    by_bucket = np.argsort(buckets, kind="stable")
    same = buckets[by_bucket[1:]] == buckets[by_bucket[:-1]]
    entries[by_bucket[1:][same], BEFORE] = numbers[by_bucket[:-1][same]]
    larger.entries[numbers % (4 * size)] = entries
    larger.newest[buckets] = numbers + 1  # the last of equal buckets stays
    return larger


def new_state() -> Any:
    state = np.zeros(STATE_WORDS, np.int64)
    state[LAST_NS] = EARLIEST_NS
    return state


@inline
def repeats(seen, state, first, second, timestamp):
    """Whether a packet of these digests is among those before, as editcap -D and -w see it; remembers this one.

    Every packet counts, also one that is left out.  One from the future, in a file out of order, is passed over.
    """
    sequence, window_ns = state[SEQUENCE], state[WINDOW_NS]
    state[SEQUENCE] = sequence + 1
    newest, entries = seen.newest, seen.entries
    bucket, mask = first & (newest.size - 1), entries.shape[0] - 1
    before = newest[bucket] - 1
    found = False
    earlier, reach = before, min(state[WINDOW], entries.shape[0])
    while earlier >= 0 and sequence - earlier <= reach:
        entry = earlier & mask
        age = timestamp - entries[entry, TIME]
        if 0 <= window_ns < age:
            break
        same = entries[entry, FIRST] == first and entries[entry, SECOND] == second
        if same and (window_ns < 0 or age >= 0):
            found = True
            break
        earlier = entries[entry, BEFORE]
    entry = sequence & mask
    entries[entry, FIRST], entries[entry, SECOND] = first, second
    entries[entry, TIME], entries[entry, BEFORE] = timestamp, before
    newest[bucket] = sequence + 1
    return found


@inline
def is_crowded(seen, state, timestamp):
    """Whether remembering a packet of this time would overwrite one that others are still compared with."""
    size, sequence = seen.entries.shape[0], state[SEQUENCE]
    if state[WINDOW_NS] < 0 or size > state[WINDOW] or sequence < size:
        return False
    return timestamp - seen.entries[sequence & (size - 1), TIME] <= state[WINDOW_NS]


@inline
def order_one(rows, k, filled, cursor, slots, state):
    """``order`` for one row, of which nothing is left out: most of what people convert."""
    room, captured, timestamp, place = rows.room[k], rows.captured[k], rows.timestamp[k], rows.place[k]
    base = k * timestamp.size
    position, last_ns, time_end, snaplen = state[POSITION], state[LAST_NS], state[TIME_END], state[SNAPLEN]
    begin, end = cursor[k], min(filled[k], cursor[k] + min(slots.size, state[PACKETS_LEFT]))
    i, total, unordered, capacity, file_end = begin, 0, 0, state[ROOM], state[FILE_END]
    reason = ROW_USED_UP if end == filled[k] else FILE_FULL if end - begin < slots.size else SLOTS_FULL
    while i < end:
        ns = timestamp[i]
        if position >= file_end or ns > time_end:
            reason = FILE_FULL
            break
        if position + room[i] > capacity:
            state[WANTED] = room[i]
            reason = BUFFER_FULL
            break
        unordered += 1 if ns < last_ns else 0
        last_ns = ns
        place[i] = position
        slots[i - begin] = base + i
        position += room[i]
        total += min(i64(captured[i]), snaplen)
        i += 1
    if reason == FILE_FULL:
        state[NEXT_NS] = timestamp[i]
    cursor[k] = i
    state[POSITION], state[LAST_NS], state[CHOSEN], state[BYTES] = position, last_ns, i - begin, total
    state[PACKETS_LEFT] -= i - begin
    state[UNORDERED] += unordered
    return reason


@kernel(i64(ROWS, words, words, words, words, SEEN, words, words))
def order(rows, active, filled, cursor, more, seen, slots, state):
    """Choose the packets that go out next; returns why it stopped.

    active: int64, one row of each input, in the inputs' order.  filled, cursor, more: int64 (K,): packets in a row,
    the next of them, and 1 if its input may have more, so that nothing can be chosen once the row is used up.
    slots: int64, filled with state[CHOSEN] slots in their order.
    Of equally early packets the one of the last input goes first, as mergecap has it.
    """
    size = rows.timestamp.shape[1]
    if active.size == 1 and state[WINDOW] == 0:
        return order_one(rows, active[0], filled, cursor, slots, state)
    n, reason, total = 0, SLOTS_FULL, 0
    while n < slots.size:
        best, best_ns = -1, 0
        for k in active:
            if cursor[k] < filled[k]:
                timestamp = rows.timestamp[k, cursor[k]]
                if best < 0 or timestamp <= best_ns:
                    best, best_ns = k, timestamp
        if best < 0:
            reason = ROW_USED_UP
            break
        i = cursor[best]
        room, position = rows.room[best, i], state[POSITION]
        if position >= state[FILE_END] or state[PACKETS_LEFT] <= 0 or best_ns > state[TIME_END]:
            state[NEXT_NS] = best_ns
            reason = FILE_FULL
            break
        if position + room > state[ROOM]:
            state[WANTED] = room
            reason = BUFFER_FULL
            break
        if state[WINDOW] and is_crowded(seen, state, best_ns):
            reason = SEEN_FULL
            break
        cursor[best] = i + 1
        rows.place[best, i] = -1
        if state[WINDOW] and repeats(seen, state, rows.first_digest[best, i], rows.second_digest[best, i], best_ns):
            state[DUPLICATES] += 1
        else:
            if best_ns < state[LAST_NS]:
                state[UNORDERED] += 1
            state[LAST_NS] = best_ns
            rows.place[best, i] = position
            state[POSITION] = position + room
            state[PACKETS_LEFT] -= 1
            slots[n] = best * size + i
            total += min(i64(rows.captured[best, i]), state[SNAPLEN])
            n += 1
        if i + 1 == filled[best] and more[best]:
            reason = ROW_USED_UP
            break
    state[CHOSEN], state[BYTES] = n, total
    return reason
