"""Finishes the checksums of packets that a local stack left to its device (CHECKSUM_PARTIAL, linux/skbuff.h).

Such a stack sums the pseudo-header alone into the checksum field of TCP or UDP, and its device is to add the rest.  A
veth or a tap passes the packet on as it is, and AF_XDP does not say so.  But the field tells: it equals the sum of the
pseudo-header, which costs little to compare, and the packet's checksum is wrong.  Where both hold, the packet would be
dropped by any receiver, and is finished; whatever verifies is left alone.
"""

from __future__ import annotations

import numpy as np

from wirecap.kernels.base import unaligned
from wirecap.kernels.base.atomics import prefetch
from wirecap.kernels.base.jit import inline, inline_always
from wirecap.kernels.base.kinds import i64
from wirecap.kernels.packet.headers import (
    ETHERNET,
    FAMILY,
    FAMILY_MASK,
    IP,
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

TCP, UDP = 6, 17  # IANA's protocol numbers
TCP_FIELD, UDP_FIELD = 16, 6
TCP_BYTES, UDP_BYTES = 20, 8
IP6_BYTES = 40
FRAGMENT, FRAGMENT6 = 0x3FFF, 44  # more fragments or an offset (RFC 791); the fragment header (RFC 8200)
RIGHT = 0xFFFF  # the sum over a segment and its pseudo-header, checksum included (RFC 1071)
AHEAD = 8

IPV4_LE, IPV6_LE, TAG_LE, OUTER_TAG_LE = 0x0008, 0xDD86, 0x0081, 0xA888  # EtherTypes, as a little-endian load has them
QUICK_BYTES, QUICK_BYTES6 = 18 + 20 + 20, 18 + 40 + 20  # with these, all that ``is_finished`` looks at was captured


@inline
def fold(total):
    """A sum of up to 2**14 32-bit words as the ones' complement sum of their 16-bit halves; 0 only for 0."""
    total = (total & 0xFFFFFFFF) + (total >> 32)
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


@inline
def field_of(protocol, transport):
    """Where the checksum of TCP or UDP is; 0 for other protocols."""
    if protocol == TCP:
        return transport + TCP_FIELD
    return transport + UDP_FIELD if protocol == UDP else 0


@inline
def pseudo_header(packet, family, network, transport, protocol):
    """(the length of what comes behind the IP headers, in bytes; the words of the pseudo-header added up)."""
    if family == IP:
        length = load16(packet, network + 2) - (transport - network)
        return length, load32(packet, network + 12) + load32(packet, network + 16) + protocol + length
    length = load16(packet, network + 4) - (transport - network - IP6_BYTES)
    total = protocol + length
    for i in range(network + 8, network + IP6_BYTES, 4):
        total += load32(packet, i)
    return length, total


@inline
def is_fragment(packet, family, network, transport):
    """Whether the IP headers before ``transport`` say that more of the datagram is elsewhere."""
    if family == IP:
        return load16(packet, network + 6) & FRAGMENT != 0
    following, offset = load8(packet, network + 6), network + IP6_BYTES
    while offset < transport:
        if following == FRAGMENT6:
            return True
        length = load8(packet, offset + 1)
        length = 4 * (length + 2) if following == 51 else 8 * (length + 1)  # the authentication header's are words
        following, offset = load8(packet, offset), offset + length
    return False


@inline
def added_up(packet, begin, end):
    """The bytes from ``begin`` up to ``end`` as words; a last odd byte counts as if a zero followed."""
    total = i64(0)
    whole = begin + ((end - begin) & -4)
    for i in range(begin, whole, 4):
        total += load32(packet, i)
    if end - whole >= 2:
        total += load16(packet, whole)
    if (end - begin) & 1:
        total += load8(packet, end - 1) << 8
    return total


@inline
def complete(packet, family, network, transport, protocol, length, pseudo):
    """The checksum of a segment whose field holds only the sum of the pseudo-header; -1 where it is to be left."""
    end = transport + length
    if length < (TCP_BYTES if protocol == TCP else UDP_BYTES) or end > packet._captured:
        return -1
    if is_fragment(packet, family, network, transport):
        return -1
    if protocol == UDP and load16(packet, transport + 4) != length:
        return -1
    total = pseudo + added_up(packet, transport, end)
    if fold(total) == RIGHT:
        return -1
    checksum = RIGHT - fold(total - load16(packet, field_of(protocol, transport)))
    return RIGHT if checksum == 0 and protocol == UDP else checksum  # UDP's 0 says that there is none (RFC 768)


@inline
def finish(arena, address, captured):
    """Finish a packet's checksum if it is unfinished; whether it was."""
    packet = at(arena, address, captured, captured, 0, ETHERNET)
    headers = packet._headers
    network, transport = headers >> NETWORK & NETWORK_MASK, headers & TRANSPORT_MASK
    family, protocol = headers >> FAMILY & FAMILY_MASK, headers >> PROTOCOL & PROTOCOL_MASK
    field = field_of(protocol, transport)
    if transport == 0 or field == 0 or field + 2 > captured:
        return False
    length, pseudo = pseudo_header(packet, family, network, transport, protocol)
    if load16(packet, field) != fold(pseudo):
        return False
    checksum = complete(packet, family, network, transport, protocol, length, pseudo)
    if checksum < 0:
        return False
    arena[address + field] = np.uint8(checksum >> 8)
    arena[address + field + 1] = np.uint8(checksum & 0xFF)
    return True


@inline_always
def is_finished(arena, address, captured):
    """A quick look at everyday packets: True if the field is not the sum of the pseudo-header, False if it may be.

    It adds up little-endian words, whose sum is that of the big-endian ones with its bytes swapped (RFC 1071), and
    compares modulo 0xFFFF.
    """
    if captured < QUICK_BYTES:
        return False
    kind = unaligned.load16(arena, address + 12)
    if kind == TAG_LE or kind == OUTER_TAG_LE:
        address += 4
        kind = unaligned.load16(arena, address + 12)
    if kind == IPV4_LE and arena[address + 14] == 0x45:
        protocol = i64(arena[address + 23])
        transport = address + 34
        total = unaligned.load32(arena, address + 26) + unaligned.load32(arena, address + 30)
        total += unaligned.load16(arena, address + 16) + RIGHT - (20 << 8)
    elif kind == IPV6_LE and captured >= QUICK_BYTES6:
        protocol = i64(arena[address + 20])
        if protocol != TCP and protocol != UDP:
            return False  # an extension header, perhaps
        transport = address + 54
        total = unaligned.load16(arena, address + 18)
        for i in range(8):
            total += unaligned.load32(arena, address + 22 + 4 * i)
    else:
        return False
    if protocol == TCP:
        total += RIGHT + (TCP << 8) - unaligned.load16(arena, transport + TCP_FIELD)
    elif protocol == UDP:
        total += RIGHT + (UDP << 8) - unaligned.load16(arena, transport + UDP_FIELD)
    else:
        return True
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16) != RIGHT


@inline
def finish_all(arena, address, captured, n):
    """Finish the checksums of the first ``n`` packets of a chunk's rows; returns how many were unfinished."""
    count = 0
    for i in range(n):
        if i + AHEAD < n:
            prefetch(arena, address[i + AHEAD])
        if not is_finished(arena, address[i], i64(captured[i])) and finish(arena, address[i], i64(captured[i])):
            count += 1
    return count
