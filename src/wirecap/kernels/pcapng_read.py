"""Index the packets of pcapng blocks (draft-ietf-opsawg-pcapng).

Section headers and interface descriptions stop the scan: Python reads them, they are few.  Blocks of
other types are skipped.
"""

from __future__ import annotations

import numpy as np

from wirecap.kernels import scan_state as at
from wirecap.kernels.atomics import prefetch
from wirecap.kernels.jit import inline
from wirecap.kernels.unaligned import field16, field32

SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 1
OBSOLETE_PACKET = 2
SIMPLE_PACKET = 3
ENHANCED_PACKET = 6
_NANOSECONDS = 1_000_000_000


@inline
def to_ns(interfaces, base, ticks):
    """Ticks of the interface whose words start at base as ns since the epoch, saturated to int64."""
    ticks = min(max(ticks, interfaces[base + at.LOWEST]), interfaces[base + at.HIGHEST])
    shift = interfaces[base + at.SHIFT]
    if shift:
        fraction = ticks & ((1 << shift) - 1)
        if shift > 32:  # keep 32 bits of the fraction: a quarter of a nanosecond, and the product fits
            fraction = fraction >> (shift - 32)
        ns = (ticks >> shift) * _NANOSECONDS + (fraction * _NANOSECONDS >> min(shift, 32))
    elif interfaces[base + at.DIVISOR] > 1:
        ns = ticks // interfaces[base + at.DIVISOR]
    else:
        ns = ticks * interfaces[base + at.MULTIPLIER]
    return ns + interfaces[base + at.OFFSET_NS]


@inline
def packet_fields(arena, state, interfaces, kind, position, total):
    """(header bytes, interface, captured, original, stamp) of the packet block at position.

    The header is 0 where the block is too short for its type.  Interface -1 is one that was not
    described; its number in the section then takes the place of the captured length.
    """
    swapped = state[at.SWAPPED]
    if total < (16 if kind == SIMPLE_PACKET else 32):
        return 0, 0, 0, 0, 0
    if kind == SIMPLE_PACKET:
        interface = state[at.SECTION]
    elif kind == ENHANCED_PACKET:
        interface = state[at.SECTION] + field32(arena, position + 8, swapped)
    else:
        interface = state[at.SECTION] + field16(arena, position + 8, swapped)
    if interface >= state[at.KNOWN]:
        return 28, -1, interface - state[at.SECTION], 0, 0
    base = interface * at.INTERFACE_WORDS
    if kind == SIMPLE_PACKET:
        original = field32(arena, position + 8, swapped)
        snaplen = interfaces[base + at.SNAPLEN]
        length = min(original, snaplen) if snaplen else original
        return 12, interface, min(length, total - 16), original, 0
    ticks = field32(arena, position + 12, swapped) << 32 | field32(arena, position + 16, swapped)
    length, original = field32(arena, position + 20, swapped), field32(arena, position + 24, swapped)
    return 28, interface, length, original, to_ns(interfaces, base, ticks)


@inline
def block_is_whole(arena, state, kind, position, total):
    """Check the block's length fields; False, with STOP set, if the block cannot be used as it stands."""
    swapped, following = state[at.SWAPPED], position + total
    packet = kind == ENHANCED_PACKET or kind == SIMPLE_PACKET or kind == OBSOLETE_PACKET
    if total < 12 or total & 3 or (packet and total > at.MAX_BLOCK):
        at.fail(state, at.BLOCK_LENGTH, position, total, 0)
    elif following > state[at.END]:
        at.cut(state, at.CUT_PACKET, position, total)
    elif field32(arena, following - 4, swapped) != total:
        at.fail(state, at.TRAILER, position, total, field32(arena, following - 4, swapped))
    else:
        return True
    return False


@inline
def mixes(state, interfaces, interface):
    """Whether the interface's packets may follow in the row: the caller allows it and the link type is the same."""
    there = state[at.INTERFACE] * at.INTERFACE_WORDS + at.LINKTYPE
    return state[at.MIXED] and interfaces[there] == interfaces[interface * at.INTERFACE_WORDS + at.LINKTYPE]


@inline
def scan_pcapng(arena, state, interfaces, address, captured, original, stamp, limit):
    position, swapped = state[at.POSITION], state[at.SWAPPED]
    state[at.STOP] = at.FULL
    n = 0
    while n < limit:
        if position + 12 > state[at.END]:
            at.cut(state, at.CUT_HEADER, position, 12)
            break
        kind = field32(arena, position, swapped)
        if kind == SECTION_HEADER or kind == INTERFACE_DESCRIPTION:
            state[at.STOP] = at.DESCRIPTION
            break
        total = field32(arena, position + 4, swapped)
        if not block_is_whole(arena, state, kind, position, total):
            break
        for line in range(position, position + total, 64):
            prefetch(arena, line + at.AHEAD)
        if kind == ENHANCED_PACKET or kind == SIMPLE_PACKET or kind == OBSOLETE_PACKET:
            header, interface, length, wire, ns = packet_fields(arena, state, interfaces, kind, position, total)
            if header == 0:
                at.fail(state, at.BLOCK_LENGTH, position, total, 0)
                break
            if interface < 0:
                at.fail(state, at.NO_INTERFACE, position, length, 0)
                break
            if length > interfaces[interface * at.INTERFACE_WORDS + at.LARGEST]:
                at.fail(state, at.ABSURD_LENGTH, position, length, interfaces[interface * at.INTERFACE_WORDS])
                break
            if header + length + 4 > total:
                at.fail(state, at.PACKET_IN_BLOCK, position, length, total)
                break
            if n and interface != state[at.INTERFACE] and not mixes(state, interfaces, interface):
                state[at.STOP] = at.OTHER_INTERFACE
                break
            state[at.INTERFACE] = interface
            address[n] = position + header
            captured[n] = np.uint32(length)
            original[n] = np.uint32(wire)
            stamp[n] = ns
            n += 1
        position += total
    state[at.POSITION] = position
    return n
