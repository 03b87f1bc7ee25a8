"""Which of two interfaces a recorded packet goes to: by its block's direction or interface, or by its flow.

Directions are those of pcapng's epb_flags and of cooked headers.  A flow's packets from its client go to one interface,
those from its server to the other; the client is who sent the first packet, or the SYN.  Fragments, of which only the
first has ports, are flows of their hosts; the client is that of the first flow between these.
"""

from __future__ import annotations

from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, i64, lengths, none, words
from wirecap.kernels.base.unaligned import field16, field32, load16, swap16
from wirecap.kernels.base.wrapping import plus, times
from wirecap.kernels.file.direction import direction_of_block
from wirecap.kernels.file.read import block_of
from wirecap.kernels.packet.headers import (
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
    load32,
)
from wirecap.kernels.packet.headers import load16 as field
from wirecap.kernels.transmit.convert import SLL, SLL2

FIRST, SECOND, UNDECIDED = 0, 1, -1

_PACKET_BLOCK, _INBOUND, _OUTBOUND = 6, 1, 2
_OUTGOING = 4  # PACKET_OUTGOING, linux/if_packet.h


@kernel(none(byte_array, words, lengths, i64, i64, i64, i64, words))
def by_direction(arena, address, captured, n, blocks, swapped, link, chosen):
    """chosen[i], int64: SECOND for an outgoing packet, FIRST for an incoming one, UNDECIDED where nothing says it.

    arena: uint8, the file's bytes; blocks: whether packets lie in pcapng's blocks, of a section that is big-endian if
    ``swapped``; link: the packets' LINKTYPE_.
    """
    for i in range(n):
        start, length = address[i], i64(captured[i])
        found = direction_of_block(arena, start, length, swapped) if blocks else 0
        chosen[i] = UNDECIDED
        if found == _INBOUND or found == _OUTBOUND:
            chosen[i] = SECOND if found == _OUTBOUND else FIRST
        elif link == SLL and length >= 16:
            chosen[i] = SECOND if swap16(load16(arena, start)) == _OUTGOING else FIRST
        elif link == SLL2 and length >= 20:
            chosen[i] = SECOND if arena[start + 10] == _OUTGOING else FIRST


@kernel(none(byte_array, words, lengths, i64, i64, words))
def by_interface(arena, address, captured, n, swapped, chosen):
    """chosen[i], int64: the number of the interface of packet i in its section of a pcapng file."""
    for i in range(n):
        block, _, header = block_of(arena, address[i], i64(captured[i]), swapped)
        if header != 28:
            chosen[i] = 0
        elif field32(arena, block, swapped) == _PACKET_BLOCK:
            chosen[i] = field32(arena, block + 8, swapped)
        else:
            chosen[i] = field16(arena, block + 8, swapped)


_TCP, _UDP, _SCTP, _DCCP, _UDP_LITE = 6, 17, 132, 33, 136
_SYN, _ACK = 2, 16
_FRAGMENT, _FRAGMENT6 = 0x3FFF, 44


@inline
def mix(x):
    """Every bit of a word into every other: the finalizer of MurmurHash3 (A. Appleby, public domain), on 63 bits."""
    x = times(x ^ (x >> 33 & 0x7FFFFFFF), -49064778989728563)
    x = times(x ^ (x >> 33 & 0x7FFFFFFF), -4265267296055464877)
    return (x ^ (x >> 33 & 0x7FFFFFFF)) & 0x7FFFFFFFFFFFFFFF


@inline
def address6(packet, offset):
    """An IPv6 address as one word."""
    high = mix(load32(packet, offset) << 31 ^ load32(packet, offset + 4))
    return mix(high ^ load32(packet, offset + 8) << 31 ^ load32(packet, offset + 12))


@inline
def hosts(packet):
    """(source, destination, protocol, whether it is a fragment) of an IP packet, hosts as words; 0 of any other."""
    headers = packet._headers
    network, family = headers >> NETWORK & NETWORK_MASK, headers >> FAMILY & FAMILY_MASK
    protocol = headers >> PROTOCOL & PROTOCOL_MASK
    if family == IP:
        source, destination = mix(load32(packet, network + 12) + 1), mix(load32(packet, network + 16) + 1)
        fragment = field(packet, network + 6) & _FRAGMENT != 0
    elif family == IP6:
        source, destination = address6(packet, network + 8), address6(packet, network + 24)
        fragment = load8(packet, network + 6) == _FRAGMENT6
        protocol = _FRAGMENT6 if fragment else protocol  # the later ones do not say more
    else:
        return i64(0), i64(0), i64(0), False
    return source, destination, i64(protocol), fragment


@inline
def ends(packet, source, destination, protocol):
    """(one end, other end, TCP's flags) of a packet that is no fragment: hosts with ports, where there are any."""
    transport, flags = packet._headers & TRANSPORT_MASK, i64(0)
    if transport:
        if protocol == _TCP or protocol == _UDP or protocol == _SCTP or protocol == _DCCP or protocol == _UDP_LITE:
            source = mix(plus(source, field(packet, transport) + 1))
            destination = mix(plus(destination, field(packet, transport + 2) + 1))
        if protocol == _TCP and transport + 14 <= packet._captured:
            flags = i64(load8(packet, transport + 13))
    return source, destination, flags


@inline
def entry_of(source, destination, protocol, from_client):
    """A flow's entry in the table, from one of its packets."""
    key = mix(plus(source, destination)) ^ mix(plus(source ^ destination, protocol))
    return key << 1 & 0x7FFFFFFFFFFFFFFE | 1 << 62 | i64((source > destination) == from_client)


@inline
def place_in(table, key):
    """Where a flow's entry is in the table, or the free place for it."""
    mask = table.size - 1
    place = key >> 1 & mask
    while table[place] and table[place] >> 1 != key >> 1:
        place = (place + 1) & mask
    return place


@inline
def enter_hosts(table, packet, source, destination, protocol, from_client):
    """Tell who the client is if fragments come later, unless an earlier flow has told it; 1 for a new entry."""
    if packet._headers >> FAMILY & FAMILY_MASK == IP6:
        protocol = i64(_FRAGMENT6)
    entry = entry_of(source, destination, protocol, from_client)
    place = place_in(table, entry)
    if table[place]:
        return 0
    table[place] = entry
    return 1


@kernel(i64(byte_array, words, lengths, i64, i64, i64, words, words, words))
def by_flow(arena, address, captured, first, n, link, table, used, chosen):
    """Decide packets first to n-1 that are UNDECIDED; the number of the next one, n unless the table is full.

    FIRST: from the client of its flow, or no IP packet; SECOND: from the server.  link: 1 for Ethernet, 101 for IP.
    table: int64, a power of two of entries (8 at least), 0 at first; used: int64 (1,), entries in use.  An entry is the
    flow's key, with bit 0 set if the client's end is the higher word.
    """
    for i in range(first, n):
        if chosen[i] != UNDECIDED:
            continue
        packet = at(arena, address[i], i64(captured[i]), i64(captured[i]), i64(0), link)
        source, destination, protocol, fragment = hosts(packet)
        if protocol == 0 and source == 0:
            chosen[i] = FIRST
            continue
        if 4 * used[0] >= 3 * table.size:
            return i
        one, other, flags = source, destination, i64(0)
        if not fragment:
            one, other, flags = ends(packet, source, destination, protocol)
        opening = flags & (_SYN | _ACK)
        from_client = opening != (_SYN | _ACK)
        entry = entry_of(one, other, protocol, from_client)
        place = place_in(table, entry)
        if table[place] == 0:
            used[0] += 1
            table[place] = entry
            if not fragment:
                used[0] += enter_hosts(table, packet, source, destination, protocol, from_client)
        elif opening == _SYN:
            table[place] = entry
        chosen[i] = FIRST if (table[place] == entry) == from_client else SECOND
    return n


@kernel(none(words, words))
def regrow(old, new):
    """Put the entries of one table into a larger one."""
    for i in range(old.size):
        if old[i]:
            new[place_in(new, old[i])] = old[i]
