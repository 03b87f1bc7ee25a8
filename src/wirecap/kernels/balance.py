"""Which flow a packet belongs to, as a number that is the same for both directions."""

from __future__ import annotations

import numpy as np
from numba import types

from wirecap.kernels.atomics import load, store
from wirecap.kernels.jit import PURE, i64, inline, kernel, octets, words
from wirecap.kernels.packet import (
    ETHERNET,
    FAMILY,
    FAMILY_MASK,
    IP,
    IP6,
    NETWORK,
    NETWORK_MASK,
    PROTOCOL,
    PROTOCOL_MASK,
    TRANSPORT_MASK,
    at,
    load8,
    load16,
    load32,
)

BY_FLOW, BY_HOST = range(2)

_TCP, _UDP, _DCCP, _SCTP, _UDP_LITE = 6, 17, 33, 132, 136  # IANA's protocol numbers
_FRAGMENT, _OFFSET = 0x3FFF, 0x1FFF  # more fragments, and the offset (RFC 791)
_FRAGMENT6, _OFFSET6 = 44, 0xFFF8  # the fragment header, and its offset (RFC 8200)

HASH_BITS = 31
HASH_MASK = (1 << HASH_BITS) - 1
_HALF = 0xFFFFFFFF
FRAGMENTS = 8192  # datagrams in fragments that are remembered; a power of two


@inline
def mix(x):
    """Every bit of a word into every other: the finalizer of MurmurHash3 (A. Appleby, public domain), on 63 bits."""
    x = (x ^ (x >> 33 & 0x7FFFFFFF)) * i64(-49064778989728563)
    x = (x ^ (x >> 33 & 0x7FFFFFFF)) * i64(-4265267296055464877)
    return (x ^ (x >> 33 & 0x7FFFFFFF)) & 0x7FFFFFFFFFFFFFFF


@inline
def both(a, b):
    """The same for (a, b) and (b, a), and different for most other pairs."""
    return mix(a + b) ^ mix(a ^ b ^ 0x5555555555555555)


@inline
def address6(packet, offset):
    """An IPv6 address as one word."""
    high = load32(packet, offset) << 32 ^ load32(packet, offset + 4)
    return mix(high) ^ load32(packet, offset + 8) << 32 ^ load32(packet, offset + 12)


@inline
def key_of(a, b, id, protocol):
    """A fragmented datagram: where it comes from, where it goes to, its number."""
    return mix(mix(a) ^ b << 16 ^ b) ^ mix(id << 8 ^ protocol)


@inline
def remember(fragments, key, hashed):
    """The first fragment of a datagram has the ports: what the others shall get."""
    store(fragments, key & (fragments.size - 1), (key >> 24 & _HALF) << HASH_BITS | hashed)


@inline
def recall(fragments, key):
    """What the first fragment got, or -1."""
    entry = load(fragments, key & (fragments.size - 1))
    return entry & HASH_MASK if entry and entry >> HASH_BITS == key >> 24 & _HALF else -1


@inline
def ports_of(packet, protocol, transport):
    """The same for both directions; 0 for what has no ports."""
    if transport and (
        protocol == _TCP or protocol == _UDP or protocol == _SCTP or protocol == _DCCP or protocol == _UDP_LITE
    ):
        return both(load16(packet, transport) + 1, load16(packet, transport + 2) + 1)
    return 0


@inline
def flow_hash(arena, address, captured, hosts_only, fragments):
    """A number of HASH_BITS bits, the same in both directions of a flow.

    It is of the addresses, the protocol, and of TCP, UDP, SCTP, DCCP and UDP-Lite the ports; ``hosts_only``: of
    the addresses.  Fragments get what the first one of their datagram got; where that has not been seen, there are
    no ports.  What is not IP counts by its MAC addresses.  fragments: int64, a power of two of words, all 0 at first;
    threads may share it.
    """
    packet = at(arena, address, captured, captured, 0, ETHERNET)
    headers = packet._headers
    network = headers >> NETWORK & NETWORK_MASK
    family = headers >> FAMILY & FAMILY_MASK
    protocol = headers >> PROTOCOL & PROTOCOL_MASK
    transport = headers & TRANSPORT_MASK
    key = offset = 0
    if family == IP:
        src, dst = load32(packet, network + 12), load32(packet, network + 16)
        if load16(packet, network + 6) & _FRAGMENT:
            offset = load16(packet, network + 6) & _OFFSET
            key = key_of(src, dst, load16(packet, network + 4), protocol)
    elif family == IP6:
        src, dst = address6(packet, network + 8), address6(packet, network + 24)
        if load8(packet, network + 6) == _FRAGMENT6 and network + 48 <= captured:
            offset = load16(packet, network + 42) & _OFFSET6
            key = key_of(src, dst, load32(packet, network + 44), protocol)
    elif captured >= 14:
        src = load32(packet, 0) << 16 ^ load16(packet, 4)
        dst = load32(packet, 6) << 16 ^ load16(packet, 10)
        protocol = 0
    else:
        return 0
    hashed = both(src, dst)
    if hosts_only:
        return hashed & HASH_MASK
    if offset:
        known = recall(fragments, key)
        if known >= 0:
            return known
        transport = 0
    hashed = mix(hashed ^ ports_of(packet, protocol, transport) ^ protocol << 48) & HASH_MASK
    if key and not offset:
        remember(fragments, key, hashed)
    return hashed


if PURE:  # words wrap silently there too
    flow_hash = np.errstate(over="ignore")(flow_hash)


@kernel(i64(octets, i64, i64, types.boolean, words))
def hash_of(arena, address, captured, hosts_only, fragments):
    """``flow_hash`` for callers in Python."""
    return flow_hash(arena, address, captured, hosts_only, fragments)
