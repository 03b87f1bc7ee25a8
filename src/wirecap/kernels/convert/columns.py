"""The headers of packets as columns of numbers, one row for each packet."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, i64, record, words
from wirecap.kernels.convert.addresses import ADDRESSES, IPV4, IPV6, MAC, number_of, word32, word48, word64
from wirecap.kernels.convert.order import ROWS
from wirecap.kernels.packet import attributes
from wirecap.kernels.packet.headers import TRANSPORT_MASK, at

assert attributes  # gives packets their fields
MOST_ADDRESSES = 4
_TCP, _UDP, _DCCP, _SCTP, _UDP_LITE = 6, 17, 33, 132, 136  # IANA's protocol numbers


class Columns(NamedTuple):
    """int64 (n,) each; -1 stands for a header that is not there.  Addresses are numbers in the table of them."""

    eth_src: Any
    eth_dst: Any
    vlan: Any
    src: Any
    dst: Any
    protocol: Any
    ttl: Any
    src_port: Any
    dst_port: Any
    tcp_flags: Any


COLUMNS = record(Columns, *[words] * len(Columns._fields))


def new_columns(n: int) -> Columns:
    return Columns(*(np.zeros(n, np.int64) for _ in Columns._fields))


@inline
def look(out, start, packet, addresses, columns, j):
    """Fill row j."""
    if packet.eth:
        columns.eth_dst[j] = number_of(addresses, MAC, 0, word48(out, start))
        columns.eth_src[j] = number_of(addresses, MAC, 0, word48(out, start + 6))
    if packet.vlan:
        columns.vlan[j] = packet.vlan.id
    if packet.ip:
        network = start + packet.ip.offset
        columns.src[j] = number_of(addresses, IPV4, 0, word32(out, network + 12))
        columns.dst[j] = number_of(addresses, IPV4, 0, word32(out, network + 16))
        columns.protocol[j], columns.ttl[j] = packet.protocol, packet.ip.ttl
    elif packet.ip6:
        network = start + packet.ip6.offset
        columns.src[j] = number_of(addresses, IPV6, word64(out, network + 8), word64(out, network + 16))
        columns.dst[j] = number_of(addresses, IPV6, word64(out, network + 24), word64(out, network + 32))
        columns.protocol[j], columns.ttl[j] = packet.protocol, packet.ip6.hop_limit
    elif packet.arp:
        network = start + packet.arp.offset
        columns.src[j] = number_of(addresses, IPV4, 0, word32(out, network + 14))
        columns.dst[j] = number_of(addresses, IPV4, 0, word32(out, network + 24))
    number = packet.protocol
    if packet._headers & TRANSPORT_MASK and (
        number == _TCP or number == _UDP or number == _DCCP or number == _SCTP or number == _UDP_LITE
    ):
        columns.src_port[j], columns.dst_port[j] = packet.src_port, packet.dst_port
    if packet.tcp:
        columns.tcp_flags[j] = packet.tcp.flags


@kernel(i64(byte_array, ROWS, words, i64, i64, words, i64, ADDRESSES, COLUMNS))
def fill_columns(out, rows, slots, first, n, links, snaplen, addresses, columns):
    """Rows first to n for the packets of ``slots``, whose bytes are in ``out`` at rows.place.

    links: int64, for each row which header its packets have (packet/headers.py), -1 if none is known.  Returns the
    packet at which the table of addresses had no room for another one's, n if it came to the end.
    """
    size = rows.timestamp.shape[1]
    for j in range(first, n):
        if addresses.count[0] + MOST_ADDRESSES > addresses.entries.shape[0]:
            return j
        for column in columns:
            column[j] = -1
        k, i = slots[j] // size, slots[j] % size
        if links[k] >= 0:
            captured, start = min(i64(rows.captured[k, i]), snaplen), rows.place[k, i]
            packet = at(out, start, captured, captured, 0, links[k])
            look(out, start, packet, addresses, columns, j)
    return n
