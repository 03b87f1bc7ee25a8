"""Turns blocks of a TPACKET_V3 ring into rows of descriptors: who holds a block, and what is in it.

A packet stays where the kernel put it.  Its block goes back once every chunk with packets from it has been recycled.
The kernel passes a block on after a millisecond even if it holds a single packet, so a trickle of traffic would use
up a ring: the packets of a block that is at most half full are copied into a block of the spill area until that is
full.  So are blocks whose packets are short on average while handlers hold more than half of the ring: the spill area
is the deeper part of the pool.  Long packets stay, because copying them would take CPU time from handlers that are
already behind.

Source: linux/if_packet.h.  Everything is 8-aligned and in the host's order:

    block:   version | offset to private | status | packets | offset of the first packet | bytes used | ...
    packet:  next | s | ns | captured | original | status | mac, net | hash | tag | its type | ... | sockaddr_ll | bytes
"""

from __future__ import annotations

import numpy as np

from wirecap.kernels.base.atomics import load, prefetch, store
from wirecap.kernels.base.jit import inline
from wirecap.kernels.base.kinds import i64
from wirecap.kernels.base.libc import getsockopt_words
from wirecap.kernels.base.unaligned import copy, load16, load32, load64, store32, store64, swap16, swap32
from wirecap.kernels.pool.pool import FREE_SLOTS, RING_WORDS
from wirecap.kernels.pool.work_queues import EMPTY

# 32-bit words of a block
STATUS, PACKETS, FIRST, USED = 2, 3, 4, 5
TP_STATUS_KERNEL, TP_STATUS_USER = 0, 1

# 32-bit words of a packet's header; then bytes of the sockaddr_ll, which begins 48 bytes after the header's start
NEXT_OFFSET, SECONDS, NANOSECONDS, CAPTURED, ORIGINAL, PACKET_STATUS, PLACES, _, TAG, TAG_TYPE = range(10)
PROTOCOL, IFINDEX, HARDWARE, PACKET_TYPE, ADDRESS_LENGTH, ADDRESS = 50, 52, 56, 58, 59, 60
VLAN_VALID, VLAN_TYPE_VALID = 1 << 4, 1 << 6
TAG_BYTES = 4
SLL2_BYTES = 20  # tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html

BLOCK_HEADER_BYTES = 48  # struct tpacket_block_desc
PACKET_HEADER_BYTES = 96  # tpacket3_hdr and sockaddr_ll, padded so that the network header is aligned
ETHERNET_BYTES = 14


def packet_bytes(captured: int, link_bytes: int = 0) -> int:
    """How many bytes of a block a packet takes; link_bytes: the packet's bytes before the network header."""
    return (PACKET_HEADER_BYTES - link_bytes + captured + 7) & ~7


SOL_PACKET, PACKET_STATISTICS = 263, 6

# Words of a home queue in Pool.queues.  A holder is where the packets of a chunk are: a block of the ring (0 to
# BLOCKS - 1) or, after those, one of the spill area.  held[HELD + holder]: its chunks, plus 1 for the capture thread.
(
    SOCKET,  # file descriptor, or -1 in tests
    RING, BLOCKS, BLOCK_BYTES,  # where the ring begins in the arena
    NEXT,  # blocks taken so far: NEXT % BLOCKS is the next one
    LEFT, CURSOR, INTO,  # of the block being taken: packets left, the header of the next one, their holder
    SPILL, SPILLS,  # where the spill area begins in the arena, and how many blocks it has
    SPILLING, SPILLED,  # the spill block that is being filled, or EMPTY, and bytes used in it
    HELD, HELD_BLOCKS,  # the latter: blocks of the ring that the kernel does not have
    COOKED,  # 1 if packets arrive without a link-layer header and get the cooked one
    SEEN,  # packets that reached the socket, by its statistics
    LOST_EXHAUSTED, LOST_LATE,  # packets of those that found no block, by cause
    FULL,  # 1 if in the last turn handlers held what the kernel needed next
    COPIED,  # packets copied into the spill area
    MARKED,  # 1 if the byte before each packet is to hold its epb_flags
) = range(RING_WORDS, RING_WORDS + 21)  # fmt: skip

SPILL_ALIGN = 64
MARK_BYTES = 4  # room for flags before a packet in the spill area; with more it could outgrow its place in the ring
INBOUND, OUTBOUND = 1, 2  # epb_flags (draft-ietf-opsawg-pcapng): direction, and in the next three bits to whom it went
UNICAST, MULTICAST, BROADCAST, PROMISCUOUS = 1 << 2, 2 << 2, 3 << 2, 4 << 2
PACKET_HOST, PACKET_BROADCAST, PACKET_MULTICAST, PACKET_OTHERHOST, PACKET_OUTGOING = range(5)  # linux/if_packet.h


SHORT_BYTES = 512
"""Including the header, which is some 100 bytes."""


@inline
def head(pool, q, block):
    """Index of a ring block's first 32-bit word."""
    return (pool.queues[q + RING] + block * pool.queues[q + BLOCK_BYTES]) >> 2


@inline
def closed_blocks(pool, rings, held, q):
    """How many blocks the kernel has passed on and nobody has taken."""
    queues = pool.queues
    count, blocks = 0, queues[q + BLOCKS]
    while count < blocks:
        block = (queues[q + NEXT] + count) % blocks
        if held[queues[q + HELD] + block] or not load(rings.halves, head(pool, q, block) + STATUS) & 1:
            break
        count += 1
    return count


@inline
def is_full(pool, held, q, closed):
    """Whether handlers hold what the kernel needs next: a block, or every slot that its packets could go to.

    While it is closing a block, the kernel checks the block a quarter of the ring ahead instead, and drops a packet if
    that is taken (__packet_rcv_has_room, net/packet/af_packet.c).
    """
    queues = pool.queues
    if queues[q + FREE_SLOTS] == 0:
        return True
    blocks, first = queues[q + BLOCKS], queues[q + NEXT] + closed
    if closed == blocks:
        return False
    ahead = (first + (blocks >> 2)) % blocks
    return held[queues[q + HELD] + first % blocks] > 0 or held[queues[q + HELD] + ahead] > 0


@inline
def count_seen(pool, q, full, scratch):
    """Add up the socket's counters, which each call resets to zero; lost packets are counted by cause."""
    queues = pool.queues
    if queues[q + SOCKET] < 0:
        return
    both = getsockopt_words(queues[q + SOCKET], SOL_PACKET, PACKET_STATISTICS, 1, scratch, 0)
    lost = (both >> 32) & 0xFFFFFFFF
    store(queues, q + SEEN, queues[q + SEEN] + (both & 0xFFFFFFFF))  # first, as it includes lost packets
    if lost:
        cause = q + (LOST_EXHAUSTED if full or queues[q + FULL] else LOST_LATE)
        store(queues, cause, queues[cause] + lost)


@inline
def let_go(pool, rings, held, q, holder):
    """Release a holder for a chunk or the capture thread; a ring block that nobody holds goes back to the kernel."""
    at = pool.queues[q + HELD] + holder
    held[at] -= 1
    if held[at] == 0 and holder < pool.queues[q + BLOCKS]:
        pool.queues[q + HELD_BLOCKS] -= 1
        store(rings.halves, head(pool, q, holder) + STATUS, np.uint32(TP_STATUS_KERNEL))


@inline
def spill_block(pool, rings, held, q, needed):
    """The holder of a spill block with room for ``needed`` bytes, or EMPTY if handlers hold them all."""
    queues = pool.queues
    first, spills, now = queues[q + BLOCKS], queues[q + SPILLS], queues[q + SPILLING]
    if now != EMPTY:
        if queues[q + SPILLED] + needed <= queues[q + BLOCK_BYTES]:
            return now
        let_go(pool, rings, held, q, now)
        queues[q + SPILLING] = EMPTY
    for i in range(spills):
        holder = first + (max(now - first, 0) + i) % spills
        if held[queues[q + HELD] + holder] == 0:
            held[queues[q + HELD] + holder] = 1
            queues[q + SPILLING], queues[q + SPILLED] = holder, 0
            return holder
    return EMPTY


@inline
def open_block(pool, rings, held, q):
    """Start taking the next closed block."""
    queues = pool.queues
    block = queues[q + NEXT] % queues[q + BLOCKS]
    at = head(pool, q, block)
    held[queues[q + HELD] + block] = 1
    queues[q + HELD_BLOCKS] += 1
    queues[q + LEFT] = i64(rings.halves[at + PACKETS])
    queues[q + CURSOR] = at * 4 + i64(rings.halves[at + FIRST])
    queues[q + INTO] = block
    queues[q + NEXT] += 1
    used = i64(rings.halves[at + USED])
    sparse, short = used * 2 <= queues[q + BLOCK_BYTES], used <= SHORT_BYTES * queues[q + LEFT]
    if sparse or (short and queues[q + HELD_BLOCKS] * 2 > queues[q + BLOCKS]):
        spill = spill_block(pool, rings, held, q, used)  # a packet takes no more room there than here with its header
        if spill != EMPTY:
            queues[q + INTO] = spill


@inline
def put_tag_back(arena, address, tag, kind):
    """Put a VLAN tag back between the MAC addresses and the type; returns where the packet now begins."""
    first, last = load64(arena, address), load32(arena, address + 8)
    store64(arena, address - TAG_BYTES, first)
    store32(arena, address - TAG_BYTES + 8, last)
    store32(arena, address - TAG_BYTES + 12, swap16(kind) | swap16(tag) << 16)
    return address - TAG_BYTES


@inline
def put_cooked_header(arena, at, address):
    """Put the cooked header, made from the sockaddr_ll, before the packet; returns where the packet now begins."""
    start = address - SLL2_BYTES
    length = min(i64(arena[at + ADDRESS_LENGTH]), 8)
    link = load64(arena, at + ADDRESS)
    if length < 8:  # the kernel does not clear the remaining bytes
        link &= (1 << 8 * length) - 1
    protocol = load16(arena, at + PROTOCOL)
    index = swap32(load32(arena, at + IFINDEX))
    kind = swap16(load16(arena, at + HARDWARE)) | i64(arena[at + PACKET_TYPE]) << 16
    store32(arena, start, protocol)
    store32(arena, start + 4, index)
    store32(arena, start + 8, kind | i64(arena[at + ADDRESS_LENGTH]) << 24)
    store64(arena, start + 12, link)
    return start


@inline
def flags_of(packet_type):
    """epb_flags of a sockaddr_ll's packet type, 0 for types that say nothing of direction."""
    if packet_type == PACKET_OUTGOING:
        return OUTBOUND
    if packet_type == PACKET_HOST:
        return INBOUND | UNICAST
    if packet_type == PACKET_BROADCAST:
        return INBOUND | BROADCAST
    if packet_type == PACKET_MULTICAST:
        return INBOUND | MULTICAST
    return INBOUND | PROMISCUOUS if packet_type == PACKET_OTHERHOST else 0


@inline
def take_packets(pool, rings, q, slot, filled, count):
    """Move ``count`` packets, starting at the cursor, into a slot's row; returns their bytes on the wire."""
    queues, arena = pool.queues, pool.arena
    spill_area = queues[q + SPILL] + (queues[q + INTO] - queues[q + BLOCKS]) * queues[q + BLOCK_BYTES]
    copies = queues[q + INTO] >= queues[q + BLOCKS]
    spilled, before = queues[q + SPILLED], MARK_BYTES * queues[q + MARKED]
    address_row, captured_row = pool.address[slot], pool.captured[slot]
    original_row, timestamp_row = pool.original[slot], pool.timestamp[slot]
    at, byte_count = queues[q + CURSOR], 0
    for i in range(filled, filled + count):
        h = at >> 2
        following = i64(rings.halves[h + NEXT_OFFSET])
        prefetch(arena, at + 4 * following)
        captured, original = i64(rings.halves[h + CAPTURED]), i64(rings.halves[h + ORIGINAL])
        status = i64(rings.halves[h + PACKET_STATUS])
        address = at + (i64(rings.halves[h + PLACES]) & 0xFFFF)
        timestamp = i64(rings.halves[h + SECONDS]) * 1_000_000_000 + i64(rings.halves[h + NANOSECONDS])
        byte_count += original
        if queues[q + COOKED]:
            address = put_cooked_header(arena, at, address)
            captured, original = captured + SLL2_BYTES, original + SLL2_BYTES
        elif status & VLAN_VALID and captured >= 12:
            kind = i64(rings.halves[h + TAG_TYPE]) & 0xFFFF if status & VLAN_TYPE_VALID else 0x8100
            address = put_tag_back(arena, address, i64(rings.halves[h + TAG]) & 0xFFFF, kind)
            captured, original = captured + TAG_BYTES, original + TAG_BYTES
            byte_count += TAG_BYTES
        if copies:
            copy(arena, spill_area + spilled + before, arena, address, captured)
            address = spill_area + spilled + before
            spilled += (captured + before + SPILL_ALIGN - 1) & -SPILL_ALIGN
        if before:
            arena[address - 1] = np.uint8(flags_of(i64(arena[at + PACKET_TYPE])))
        place = i
        while (
            place and timestamp_row[place - 1] > timestamp
        ):  # CPUs that deliver to the same ring can overtake each other
            address_row[place], captured_row[place] = address_row[place - 1], captured_row[place - 1]
            original_row[place], timestamp_row[place] = original_row[place - 1], timestamp_row[place - 1]
            place -= 1
        address_row[place], captured_row[place] = address, np.uint32(captured)
        original_row[place], timestamp_row[place] = np.uint32(original), timestamp
        at += following
    queues[q + CURSOR] = at
    if copies:
        queues[q + SPILLED] = spilled
        queues[q + COPIED] += count
    return byte_count
