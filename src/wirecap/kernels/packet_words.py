"""Where things lie in a TPACKET_V3 block, and the words of a queue that has such a ring.

Source: linux/if_packet.h.  Everything is 8-aligned and in the host's order:

    block:   version | offset to private | status | packets | offset of the first packet | bytes used | ...
    packet:  next | s | ns | captured | original | status | mac, net | hash | tag | its type | ... | sockaddr_ll | bytes
"""

from __future__ import annotations

from wirecap.kernels.pool import RING_WORDS

# 32-bit words of a block
STATUS, PACKETS, FIRST, USED = 2, 3, 4, 5
TP_STATUS_KERNEL, TP_STATUS_USER = 0, 1

# 32-bit words of a packet's header; then bytes of the sockaddr_ll that lies 48 bytes behind its start
NEXT_OFFSET, SECONDS, NANOSECONDS, CAPTURED, ORIGINAL, PACKET_STATUS, PLACES, HASH, TAG, TAG_TYPE = range(10)
PROTOCOL, IFINDEX, HARDWARE, PACKET_TYPE, ADDRESS_LENGTH, ADDRESS = 50, 52, 56, 58, 59, 60
VLAN_VALID, VLAN_TYPE_VALID = 1 << 4, 1 << 6
TAG_BYTES = 4
SLL2_BYTES = 20  # tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html

BLOCK_HEADER_BYTES = 48  # struct tpacket_block_desc
PACKET_HEADER_BYTES = 96  # tpacket3_hdr and sockaddr_ll, so aligned that the network header is
ETHERNET_BYTES = 14


def packet_bytes(captured: int, link_bytes: int = 0) -> int:
    """What a packet of so many bytes takes of a block; link_bytes: those of them before the network header."""
    return (PACKET_HEADER_BYTES - link_bytes + captured + 7) & ~7


SOL_PACKET, PACKET_STATISTICS = 263, 6

# Words of a home queue in Pool.queues.  A holder is what packets of a chunk lie in: a block of the ring (0 to
# BLOCKS - 1) or, behind those, one of the spill area.  held[HELD + holder]: chunks in it, and 1 for the capture thread.
(
    SOCKET,  # file descriptor, or -1 in tests
    RING, BLOCKS, BLOCK_BYTES,  # where the ring begins in the arena
    NEXT,  # blocks ever taken: NEXT % BLOCKS is the next one
    LEFT, CURSOR, INTO,  # of the block that is being taken: packets left, the next one's header, their holder
    SPILL, SPILLS,  # where the spill area begins in the arena, and how many blocks it has
    SPILLING, SPILLED,  # the spill block that is being filled, or EMPTY, and bytes used in it
    HELD, HELD_BLOCKS,  # the latter: blocks of the ring that the kernel does not have
    COOKED,  # 1 where packets come without a link-layer header and get the cooked one
    SEEN,  # packets that came to the socket, by its statistics
    LOST_EXHAUSTED, LOST_LATE,  # those of them that found no block, and why
    FULL,  # 1 when in the last turn handlers had what the kernel wanted next
    COPIED,  # packets that were copied into the spill area
) = range(RING_WORDS, RING_WORDS + 20)  # fmt: skip

SPILL_ALIGN = 64
