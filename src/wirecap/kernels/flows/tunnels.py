"""What a tunnel carries: IP in IP, GRE, VXLAN, GENEVE and GTP-U, as far as the bytes were captured."""

from __future__ import annotations

from wirecap.kernels.base.jit import inline
from wirecap.kernels.flows.keys import put_key
from wirecap.kernels.packet import headers as p
from wirecap.kernels.packet.headers import at as packet_at
from wirecap.kernels.packet.headers import load8, load16

DEEPEST = 4
"""Tunnels in tunnels."""
_BRIDGED = 0x6558
_VXLAN, _GENEVE, _GTP = 4789, 6081, 2152
_MOST_EXTENSIONS = 8
LINK_BITS = 16


@inline
def _of_type(kind, offset):
    """offset << LINK_BITS | how it begins, for an EtherType; 0: no packet that is looked into."""
    if kind == p.IPV4 or kind == p.IPV6:
        return offset << LINK_BITS | p.RAW_IP
    return offset << LINK_BITS | p.ETHERNET if kind == _BRIDGED else 0


@inline
def _in_gre(packet, offset):
    """RFC 2784 and 2890: a checksum, a key and a number may follow the first four bytes."""
    flags = load16(packet, offset)
    if flags & 0x4007:  # routing, which RFC 2784 left out, or another version
        return 0
    size = 4 + 4 * ((flags >> 15 & 1) + (flags >> 13 & 1) + (flags >> 12 & 1))
    return _of_type(load16(packet, offset + 2), offset + size)


@inline
def _in_gtp(packet, offset, captured):
    """3GPP TS 29.281: a G-PDU of version 1, with its optional fields and extension headers."""
    flags = load8(packet, offset)
    if flags >> 4 != 3 or load8(packet, offset + 1) != 0xFF:
        return 0
    if not flags & 7:
        return (offset + 8) << LINK_BITS | p.RAW_IP
    end = offset + 12
    if end > captured:
        return 0
    following = load8(packet, end - 1) if flags & 4 else 0
    for _ in range(_MOST_EXTENSIONS):
        if following == 0:
            return end << LINK_BITS | p.RAW_IP
        if end >= captured:
            return 0
        size = 4 * load8(packet, end)
        end += size
        if size == 0 or end > captured:
            return 0
        following = load8(packet, end - 1)
    return 0


@inline
def inner_of(packet):
    """offset << LINK_BITS | how it begins (ETHERNET, RAW_IP) of what a packet carries in a tunnel; 0: nothing."""
    headers, captured = packet._headers, packet._captured
    transport, number = headers & p.TRANSPORT_MASK, headers >> p.PROTOCOL & p.PROTOCOL_MASK
    if transport == 0:
        return 0
    if number == 4 or number == 41:
        return transport << LINK_BITS | p.RAW_IP
    if number == 47:
        return _in_gre(packet, transport)
    body = transport + 8
    if number != 17 or body + 8 > captured:
        return 0
    port = load16(packet, transport + 2)
    if port == _VXLAN and load8(packet, body) & 8:
        return (body + 8) << LINK_BITS | p.ETHERNET
    if port == _GENEVE and load8(packet, body) >> 6 == 0:
        return _of_type(load16(packet, body + 2), body + 8 + 4 * (load8(packet, body) & 0x3F))
    if port == _GTP:
        return _in_gtp(packet, body, captured)
    return 0


@inline
def put_innermost_key(arena, address, captured, original, link, keys, at):
    """``put_key`` of the innermost packet that has a flow; of the packet itself if none inside has."""
    packet = packet_at(arena, address, captured, 0, 0, link)
    why = put_key(packet, link, original, keys, at)
    begun = 0
    for _ in range(DEEPEST):
        step = inner_of(packet)
        begun += step >> LINK_BITS
        if step == 0 or begun >= captured:
            return why
        link = step & (1 << LINK_BITS) - 1
        packet = packet_at(arena, address + begun, captured - begun, 0, 0, link)
        if put_key(packet, link, original - begun, keys, at):
            return why
        why = 0
    return why
