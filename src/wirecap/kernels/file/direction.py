"""Whether a recorded packet came in or went out: the direction in the epb_flags of its pcapng block."""

from __future__ import annotations

from wirecap.kernels.base.jit import inline
from wirecap.kernels.base.unaligned import field16, field32
from wirecap.kernels.file.read import block_of

_PACKET_BLOCK, _FLAGS, _HEADER = 6, 2, 28


@inline
def direction_of_block(arena, start, captured, swapped):
    """The direction bits of the epb_flags of the packet at ``start``; 0 where they are not there."""
    block, total, header = block_of(arena, start, captured, swapped)
    if header != _HEADER or field32(arena, block, swapped) != _PACKET_BLOCK:
        return 0
    place, end = start + ((captured + 3) & ~3), block + total - 4
    while place + 8 <= end:
        code, size = field16(arena, place, swapped), field16(arena, place + 2, swapped)
        if code == _FLAGS and size == 4:
            return field32(arena, place + 4, swapped) & 3
        if code == 0:
            break
        place += 4 + ((size + 3) & ~3)
    return 0


@inline
def direction_of_packet(arena, start, captured):
    """The same where the byte order is not known: the block's own type tells it, if all its lengths agree with it."""
    block = start - _HEADER
    if block < 0:
        return 0
    swapped = 0 if field32(arena, block, 0) == _PACKET_BLOCK else 1
    if field32(arena, block, swapped) != _PACKET_BLOCK or field32(arena, start - 8, swapped) != captured:
        return 0
    end = block + field32(arena, block + 4, swapped) - 4
    if end < start or end > arena.size - 4 or field32(arena, end, swapped) != end - block + 4:
        return 0
    return direction_of_block(arena, start, captured, swapped)
