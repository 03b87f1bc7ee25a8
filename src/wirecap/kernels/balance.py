"""Which flow a packet belongs to, as a number that is the same for both directions."""

from __future__ import annotations

from numba import types

from wirecap.kernels.jit import i64, inline, kernel, octets
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
_FRAGMENT = 0x3FFF  # more fragments, and the offset (RFC 791)
_FRAGMENT6 = 44  # the fragment header (RFC 8200)


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
def flow_hash(arena, address, captured, hosts_only):
    """A number of 63 bits: of the addresses, the protocol, and of TCP, UDP, SCTP, DCCP and UDP-Lite the ports.

    It is the same in both directions.  Fragments have no ports, and so only the addresses and the protocol count;
    so it is for all packets with ``hosts_only``, without the protocol.  What is not IP counts by its MAC addresses.
    """
    packet = at(arena, address, captured, captured, 0, ETHERNET)
    headers = packet._headers
    network = headers >> NETWORK & NETWORK_MASK
    family = headers >> FAMILY & FAMILY_MASK
    protocol = headers >> PROTOCOL & PROTOCOL_MASK
    transport = headers & TRANSPORT_MASK
    if family == IP:
        hosts = both(load32(packet, network + 12), load32(packet, network + 16))
        if load16(packet, network + 6) & _FRAGMENT:
            transport = 0
    elif family == IP6:
        hosts = both(address6(packet, network + 8), address6(packet, network + 24))
        if load8(packet, network + 6) == _FRAGMENT6:
            transport = 0
    elif captured >= 14:
        return both(load32(packet, 0) << 16 ^ load16(packet, 4), load32(packet, 6) << 16 ^ load16(packet, 10))
    else:
        return 0
    if hosts_only:
        return hosts
    if transport and (
        protocol == _TCP or protocol == _UDP or protocol == _SCTP or protocol == _DCCP or protocol == _UDP_LITE
    ):
        hosts ^= both(load16(packet, transport) + 1, load16(packet, transport + 2) + 1)
    return mix(hosts ^ protocol << 48)


@kernel(types.int64(octets, i64, i64, types.boolean))
def hash_of(arena, address, captured, hosts_only):
    """``flow_hash`` for callers in Python."""
    return flow_hash(arena, address, captured, hosts_only)
