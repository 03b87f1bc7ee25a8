"""The headers of a chunk's packets as columns: the usual fields of all of them at once, any other field on its own.

The usual columns lie one after the other in a single block, so that a chunk costs one allocation.  A column's element
is 0 where the packet does not have the field, as in a compiled handler; ``layers`` says which layers there are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wirecap.kernels.base.atomics import prefetch
from wirecap.kernels.base.jit import inline, inline_always, kernel
from wirecap.kernels.base.kinds import byte_array, i64, lengths_table, table, words
from wirecap.kernels.packet import fields as f
from wirecap.kernels.packet import headers as p
from wirecap.kernels.packet.headers import at, load8, load16, load32, load64, signed

UNKNOWN_LINK = -1
"""For packets whose headers are not known: they have no layer."""


class Column(NamedTuple):
    name: str
    dtype: type
    width: int = 1
    """Elements in a row."""


COLUMNS = (
    Column("timestamp", np.uint64), Column("eth.src", np.uint64), Column("eth.dst", np.uint64),
    Column("ip6.src", np.uint64, 2), Column("ip6.dst", np.uint64, 2),
    Column("ip.src", np.uint32), Column("ip.dst", np.uint32), Column("length", np.uint32),
    Column("captured_length", np.uint32), Column("src_port", np.uint16), Column("dst_port", np.uint16),
    Column("eth.type", np.uint16), Column("vlan.id", np.uint16), Column("tcp.flags", np.uint16),
    Column("payload", np.uint16), Column("layers", np.uint16), Column("protocol", np.uint8),
)  # fmt: skip
"""In the order in which they lie in the block: the widest first, so that each is aligned for any number of rows."""
ROW_BYTES = sum(np.dtype(column.dtype).itemsize * column.width for column in COLUMNS)

_EIGHTS = 8 * (3 + 2 * 2)
_FOURS = _EIGHTS + 4 * 4
_TWOS = _FOURS + 2 * 7

BIT = {layer: 1 << number for number, layer in enumerate(p.LAYERS)}
"""Each layer's bit in the column ``layers``."""
_AHEAD = 16
"""Packets between the one being prefetched and the one being read."""
_FETCHED = 24
"""A byte in the middle of the headers."""
_ETH, _VLAN, _ARP, _IP, _IP6, _TCP, _UDP, _SCTP, _ICMP, _ICMP6 = (BIT[layer] for layer in p.LAYERS)


_USUAL6 = p.ETHER | p.IP6 << p.FAMILY | 14 << p.NETWORK | 54 << p.TRANSPORT
_USUAL = p.ETHER | p.IP << p.FAMILY | 14 << p.NETWORK | 34 << p.TRANSPORT
"""The headers words of IPv6 without extensions and IPv4 without options in a frame without a tag, but for the protocol.
"""


@inline
def _mac(packet, offset):
    return load64(packet, offset) >> np.uint64(16)


@inline_always
def _put_addresses(packet, i, n, network, eights):
    """The addresses of IPv6, whose header begins at ``network``."""
    source, target = 3 * n + 2 * i, 5 * n + 2 * i
    eights[source], eights[source + 1] = load64(packet, network + 8), load64(packet, network + 16)
    eights[target], eights[target + 1] = load64(packet, network + 24), load64(packet, network + 32)


@inline_always
def _put_no_addresses(i, n, eights):
    for word in (3 * n + 2 * i, 5 * n + 2 * i):
        eights[word] = eights[word + 1] = np.uint64(0)


@inline_always
def _put_transport(packet, i, n, layers, family, number, transport, twos):
    """The columns that depend on the transport header, which begins at ``transport``; 0: there is none."""
    ports, flags, payload = 0, 0, 0
    if transport:
        room = packet._captured - transport
        if number == 6 or number == 17 or number == 132 or number == 136 or number == 33:
            ports = load32(packet, transport)
        if number == 6:
            if room >= 20:
                flags, layers = load16(packet, transport + 12), layers | _TCP
                payload = transport + (flags >> 10 & 0x3C)
        elif number == 17:
            layers, payload = layers | _UDP, transport + 8
        elif number == 1 and family == p.IP:
            layers, payload = layers | _ICMP, transport + 8
        elif number == 58 and family == p.IP6:
            layers, payload = layers | _ICMP6, transport + 8
        elif number == 132 and room >= 12:
            layers, payload = layers | _SCTP, transport + 12
    twos[i], twos[n + i] = ports >> 16, ports & 0xFFFF
    twos[4 * n + i], twos[5 * n + i], twos[6 * n + i] = flags & 0xFFF, payload, layers


@kernel(i64(byte_array, table, lengths_table, lengths_table, table, i64, i64, i64, byte_array))
def decode_rows(arena, addresses, captureds, originals, timestamps, slot, n, link, out):
    """Fill the block ``out`` (n * ROW_BYTES bytes) for the first n packets of a slot; returns n.

    link: which header the packets begin with (packet/headers.py's ETHERNET, ...), or UNKNOWN_LINK.
    """
    address, captured, original, timestamp = addresses[slot], captureds[slot], originals[slot], timestamps[slot]
    eights = out[: _EIGHTS * n].view(np.uint64)
    fours = out[_EIGHTS * n : _FOURS * n].view(np.uint32)
    twos = out[_FOURS * n : _TWOS * n].view(np.uint16)
    ones = out[_TWOS * n :]
    for i in range(n):
        eights[i] = np.uint64(timestamp[i])
    for i in range(n):
        fours[2 * n + i] = original[i]
    for i in range(n):
        fours[3 * n + i] = captured[i]
    for i in range(n):
        if i + _AHEAD < n:
            prefetch(arena, address[i + _AHEAD] + _FETCHED)
        packet = at(arena, address[i], np.int64(captured[i]), 0, 0, link)
        headers = packet._headers
        number = headers >> p.PROTOCOL & p.PROTOCOL_MASK
        ones[i] = number
        if headers & ~(p.PROTOCOL_MASK << p.PROTOCOL) == _USUAL:
            eights[n + i], eights[2 * n + i] = _mac(packet, 6), _mac(packet, 0)
            twos[2 * n + i], twos[3 * n + i] = p.IPV4, 0
            fours[i], fours[n + i] = load32(packet, 26), load32(packet, 30)
            _put_no_addresses(i, n, eights)
            _put_transport(packet, i, n, _ETH | _IP, p.IP, number, 34, twos)
            continue
        if headers & ~(p.PROTOCOL_MASK << p.PROTOCOL) == _USUAL6:
            eights[n + i], eights[2 * n + i] = _mac(packet, 6), _mac(packet, 0)
            twos[2 * n + i], twos[3 * n + i] = p.IPV6, 0
            fours[i], fours[n + i] = 0, 0
            _put_addresses(packet, i, n, 14, eights)
            _put_transport(packet, i, n, _ETH | _IP6, p.IP6, number, 54, twos)
            continue
        family = headers >> p.FAMILY & p.FAMILY_MASK
        network = headers >> p.NETWORK & p.NETWORK_MASK
        layers, kind, tag = 0, 0, 0
        source, target = np.uint64(0), np.uint64(0)
        if headers & p.ETHER:
            layers, kind = _ETH, load16(packet, 12)
            source, target = _mac(packet, 6), _mac(packet, 0)
        eights[n + i], eights[2 * n + i] = source, target
        if headers >> p.TAG_COUNT & p.TAG_MASK:
            layers, tag = layers | _VLAN, load16(packet, headers >> p.TAGGED_AT & p.TAGGED_MASK) & 0xFFF
        twos[2 * n + i], twos[3 * n + i] = kind, tag
        near, far = 0, 0
        if family == p.IP:
            layers |= _IP
            near, far = load32(packet, network + 12), load32(packet, network + 16)
        elif family == p.ARPS:
            layers |= _ARP
        elif family == p.IP6:
            layers |= _IP6
            _put_addresses(packet, i, n, network, eights)
        if family != p.IP6:
            _put_no_addresses(i, n, eights)
        fours[i], fours[n + i] = near, far
        _put_transport(packet, i, n, layers, family, number, headers & p.TRANSPORT_MASK, twos)
    return n


_eth, _vlan, _arp, _ip, _ip6, _tcp, _udp, _sctp, _icmp, _icmp6 = (f.STARTS[layer] for layer in p.LAYERS)


@inline_always
def _start_of(packet, layer):
    """Where a layer's header begins, -1 if it is not there."""
    if layer == 0:
        return _eth(packet)
    if layer == 1:
        return _vlan(packet)
    if layer == 2:
        return _arp(packet)
    if layer == 3:
        return _ip(packet)
    if layer == 4:
        return _ip6(packet)
    if layer == 5:
        return _tcp(packet)
    if layer == 6:
        return _udp(packet)
    if layer == 7:
        return _sctp(packet)
    if layer == 8:
        return _icmp(packet)
    return _icmp6(packet)


class Recipe(NamedTuple):
    """How any field of a layer is read: ``bytes`` bytes, shifted and masked, plus where the header begins if asked."""

    layer: int
    offset: int = 0
    bytes: int = 0
    left: int = 0
    right: int = 0
    mask: int = -1
    plus: int = 0
    from_start: int = 0

    @property
    def width(self) -> int:
        """Elements in a row of its column."""
        return 2 if self.bytes == 16 else 1

    @property
    def dtype(self) -> type:
        """The smallest that holds every value."""
        if self.from_start:
            return np.uint16
        most = (1 << 8 * min(self.bytes, 8)) - 1 << self.left >> self.right & self.mask
        return next(kind for kind in (np.uint8, np.uint16, np.uint32, np.uint64) if most <= np.iinfo(kind).max)


def _recipes() -> dict[str, Recipe]:
    found = {}
    for number, layer in enumerate(p.LAYERS):
        for name, field in f.FIELDS[layer].items():
            found[f"{layer}.{name}"] = Recipe(
                number, field.offset, field.bytes, max(-field.shift, 0), max(field.shift, 0), field.mask
            )
        found[f"{layer}.offset"] = Recipe(number, from_start=1)
        if layer in f.FIXED:
            payload = Recipe(number, plus=f.FIXED[layer], from_start=1)
            if layer == "tcp":
                payload = found["tcp.header_length"]._replace(from_start=1)
            found[f"{layer}.payload"] = payload
    return found


RECIPES = _recipes()
"""Every field of every layer, by its name in compiled handlers."""


@kernel(i64(byte_array, table, lengths_table, i64, i64, i64, words, table))
def decode_field(arena, addresses, captureds, slot, n, link, recipe, out):
    """One field of the first n packets of a slot into out, int64 (n, width): its bits, 0 without the layer; returns n.

    recipe: the numbers of a Recipe.
    """
    layer, offset, size, left = recipe[0], recipe[1], recipe[2], recipe[3]
    right, mask, plus, from_start = recipe[4], recipe[5], recipe[6], recipe[7]
    address, captured = addresses[slot], captureds[slot]
    for i in range(n):
        packet = at(arena, address[i], np.int64(captured[i]), 0, 0, link)
        start = _start_of(packet, layer)
        out[i, out.shape[1] - 1] = out[i, 0] = 0
        if start < 0:
            continue
        place = start + offset
        value = 0
        if size == 16:
            out[i, 0] = signed(load64(packet, place))
            out[i, 1] = signed(load64(packet, place + 8))
            continue
        if size == 1:
            value = load8(packet, place)
        elif size == 2:
            value = load16(packet, place)
        elif size == 4:
            value = load32(packet, place)
        elif size == 6:
            value = load16(packet, place) << 32 | load32(packet, place + 2)
        out[i, 0] = (value << left >> right & mask) + plus + (start if from_start else 0)
    return n
