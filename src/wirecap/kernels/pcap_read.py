"""Index the packets of a capture file into rows of descriptors.  Nothing is copied.

``scan`` goes on from ``state[POSITION]`` until the row is full or something else must happen first;
``state[STOP]`` says what.  An error leaves the position in place, so calling it again tells it again.
"""

from __future__ import annotations

import numpy as np

from wirecap.kernels import scan_state as at
from wirecap.kernels.atomics import prefetch
from wirecap.kernels.jit import i64, inline, kernel, lengths, octets, words
from wirecap.kernels.pcapng_read import scan_pcapng
from wirecap.kernels.unaligned import field32


@inline
def scan_pcap(arena, state, interfaces, address, captured, original, stamp, limit):
    position, end = state[at.POSITION], state[at.END]
    swapped, header = state[at.SWAPPED], state[at.HEADER]
    largest, tick_ns = interfaces[at.LARGEST], interfaces[at.MULTIPLIER]
    state[at.INTERFACE] = 0
    state[at.STOP] = at.FULL
    n = 0
    while n < limit:
        body = position + header
        if body > end:
            at.cut(state, at.CUT_HEADER, position, header)
            break
        length = field32(arena, position + 8, swapped)
        if length > largest:
            at.fail(state, at.ABSURD_LENGTH, position, length, largest)
            break
        following = body + length
        if following > end:
            at.cut(state, at.CUT_PACKET, position, header + length)
            break
        # Each header's place depends on the one before: only fetching far ahead hides the memory's latency.
        for line in range(position, following, 64):
            prefetch(arena, line + at.AHEAD)
        address[n] = body
        captured[n] = np.uint32(length)
        original[n] = np.uint32(field32(arena, position + 12, swapped))
        seconds, ticks = field32(arena, position, swapped), field32(arena, position + 4, swapped)
        stamp[n] = seconds * 1_000_000_000 + ticks * tick_ns
        position = following
        n += 1
    state[at.POSITION] = position
    return n


@kernel(i64(octets, words, words, words, lengths, lengths, words, i64))
def scan(arena, state, interfaces, address, captured, original, stamp, limit):
    """Fill a row with up to limit packets of one interface; returns their number.

    arena uint8; state and interfaces int64 (kernels/scan_state.py); the row: address int64,
    captured uint32 bytes, original uint32 bytes, stamp int64 ns, each of at least limit entries.
    """
    if state[at.FORMAT] == at.PCAPNG:
        return scan_pcapng(arena, state, interfaces, address, captured, original, stamp, limit)
    return scan_pcap(arena, state, interfaces, address, captured, original, stamp, limit)
