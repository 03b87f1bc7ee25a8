"""The receive queue that a pcapng file has for a packet: option epb_queue of its enhanced packet block.

Source: draft-ietf-opsawg-pcapng, "Enhanced Packet Block".
"""

from __future__ import annotations

from numba import types

from wirecap.kernels.jit import i64, inline, kernel, lengths, octets, words
from wirecap.kernels.unaligned import field16, field32

_BLOCK_HEADER, _PACKET_BLOCK, _QUEUE_OPTION = 28, 6, 6


@inline
def queue_option(arena, start, captured, swapped):
    """The option's value for the packet at ``start``; -1 where there is none, or no such block around it."""
    block = start - _BLOCK_HEADER
    if block < 0 or field32(arena, block, swapped) != _PACKET_BLOCK or field32(arena, start - 8, swapped) != captured:
        return -1
    end = block + field32(arena, block + 4, swapped) - 4
    at = start + ((captured + 3) & ~3)
    if end > arena.size - 4 or field32(arena, end, swapped) != end - block + 4:
        return -1
    while at + 8 <= end:
        code, size = field16(arena, at, swapped), field16(arena, at + 2, swapped)
        if code == _QUEUE_OPTION and size == 4:
            return field32(arena, at + 4, swapped)
        if code == 0:
            break
        at += 4 + ((size + 3) & ~3)
    return -1


@kernel(types.void(octets, words, lengths, i64, i64, i64, i64, words))
def recorded_queues(arena, address, captured, n, swapped, otherwise, queues, chosen):
    """chosen[i]: the queue of packet i's block, ``otherwise`` where it has none; modulo ``queues``.

    arena: uint8, a pcapng file's bytes; address: int64 (n,); captured: uint32 (n,); swapped: 1 for a big-endian
    section; chosen: int64 (n,).
    """
    for i in range(n):
        queue = queue_option(arena, address[i], i64(captured[i]), swapped)
        chosen[i] = (queue if queue >= 0 else otherwise) % queues
