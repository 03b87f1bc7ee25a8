"""What a compiled handler sees of a packet: a value that says where the headers begin, bounds-safe.

``at`` looks for the headers once; a field is then one load.  A layer is there when its fixed header was
captured whole, so that no read leaves the captured bytes.  What a handler does not read, LLVM leaves out.
Under NUMBA_DISABLE_JIT=1 the same functions run on objects of the class ``Packet``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, make_attribute_wrapper, models, register_model

from wirecap.kernels.jit import PURE, inline, inline_always

ETHERNET, RAW_IP, LINUX_SLL, LINUX_SLL2, NULL = 1, 101, 113, 276, 0
LINK_TYPES = {ETHERNET: ETHERNET, RAW_IP: RAW_IP, 12: RAW_IP, 14: RAW_IP, 228: RAW_IP, 229: RAW_IP,
              LINUX_SLL: LINUX_SLL, LINUX_SLL2: LINUX_SLL2, NULL: NULL, 108: NULL}  # fmt: skip
"""Link types (tcpdump.org/linktypes.html) whose headers are known, and as which of them."""

LAYERS = ("eth", "vlan", "arp", "ip", "ip6", "tcp", "udp", "sctp", "icmp", "icmp6")

MEMBERS = ("captured", "original", "stamp", "headers")
"""captured, original: bytes.  stamp: ns.  headers: what was found, in one word, so that a packet travels in
registers: where the transport header begins, where the network header does (0: nowhere), the transport
protocol's number, how many VLAN tags there are, and which network protocol it is."""

TRANSPORT, TRANSPORT_MASK = 0, 0xFFFFF
NETWORK, NETWORK_MASK = 20, 0xFF
PROTOCOL, PROTOCOL_MASK = 28, 0xFF
TAG_COUNT, TAG_MASK = 36, 0x7
FAMILY, FAMILY_MASK = 40, 0x3
NO_NETWORK, IP, IP6, ARPS = range(4)
ETHER = 1 << 44
"""Set where there is an Ethernet header."""

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
TAGS = (0x8100, 0x88A8, 0x9100)
MOST_TAGS = 4
MOST_EXTENSION_BYTES = 512
SHORTEST_TRANSPORT = 8


class PacketType(types.Type):
    """The packet itself."""


layer_types = {name: type(f"{name}_type", (types.Type,), {})(name) for name in LAYERS}
"""A layer is the same value as its packet, of a type of its own."""
PACKET = PacketType("packet")


class _PacketModel(models.StructModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        members = [("data", types.voidptr), *((name, types.int64) for name in MEMBERS), ("edit", types.int64)]
        super().__init__(manager, kind, members)


for _kind in (PacketType, *map(type, layer_types.values())):
    register_model(_kind)(_PacketModel)
    for _name in (*MEMBERS, "edit"):
        make_attribute_wrapper(_kind, _name, f"_{_name}")


class Packet:
    """The packet of plain Python runs: its captured bytes, and what ``at`` found."""

    __slots__ = ("_edit", "_octets", *(f"_{name}" for name in MEMBERS))

    def __init__(self, octets: Any, *values: int) -> None:
        self._octets, self._edit = octets, None
        for name, value in zip(MEMBERS, values, strict=True):
            setattr(self, f"_{name}", value)


def _make_load(size: int) -> Any:
    """The ``size`` octets (1, 2, 4 or 8) at an offset, big-endian, as int64; 8 octets as uint64."""
    if PURE:
        return lambda packet, offset: int.from_bytes(packet._octets[offset : offset + size].tobytes(), "big")

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

    return load


load8, load16, load32, load64 = (_make_load(size) for size in (1, 2, 4, 8))

if PURE:

    def build(arena, address, *values):  # type: ignore[no-untyped-def]
        return Packet(arena[address : address + values[0]], *values)
else:

    @intrinsic
    def build(typing, arena, address, captured, original, stamp, headers):  # type: ignore[no-untyped-def]
        """A packet at arena[address:]."""

        def generate(context, builder, signature, arguments):
            packet = cgutils.create_struct_proxy(PACKET)(context, builder)
            data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
            packet.data = builder.gep(data, [arguments[1]])
            for name, value in zip(MEMBERS, arguments[2:], strict=True):
                setattr(packet, name, value)
            packet.edit = ir.Constant(ir.IntType(64), 0)  # kernels/edit.py
            return packet._getvalue()

        return PACKET(arena, *([types.int64] * (1 + len(MEMBERS)))), generate


@inline
def _word(ether, tags, family, network, protocol, transport):
    return (
        ether | tags << TAG_COUNT | family << FAMILY | network << NETWORK | protocol << PROTOCOL
        | transport << TRANSPORT
    )  # fmt: skip


@inline
def _past_extensions(packet, protocol, offset):
    """(transport protocol, its offset or 0) behind the IPv6 extension headers at ``offset`` (RFC 8200, section 4)."""
    last = min(packet._captured - SHORTEST_TRANSPORT, offset + MOST_EXTENSION_BYTES)
    while offset <= last:
        following = load8(packet, offset)
        length = load8(packet, offset + 1)
        if protocol == 0 or protocol == 43 or protocol == 60 or protocol == 135 or protocol == 139 or protocol == 140:
            offset += 8 * (length + 1)
        elif protocol == 51:  # authentication: its length counts 4 octets
            offset += 4 * (length + 2)
        elif protocol == 44:  # fragment: only the first one has the transport header
            if load16(packet, offset + 2) & 0xFFF8:
                return following, 0
            offset += 8
        else:
            return protocol, offset
        protocol = following
    return protocol, 0


@inline
def _network(packet, ether, tags, kind, offset):
    """The word of a packet whose network header, announced by the EtherType ``kind``, is at ``offset``."""
    captured = packet._captured
    if kind == IPV4 and offset + 20 <= captured:
        first = load8(packet, offset)
        length = (first & 15) * 4
        if first >> 4 == 4 and length >= 20:
            whole = load16(packet, offset + 6) & 0x1FFF == 0 and offset + length + SHORTEST_TRANSPORT <= captured
            return _word(ether, tags, IP, offset, load8(packet, offset + 9), offset + length if whole else 0)
    elif kind == IPV6 and offset + 40 <= captured and load8(packet, offset) >> 4 == 6:
        protocol, transport = _past_extensions(packet, load8(packet, offset + 6), offset + 40)
        return _word(ether, tags, IP6, offset, protocol, transport)
    elif kind == ARP and offset + 28 <= captured:
        return _word(ether, tags, ARPS, offset, 0, 0)
    return _word(ether, tags, NO_NETWORK, 0, 0, 0)


@inline
def _look(packet, link):
    """The word of any packet of that link type."""
    captured = packet._captured
    ether = tags = kind = offset = 0
    if link == ETHERNET and captured >= 14:
        ether = ETHER
        kind = load16(packet, 12)
        offset = 14
        while (kind == TAGS[0] or kind == TAGS[1] or kind == TAGS[2]) and tags < MOST_TAGS and offset + 4 <= captured:
            kind = load16(packet, offset + 2)
            offset += 4
            tags += 1
    elif link == LINUX_SLL and captured >= 16:
        kind, offset = load16(packet, 14), 16
    elif link == LINUX_SLL2 and captured >= 20:
        kind, offset = load16(packet, 0), 20
    elif link == NULL or link == RAW_IP:
        offset = 4 if link == NULL else 0
        if captured > offset:
            version = load8(packet, offset) >> 4
            kind = IPV4 if version == 4 else IPV6 if version == 6 else 0
    return _network(packet, ether, tags, kind, offset)


@inline_always
def at(arena, address, captured, original, stamp, link):
    """The packet of ``captured`` bytes at arena[address:], its headers found; most need no more than one look."""
    packet = build(arena, address, captured, original, stamp, 0)
    if link == ETHERNET and captured >= 42 and load32(packet, 12) & 0xFFFFFF00 == 0x08004500:
        if load16(packet, 20) & 0x1FFF == 0:
            headers = _word(ETHER, 0, IP, 14, load8(packet, 23), 34)
            return build(arena, address, captured, original, stamp, headers)
    return build(arena, address, captured, original, stamp, _look(packet, link))
