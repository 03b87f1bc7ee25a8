"""The fields of a packet by their standard names: one table, from which readers and documentation are made.

A field is 0 if its layer is missing or it lies beyond the captured bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from wirecap.kernels.base.jit import inline
from wirecap.kernels.packet import headers as p
from wirecap.kernels.packet.headers import load8, load16, load32, load64


class Field(NamedTuple):
    """``bytes`` bytes (1, 2, 4, 6, or 16 as a pair of uint64) at ``offset`` in the header, then shifted and masked."""

    offset: int
    bytes: int
    shift: int = 0
    mask: int = -1


_ports = {"src_port": Field(0, 2), "dst_port": Field(2, 2)}

FIELDS: dict[str, dict[str, Field]] = {
    "eth": {"dst": Field(0, 6), "src": Field(6, 6), "type": Field(12, 2)},
    "vlan": {
        "priority": Field(0, 2, 13), "dei": Field(0, 2, 12, 1), "id": Field(0, 2, 0, 0xFFF), "type": Field(2, 2),
    },
    "arp": {
        "operation": Field(6, 2), "sender_mac": Field(8, 6), "sender_ip": Field(14, 4), "target_mac": Field(18, 6),
        "target_ip": Field(24, 4),
    },
    "ip": {
        "header_length": Field(0, 1, -2, 0x3C), "dscp": Field(1, 1, 2), "ecn": Field(1, 1, 0, 3),
        "total_length": Field(2, 2), "id": Field(4, 2), "dont_fragment": Field(6, 2, 14, 1),
        "more_fragments": Field(6, 2, 13, 1), "fragment_offset": Field(6, 2, -3, 0xFFF8), "ttl": Field(8, 1),
        "protocol": Field(9, 1), "checksum": Field(10, 2), "src": Field(12, 4), "dst": Field(16, 4),
    },
    "ip6": {
        "traffic_class": Field(0, 2, 4, 0xFF), "flow_label": Field(0, 4, 0, 0xFFFFF), "payload_length": Field(4, 2),
        "next_header": Field(6, 1), "hop_limit": Field(7, 1), "src": Field(8, 16), "dst": Field(24, 16),
    },
    "tcp": {
        **_ports, "seq": Field(4, 4), "ack": Field(8, 4), "header_length": Field(12, 1, 2, 0x3C),
        "flags": Field(12, 2, 0, 0xFFF), "fin": Field(13, 1, 0, 1), "syn": Field(13, 1, 1, 1),
        "rst": Field(13, 1, 2, 1), "psh": Field(13, 1, 3, 1), "ack_flag": Field(13, 1, 4, 1),
        "urg": Field(13, 1, 5, 1), "ece": Field(13, 1, 6, 1), "cwr": Field(13, 1, 7, 1), "window": Field(14, 2),
        "checksum": Field(16, 2), "urgent": Field(18, 2),
    },
    "udp": {**_ports, "length": Field(4, 2), "checksum": Field(6, 2)},
    "sctp": {**_ports, "verification_tag": Field(4, 4), "checksum": Field(8, 4)},
    "icmp": {
        "type": Field(0, 1), "code": Field(1, 1), "checksum": Field(2, 2), "id": Field(4, 2), "seq": Field(6, 2),
    },
    "icmp6": {
        "type": Field(0, 1), "code": Field(1, 1), "checksum": Field(2, 2), "id": Field(4, 2), "seq": Field(6, 2),
    },
}  # fmt: skip
"""Offsets from IEEE 802.3 and 802.1Q and RFC 826, 791, 8200, 9293, 768, 9260, 792 and 4443."""


@inline
def _eth(packet):
    return 0 if packet._headers & p.ETHER else -1


@inline
def _vlan(packet):
    word = packet._headers
    return word >> p.TAGGED_AT & p.TAGGED_MASK if word >> p.TAG_COUNT & p.TAG_MASK else -1


def _network(family: int) -> Any:
    @inline
    def start(packet):  # type: ignore[no-untyped-def]
        word = packet._headers
        return word >> p.NETWORK & p.NETWORK_MASK if word >> p.FAMILY & p.FAMILY_MASK == family else -1

    return start


def _transport(number: int, shortest: int, family: int = p.NO_NETWORK) -> Any:
    """Where the transport protocol's header begins; family: IP or IP6 if the protocol belongs to only one of them."""

    @inline
    def start(packet):  # type: ignore[no-untyped-def]
        word = packet._headers
        transport = word & p.TRANSPORT_MASK
        there = (
            word >> p.PROTOCOL & p.PROTOCOL_MASK == number and transport > 0
            and transport + shortest <= packet._captured
            and (family == p.NO_NETWORK or word >> p.FAMILY & p.FAMILY_MASK == family)
        )  # fmt: skip
        return transport if there else -1

    return start


STARTS: dict[str, Any] = {
    "eth": _eth, "vlan": _vlan, "arp": _network(p.ARPS), "ip": _network(p.IP), "ip6": _network(p.IP6),
    "tcp": _transport(6, 20), "udp": _transport(17, 8), "sctp": _transport(132, 12),
    "icmp": _transport(1, 8, p.IP), "icmp6": _transport(58, 8, p.IP6),
}  # fmt: skip
"""For each layer, the function packet -> offset of its header, or -1."""


@inline
def _load48(packet, offset):
    return load16(packet, offset) << 32 | load32(packet, offset + 2)


_LOADS = {1: load8, 2: load16, 4: load32, 6: _load48}


def _reader(start: Any, field: Field) -> Callable[[Any], Any]:
    offset, width, shift, mask = field
    if width == 16:

        def pair(packet):  # type: ignore[no-untyped-def]
            at = start(packet)
            if at < 0:
                return np.uint64(0), np.uint64(0)
            return np.uint64(load64(packet, at + offset)), np.uint64(load64(packet, at + offset + 8))

        return pair
    load, left, right = _LOADS[width], max(-shift, 0), max(shift, 0)

    def read(packet):  # type: ignore[no-untyped-def]
        at = start(packet)
        return (load(packet, at + offset) << left >> right) & mask if at >= 0 else 0

    return read


def _offset(start: Any) -> Callable[[Any], Any]:
    def offset(packet):  # type: ignore[no-untyped-def]
        return max(start(packet), 0)

    return offset


def _payload(start: Any, length: int, header: Field | None) -> Callable[[Any], Any]:
    read = _reader(start, header) if header else None
    if read is None:

        def payload(packet):  # type: ignore[no-untyped-def]
            at = start(packet)
            return at + length if at >= 0 else 0

        return payload
    read = inline(read)

    def payload_of_header(packet):  # type: ignore[no-untyped-def]
        at = start(packet)
        return at + read(packet) if at >= 0 else 0

    return payload_of_header


FIXED = {"udp": 8, "sctp": 12, "icmp": 8, "icmp6": 8, "tcp": 20}
"""Transport layers and the bytes of their fixed headers; a payload begins behind them, or behind TCP's options."""

LAYER_ATTRIBUTES: dict[str, dict[str, Callable[[Any], Any]]] = {
    layer: {
        **{name: _reader(start, field) for name, field in FIELDS[layer].items()},
        "offset": _offset(start),
        **({"payload": _payload(start, FIXED[layer], FIELDS[layer].get("header_length"))} if layer in FIXED else {}),
    }
    for layer, start in STARTS.items()
}
"""layer -> attribute -> function of the packet."""


def _five_tuple_port(offset: int) -> Callable[[Any], Any]:
    def port(packet):  # type: ignore[no-untyped-def]
        number = packet._headers >> p.PROTOCOL & p.PROTOCOL_MASK
        transport = packet._headers & p.TRANSPORT_MASK
        there = number == 6 or number == 17 or number == 132 or number == 136 or number == 33
        return load16(packet, transport + offset) if there and transport else 0

    return port


def has_hash(packet):  # type: ignore[no-untyped-def]
    """Whether the NIC has told a hash of the packet."""
    return packet._headers & p.HASHED != 0 and p.front(packet) >> 32 != 0


_told = inline(has_hash)


def _nic_hash(packet):  # type: ignore[no-untyped-def]
    return p.front(packet) & 0xFFFFFFFF if _told(packet) else 0


def _member(name: str) -> Callable[[Any], Any]:
    return {
        "timestamp": lambda packet: packet._timestamp,
        "length": lambda packet: packet._original,
        "captured_length": lambda packet: packet._captured,
        "protocol": lambda packet: packet._headers >> p.PROTOCOL & p.PROTOCOL_MASK,
    }[name]


PACKET_ATTRIBUTES: dict[str, Callable[[Any], Any]] = {
    **{name: _member(name) for name in ("timestamp", "length", "captured_length", "protocol")},
    "src_port": _five_tuple_port(0),
    "dst_port": _five_tuple_port(2),
    "nic_hash": _nic_hash,
}
"""Attributes of the packet that belong to no layer.  timestamp: ns since the epoch; length: bytes on the wire;
nic_hash: what the NIC's driver tells, 32 bits."""


def _unsigned(load: Any, width: int) -> Callable[[Any, Any], Any]:
    def read(packet, offset):  # type: ignore[no-untyped-def]
        return load(packet, offset) if 0 <= offset <= packet._captured - width else 0

    return read


METHODS = {"u8": _unsigned(load8, 1), "u16": _unsigned(load16, 2), "u32": _unsigned(load32, 4)}
"""Big-endian numbers at an offset in the packet."""
