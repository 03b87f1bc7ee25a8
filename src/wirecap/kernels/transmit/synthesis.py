"""Packets made from nothing: which flow and which size each one has, and its bytes.

Draws are a function of the seed and the packet's number alone (splitmix64: Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", 2014), so that every machine and every batch size gives the same packets.
"""

from __future__ import annotations

import numpy as np

from wirecap.kernels.base.jit import PURE, inline, kernel
from wirecap.kernels.base.kinds import byte_array, byte_table, fractions, i64, lengths, none, table, u64, words
from wirecap.kernels.base.unaligned import copy

# words of a flow's template
NETWORK, TRANSPORT, NETWORK_SUM, TRANSPORT_SUM, VERSION = range(5)
FLOW_WORDS = 5
TEMPLATE_BYTES = 80
UDP_BYTES = 8
NUMBER_BYTES = 8

_GAMMA, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


if PURE:

    def draw(key, place):
        most = (1 << 64) - 1
        z = (int(key) + int(place) * _GAMMA) & most
        z = ((z ^ z >> 30) * _FIRST) & most
        z = ((z ^ z >> 27) * _SECOND) & most
        return ((z ^ z >> 31) >> 11) / 9007199254740992.0

else:

    @inline
    def draw(key, place):
        """A number in [0, 1): number ``place`` of the stream ``key``."""
        z = u64(key) + u64(place) * u64(_GAMMA)
        z = (z ^ (z >> u64(30))) * u64(_FIRST)
        z = (z ^ (z >> u64(27))) * u64(_SECOND)
        z = z ^ (z >> u64(31))
        return np.float64(z >> u64(11)) / 9007199254740992.0


@inline
def pick(edges, value):
    """The first entry whose edge is above value."""
    low, high = 0, edges.size - 1
    while low < high:
        middle = (low + high) >> 1
        if edges[middle] > value:
            high = middle
        else:
            low = middle + 1
    return low


@kernel(none(i64, i64, i64, fractions, fractions, words, words, lengths))
def draw_packets(key, first, n, flow_edges, size_edges, sizes, flow, length):
    """Flow and length of packets first to first + n - 1.

    flow_edges, size_edges: cumulative shares, float64, the last 1; sizes: int64, bytes; flow: int64 (n,); length:
    uint32 (n,).
    """
    for i in range(n):
        flow[i] = pick(flow_edges, draw(key, 2 * (first + i)))
        length[i] = np.uint32(sizes[pick(size_edges, draw(key, 2 * (first + i) + 1))])


@inline
def put16(arena, at, value):
    arena[at] = np.uint8((value >> 8) & 0xFF)
    arena[at + 1] = np.uint8(value & 0xFF)


@inline
def folded(total):
    """The Internet checksum (RFC 1071) of a sum of 16-bit words."""
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


@inline
def seal(arena, start, length, facts, number):
    """Lengths, checksums and the packet's number, where there is room for it."""
    network, transport = start + facts[NETWORK], start + facts[TRANSPORT]
    segment = length - facts[TRANSPORT]
    total = facts[TRANSPORT_SUM] + 2 * segment  # once in the pseudo-header, once in the UDP header
    if segment >= UDP_BYTES + NUMBER_BYTES:
        for k in range(4):
            part = (number >> (48 - 16 * k)) & 0xFFFF
            put16(arena, transport + UDP_BYTES + 2 * k, part)
            total += part
    put16(arena, transport + 4, segment)
    if facts[VERSION] == 4:
        put16(arena, network + 2, length - facts[NETWORK])
        put16(arena, network + 10, folded(facts[NETWORK_SUM] + length - facts[NETWORK]))
    else:
        put16(arena, network + 4, segment)
    checksum = folded(total)
    put16(arena, transport + 6, checksum if checksum else 0xFFFF)  # RFC 768: 0 means that there is none


@kernel(none(byte_array, words, lengths, words, i64, i64, byte_table, table))
def build(arena, address, length, flow, first, n, headers, facts):
    """Write n UDP packets, numbered from ``first``, one after the other; address[i] gets where each begins.

    arena: uint8, the sum of the lengths; headers: uint8 (flows, TEMPLATE_BYTES), each flow's headers with lengths and
    checksums 0; facts: int64 (flows, FLOW_WORDS): where the headers begin, sums of their words.  The payload is the
    packet's number, 8 bytes in network order, and zeros.
    """
    at = 0
    for i in range(n):
        size, f = i64(length[i]), flow[i]
        behind = facts[f, TRANSPORT] + UDP_BYTES
        row = headers[f]
        copy(arena, at, row, 0, behind)
        for k in range(at + behind, at + size):
            arena[k] = 0
        seal(arena, at, size, facts[f], first + i)
        address[i] = at
        at += size
