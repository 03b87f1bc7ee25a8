"""What blocks of a capture file hold: their times, and a small set of terms for each, by which most are ruled out.

A block is some 256 KiB of whole records.  Its terms are the addresses, /24 and /64 networks, ports, protocols,
EtherTypes and VLAN numbers that a filter expression could compare with (``wirecap.filters.narrow``): the words that
its program would load, wherever the program would come to load them, so that packets that are cut, or whose headers
lie, are filed as the filter will see them.  What lies deeper, in tunnels and behind MPLS labels, is not filed.

The terms are the bits of a Bloom filter of FILTER_WORDS 64-bit words.  A term sets four bits of one word (Putze,
Sanders and Singler, "Cache-, Hash- and Space-Efficient Bloom Filters", 2007).  docs/find.md has the numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from wirecap.kernels.base.jit import inline, inline_always, kernel
from wirecap.kernels.base.kinds import byte_array, i64, lengths, record, table, words
from wirecap.kernels.base.unaligned import load16, load32, load64, swap16, swap32
from wirecap.kernels.file.read import (
    END,
    FINAL,
    FORMAT,
    INTERFACE,
    INTERFACE_WORDS,
    LATEST_NS,
    LINKTYPE,
    MORE,
    ORIGIN,
    PCAPNG,
    POSITION,
    STOP,
    WANTED,
    scan_pcap,
    scan_pcapng,
)

BLOCK_BYTES = 256 << 10
FILTER_WORDS = 256
ROW = 256
"""Packets between two looks at the block's end; their descriptors stay in the cache."""

FLOW_TERMS = 6

ADDRESS, NETWORK, PORT, ETHERTYPE, VLAN, PROTOCOL, PROTOCOL6, ADDRESS6, NETWORK6 = (
    0x243F6A88, 0x05A308D3, 0x13198A2E, 0x03707344, 0x24093822, 0x299F31D0, 0x082EFA98, 0x6C4E6C89, 0x452821E6,
)  # fmt: skip
"""What a term is; it is mixed into its hash."""

FIRST_FACTOR, SECOND_FACTOR = 0x7FEB352D, 0x45D9F3B5
FIRST_FACTOR6, SECOND_FACTOR6, THIRD_FACTOR6, FOURTH_FACTOR6 = 0x1B873593, 0x4CF5AD43, 0x2745937F, 0x38B34AE5
MASK = 0xFFFFFFFF

ETHERNET, RAW_IP, LINUX_SLL, LINUX_SLL2, NULL, UNKNOWN = 1, 101, 113, 276, 0, -1
IPV4, IPV6, ARP, REVERSE_ARP = 0x0800, 0x86DD, 0x0806, 0x8035
NULL_IPV4, NULL_IPV6 = 0x02000000, 0x0A000000
MOST_TAGS = 4
"""VLAN tags whose numbers, and what follows them, are filed."""
LOWEST_ETHERTYPE = 1501

# Words of `counts`.
CURRENT = 0  # the block being filled
FULL_AT = 1  # its end: an offset in the stream
GENERATION = 2  # blocks begun so far, as the entries of the caches count them
SIZE = 3  # bytes of a block
COUNTS_WORDS = 4

SEEN4, SEEN6, SEEN_TYPE, SEEN_BYTES = 0, 256, 512, 520
"""Bytes of `seen`: protocols of IPv4 and IPv6, and the EtherTypes of FREQUENT, that the block has."""
FREQUENT = (IPV4, IPV6, ARP, 0x8100)

CACHE4_BITS, CACHE6_BITS = 9, 8
CACHE4, CACHE6 = 1 << CACHE4_BITS, 1 << CACHE6_BITS
"""Flows that were filed a short while ago, by their hash: most packets are of one of them."""
GENERATIONS = (1 << 23) - 1


class Blocks(NamedTuple):
    """Blocks of a file, B at most."""

    start: Any  # int64 (B + 1,): offsets in the stream; a block ends where the next begins
    first_ns: Any  # int64 (B,): the least time
    last_ns: Any  # int64 (B,): the greatest
    packets: Any  # int64 (B,)
    terms: Any  # int64 (B, FILTER_WORDS)
    seen: Any  # uint8 (SEEN_BYTES,)
    recent4: Any  # int64 (2 * CACHE4,)
    recent6: Any  # int64 (5 * CACHE6,)
    fresh: Any  # int64 (2 * (ROW + 1),): addresses, then the rest, of packets that are not recent
    values: Any  # int64 (FLOW_TERMS * ROW,): their terms; then, for each, which word of `terms` it sets bits of
    bits: Any  # int64 (FLOW_TERMS * ROW,): and which
    counts: Any  # int64 (COUNTS_WORDS,)


BLOCKS = record(Blocks, words, words, words, words, table, byte_array, words, words, words, words, words, words)


def new_blocks(count: int, start: int = 0, size: int = BLOCK_BYTES) -> Blocks:
    """Room for so many blocks of about ``size`` bytes, of which the first begins at ``start``."""
    starts = np.zeros(count + 1, np.int64)
    starts[0] = start
    values, bits = np.zeros((2, FLOW_TERMS * ROW), np.int64)
    return Blocks(
        starts, np.full(count, LATEST_NS), np.full(count, -LATEST_NS), np.zeros(count, np.int64),
        np.zeros((count, FILTER_WORDS), np.int64), np.zeros(SEEN_BYTES, np.uint8), np.zeros(2 * CACHE4, np.int64),
        np.zeros(5 * CACHE6, np.int64), np.zeros(2 * (ROW + 1), np.int64), values, bits,
        np.array([0, start + size, 1, size], np.int64),
    )  # fmt: skip


@inline
def mixed(value):
    """32 bits, every one of which depends on all 32 of the value; no product exceeds 63 bits."""
    value = (value ^ value >> 16) * FIRST_FACTOR & MASK
    value = (value ^ value >> 15) * SECOND_FACTOR & MASK
    return value ^ value >> 16


@inline
def bits_of(hashed):
    """The bits of a term of this hash, four times 6 of its lower 24; the upper 8 choose the word."""
    one = np.int64(1)
    return one << (hashed & 63) | one << (hashed >> 6 & 63) | one << (hashed >> 12 & 63) | one << (hashed >> 18 & 63)


@inline
def file_term(terms, kind, value):
    hashed = mixed(kind ^ value)
    terms[hashed >> 24] |= bits_of(hashed)


@inline
def file_address(terms, value):
    """value: as the packet has it, in network order."""
    file_term(terms, ADDRESS, value)
    file_term(terms, NETWORK, value >> 8)


@inline
def file_ports(terms, arena, offset, end):
    if offset + 2 <= end:
        file_term(terms, PORT, swap16(load16(arena, offset)))
        if offset + 4 <= end:
            file_term(terms, PORT, swap16(load16(arena, offset + 2)))


@inline
def slot_of(value):
    """A number below 2**32 whose upper bits depend on all of a 64-bit value."""
    return ((value ^ value >> 32) & MASK) * FIRST_FACTOR & MASK


@inline_always
def is_fresh(recent, generation, ends, rest):
    """Whether this was not filed in this block a short while ago; it is remembered.  Without a branch."""
    slot, marked = slot_of(ends ^ rest) >> 32 - CACHE4_BITS << 1, rest | generation << 40
    different = (recent[slot] ^ ends) | (recent[slot + 1] ^ marked)
    recent[slot], recent[slot + 1] = ends, marked
    return different != 0


@inline_always
def flow_of(arena, at):
    """Addresses, and ports and protocol, of an IPv4 packet without options, in whichever direction: its terms."""
    one, other = load32(arena, at + 12), load32(arena, at + 16)
    port, peer = load16(arena, at + 20), load16(arena, at + 22)
    ends = min(one, other) << 32 | max(one, other)
    return ends, min(port, peer) << 16 | max(port, peer) | np.int64(arena[at + 9]) << 32


@inline_always
def file_flow(terms, seen, ends, rest):
    seen[SEEN_TYPE] = seen[SEEN4 + (rest >> 32)] = 1
    file_address(terms, swap32(ends >> 32 & MASK))
    file_address(terms, swap32(ends & MASK))
    file_term(terms, PORT, swap16(rest >> 16 & 0xFFFF))
    file_term(terms, PORT, swap16(rest & 0xFFFF))


@inline_always
def file_flows(terms, seen, fresh, values, bits, count):
    """What ``file_flow`` does for each; hashing, most of the work, in a loop of its own, several terms at a time."""
    m = np.int64(0)
    for i in range(count):
        ends, rest = fresh[i], fresh[ROW + 1 + i]
        one, other = swap32(ends >> 32 & MASK), swap32(ends & MASK)
        values[m], values[m + 1] = ADDRESS ^ one, ADDRESS ^ other
        values[m + 2], values[m + 3] = NETWORK ^ one >> 8, NETWORK ^ other >> 8
        values[m + 4], values[m + 5] = PORT ^ swap16(rest >> 16 & 0xFFFF), PORT ^ swap16(rest & 0xFFFF)
        seen[SEEN4 + (rest >> 32)] = 1
        m += FLOW_TERMS
    for i in range(m):
        hashed = mixed(values[i] & MASK)
        values[i], bits[i] = hashed >> 24, bits_of(hashed)
    for i in range(m):
        terms[values[i] & FILTER_WORDS - 1] |= bits[i]
    if count:
        seen[SEEN_TYPE] = 1


@inline_always
def file_ipv4(terms, seen, recent4, generation, arena, at, end):
    """What filters look at in the IPv4 header at arena[at:], as far as it is there; whether it is one matters not."""
    if at + 24 <= end and arena[at] == 0x45:
        ends, rest = flow_of(arena, at)
        if is_fresh(recent4, generation, ends, rest):
            file_flow(terms, seen, ends, rest)
        return
    seen[SEEN_TYPE] = 1
    if at + 10 <= end:
        seen[SEEN4 + np.int64(arena[at + 9])] = 1
    if at + 16 <= end:
        file_address(terms, swap32(load32(arena, at + 12)))
        if at + 20 <= end:
            file_address(terms, swap32(load32(arena, at + 16)))
    if at + 1 <= end:
        file_ports(terms, arena, at + 4 * (np.int64(arena[at]) & 15), end)


@inline
def file_address6(terms, arena, at, end):
    if at + 8 <= end:
        network = swap32(load32(arena, at)) * FIRST_FACTOR6 + swap32(load32(arena, at + 4)) * SECOND_FACTOR6 & MASK
        file_term(terms, NETWORK6, network)
        if at + 16 <= end:
            third, fourth = swap32(load32(arena, at + 8)), swap32(load32(arena, at + 12))
            file_term(terms, ADDRESS6, network + third * THIRD_FACTOR6 + fourth * FOURTH_FACTOR6 & MASK)


@inline_always
def is_recent6(recent, generation, arena, at):
    """Whether the addresses and ports of the IPv6 packet at arena[at:] were filed in this block a short while ago."""
    one, two, three = load64(arena, at + 8), load64(arena, at + 16), load64(arena, at + 24)
    four, five = load64(arena, at + 32), load32(arena, at + 40) | generation << 32
    base = (slot_of(one ^ two >> 7 ^ three >> 13 ^ four ^ five * 5) >> 32 - CACHE6_BITS) * 5
    if (
        recent[base] == one and recent[base + 1] == two and recent[base + 2] == three
        and recent[base + 3] == four and recent[base + 4] == five
    ):  # fmt: skip
        return True
    recent[base], recent[base + 1], recent[base + 2], recent[base + 3] = one, two, three, four
    recent[base + 4] = five
    return False


@inline_always
def file_ipv6(terms, seen, recent6, generation, arena, at, end):
    seen[SEEN_TYPE + 1] = 1
    if at + 7 <= end:
        seen[SEEN6 + np.int64(arena[at + 6])] = 1
    if at + 44 <= end and is_recent6(recent6, generation, arena, at):
        return
    file_address6(terms, arena, at + 8, end)
    file_address6(terms, arena, at + 24, end)
    file_ports(terms, arena, at + 40, end)


@inline_always
def file_network(terms, seen, recent4, recent6, generation, arena, kind, at, end):
    """File what an EtherType says of what stands at arena[at:]."""
    if kind == IPV4:
        file_ipv4(terms, seen, recent4, generation, arena, at, end)
    elif kind == IPV6:
        file_ipv6(terms, seen, recent6, generation, arena, at, end)
    elif kind == ARP or kind == REVERSE_ARP:
        if kind == ARP:
            seen[SEEN_TYPE + 2] = 1
        else:
            file_term(terms, ETHERTYPE, kind)
        if at + 18 <= end:
            file_address(terms, swap32(load32(arena, at + 14)))
            if at + 28 <= end:
                file_address(terms, swap32(load32(arena, at + 24)))
    elif kind >= LOWEST_ETHERTYPE:
        file_term(terms, ETHERTYPE, kind)


@inline_always
def file_ethernet(terms, seen, recent4, recent6, generation, arena, start, end):
    """Any frame: its tags, and what they carry."""
    if start + 14 > end:
        return
    kind, at, tags = swap16(load16(arena, start + 12)), start + 14, 0
    while (kind == 0x8100 or kind == 0x88A8 or kind == 0x9100) and tags < MOST_TAGS:
        seen[SEEN_TYPE + 3] = 1
        if at + 2 > end:
            return
        file_term(terms, VLAN, swap16(load16(arena, at)) & 0xFFF)
        if at + 4 > end:
            return
        kind, at, tags = swap16(load16(arena, at + 2)), at + 4, tags + 1
    file_network(terms, seen, recent4, recent6, generation, arena, kind, at, end)


@inline
def file_other(terms, seen, recent4, recent6, generation, arena, start, end, link):
    """A packet of a link type other than Ethernet; what is not known of it is not filed, and not asked for."""
    if link == LINUX_SLL:
        if start + 16 <= end:
            file_network(
                terms, seen, recent4, recent6, generation, arena, swap16(load16(arena, start + 14)), start + 16, end
            )
    elif link == LINUX_SLL2:
        if start + 2 <= end:
            file_network(
                terms, seen, recent4, recent6, generation, arena, swap16(load16(arena, start)), start + 20, end
            )
    elif link == NULL:
        if start + 4 <= end:
            family = swap32(load32(arena, start))
            kind = IPV4 if family == NULL_IPV4 else IPV6 if family == NULL_IPV6 else 0
            file_network(terms, seen, recent4, recent6, generation, arena, kind, start + 4, end)
    elif link == RAW_IP and start < end:
        version = arena[start] >> 4
        kind = IPV4 if version == 4 else IPV6 if version == 6 else 0
        file_network(terms, seen, recent4, recent6, generation, arena, kind, start, end)


@inline
def known_link(linktype):
    """The link type whose packets are filed in the same way."""
    if linktype == 12 or linktype == 14:
        return RAW_IP
    if linktype == ETHERNET or linktype == RAW_IP or linktype == LINUX_SLL or linktype == LINUX_SLL2 or linktype == 0:
        return linktype
    return UNKNOWN


@inline_always
def file_row(blocks, arena, address, captured, timestamp, n, link):
    """File n packets in the current block."""
    current = blocks.counts[CURRENT]
    seen, recent4, recent6, generation = blocks.seen, blocks.recent4, blocks.recent6, blocks.counts[GENERATION]
    fresh, count = blocks.fresh, np.int64(0)
    terms, first, last = blocks.terms[current], blocks.first_ns[current], blocks.last_ns[current]
    for i in range(n):
        start = address[i]
        end = start + np.int64(captured[i])
        if link == ETHERNET and start + 38 <= end and load32(arena, start + 12) & 0xFFFFFF == 0x450008:
            ends, rest = flow_of(arena, start + 14)
            fresh[count], fresh[ROW + 1 + count] = ends, rest
            count += np.int64(is_fresh(recent4, generation, ends, rest))  # no branch: it could not be foreseen
        elif link == ETHERNET:
            file_ethernet(terms, seen, recent4, recent6, generation, arena, start, end)
        else:
            file_other(terms, seen, recent4, recent6, generation, arena, start, end, link)
    file_flows(terms, seen, fresh, blocks.values, blocks.bits, count)
    for i in range(n):
        first, last = min(first, timestamp[i]), max(last, timestamp[i])
    blocks.first_ns[current], blocks.last_ns[current] = first, last
    blocks.packets[current] += n


@inline
def file_seen(blocks, terms):
    """File what was only ticked off, and forget it."""
    seen = blocks.seen
    for eight in range(0, SEEN_BYTES, 8):
        if load64(seen, eight):
            for k in range(eight, eight + 8):
                if seen[k]:
                    if k < SEEN6:
                        file_term(terms, PROTOCOL, k)
                    elif k < SEEN_TYPE:
                        file_term(terms, PROTOCOL6, k - SEEN6)
                    else:
                        file_term(terms, ETHERTYPE, FREQUENT[k - SEEN_TYPE])
                    seen[k] = 0


@inline
def end_block(blocks, offset):
    """The current block ends at an offset of the stream, and the next begins."""
    counts, current = blocks.counts, blocks.counts[CURRENT]
    file_seen(blocks, blocks.terms[current])
    counts[CURRENT] = current + 1
    blocks.start[current + 1] = offset
    counts[FULL_AT] = offset + counts[SIZE]
    counts[GENERATION] += 1
    if counts[GENERATION] > GENERATIONS:
        counts[GENERATION] = 1
        blocks.recent4[:] = 0
        blocks.recent6[:] = 0


@kernel(i64(byte_array, words, words, words, lengths, lengths, words, BLOCKS))
def index_records(arena, state, interfaces, address, captured, original, timestamp, blocks):
    """File the packets from state[POSITION] on, as far as they are there; returns how many blocks are complete.

    arena, state, interfaces: as ``scan`` has them; the row: ROW descriptors.  It stops for what ``scan`` stops for, as
    state[STOP] says, and where ``blocks`` has no room for another block.
    """
    counts, end, final = blocks.counts, state[END], state[FINAL]
    while counts[CURRENT] < blocks.packets.size:
        in_buffer = counts[FULL_AT] - state[ORIGIN]
        cut = in_buffer < end
        if cut:
            state[END], state[FINAL] = in_buffer, 0
        if state[FORMAT] == PCAPNG:
            n = scan_pcapng(arena, state, interfaces, address, captured, original, timestamp, ROW)
        else:
            n = scan_pcap(arena, state, interfaces, address, captured, original, timestamp, ROW)
        state[END], state[FINAL] = end, final
        if n:
            link = known_link(interfaces[state[INTERFACE] * INTERFACE_WORDS + LINKTYPE])
            file_row(blocks, arena, address, captured, timestamp, n, link)
        if state[STOP] == MORE and cut:
            offset = state[ORIGIN] + state[POSITION]
            if offset > blocks.start[counts[CURRENT]]:
                end_block(blocks, offset)
            else:  # a record longer than a block
                counts[FULL_AT] = offset + state[WANTED]
        elif n == 0 or state[STOP] >= MORE:
            break
    return counts[CURRENT]


@kernel(i64(BLOCKS, i64))
def end_early(blocks, offset):
    """End the current block at an offset of the stream, if it has any byte; returns how many blocks are complete."""
    if offset > blocks.start[blocks.counts[CURRENT]]:
        end_block(blocks, offset)
    return blocks.counts[CURRENT]
