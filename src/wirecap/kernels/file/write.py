"""Puts packets into an output buffer, as pcap records or as pcapng enhanced packet blocks.

A layout says which; the caller ensures that ``packet_room`` bytes are left before putting a packet.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, i64, lengths_table, none, table, words
from wirecap.kernels.base.unaligned import copy, field32, store32, swap32
from wirecap.kernels.file.read import ENHANCED_PACKET, OBSOLETE_PACKET, SIMPLE_PACKET, block_of

PCAP_US, PCAP_NS, PCAPNG_NS, PCAPNG_COPY, PCAPNG_FLAGS = 0, 1, 2, 3, 4
"""Layouts: pcap with microseconds or nanoseconds, pcapng on interfaces of if_tsresol 9, blocks of a pcapng file as
they are, and the second with each packet's epb_flags, which its source put into the byte before it."""

PCAP_OVERHEAD = 16
PCAPNG_OVERHEAD = 32
FLAGS_BYTES = 12  # epb_flags and the end of options
EPB_FLAGS, FOUR_BYTES = 2, 4 << 16
_NANOSECONDS = 1_000_000_000
_PCAP_END_NS = (1 << 32) * _NANOSECONDS


@inline
def timely(layout, timestamp):
    """The nearest time, in ns, that the layout can hold: from 1970 on, and before 2106-02-07 in pcap."""
    if layout == PCAPNG_COPY:
        return timestamp
    return max(timestamp, 0) if layout >= PCAPNG_NS else min(max(timestamp, 0), _PCAP_END_NS - 1)


@inline
def packet_room(layout, captured, snaplen):
    """Bytes that put_packet will write."""
    length = min(captured, snaplen)
    if layout < PCAPNG_NS:
        return PCAP_OVERHEAD + length
    return PCAPNG_OVERHEAD + (length + 3 & ~3) + (FLAGS_BYTES if layout == PCAPNG_FLAGS else 0)


@inline
def put_pcap(out, position, arena, address, captured, original, timestamp, snaplen, tick_ns):
    """One pcap record at out[position:]; tick_ns is 1000 in a microsecond file, 1 in a nanosecond file."""
    length = min(captured, snaplen)
    store32(out, position, timestamp // _NANOSECONDS)
    store32(out, position + 4, timestamp % _NANOSECONDS // tick_ns)
    store32(out, position + 8, length)
    store32(out, position + 12, original)
    copy(out, position + 16, arena, address, length)
    return position + 16 + length


@inline
def put_enhanced(out, position, arena, address, captured, original, timestamp, snaplen, interface):
    """One enhanced packet block at out[position:], with its timestamp in ns."""
    length = min(captured, snaplen)
    padded = length + 3 & ~3
    total = PCAPNG_OVERHEAD + padded
    store32(out, position, ENHANCED_PACKET)
    store32(out, position + 4, total)
    store32(out, position + 8, interface)
    store32(out, position + 12, timestamp >> 32)
    store32(out, position + 16, timestamp & 0xFFFFFFFF)
    store32(out, position + 20, length)
    store32(out, position + 24, original)
    if padded:
        store32(out, position + 24 + padded, 0)  # the padding; the copy overwrites the rest
    copy(out, position + 28, arena, address, length)
    store32(out, position + 28 + padded, total)
    return position + total


@inline
def add_flags(out, position, end, flags):
    """Put epb_flags into the enhanced packet block at out[position:end], which has no options yet."""
    total = end - position + FLAGS_BYTES
    store32(out, position + 4, total)
    store32(out, end - 4, EPB_FLAGS | FOUR_BYTES)
    store32(out, end, flags)
    store32(out, end + 4, 0)
    store32(out, end + 8, total)
    return position + total


@inline
def put_block(out, position, arena, address, captured, snaplen, swapped):
    """A packet's block of a pcapng file at out[position:] as it is, the packet cut to snaplen bytes."""
    start, total, header = block_of(arena, address, captured, swapped)
    if captured <= snaplen:
        copy(out, position, arena, start, total)
        return position + total
    padded, options = snaplen + 3 & ~3, address + (captured + 3 & ~3)
    options_length = start + total - 4 - options
    size = header + padded + options_length + 4
    stored_size, stored_length = (swap32(size), swap32(snaplen)) if swapped else (size, snaplen)
    copy(out, position, arena, start, header)
    store32(out, position + 4, stored_size)
    if header == 28:  # a simple block leaves it to the interface's snap length
        store32(out, position + 20, stored_length)
    store32(out, position + header + padded - 4, 0)
    copy(out, position + header, arena, address, snaplen)
    copy(out, position + header + padded, arena, options, options_length)
    store32(out, position + size - 4, stored_size)
    return position + size


@inline
def put_packet(layout, out, position, arena, address, captured, original, timestamp, snaplen, interface):
    """Write one packet at out[position:]; returns the position after it.

    All arguments but the uint8 arrays are int64.  At most snaplen of the captured bytes at
    arena[address:] are written.  interface counts from 0 and matters only for pcapng.
    """
    if layout >= PCAPNG_NS:
        end = put_enhanced(out, position, arena, address, captured, original, timestamp, snaplen, interface)
        return add_flags(out, position, end, np.int64(arena[address - 1])) if layout == PCAPNG_FLAGS else end
    tick_ns = 1 if layout == PCAP_NS else 1000
    return put_pcap(out, position, arena, address, captured, original, timestamp, snaplen, tick_ns)


ROWS_SIGNATURE = i64(
    i64, byte_array, i64, i64, byte_array, table, lengths_table, lengths_table, table, i64, i64, i64, i64, i64, words
)  # fmt: skip


@kernel(ROWS_SIGNATURE)
def put_rows(
    layout, out, position, full, arena, address, captured, original, timestamp, slot, first, n, snaplen, interface,
    found,
):  # fmt: skip
    """Write packets first to n of row ``slot`` at out[position:]: up to where the next one does not fit, or begins at
    ``full`` or behind it.

    Returns the position after the last one; found: int64 (1,), becomes the index of the first that was not written.
    """
    for i in range(first, n):
        length = np.int64(captured[slot, i])
        if position >= full or position + packet_room(layout, length, snaplen) > out.size:
            found[0] = i
            return position
        position = put_packet(
            layout, out, position, arena, address[slot, i], length, np.int64(original[slot, i]),
            timely(layout, timestamp[slot, i]), snaplen, interface,
        )  # fmt: skip
    found[0] = n
    return position


@kernel(none(i64, byte_array, i64, i64, i64, words))
def whole_records(layout, written, position, end, swapped, found):
    """Walk the records in written[position:end], which put_packet or put_block made, up to the first incomplete one.

    found: int64 (3,): becomes the position after the last whole record, the number of packets, and the bytes of those
    packets; blocks without a packet are skipped.
    """
    packets, packet_bytes = 0, 0
    while position + 16 <= end:
        if layout >= PCAPNG_NS:
            kind, size = field32(written, position, swapped), field32(written, position + 4, swapped)
            packet = kind == ENHANCED_PACKET or kind == SIMPLE_PACKET or kind == OBSOLETE_PACKET
            length_at = position + (8 if kind == SIMPLE_PACKET else 20)
        else:
            size = PCAP_OVERHEAD + field32(written, position + 8, 0)
            packet = True
            length_at = position + 8
        if size < 12 or position + size > end:
            break
        if packet:
            packets += 1
            packet_bytes += min(field32(written, length_at, swapped), size - 16)
        position += size
    found[0], found[1], found[2] = position, packets, packet_bytes


def whole_of(layout: int, written: Any, position: int, end: int, swapped: int) -> tuple[int, int, int]:
    """What ``whole_records`` finds."""
    found = np.zeros(3, np.int64)
    whole_records(layout, written, position, end, swapped, found)
    position, packets, packet_bytes = found.tolist()
    return position, packets, packet_bytes
