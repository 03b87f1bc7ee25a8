"""Put packets into an output buffer as pcap records or pcapng enhanced packet blocks.

A layout says which; the caller makes sure that ``packet_room`` bytes are left before it puts a packet.
"""

from __future__ import annotations

import numpy as np
from numba import types

from wirecap.kernels.jit import i64, inline, kernel, lengths, octets, words
from wirecap.kernels.pcapng_read import ENHANCED_PACKET
from wirecap.kernels.unaligned import copy, load32, store32

PCAP_US, PCAP_NS, PCAPNG_NS = 0, 1, 2
"""Layouts: pcap with microseconds or nanoseconds, pcapng on interfaces of if_tsresol 9."""

PCAP_OVERHEAD = 16
PCAPNG_OVERHEAD = 32
_NANOSECONDS = 1_000_000_000


@inline
def packet_room(layout, captured, snaplen):
    """Bytes that put_packet will write."""
    length = min(captured, snaplen)
    return PCAPNG_OVERHEAD + (length + 3 & ~3) if layout == PCAPNG_NS else PCAP_OVERHEAD + length


@inline
def put_pcap(out, position, arena, address, captured, original, stamp, snaplen, tick_ns):
    """One pcap record at out[position:]; tick_ns is 1000 in a microsecond file, 1 in a nanosecond file."""
    length = min(captured, snaplen)
    store32(out, position, stamp // _NANOSECONDS)
    store32(out, position + 4, stamp % _NANOSECONDS // tick_ns)
    store32(out, position + 8, length)
    store32(out, position + 12, original)
    copy(out, position + 16, arena, address, length)
    return position + 16 + length


@inline
def put_enhanced(out, position, arena, address, captured, original, stamp, snaplen, interface):
    """One enhanced packet block at out[position:], its stamp in ns."""
    length = min(captured, snaplen)
    padded = length + 3 & ~3
    total = PCAPNG_OVERHEAD + padded
    store32(out, position, ENHANCED_PACKET)
    store32(out, position + 4, total)
    store32(out, position + 8, interface)
    store32(out, position + 12, stamp >> 32)
    store32(out, position + 16, stamp & 0xFFFFFFFF)
    store32(out, position + 20, length)
    store32(out, position + 24, original)
    if padded:
        store32(out, position + 24 + padded, 0)  # the padding; the copy covers what is not
    copy(out, position + 28, arena, address, length)
    store32(out, position + 28 + padded, total)
    return position + total


@inline
def put_packet(layout, out, position, arena, address, captured, original, stamp, snaplen, interface):
    """Write one packet at out[position:]; returns the position after it.

    All arguments but the uint8 arrays are int64.  At most snaplen of the captured bytes at
    arena[address:] are written.  interface counts from 0 and matters to pcapng only.
    """
    if layout == PCAPNG_NS:
        return put_enhanced(out, position, arena, address, captured, original, stamp, snaplen, interface)
    tick_ns = 1 if layout == PCAP_NS else 1000
    return put_pcap(out, position, arena, address, captured, original, stamp, snaplen, tick_ns)


@kernel(types.UniTuple(i64, 2)(i64, octets, i64, i64, octets, words, lengths, lengths, words, i64, i64, i64, i64))
def put_chunk(
    layout, out, position, full, arena, address, captured, original, stamp, first, n, snaplen, interface
):  # fmt: skip
    """Write packets first..n-1 of a row into out[position:] until one does not fit or position is full or more.

    Returns (index of the first packet that was not written, position after the last one that was).
    """
    end = len(out)
    for k in range(first, n):
        length = np.int64(captured[k])
        if position >= full or position + packet_room(layout, length, snaplen) > end:
            return k, position
        position = put_packet(
            layout, out, position, arena, address[k], length, np.int64(original[k]), stamp[k], snaplen, interface
        )
    return n, position


@kernel(types.UniTuple(i64, 3)(i64, octets, i64, i64))
def whole_records(layout, written, position, end):
    """Walk the records in written[position:end], which put_packet made, as far as they are whole.

    Returns (position after the last whole record, packets among them, those packets' bytes); blocks that hold no
    packet are walked over.
    """
    packets, packet_octets = 0, 0
    while position + 16 <= end:
        if layout == PCAPNG_NS:
            size = load32(written, position + 4)
            packet = load32(written, position) == ENHANCED_PACKET
            length_at = position + 20
        else:
            size = PCAP_OVERHEAD + load32(written, position + 8)
            packet = True
            length_at = position + 8
        if size < 12 or position + size > end:
            break
        if packet:
            packets += 1
            packet_octets += load32(written, length_at)
        position += size
    return position, packets, packet_octets
