"""Replaces the addresses in packets, and mends the checksums that cover them.

Two passes over a buffer: the first only collects addresses that were not met before, so that Python can work out what
they become; the second replaces.  Checksums are updated by the difference (RFC 1624), so that a wrong one stays wrong,
and a packet that was cut needs no more bytes than it has.
"""

from __future__ import annotations

import numpy as np

from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, i64, words
from wirecap.kernels.base.unaligned import store32, swap32
from wirecap.kernels.convert.addresses import (
    ADDRESSES,
    IPV4,
    IPV6,
    MAC,
    NEW_HIGH,
    NEW_LOW,
    number_of,
    word32,
    word48,
    word64,
)
from wirecap.kernels.convert.order import ROWS
from wirecap.kernels.packet.headers import (
    ARPS,
    ETHER,
    ETHERNET,
    FAMILY,
    FAMILY_MASK,
    IP,
    IP6,
    LINUX_SLL,
    LINUX_SLL2,
    NETWORK,
    NETWORK_MASK,
    NO_NETWORK,
    PROTOCOL,
    PROTOCOL_MASK,
    RAW_IP,
    TAGS,
    TRANSPORT_MASK,
    at,
    link_layer,
    load8,
    load16,
    load32,
)

MOST_ADDRESSES = 64
"""In one packet: a table must have room for so many more."""
LEVELS = 4
"""How deep packets lie in packets: tunnels, and what ICMP errors quote."""
SCRATCH = 2 * LEVELS

_ICMP, _IPIP, _TCP, _UDP, _SIX_IN_FOUR, _DCCP, _GRE, _ICMP6, _UDP_LITE = 1, 4, 6, 17, 41, 33, 47, 58, 136
_TEREDO_PORT, _GTP_PORT, _VXLAN_PORT, _GENEVE_PORT = 3544, 2152, 4789, 6081
_IPV4, _IPV6 = 0x0800, 0x86DD
_PPPOE, _MPLS, _MPLS_MANY = 0x8864, 0x8847, 0x8848
_ALL_ONES = 0xFFFFFFFFFFFF


@inline
def sum16(out, position, count):
    """The sum of the 16-bit words in ``count`` bytes."""
    total = i64(0)
    for k in range(position, position + count, 2):
        total += i64(out[k]) << 8 | i64(out[k + 1])
    return total


@inline
def put48(out, position, value):
    for k in range(6):
        out[position + k] = np.uint8(value >> (40 - 8 * k) & 0xFF)


@inline
def visit(out, position, kind, addresses, replace):
    """Collect the address at out[position:], or replace it; how much the sum of its 16-bit words changed."""
    high, low, size = i64(0), i64(0), 4
    if kind == IPV4:
        low = word32(out, position)
    elif kind == MAC:
        low, size = word48(out, position), 6
        if low == _ALL_ONES or low == 0:
            return 0
    else:
        high, low, size = word64(out, position), word64(out, position + 8), 16
    number = number_of(addresses, kind, high, low)
    if not replace:
        return 0
    before = sum16(out, position, size)
    new_low = addresses.entries[number, NEW_LOW]
    if kind == IPV4:
        store32(out, position, swap32(new_low))
    elif kind == MAC:
        put48(out, position, new_low)
    else:
        new_high = addresses.entries[number, NEW_HIGH]
        store32(out, position, swap32(new_high >> 32 & 0xFFFFFFFF))
        store32(out, position + 4, swap32(new_high & 0xFFFFFFFF))
        store32(out, position + 8, swap32(new_low >> 32 & 0xFFFFFFFF))
        store32(out, position + 12, swap32(new_low & 0xFFFFFFFF))
    return sum16(out, position, size) - before


@inline
def mend(out, position, change, is_udp):
    """Update the checksum at out[position:] for words whose sum changed so much; how much it changed itself.

    RFC 1624, equation 3; UDP writes a checksum of 0 as 0xFFFF (RFC 768).
    """
    if change == 0:
        return 0
    before = i64(out[position]) << 8 | i64(out[position + 1])
    rest = (0xFFFF - before + change) % 0xFFFF
    after = 0xFFFF - rest if rest else 0
    if is_udp and after == 0:
        after = 0xFFFF
    out[position], out[position + 1] = np.uint8(after >> 8), np.uint8(after & 0xFF)
    return after - before


@inline
def checksum_of(packet, protocol, transport, captured, family):
    """Where the checksum is that covers a transport protocol's pseudo-header, 0 if there is none."""
    offset = 0
    if protocol == _TCP:
        offset = 16
    elif protocol == _UDP or protocol == _UDP_LITE or protocol == _DCCP:
        offset = 6
    elif protocol == _ICMP6 and family == IP6:
        offset = 2
    if not offset or not transport or transport + offset + 2 > captured:
        return 0
    if protocol == _UDP and load16(packet, transport + offset) == 0:
        return 0
    return transport + offset


@inline
def neighbours(packet, out, base, transport, captured, addresses, replace):
    """The addresses in neighbour discovery (RFC 4861); how much the sum changed."""
    kind = load8(packet, transport)
    change, option = 0, transport + 8
    if kind == 134:
        option = transport + 16
    elif kind == 135 or kind == 136 or kind == 137:
        option = transport + (40 if kind == 137 else 24)
        for target in range(transport + 8, option, 16):
            if target + 16 <= captured:
                change += visit(out, base + target, IPV6, addresses, replace)
    for _ in range(8):
        if option + 8 > captured:
            break
        what, size = load8(packet, option), 8 * load8(packet, option + 1)
        if size == 0:
            break
        if (what == 1 or what == 2) and size == 8:
            change += visit(out, base + option + 2, MAC, addresses, replace)
        elif what == 3 and option + 32 <= captured:
            change += visit(out, base + option + 16, IPV6, addresses, replace)
        option += size
    return change


@inline
def inner_of(packet, protocol, transport, captured, family):
    """A packet within: (its offset or 0, its link type, the offset of the checksum that covers it or 0)."""
    kind = load8(packet, transport)
    if protocol == _ICMP and family == IP:
        if kind == 3 or kind == 4 or kind == 5 or kind == 11 or kind == 12:
            return transport + 8, RAW_IP, transport + 2
    elif protocol == _ICMP6 and family == IP6:
        if 1 <= kind <= 4:
            return transport + 8, RAW_IP, transport + 2
    elif protocol == _IPIP or protocol == _SIX_IN_FOUR:
        return transport, RAW_IP, 0
    elif protocol == _GRE:
        flags, payload = load16(packet, transport), load16(packet, transport + 2)
        offset = transport + 4 + 4 * (flags >> 15 & 1) + 4 * (flags >> 13 & 1) + 4 * (flags >> 12 & 1)
        covered = transport + 4 if flags >> 15 & 1 else 0
        if payload == 0x0800 or payload == 0x86DD:
            return offset, RAW_IP, covered
        if payload == 0x6558:
            return offset, ETHERNET, covered
    elif protocol == _UDP:
        covered = transport + 6 if load16(packet, transport + 6) else 0
        one, other = load16(packet, transport), load16(packet, transport + 2)
        if one == _VXLAN_PORT or other == _VXLAN_PORT:
            return transport + 16, ETHERNET, covered
        if (one == _GENEVE_PORT or other == _GENEVE_PORT) and transport + 12 <= captured:  # RFC 8926
            offset = transport + 16 + 4 * (load8(packet, transport + 8) & 0x3F)
            return offset, ETHERNET if load16(packet, transport + 10) == 0x6558 else RAW_IP, covered
        if one == _GTP_PORT or other == _GTP_PORT:
            return in_gtp(packet, transport + 8, captured), RAW_IP, covered
        if one == _TEREDO_PORT or other == _TEREDO_PORT:
            return transport + 8, RAW_IP, covered
    return 0, RAW_IP, 0


@inline
def in_gtp(packet, start, captured):
    """Where the packet in a GTP-U message begins (3GPP TS 29.281); 0 if there is none."""
    if start + 12 > captured:
        return 0
    flags, kind = load8(packet, start), load8(packet, start + 1)
    if flags >> 5 != 1 or kind != 0xFF:
        return 0
    offset = start + 8
    if flags & 7:
        offset += 4
        following = load8(packet, start + 11) if flags & 4 else 0
        for _ in range(LEVELS):
            if following == 0 or offset >= captured:
                break
            offset += 4 * load8(packet, offset)
            following = load8(packet, offset - 1) if start + 12 < offset <= captured else 0
    return offset


@inline
def network_of(packet, link, captured):
    """(EtherType, offset) of what the link layer carries behind all its tags, (0, 0) where that was not captured."""
    _, _, kind, offset = link_layer(packet, link)
    while (kind == TAGS[0] or kind == TAGS[1] or kind == TAGS[2]) and offset + 4 <= captured:
        kind = load16(packet, offset + 2)
        offset += 4
    return kind, offset


@inline
def broken_header(packet, out, base, kind, offset, captured, addresses, replace):
    """The addresses in an IP header that is cut, or whose length is wrong: (how much the sum changed, if it is one)."""
    if (kind == _IPV4 or kind == _IPV6) and offset < captured:  # the version is what others look at
        version = load8(packet, offset) >> 4
        kind = _IPV4 if version == 4 else _IPV6 if version == 6 else kind
    if kind == _IPV4 and offset + 16 <= captured:
        change = visit(out, base + offset + 12, IPV4, addresses, replace)
        if offset + 20 <= captured:
            change += visit(out, base + offset + 16, IPV4, addresses, replace)
        return change + mend(out, base + offset + 10, change, False), True
    if kind == _IPV6 and offset + 24 <= captured:
        change = visit(out, base + offset + 8, IPV6, addresses, replace)
        if offset + 40 <= captured:
            change += visit(out, base + offset + 24, IPV6, addresses, replace)
        return change, True
    return 0, False


@inline
def behind_link(packet, kind, offset, captured):
    """Where an IP packet begins behind PPPoE or MPLS labels; 0 if there is none."""
    if kind == _PPPOE and offset + 8 < captured:  # RFC 2516, and PPP's numbers of IPv4 and IPv6
        inside = load16(packet, offset + 6)
        return offset + 8 if inside == 0x0021 or inside == 0x0057 else 0
    if kind == _MPLS or kind == _MPLS_MANY:  # RFC 3032
        while offset + 4 < captured:
            bottom = load8(packet, offset + 2) & 1
            offset += 4
            if bottom:
                return offset
    return 0


@inline
def link_addresses(packet, out, base, captured, link, addresses, replace):
    """The MAC addresses of the link layer; how much the sum changed, which only matters in a tunnel."""
    change = 0
    if packet._headers & ETHER:
        change = visit(out, base, MAC, addresses, replace) + visit(out, base + 6, MAC, addresses, replace)
    elif link == LINUX_SLL and captured >= 16 and load16(packet, 4) == 6:
        change = visit(out, base + 6, MAC, addresses, replace)
    elif link == LINUX_SLL2 and captured >= 20 and load8(packet, 11) == 6:
        change = visit(out, base + 12, MAC, addresses, replace)
    return change


@inline
def arp_addresses(packet, out, base, network, addresses, replace):
    if load32(packet, network) != 0x00010800 or load16(packet, network + 4) != 0x0604:
        return 0
    start = base + network
    change = visit(out, start + 8, MAC, addresses, replace) + visit(out, start + 14, IPV4, addresses, replace)
    change += visit(out, start + 18, MAC, addresses, replace)
    return change + visit(out, start + 24, IPV4, addresses, replace)


@inline
def walk(out, start, captured, link, addresses, replace, scratch):
    """All addresses of one packet; False if it has no network header that is known."""
    base, length, depth, known = start, captured, 0, True
    covers, changes = scratch[:LEVELS], scratch[LEVELS:]
    covers[0] = 0
    while True:
        packet = at(out, base, length, length, 0, link)
        word = packet._headers
        network, family = word >> NETWORK & NETWORK_MASK, word >> FAMILY & FAMILY_MASK
        protocol, transport = word >> PROTOCOL & PROTOCOL_MASK, word & TRANSPORT_MASK
        change, following, cover = link_addresses(packet, out, base, length, link, addresses, replace), 0, 0
        if family == NO_NETWORK:
            kind, offset = network_of(packet, link, length)
            more, broken = broken_header(packet, out, base, kind, offset, length, addresses, replace)
            change += more
            following, link = behind_link(packet, kind, offset, length), RAW_IP
            known = known and (depth > 0 or following > 0 or broken)
        elif family == ARPS:
            change += arp_addresses(packet, out, base, network, addresses, replace)
        else:
            if family == IP:
                pseudo = visit(out, base + network + 12, IPV4, addresses, replace)
                pseudo += visit(out, base + network + 16, IPV4, addresses, replace)
                change += pseudo + mend(out, base + network + 10, pseudo, False)
            else:
                pseudo = visit(out, base + network + 8, IPV6, addresses, replace)
                pseudo += visit(out, base + network + 24, IPV6, addresses, replace)
                change += pseudo
            checksum = checksum_of(packet, protocol, transport, length, family)
            if transport:
                if protocol == _ICMP6 and family == IP6 and 133 <= load8(packet, transport) <= 137:
                    more = neighbours(packet, out, base, transport, length, addresses, replace)
                    pseudo += more
                    change += more
                following, link, cover = inner_of(packet, protocol, transport, length, family)
            if checksum:
                change += mend(out, base + checksum, pseudo, protocol == _UDP)
        changes[depth] = change
        depth += 1
        if not following or following >= length or depth == LEVELS:
            break
        covers[depth] = base + cover if cover and cover + 2 <= length else 0
        base, length = base + following, length - following
    if replace:
        inner = i64(0)
        for level in range(depth - 1, 0, -1):
            inner += changes[level]
            if covers[level]:
                inner += mend(out, covers[level], inner, True)
    return known


@kernel(i64(byte_array, ROWS, words, i64, i64, words, i64, ADDRESSES, i64, words))
def anonymise(out, rows, slots, first, n, links, snaplen, addresses, replace, scratch):
    """Go through the packets first to n of ``slots``, whose bytes are in ``out`` at rows.place.

    links: int64, for each row which header its packets have (packet/headers.py), -1 if none is known; replace: 0 to
    collect, 1 to replace.  Returns the packet at which the table of addresses had no room for another one's, n if it
    came to the end.  scratch: int64 (SCRATCH + 1,); the last word counts packets without a known network header.
    """
    size = rows.timestamp.shape[1]
    for j in range(first, n):
        if not replace and addresses.count[0] + MOST_ADDRESSES > addresses.entries.shape[0]:
            return j
        k, i = slots[j] // size, slots[j] % size
        known = False
        if links[k] >= 0:
            captured = min(i64(rows.captured[k, i]), snaplen)
            known = walk(out, rows.place[k, i], captured, links[k], addresses, replace, scratch[:SCRATCH])
        if replace and not known:
            scratch[SCRATCH] += 1
    return n
