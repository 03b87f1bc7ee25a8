"""From a packet of an input to its record in an output buffer: its size, its digest, its bytes.

Records are those of kernels/file/write.py, and one more: JOINED, a block of a pcapng file in the one section that
several inputs share, little-endian, with its options and its ticks, on a renumbered interface.
"""

from __future__ import annotations

import numpy as np

from wirecap.kernels.base.atomics import prefetch
from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, i64, lengths, none, words
from wirecap.kernels.base.unaligned import copy, field16, field32, load64, store32, swap32
from wirecap.kernels.base.wrapping import plus, times
from wirecap.kernels.file.read import (
    EARLIEST_NS,
    ENHANCED_PACKET,
    LATEST_NS,
    OBSOLETE_PACKET,
    SIMPLE_PACKET,
    block_of,
    has_options,
)
from wirecap.kernels.file.write import (
    PCAP_OVERHEAD,
    PCAPNG_COPY,
    PCAPNG_NS,
    PCAPNG_OVERHEAD,
    packet_room,
    put_block,
    put_packet,
    timely,
)

JOINED = 8

# words of an input's settings
LAYOUT = 0
SNAPLEN = 1
SWAPPED = 2  # the rows' section is big-endian
BLOCKS = 3  # 1: the input is pcapng
SECTION = 4  # the first interface of the rows' section, as a number of the input
DIGESTS = 5  # 1: packets are to be compared
IGNORED = 6  # bytes at the start of a packet that do not matter then
SHIFT_NS = 7  # what is added to each time
MOVED = 8  # counts packets whose time the file cannot hold
OPTIONS_LOST = 9  # counts packets whose options the file cannot hold
VERBATIM = 10  # bytes of a record before the packet's own, where whole records can be copied as they are; else 0
SETTINGS = 11

AHEAD = 8
"""How many packets ahead ``place`` asks for a packet's bytes."""
_FIRST_PRIME, _SECOND_PRIME = -7046029254386353131, -4417276706812531889  # xxHash's, 64 bits
_LOGICAL = (1 << 32) - 1
_LENGTH_SHIFT = 40


@inline
def fold(word):
    return word ^ (word >> 32 & _LOGICAL)


@inline
def digest(arena, address, length, first, second):
    """128 bits of length and bytes, as two words; first, second: the seeds, that nobody can guess."""
    first ^= length << _LENGTH_SHIFT
    second = plus(second, length)
    offset, whole = 0, length - 8
    while offset <= whole:
        word = load64(arena, address + offset)
        first = fold(times(first ^ word, _FIRST_PRIME))
        second = fold(times(plus(second, word), _SECOND_PRIME))
        offset += 8
    word = i64(0)
    while offset < length:
        word = word << 8 | i64(arena[address + offset])
        offset += 1
    first = fold(times(first ^ word, _FIRST_PRIME))
    second = fold(times(plus(second, word), _SECOND_PRIME))
    return fold(times(first, _SECOND_PRIME)), fold(times(second, _FIRST_PRIME))


@inline
def interface_of(arena, address, captured, swapped):
    """The interface of a packet in a pcapng block, as its section numbers it."""
    start, _, header = block_of(arena, address, captured, swapped)
    if header == 12:
        return 0
    if field32(arena, start, swapped) == OBSOLETE_PACKET:
        return field16(arena, start + 8, swapped)
    return field32(arena, start + 8, swapped)


@kernel(none(byte_array, words, lengths, i64, words, words, words, words, words, words))
def examine(arena, address, captured, n, settings, seeds, room, interface, first, second):
    """What ``order`` and ``place`` must know of the n packets of a row; the row: address int64, captured uint32.

    Fills room (bytes), interface, and, if asked for, first and second (digests): int64, each of at least n words.
    seeds: int64 (2,).
    """
    layout, snaplen, swapped = settings[LAYOUT], settings[SNAPLEN], settings[SWAPPED]
    for i in range(n):
        length = i64(captured[i])
        short = min(length, snaplen)
        interface[i] = settings[SECTION]
        options = 0
        if settings[BLOCKS]:
            _, total, header = block_of(arena, address[i], length, swapped)
            interface[i] += interface_of(arena, address[i], length, swapped)
            options = total - header - (length + 3 & ~3) - 4
        if layout == PCAPNG_COPY:
            header = block_of(arena, address[i], length, swapped)[2]
            room[i] = header + (short + 3 & ~3) + options + 4
        elif layout == JOINED:
            room[i] = PCAPNG_OVERHEAD + (short + 3 & ~3) + options
        else:
            room[i] = packet_room(layout, length, snaplen)
        if settings[DIGESTS]:
            skipped = settings[IGNORED] if short > settings[IGNORED] else 0
            first[i], second[i] = digest(arena, address[i] + skipped, short - skipped, seeds[0], seeds[1])


_FOUR_BYTES, _EIGHT_BYTES = (2, 6), (4, 5)  # epb_flags and epb_queue; epb_dropcount and epb_packetid


@inline
def put16(out, position, value):
    out[position], out[position + 1] = np.uint8(value & 0xFF), np.uint8(value >> 8 & 0xFF)


@inline
def put_options(out, position, arena, start, length, swapped):
    """Options of a packet as little-endian ones; from a damaged one on they are left out."""
    if not swapped:
        copy(out, position, arena, start, length)
        return
    for k in range(length):
        out[position + k] = 0
    offset = 0
    while offset + 4 <= length:
        code, size = field16(arena, start + offset, swapped), field16(arena, start + offset + 2, swapped)
        padded = size + 3 & ~3
        if code == 0 or offset + 4 + padded > length:
            return
        there = position + offset
        put16(out, there, code)
        put16(out, there + 2, size)
        copy(out, there + 4, arena, start + offset + 4, padded)
        if size == 4 and (code == _FOUR_BYTES[0] or code == _FOUR_BYTES[1]):
            store32(out, there + 4, field32(arena, start + offset + 4, swapped))
        elif size == 8 and (code == _EIGHT_BYTES[0] or code == _EIGHT_BYTES[1]):
            store32(out, there + 8, field32(arena, start + offset + 4, swapped))
            store32(out, there + 4, field32(arena, start + offset + 8, swapped))
        offset += 4 + padded


@inline
def put_joined(out, position, arena, address, captured, original, snaplen, interface, swapped):
    """The block as an enhanced packet block of the shared section; a simple block's packet has time 0."""
    start, total, header = block_of(arena, address, captured, swapped)
    length = min(captured, snaplen)
    padded = length + 3 & ~3
    options = total - header - (captured + 3 & ~3) - 4
    size = PCAPNG_OVERHEAD + padded + options
    store32(out, position, ENHANCED_PACKET)
    store32(out, position + 4, size)
    store32(out, position + 8, interface)
    store32(out, position + 12, field32(arena, start + 12, swapped) if header == 28 else 0)
    store32(out, position + 16, field32(arena, start + 16, swapped) if header == 28 else 0)
    store32(out, position + 20, length)
    store32(out, position + 24, original)
    if padded:
        store32(out, position + 24 + padded, 0)
    copy(out, position + 28, arena, address, length)
    put_options(out, position + 28 + padded, arena, address + (captured + 3 & ~3), options, swapped)
    store32(out, position + size - 4, size)
    return position + size


@inline
def shifted(time, shift):
    """Their sum, or the nearest time that there is."""
    if shift > 0 and time > LATEST_NS - shift:
        return i64(LATEST_NS)
    if shift < 0 and time < EARLIEST_NS - shift:
        return i64(EARLIEST_NS)
    return time + shift


@inline
def shift_ticks(out, position, ticks, swapped):
    """Add to the time of the packet block at out[position:]; 1 if that is before the first tick or behind the last."""
    if field32(out, position, swapped) == SIMPLE_PACKET:
        return 0
    before = field32(out, position + 12, swapped) << 32 | field32(out, position + 16, swapped)
    after = plus(before, ticks)
    early, late = ticks < 0 and 0 <= before < -ticks, ticks > 0 and before < 0 and after >= 0
    if early or late:
        after = 0 if early else -1
    high, low = after >> 32 & 0xFFFFFFFF, after & 0xFFFFFFFF
    store32(out, position + 12, swap32(high) if swapped else high)
    store32(out, position + 16, swap32(low) if swapped else low)
    return 1 if early or late else 0


@inline
def copy_records(arena, address, captured, where, i, last, header, snaplen, out):
    """Copy the record of packet i and those that follow it in the input as in the output; the first that does not."""
    start, position, size = address[i] - header, where[i], header + i64(captured[i])
    where[i] += header
    i += 1
    while i < last and where[i] == position + size and address[i] - header == start + size and captured[i] <= snaplen:
        where[i] += header
        size += header + i64(captured[i])
        i += 1
    copy(out, position, arena, start, size)
    return i


@kernel(none(byte_array, words, lengths, lengths, words, words, words, i64, i64, words, words, words, byte_array))
def place(arena, address, captured, original, timestamp, interface, where, first, last, settings, numbers, ticks, out):
    """Put the packets [first, last) of a row into ``out``, each at where[i], which becomes the place of its bytes.

    A place of -1 means that it is left out.  settings: see above, counts MOVED and OPTIONS_LOST; numbers, ticks: int64,
    for each interface of the input its number in the output, and what is added to the times in its blocks.
    """
    layout, snaplen, swapped = settings[LAYOUT], settings[SNAPLEN], settings[SWAPPED]
    copied = layout == PCAPNG_COPY or layout == JOINED
    i, following = first - 1, first
    while following < last:
        i = following
        following = i + 1
        position = where[i]
        if settings[VERBATIM] and position >= 0 and i64(captured[i]) <= snaplen:
            following = copy_records(arena, address, captured, where, i, last, settings[VERBATIM], snaplen, out)
            continue
        if i + AHEAD < last:
            start = address[i + AHEAD]
            for line in range(start, start + min(i64(captured[i + AHEAD]), snaplen), 64):
                prefetch(arena, line)
        if position < 0:
            continue
        start, length = address[i], i64(captured[i])
        header = PCAP_OVERHEAD if layout < PCAPNG_NS else 28
        if copied:
            if layout == JOINED:
                number = numbers[interface[i]]
                put_joined(out, position, arena, start, length, i64(original[i]), snaplen, number, swapped)
                order = 0
            else:
                put_block(out, position, arena, start, length, snaplen, swapped)
                header, order = block_of(arena, start, length, swapped)[2], swapped
            if ticks[interface[i]]:
                settings[MOVED] += shift_ticks(out, position, ticks[interface[i]], order)
        else:
            wanted = shifted(timestamp[i], settings[SHIFT_NS])
            nearest = timely(layout, wanted)
            settings[MOVED] += 1 if nearest != wanted or wanted - settings[SHIFT_NS] != timestamp[i] else 0
            number = numbers[interface[i]]
            put_packet(layout, out, position, arena, start, length, i64(original[i]), nearest, snaplen, number)
            if settings[BLOCKS] and has_options(arena, start, length, swapped):
                settings[OPTIONS_LOST] += 1
        where[i] = position + header
