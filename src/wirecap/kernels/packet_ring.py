"""Blocks of a TPACKET_V3 ring, turned into rows of descriptors: who holds them, and what lies in them.

A packet stays where the kernel put it.  Its block goes back once every chunk that has packets of it is recycled.
The kernel passes a block on after a millisecond even when it holds one packet, so that a ring would be used up by
trickling traffic: what a block less than half full holds is copied into a block of the spill area, which fills up.
So are all short packets while handlers hold more than half of the ring: the spill area is the deeper part of the
pool.  Long ones stay, for copying them would take the CPU from the handlers that are behind.
"""

from __future__ import annotations

import numpy as np

from wirecap.kernels import packet_words as w
from wirecap.kernels.atomics import load, prefetch, store
from wirecap.kernels.jit import i64, inline
from wirecap.kernels.lanes import EMPTY
from wirecap.kernels.libc import getsockopt_words
from wirecap.kernels.pool import FREE_SLOTS
from wirecap.kernels.unaligned import copy, load16, load32, load64, store32, store64, swap16, swap32

SHORT_BYTES = 512
"""With its header, which is some 100 bytes."""


@inline
def head(pool, q, block):
    """Index of a ring block's first 32-bit word."""
    return (pool.queues[q + w.RING] + block * pool.queues[q + w.BLOCK_BYTES]) >> 2


@inline
def closed_blocks(pool, rings, held, q):
    """How many blocks the kernel has passed on that nobody has taken."""
    queues = pool.queues
    count, blocks = 0, queues[q + w.BLOCKS]
    while count < blocks:
        block = (queues[q + w.NEXT] + count) % blocks
        if held[queues[q + w.HELD] + block] or not load(rings.halves, head(pool, q, block) + w.STATUS) & 1:
            break
        count += 1
    return count


@inline
def is_full(pool, held, q, closed):
    """True when handlers have what the kernel wants next: a block, or every slot that its packets could go to.

    Where it is just closing a block, the kernel looks a quarter of the ring ahead in its place, and drops a packet
    when there is no room (__packet_rcv_has_room, net/packet/af_packet.c).
    """
    queues = pool.queues
    if queues[q + FREE_SLOTS] == 0:
        return True
    blocks, first = queues[q + w.BLOCKS], queues[q + w.NEXT] + closed
    if closed == blocks:
        return False
    ahead = (first + (blocks >> 2)) % blocks
    return held[queues[q + w.HELD] + first % blocks] > 0 or held[queues[q + w.HELD] + ahead] > 0


@inline
def count_seen(pool, q, full, scratch):
    """Take over the socket's counters, which start at zero with each look; what was lost is booked by cause."""
    queues = pool.queues
    if queues[q + w.SOCKET] < 0:
        return
    both = getsockopt_words(queues[q + w.SOCKET], w.SOL_PACKET, w.PACKET_STATISTICS, 1, scratch, 0)
    lost = (both >> 32) & 0xFFFFFFFF
    if lost:
        queues[q + (w.LOST_EXHAUSTED if full or queues[q + w.FULL] else w.LOST_LATE)] += lost
    queues[q + w.SEEN] += both & 0xFFFFFFFF  # those that were lost are among them


@inline
def let_go(pool, rings, held, q, holder):
    """A chunk, or the capture thread, is done with a holder; a ring block that nobody has is the kernel's again."""
    at = pool.queues[q + w.HELD] + holder
    held[at] -= 1
    if held[at] == 0 and holder < pool.queues[q + w.BLOCKS]:
        pool.queues[q + w.HELD_BLOCKS] -= 1
        store(rings.halves, head(pool, q, holder) + w.STATUS, np.uint32(w.TP_STATUS_KERNEL))


@inline
def spill_block(pool, rings, held, q, needed):
    """The holder of a spill block with room for ``needed`` bytes, or EMPTY when handlers have them all."""
    queues = pool.queues
    first, spills, now = queues[q + w.BLOCKS], queues[q + w.SPILLS], queues[q + w.SPILLING]
    if now != EMPTY:
        if queues[q + w.SPILLED] + needed <= queues[q + w.BLOCK_BYTES]:
            return now
        let_go(pool, rings, held, q, now)
        queues[q + w.SPILLING] = EMPTY
    for i in range(spills):
        holder = first + (max(now - first, 0) + i) % spills
        if held[queues[q + w.HELD] + holder] == 0:
            held[queues[q + w.HELD] + holder] = 1
            queues[q + w.SPILLING], queues[q + w.SPILLED] = holder, 0
            return holder
    return EMPTY


@inline
def open_block(pool, rings, held, q):
    """Begin to take the next closed block."""
    queues = pool.queues
    block = queues[q + w.NEXT] % queues[q + w.BLOCKS]
    at = head(pool, q, block)
    held[queues[q + w.HELD] + block] = 1
    queues[q + w.HELD_BLOCKS] += 1
    queues[q + w.LEFT] = i64(rings.halves[at + w.PACKETS])
    queues[q + w.CURSOR] = at * 4 + i64(rings.halves[at + w.FIRST])
    queues[q + w.INTO] = block
    queues[q + w.NEXT] += 1
    used = i64(rings.halves[at + w.USED])
    sparse, short = used * 2 <= queues[q + w.BLOCK_BYTES], used <= SHORT_BYTES * queues[q + w.LEFT]
    if sparse or (short and queues[q + w.HELD_BLOCKS] * 2 > queues[q + w.BLOCKS]):
        spill = spill_block(pool, rings, held, q, used)  # there a packet takes no more than with its header here
        if spill != EMPTY:
            queues[q + w.INTO] = spill


@inline
def put_tag_back(arena, address, tag, kind):
    """Put a VLAN tag between the MAC addresses and the type; where the packet begins then."""
    first, last = load64(arena, address), load32(arena, address + 8)
    store64(arena, address - w.TAG_BYTES, first)
    store32(arena, address - w.TAG_BYTES + 8, last)
    store32(arena, address - w.TAG_BYTES + 12, swap16(kind) | swap16(tag) << 16)
    return address - w.TAG_BYTES


@inline
def put_cooked_header(arena, at, address):
    """Put the cooked header before the packet, from the sockaddr_ll; where the packet begins then."""
    start = address - w.SLL2_BYTES
    length = min(i64(arena[at + w.ADDRESS_LENGTH]), 8)
    link = load64(arena, at + w.ADDRESS)
    if length < 8:  # the kernel leaves what was there before
        link &= (1 << 8 * length) - 1
    protocol = load16(arena, at + w.PROTOCOL)
    index = swap32(load32(arena, at + w.IFINDEX))
    kind = swap16(load16(arena, at + w.HARDWARE)) | i64(arena[at + w.PACKET_TYPE]) << 16
    store32(arena, start, protocol)
    store32(arena, start + 4, index)
    store32(arena, start + 8, kind | i64(arena[at + w.ADDRESS_LENGTH]) << 24)
    store64(arena, start + 12, link)
    return start


@inline
def take_packets(pool, rings, q, slot, filled, count):
    """Move ``count`` packets from the cursor on into a slot's row; their bytes on the wire."""
    queues, arena = pool.queues, pool.arena
    spill_area = queues[q + w.SPILL] + (queues[q + w.INTO] - queues[q + w.BLOCKS]) * queues[q + w.BLOCK_BYTES]
    copies = queues[q + w.INTO] >= queues[q + w.BLOCKS]
    spilled = queues[q + w.SPILLED]
    address_row, captured_row = pool.address[slot], pool.captured[slot]
    original_row, stamp_row = pool.original[slot], pool.stamp[slot]
    at, octets = queues[q + w.CURSOR], 0
    for i in range(filled, filled + count):
        h = at >> 2
        following = i64(rings.halves[h + w.NEXT_OFFSET])
        prefetch(arena, at + 4 * following)
        captured, original = i64(rings.halves[h + w.CAPTURED]), i64(rings.halves[h + w.ORIGINAL])
        status = i64(rings.halves[h + w.PACKET_STATUS])
        address = at + (i64(rings.halves[h + w.PLACES]) & 0xFFFF)
        stamp = i64(rings.halves[h + w.SECONDS]) * 1_000_000_000 + i64(rings.halves[h + w.NANOSECONDS])
        octets += original
        if queues[q + w.COOKED]:
            address = put_cooked_header(arena, at, address)
            captured, original = captured + w.SLL2_BYTES, original + w.SLL2_BYTES
        elif status & w.VLAN_VALID and captured >= 12:
            kind = i64(rings.halves[h + w.TAG_TYPE]) & 0xFFFF if status & w.VLAN_TYPE_VALID else 0x8100
            address = put_tag_back(arena, address, i64(rings.halves[h + w.TAG]) & 0xFFFF, kind)
            captured, original = captured + w.TAG_BYTES, original + w.TAG_BYTES
            octets += w.TAG_BYTES
        if copies:
            copy(arena, spill_area + spilled, arena, address, captured)
            address = spill_area + spilled
            spilled += (captured + w.SPILL_ALIGN - 1) & -w.SPILL_ALIGN
        place = i
        while place and stamp_row[place - 1] > stamp:  # CPUs that deliver to one ring overtake each other
            address_row[place], captured_row[place] = address_row[place - 1], captured_row[place - 1]
            original_row[place], stamp_row[place] = original_row[place - 1], stamp_row[place - 1]
            place -= 1
        address_row[place], captured_row[place] = address, np.uint32(captured)
        original_row[place], stamp_row[place] = np.uint32(original), stamp
        at += following
    queues[q + w.CURSOR] = at
    if copies:
        queues[q + w.SPILLED] = spilled
        queues[q + w.COPIED] += count
    return octets
