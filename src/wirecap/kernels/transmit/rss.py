"""The receive queue that a NIC's RSS would choose: Toeplitz hash over addresses and ports, indirection table.

Source of the hash and of its input: Microsoft, "RSS hashing types" and "Verifying the RSS hash calculation".
The key's product with each byte value at each place of the input is a table, so that an byte costs one look-up.
"""

from __future__ import annotations

import numpy as np

from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, i64, lengths, none, words
from wirecap.kernels.base.unaligned import load16, swap16

INPUT_BYTES = 36
"""The longest input: two IPv6 addresses and two ports."""

_IPV4, _IPV6, _TAG, _OUTER_TAG = 0x0800, 0x86DD, 0x8100, 0x88A8
_TCP, _UDP, _SCTP = 6, 17, 132


@inline
def mix(arena, at, count, place, products):
    """The hash of ``count`` bytes that stand at ``place`` of the input."""
    value = np.uint32(0)
    for k in range(count):
        value ^= products[(place + k) * 256 + i64(arena[at + k])]
    return value


@inline
def ports_follow(arena, protocol, at, end):
    return (protocol == _TCP or protocol == _UDP or protocol == _SCTP) and at + 4 <= end


@inline
def rss_hash(arena, start, length, products):
    """The hash of a frame: addresses and, unless it is a fragment, ports of IPv4 and IPv6; 0 of anything else."""
    end = start + length
    at = start + 12
    for _ in range(2):
        if at + 2 > end:
            return np.uint32(0)
        kind = swap16(load16(arena, at))
        if kind != _TAG and kind != _OUTER_TAG:
            break
        at += 4
    if at + 2 > end:
        return np.uint32(0)
    kind = swap16(load16(arena, at))
    at += 2
    if kind == _IPV4 and at + 20 <= end:
        value = mix(arena, at + 12, 8, 0, products)
        payload = at + (i64(arena[at]) & 15) * 4
        fragment = swap16(load16(arena, at + 6)) & 0x3FFF
        if fragment == 0 and ports_follow(arena, arena[at + 9], payload, end):
            value ^= mix(arena, payload, 4, 8, products)
        return value
    if kind == _IPV6 and at + 40 <= end:
        value = mix(arena, at + 8, 32, 0, products)
        if ports_follow(arena, arena[at + 6], at + 40, end):
            value ^= mix(arena, at + 40, 4, 32, products)
        return value
    return np.uint32(0)


@kernel(none(byte_array, words, lengths, i64, lengths, words, words))
def rss_queues(arena, address, length, n, products, indirection, chosen):
    """chosen[i]: the entry of the indirection table that packet i's hash points at.

    arena: uint8; address: int64 (n,); length: uint32 (n,); products: uint32 (INPUT_BYTES * 256,); indirection:
    int64, a power of two of entries; chosen: int64 (n,).
    """
    mask = indirection.size - 1
    for i in range(n):
        value = rss_hash(arena, address[i], i64(length[i]), products)
        chosen[i] = indirection[i64(value) & mask]
