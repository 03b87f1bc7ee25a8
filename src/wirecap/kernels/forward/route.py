"""Where a forwarded packet goes: its flow as a number, the outgoing NIC, then that NIC's transmit queue.

The number is the same for both directions of a flow, and for all fragments of a datagram.
"""

from __future__ import annotations

from wirecap.kernels.base.atomics import load, store
from wirecap.kernels.base.jit import inline
from wirecap.kernels.base.kinds import i64
from wirecap.kernels.base.unaligned import load32 as load32_at
from wirecap.kernels.base.wrapping import plus
from wirecap.kernels.forward.wires import LONGEST
from wirecap.kernels.packet.headers import (
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
from wirecap.kernels.pool.large import HASH_BYTES
from wirecap.kernels.pool.pool import HOME, KEPT, SLOT_WORDS
from wirecap.kernels.transmit.ring import TX_WORDS, in_transmission
from wirecap.kernels.transmit.split import mix

BY_FLOW, BY_HOST = range(2)

_TCP, _UDP, _DCCP, _SCTP, _UDP_LITE = 6, 17, 33, 132, 136  # IANA's protocol numbers
_FRAGMENT, _OFFSET = 0x3FFF, 0x1FFF  # more fragments, and the offset (RFC 791)
_FRAGMENT6, _OFFSET6 = 44, 0xFFF8  # the fragment header, and its offset (RFC 8200)

HASH_BITS = 31
HASH_MASK = (1 << HASH_BITS) - 1
_HALF = 0xFFFFFFFF
_TOLD = 1 << 40  # not 0, and above the bits that choose
FRAGMENTS = 8192  # datagrams in fragments that are remembered; a power of two


@inline
def both(a, b):
    """The same for (a, b) and (b, a), and different for most other pairs."""
    return mix(plus(a, b)) ^ mix(a ^ b ^ 0x5555555555555555)


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


# words of Wires.tallies
DISCARDED, TOO_LONG, REORDERED, FINISHED = range(4)  # FINISHED: packets whose checksum was

# words of a thread's sending
QUEUE_BY, OUTPUT_BY, PATIENCE_NS, NEXT = range(4)
SAME, BY_HASH, LEAST = range(3)  # QUEUE_BY: which transmit queue of the NIC
BY_TURNS, BY_NIC = BY_HOST + 1, BY_HOST + 2  # OUTPUT_BY: which NIC; beside BY_FLOW and BY_HOST

UNSENT = -2  # what a packet's choice is where it is no wire


@inline
def wire_of(wires, output, own, sending, hashed):
    """The wire of a NIC that a packet takes; own: the number of the queue that it came from."""
    count = wires.outputs[output, 0]
    if count == 1:
        return wires.outputs[output, 1]
    if sending[QUEUE_BY] == BY_HASH:
        return wires.outputs[output, 1 + (hashed >> 16) % count]
    if sending[QUEUE_BY] == SAME:
        return wires.outputs[output, 1 + own % count]
    best = wires.outputs[output, 1]
    for i in range(1, count):
        other = wires.outputs[output, 1 + i]
        if in_transmission(wires, other) < in_transmission(wires, best):
            best = other
    return best


@inline
def nic_hash(arena, address):
    """A number of the NIC's hash, which chose the receive queue by some of its bits; 0 for a packet without one."""
    if load32_at(arena, address - 4) == 0:
        return 0
    return mix(load32_at(arena, address - HASH_BYTES)) >> 16 | _TOLD


@inline
def choose_wires(pool, wires, consumer, slot, sending, choice, wanted):
    """Where each packet of a chunk goes: choice[i] is its wire, or UNSENT.  wanted: packets for each wire."""
    m = slot * SLOT_WORDS
    home = pool.meta[m + HOME]
    first, outputs, own = wires.routes[home, 0], wires.routes[home, 1], wires.routes[home, 2]
    tally = wires.tallies[consumer, home]
    by_nic = outputs > 1 and sending[OUTPUT_BY] == BY_NIC
    hashes = sending[QUEUE_BY] == BY_HASH or (outputs > 1 and sending[OUTPUT_BY] != BY_TURNS and not by_nic)
    hosts_only = outputs > 1 and sending[OUTPUT_BY] == BY_HOST
    fixed = -1
    if not hashes and outputs == 1:
        fixed = wire_of(wires, first, own, sending, 0)  # one for the chunk, so that it leaves in order
    for i in range(wanted.size):
        wanted[i] = 0
    for i in range(pool.meta[m + KEPT]):
        length = i64(pool.captured[slot, i])
        choice[i] = UNSENT
        if length == 0:
            tally[DISCARDED] += 1
            continue
        wire = fixed
        if wire < 0:
            hashed = told = 0
            if by_nic:
                told = nic_hash(pool.arena, pool.address[slot, i])
            if hashes or (by_nic and told == 0):
                hashed = flow_hash(pool.arena, pool.address[slot, i], length, hosts_only, wires.fragments)
            number = 0
            if outputs > 1:
                number = (sending[NEXT] if sending[OUTPUT_BY] == BY_TURNS else (told or hashed) & 0xFFFF) % outputs
                sending[NEXT] += 1
            wire = wire_of(wires, first + number, own, sending, hashed)
        if length > wires.words[wire * TX_WORDS + LONGEST]:
            tally[TOO_LONG] += 1
            continue
        choice[i] = wire
        wanted[wire] += 1
