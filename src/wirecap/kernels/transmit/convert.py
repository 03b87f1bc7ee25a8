"""Packets of one link type for an interface of another: cooked, raw IP, null and loopback onto Ethernet, all onto IP.

A packet's link-layer header says what it carries, as an EtherType or by other numbers; VLAN tags behind it belong to
the payload.  Sources: tcpdump.org/linktypes.html, libpcap's pcap/sll.h, IEEE 802.3.
"""

from __future__ import annotations

from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, i64, lengths, words
from wirecap.kernels.base.unaligned import copy, load16, load32, swap16, swap32

ETHERNET, NULL, LOOP, SLL, SLL2 = 1, 0, 108, 113, 276
RAW = (101, 12, 14, 228, 229)
LINK_TYPES = (ETHERNET, NULL, LOOP, SLL, SLL2, *RAW)
"""Link types (LINKTYPE_) that can be sent on Ethernet and on IP interfaces."""

ETHERNET_BYTES = 14
MOST_GROWTH = 14
"""Bytes that a packet may become longer by."""

# counts: packets that cannot be converted, by reason; and UNTAGGED, those that lost their VLAN tags
CUT_HEADER, NETLINK, WIRELESS, NO_ETHERTYPE, NOT_IP, UNTAGGED = range(6)
COUNTS = 6

_IPV4, _IPV6, _LLC, _NOVELL, _LOWEST = 0x0800, 0x86DD, 4, 1, 0x0600
_ARPHRD_ETHERNET, _ARPHRD_80211, _ARPHRD_RADIOTAP, _ARPHRD_NETLINK = 1, 801, 803, 824  # linux/if_arp.h
_INET, _INET6, _INET6_BSD, _INET6_FREEBSD, _INET6_DARWIN = 2, 10, 24, 28, 30  # AF_*; BSD: NetBSD and OpenBSD
_TAG, _SERVICE_TAG, _OLD_TAG = 0x8100, 0x88A8, 0x9100


@inline
def header_bytes(link):
    """Bytes of the link-layer header."""
    if link == ETHERNET:
        return 14
    if link == NULL or link == LOOP:
        return 4
    if link == SLL:
        return 16
    return 20 if link == SLL2 else 0


@inline
def kind_of_family(family):
    """The EtherType for an address family, or -1 - NOT_IP."""
    if family == _INET:
        return _IPV4
    if family == _INET6 or family == _INET6_BSD or family == _INET6_FREEBSD or family == _INET6_DARWIN:
        return _IPV6
    return -1 - NOT_IP


@inline
def kind_of_cooked(protocol, hardware):
    """The EtherType of a cooked packet, LLC for one with an 802.2 header, or -1 - reason."""
    if hardware == _ARPHRD_NETLINK:
        return -1 - NETLINK
    if _ARPHRD_80211 <= hardware <= _ARPHRD_RADIOTAP:
        return -1 - WIRELESS
    if protocol == _LLC or protocol == _NOVELL:
        return _LLC
    return protocol if protocol >= _LOWEST else -1 - NO_ETHERTYPE


@inline
def kind_of(arena, at, length, link):
    """What a packet carries: its EtherType, LLC for a frame whose length stands there, or -1 - reason."""
    if length < header_bytes(link):
        return -1 - CUT_HEADER
    if link == ETHERNET:
        kind = swap16(load16(arena, at + 12))
        return kind if kind >= _LOWEST else i64(_LLC)
    if link == SLL:
        return kind_of_cooked(swap16(load16(arena, at + 14)), swap16(load16(arena, at + 2)))
    if link == SLL2:
        return kind_of_cooked(swap16(load16(arena, at)), swap16(load16(arena, at + 8)))
    if link == NULL or link == LOOP:
        family = load32(arena, at)
        return kind_of_family(swap32(family) if family > 0xFFFF else family)
    version = arena[at] >> 4 if length > 0 else 0
    return i64(_IPV4) if version == 4 else i64(_IPV6) if version == 6 else i64(-1 - NOT_IP)


@inline
def source_of(arena, at, link):
    """Where the sender's Ethernet address stands in a cooked header; -1 where there is none."""
    place = at + (6 if link == SLL else 12)
    if link == SLL:
        size, hardware = swap16(load16(arena, at + 4)), swap16(load16(arena, at + 2))
    elif link == SLL2:
        size, hardware = i64(arena[at + 11]), swap16(load16(arena, at + 8))
    else:
        return -1
    if size != 6 or hardware != _ARPHRD_ETHERNET:
        return -1
    return place if load32(arena, place) or load16(arena, place + 4) else -1


@kernel(i64(byte_array, words, lengths, lengths, words, words, i64, i64, byte_array, words, words))
def to_ethernet(arena, address, captured, original, timestamp, queue, n, link, out, sourceless, counts):
    """Copy packets of ``link`` to ``out`` with an Ethernet header each; how many could be converted.

    The rows (kernels/transmit/schedule.py: admit) are compacted, and address becomes the place in ``out`` (uint8, room
    for all packets and MOST_GROWTH bytes more for each).  A frame's destination is 0; its source is that of a cooked
    header, else 0 and sourceless[i] (int64) is 1.  counts: int64 (COUNTS,).
    """
    kept, end, header = 0, 0, header_bytes(link)
    for i in range(n):
        at, length = address[i], i64(captured[i])
        kind = kind_of(arena, at, length, link)
        if kind < 0:
            counts[-1 - kind] += 1
            continue
        source, payload = source_of(arena, at, link), length - header
        for k in range(12):
            out[end + k] = 0
        if source >= 0:
            copy(out, end + 6, arena, source, 6)
        if kind == _LLC:
            kind = min(i64(original[i]) - header, _LOWEST - 1)
        out[end + 12], out[end + 13] = kind >> 8 & 0xFF, kind & 0xFF
        copy(out, end + ETHERNET_BYTES, arena, at + header, payload)
        sourceless[kept] = source < 0
        address[kept], captured[kept] = end, ETHERNET_BYTES + payload
        original[kept] = max(i64(original[i]) - header, 0) + ETHERNET_BYTES
        timestamp[kept], queue[kept] = timestamp[i], queue[i]
        end += ETHERNET_BYTES + payload
        kept += 1
    return kept


@inline
def past_tags(arena, kind, at, end):
    """(EtherType, place) of what is behind VLAN tags, of which the first one's EtherType is ``kind``."""
    while (kind == _TAG or kind == _SERVICE_TAG or kind == _OLD_TAG) and at + 4 <= end:
        kind, at = swap16(load16(arena, at + 2)), at + 4
    return kind, at


@inline
def ip_bytes(arena, kind, at, end):
    """Bytes of the IP packet at ``at``, without the padding of a short frame behind it."""
    length = end - at
    if kind == _IPV4 and length >= 20:
        total = swap16(load16(arena, at + 2))
        return min(length, total) if total >= 20 else length
    if kind == _IPV6 and length >= 40:
        payload = swap16(load16(arena, at + 4))
        return min(length, 40 + payload) if payload else length  # 0: a jumbogram
    return length


@kernel(i64(byte_array, words, lengths, lengths, words, words, i64, i64, words))
def to_ip(arena, address, captured, original, timestamp, queue, n, link, counts):
    """Leave out the link-layer headers, VLAN tags and padding of IP packets, where they lie; how many there are.

    The rows are compacted as by ``to_ethernet``.
    """
    kept, header = 0, header_bytes(link)
    for i in range(n):
        start, length = address[i], i64(captured[i])
        kind, end = kind_of(arena, start, length, link), start + length
        untagged, at = past_tags(arena, kind, start + header, end)
        if kind < 0 or (untagged != _IPV4 and untagged != _IPV6):
            counts[-1 - kind if kind < 0 else NOT_IP] += 1
            continue
        padded = link == ETHERNET or link == SLL or link == SLL2
        size = ip_bytes(arena, untagged, at, end) if padded else end - at
        counts[UNTAGGED] += untagged != kind
        cut = max(i64(original[i]) - length, 0)
        address[kept], captured[kept], original[kept] = at, size, size + cut
        timestamp[kept], queue[kept] = timestamp[i], queue[i]
        kept += 1
    return kept
