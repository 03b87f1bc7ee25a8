"""A packet as a compiled handler sees it: a value that says where the headers begin, and is safe to read.

``at`` finds the headers once; after that, reading a field is one load.  A layer is present if its whole fixed
header was captured, so no read leaves the captured bytes.  LLVM leaves out whatever a handler does not read.
Under NUMBA_DISABLE_JIT=1 the same functions run on objects of the class ``Packet``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wirecap.kernels.base.jit import CHECKED, PURE, inline, inline_always, intrinsic
from wirecap.kernels.base.later import Later, cgutils, ir, types
from wirecap.kernels.pool.large import HASH_BYTES

model: Any = Later("wirecap.kernels.packet.model")

ETHERNET, RAW_IP, LINUX_SLL, LINUX_SLL2, NULL = 1, 101, 113, 276, 0
LINK_TYPES = {ETHERNET: ETHERNET, RAW_IP: RAW_IP, 12: RAW_IP, 14: RAW_IP, 228: RAW_IP, 229: RAW_IP,
              LINUX_SLL: LINUX_SLL, LINUX_SLL2: LINUX_SLL2, NULL: NULL, 108: NULL}  # fmt: skip
"""The link types (tcpdump.org/linktypes.html) whose headers are known, and which header each one has."""

LAYERS = ("eth", "vlan", "arp", "ip", "ip6", "tcp", "udp", "sctp", "icmp", "icmp6")

MEMBERS = ("captured", "original", "timestamp", "headers")
"""captured, original: bytes.  timestamp: ns.  headers: what was found, packed into one word so that a packet travels
in registers: where the transport header begins, where the network header begins (0: nowhere), the transport
protocol's number, the number of VLAN tags and where the first begins, and the network protocol."""

TRANSPORT, TRANSPORT_MASK = 0, 0xFFFFF
NETWORK, NETWORK_MASK = 20, 0xFF
PROTOCOL, PROTOCOL_MASK = 28, 0xFF
TAG_COUNT, TAG_MASK = 36, 0x7
FAMILY, FAMILY_MASK = 40, 0x3
NO_NETWORK, IP, IP6, ARPS = range(4)
ETHER = 1 << 44
"""Set if there is an Ethernet header."""
TAGGED_AT, TAGGED_MASK = 45, 0x1F
HASHED = 1 << 50
"""Set if the NIC's hash lies in front of the packet's bytes."""

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
TAGS = (0x8100, 0x88A8, 0x9100)
MOST_TAGS = 4
MOST_EXTENSION_BYTES = 512
SHORTEST_TRANSPORT = 8


class Packet:
    """The packet in a plain Python run: its captured bytes, and what ``at`` found."""

    __slots__ = ("_edit", "_front", "_bytes", *(f"_{name}" for name in MEMBERS))

    def __init__(self, data: Any, *values: int) -> None:
        self._bytes, self._front, self._edit = data, None, None
        for name, value in zip(MEMBERS, values, strict=True):
            setattr(self, f"_{name}", value)


OUTSIDE = "a load outside the packet's captured bytes"


def _checked(packet: Packet, offset: int, size: int) -> Any:
    if offset < 0 or offset + size > packet._bytes.size:
        raise IndexError(OUTSIDE)
    return packet._bytes[offset : offset + size]


def _make_load(size: int) -> Any:
    """A function that loads ``size`` bytes (1, 2, 4 or 8) at an offset, big-endian, as int64; 8 bytes as uint64.

    A bounds-checked run refuses what does not lie in the captured bytes, as plain Python does.
    """
    if PURE:
        return lambda packet, offset: int.from_bytes(_checked(packet, offset, size).tobytes(), "big")

    @intrinsic
    def load(typing, packet, offset):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):
            data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
            kind = ir.IntType(8 * size)
            pointer = builder.bitcast(builder.gep(data, [arguments[1]]), kind.as_pointer())
            field = builder.load(pointer, align=1)
            if size > 1:
                field = builder.bswap(field)
            return field if size == 8 else builder.zext(field, ir.IntType(64))

        return (types.uint64 if size == 8 else types.int64)(packet, types.int64), generate

    if not CHECKED:
        return load

    @inline
    def checked(packet, offset):  # type: ignore[no-untyped-def]
        if offset < 0 or offset + size > packet._captured:
            raise IndexError(OUTSIDE)
        return load(packet, offset)

    return checked


load8, load16, load32, load64 = (_make_load(size) for size in (1, 2, 4, 8))

_LEAST = -(1 << 63)


@inline
def signed(word):
    """The bits of a uint64 as an int64."""
    low = np.int64(word & np.uint64(0x7FFFFFFFFFFFFFFF))
    return low | _LEAST if word >> np.uint64(63) else low


if PURE:

    def build(arena, address, *values):  # type: ignore[no-untyped-def]
        return Packet(arena[address : address + values[0]], *values)
else:

    @intrinsic
    def build(typing, arena, address, captured, original, timestamp, headers):  # type: ignore[no-untyped-def]
        """The packet at arena[address:]."""

        def generate(context, builder, signature, arguments):
            packet = cgutils.create_struct_proxy(model.PACKET)(context, builder)
            data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
            packet.data = builder.gep(data, [arguments[1]])
            for name, value in zip(MEMBERS, arguments[2:], strict=True):
                setattr(packet, name, value)
            packet.edit = ir.Constant(ir.IntType(64), 0)  # kernels/packet/edit.py
            return packet._getvalue()

        return model.PACKET(arena, *([types.int64] * (1 + len(MEMBERS)))), generate


if PURE:

    def hashed(packet, arena, address, word):  # type: ignore[no-untyped-def]
        """The packet, with HASHED if ``word`` has it: the NIC's hash lies in front of arena[address:]."""
        if word & HASHED and address >= HASH_BYTES:
            packet._headers, packet._front = packet._headers | HASHED, arena[address - HASH_BYTES : address]
        return packet

    def front(packet):  # type: ignore[no-untyped-def]
        return int.from_bytes(packet._front.tobytes(), "little", signed=True)

else:

    @intrinsic
    def _marked(typing, packet, mark):  # type: ignore[no-untyped-def]
        """The packet, with the bits of ``mark`` in its headers word."""

        def generate(context, builder, signature, arguments):
            view = cgutils.create_struct_proxy(model.PACKET)(context, builder, arguments[0])
            view.headers = builder.or_(view.headers, arguments[1])
            return view._getvalue()

        return model.PACKET(packet, types.int64), generate

    @inline_always
    def hashed(packet, arena, address, word):
        """The packet, with HASHED if ``word`` has it: the NIC's hash lies in front of arena[address:].

        LLVM sees that no other bit can change, so that a handler that does not ask for the hash is as it was.
        """
        return _marked(packet, word & HASHED if address >= HASH_BYTES else 0)

    @intrinsic
    def front(typing, packet):  # type: ignore[no-untyped-def]
        """The 8 bytes in front of a packet that has HASHED: the hash, and above it its kind, 0 without a hash."""

        def generate(context, builder, signature, arguments):
            data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
            place = builder.gep(data, [ir.Constant(ir.IntType(64), -HASH_BYTES)])
            return builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)

        return types.int64(packet), generate


@inline
def _word(link_word, family, network, protocol, transport):
    return link_word | family << FAMILY | network << NETWORK | protocol << PROTOCOL | transport << TRANSPORT


@inline
def _past_extensions(packet, protocol, offset):
    """(transport protocol, its offset or 0) after the IPv6 extension headers at ``offset`` (RFC 8200, section 4)."""
    last = min(packet._captured - SHORTEST_TRANSPORT, offset + MOST_EXTENSION_BYTES)
    while offset <= last:
        following = load8(packet, offset)
        length = load8(packet, offset + 1)
        if protocol == 0 or protocol == 43 or protocol == 60 or protocol == 135 or protocol == 139 or protocol == 140:
            offset += 8 * (length + 1)
        elif protocol == 51:  # authentication header: its length is in units of 4 bytes
            offset += 4 * (length + 2)
        elif protocol == 44:  # fragment header: only the first fragment has the transport header
            if load16(packet, offset + 2) & 0xFFF8:
                return following, 0
            offset += 8
        else:
            return protocol, offset
        protocol = following
    return protocol, 0


@inline
def _network(packet, link_word, kind, offset):
    """The headers word of a packet whose network header, of EtherType ``kind``, is at ``offset``.

    link_word: what the word says of the link layer.
    """
    captured = packet._captured
    if kind == IPV4 and offset + 20 <= captured:
        first = load8(packet, offset)
        length = (first & 15) * 4
        if first >> 4 == 4 and length >= 20:
            whole = load16(packet, offset + 6) & 0x1FFF == 0 and offset + length + SHORTEST_TRANSPORT <= captured
            return _word(link_word, IP, offset, load8(packet, offset + 9), offset + length if whole else 0)
    elif kind == IPV6 and offset + 40 <= captured and load8(packet, offset) >> 4 == 6:
        protocol, transport = _past_extensions(packet, load8(packet, offset + 6), offset + 40)
        return _word(link_word, IP6, offset, protocol, transport)
    elif kind == ARP and offset + 28 <= captured:
        return _word(link_word, ARPS, offset, 0, 0)
    return _word(link_word, NO_NETWORK, 0, 0, 0)


@inline
def link_layer(packet, link):
    """(ETHER or 0, VLAN tags, EtherType, where the network header would begin) of any packet of this link type."""
    captured = packet._captured
    ether = tags = kind = offset = 0
    if link == ETHERNET and captured >= 14:
        ether = ETHER
        kind = load16(packet, 12)
        offset = 14
    elif link == LINUX_SLL and captured >= 16:
        kind, offset = load16(packet, 14), 16
    elif link == LINUX_SLL2 and captured >= 20:
        kind, offset = load16(packet, 0), 20
    elif link == NULL or link == RAW_IP:
        offset = 4 if link == NULL else 0
        if captured > offset:
            version = load8(packet, offset) >> 4
            kind = IPV4 if version == 4 else IPV6 if version == 6 else 0
    while (kind == TAGS[0] or kind == TAGS[1] or kind == TAGS[2]) and tags < MOST_TAGS and offset + 4 <= captured:
        kind = load16(packet, offset + 2)
        offset += 4
        tags += 1
    return ether, tags, kind, offset


@inline
def _look(packet, link):
    """The headers word of any packet of this link type."""
    ether, tags, kind, offset = link_layer(packet, link)
    first = offset - 4 * tags if tags else 0
    return _network(packet, ether | tags << TAG_COUNT | first << TAGGED_AT, kind, offset)


@inline_always
def at(arena, address, captured, original, timestamp, link):
    """The packet of ``captured`` bytes at arena[address:], with its headers found; most take only the quick tests."""
    packet = build(arena, address, captured, original, timestamp, 0)
    if link == ETHERNET and captured >= 42 and load32(packet, 12) & 0xFFFFFF00 == 0x08004500:
        if load16(packet, 20) & 0x1FFF == 0:
            headers = _word(ETHER, IP, 14, load8(packet, 23), 34)
            return build(arena, address, captured, original, timestamp, headers)
    if link == ETHERNET and captured >= 62 and load32(packet, 12) & 0xFFFFF000 == 0x86DD6000:
        following = load8(packet, 20)
        if following == 6 or following == 17 or following == 58:  # no extension headers
            headers = _word(ETHER, IP6, 14, following, 54)
            return build(arena, address, captured, original, timestamp, headers)
    return build(arena, address, captured, original, timestamp, _look(packet, link))
