"""What is kept in memory as a file's records: looking through them for what has them saved, and copying them out."""

from __future__ import annotations

import numpy as np

from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, i64, lengths, none, table, words
from wirecap.kernels.base.unaligned import copy, field32
from wirecap.kernels.file.read import LATEST_NS
from wirecap.kernels.file.write import PCAP_NS, PCAP_OVERHEAD, PCAPNG_FLAGS, PCAPNG_NS
from wirecap.kernels.pool.handler_loop import process_at, state_of

BATCH = 256
"""Records that go through the filter at once."""
TENTH_NS = 100_000_000
TENTHS = 10

NEVER = LATEST_NS
"""When a comment is due that nothing is to have."""

# words of a watch's state.  *_UNTIL: what its last firing covers; later matches within that only extend it
AFTER, FILTERED, FILTER_UNTIL, RATE_LIMIT, RATE_BITS, RATE_UNTIL, TENTH, SUM, MATCHES = range(9)
RATES = 16  # the sums of the last tenths of a second
STATE_WORDS = 32
# a row of what fired: which, the packet's time, until when its matches have packets saved, and 1 if what fired before
# is only extended from that time on
BY_FILTER, BY_RATE = 0, 1
FOUND_WORDS, FOUND_ROWS = 4, 64
FOUND_ROOM = FOUND_ROWS + 2 * BATCH + 1

# why `copy_kept` returned
DONE, FULL, FILE_FULL, OVER, DUE = range(5)
# words of what it found
AT, OUT, PACKETS, BYTES, WHY, WANTED = range(6)


@inline
def size_of(layout, kept, position):
    """Bytes of the record there."""
    if layout >= PCAPNG_NS:
        return field32(kept, position + 4, 0)
    return PCAP_OVERHEAD + field32(kept, position + 8, 0)


@inline
def time_of(layout, kept, position):
    """Its packet's time in ns."""
    if layout >= PCAPNG_NS:
        return field32(kept, position + 12, 0) << 32 | field32(kept, position + 16, 0)
    tick = 1 if layout == PCAP_NS else 1000
    return field32(kept, position, 0) * 1_000_000_000 + field32(kept, position + 4, 0) * tick


@inline
def count_rate(state, timestamp, amount):
    """Add to the tenth of a second that is now; True if the last second has more than it may."""
    tenth = timestamp // TENTH_NS
    passed = tenth - state[TENTH]
    if passed >= TENTHS or passed < -TENTHS:  # also a clock that was set back
        for i in range(TENTHS):
            state[RATES + i] = 0
        state[SUM], state[TENTH] = 0, tenth
    else:
        for _ in range(passed):
            state[TENTH] += 1
            place = RATES + state[TENTH] % TENTHS
            state[SUM] -= state[place]
            state[place] = 0
    state[RATES + state[TENTH] % TENTHS] += amount
    state[SUM] += amount
    return state[SUM] > state[RATE_LIMIT]


@inline
def note(state, until_at, which, timestamp, found, rows):
    """A match, which fires unless what was found before covers it and is only extended; returns how many rows."""
    before = state[until_at]
    end = LATEST_NS if timestamp > LATEST_NS - state[AFTER] else timestamp + state[AFTER]
    extends = timestamp <= before
    if extends and end <= before:
        return rows
    state[until_at] = end
    if extends:
        for i in range(rows - 1, -1, -1):
            if found[i, 0] == which:
                found[i, 2] = end
                return rows
    found[rows, 0], found[rows, 1], found[rows, 2], found[rows, 3] = which, timestamp, end, extends
    if extends:
        found[rows, 1] = before
    return rows + 1


@inline
def mark(layout, kept, position, flags):
    """Where each packet's direction is recorded, filters find it before the packet; 0: as it was."""
    if layout == PCAPNG_FLAGS:
        end = position + field32(kept, position + 4, 0)
        kept[position + 27] = kept[end - 12] if flags else 0


@kernel(i64(i64, byte_array, i64, i64, i64, words, words, lengths, lengths, words, words, table))
def watch_kept(
    layout, kept, position, end, select, filters, address, captured, original, timestamp, state, found,
):  # fmt: skip
    """Look through the records in kept[position:end]; returns the position behind the last that was looked at.

    select, filters: as for handler threads.  address, captured, original, timestamp: scratch for BATCH packets.
    found: int64 (FOUND_ROOM, FOUND_WORDS): the last row becomes how many of the others were filled; where many were,
    the caller takes those and calls again.
    """
    rows = 0
    while position < end and rows < FOUND_ROWS:
        first, n, interface = position, 0, np.int64(0)
        while position < end and n < BATCH:
            if layout >= PCAPNG_NS:
                own = np.int64(field32(kept, position + 8, 0))
                if n and own != interface:
                    break
                interface = own
                address[n] = position + 28
                captured[n], original[n] = field32(kept, position + 20, 0), field32(kept, position + 24, 0)
            else:
                address[n] = position + PCAP_OVERHEAD
                captured[n], original[n] = field32(kept, position + 8, 0), field32(kept, position + 12, 0)
            now = np.int64(time_of(layout, kept, position))
            timestamp[n] = now
            if state[RATE_LIMIT] and count_rate(state, now, np.int64(original[n]) * 8 if state[RATE_BITS] else 1):
                rows = note(state, RATE_UNTIL, BY_RATE, now, found, rows)
            n += 1
            position += size_of(layout, kept, position)
        if not state[FILTERED]:
            continue
        if layout == PCAPNG_FLAGS:
            at = first
            while at < position:
                mark(layout, kept, at, 1)
                at += size_of(layout, kept, at)
        begin, stop = state_of(filters, interface)
        matches = process_at(select, kept, address, captured, original, timestamp, n, filters[begin:stop])
        if layout == PCAPNG_FLAGS:
            at = first
            while at < position:
                mark(layout, kept, at, 0)
                at += size_of(layout, kept, at)
        state[MATCHES] += matches
        for i in range(matches):
            rows = note(state, FILTER_UNTIL, BY_FILTER, timestamp[i], found, rows)
    found[found.shape[0] - 1, 0] = rows
    return position


@kernel(none(i64, byte_array, i64, i64, i64, i64, i64, byte_array, i64, i64, i64, words))
def copy_kept(layout, kept, position, end, since, until, due, out, place, full, most, found):
    """Copy the records in kept[position:end] whose times are from ``since`` to ``until`` to out[place:].

    It ends (found[WHY]) with DONE at the end of what is kept; FULL if the next record, of found[WANTED] bytes, does not
    fit; FILE_FULL if it would begin at ``full`` or behind it, or after ``most`` packets; OVER where the next one is
    later than ``until``; DUE where it is at ``due`` or later, unless that is NEVER.  found: int64 (6,): also where it
    got to in both, and the packets and their bytes that were copied.
    """
    packets, packet_bytes, why = 0, 0, DONE
    while position < end:
        size = size_of(layout, kept, position)
        now = time_of(layout, kept, position)
        if now > until:
            why = OVER
            break
        if now >= since:
            if now >= due and due != NEVER:
                why = DUE
                break
            if place >= full or packets >= most:
                why = FILE_FULL
                break
            if place + size > out.size:
                found[WANTED] = size
                why = FULL
                break
            copy(out, place, kept, position, size)
            place += size
            packets += 1
            packet_bytes += field32(kept, position + (20 if layout >= PCAPNG_NS else 8), 0)
        position += size
    found[AT], found[OUT], found[PACKETS], found[BYTES], found[WHY] = position, place, packets, packet_bytes, why
