"""A packet's fields read the slow and plain way, from bytes, to compare the kernels with."""

from __future__ import annotations

import struct
from typing import Any

TYPES = {1: (12, 14), 113: (14, 16), 276: (0, 20)}
"""link type (Ethernet, Linux cooked v1, v2) -> where the EtherType is, where the header ends."""


def naive(data: bytes, link: int = 1) -> dict[str, dict[str, Any]]:
    """layer -> field -> value of a packet's bytes; only the layers that are there."""
    found: dict[str, dict[str, Any]] = {}
    place, offset = TYPES[link]
    first = offset
    if len(data) < offset:
        return found
    if link == 1:
        found["eth"] = {"offset": 0, "dst": number(data[:6]), "src": number(data[6:12]), "type": number(data[12:14])}
    kind, tags = number(data[place : place + 2]), 0
    while kind in (0x8100, 0x88A8, 0x9100) and tags < 4 and len(data) >= offset + 4:
        tci = number(data[offset : offset + 2])
        kind = number(data[offset + 2 : offset + 4])
        if not tags:
            found["vlan"] = {
                "offset": first, "priority": tci >> 13, "dei": tci >> 12 & 1, "id": tci & 0xFFF, "type": kind,
            }  # fmt: skip
        offset, tags = offset + 4, tags + 1
    rest = data[offset:]
    if kind == 0x0806 and len(rest) >= 28:
        operation, smac, sip, tmac, tip = struct.unpack("!6xH6s4s6s4s", rest[:28])
        found["arp"] = {
            "offset": offset, "operation": operation, "sender_mac": number(smac), "sender_ip": number(sip),
            "target_mac": number(tmac), "target_ip": number(tip),
        }  # fmt: skip
    elif kind == 0x0800 and len(rest) >= 20 and rest[0] >> 4 == 4 and rest[0] & 15 >= 5:
        ipv4(rest, offset, found)
    elif kind == 0x86DD and len(rest) >= 40 and rest[0] >> 4 == 6:
        ipv6(rest, offset, found)
    return found


def ipv4(rest: bytes, offset: int, found: dict[str, dict[str, Any]]) -> None:
    _, tos, total, identity, fragment, ttl, protocol, checksum, src, dst = struct.unpack("!BBHHHBBH4s4s", rest[:20])
    length = (rest[0] & 15) * 4
    found["ip"] = {
        "offset": offset, "header_length": length, "dscp": tos >> 2, "ecn": tos & 3, "total_length": total,
        "id": identity, "dont_fragment": fragment >> 14 & 1, "more_fragments": fragment >> 13 & 1,
        "fragment_offset": (fragment & 0x1FFF) * 8, "ttl": ttl, "protocol": protocol, "checksum": checksum,
        "src": number(src), "dst": number(dst),
    }  # fmt: skip
    found["packet"] = {"protocol": protocol}
    if fragment & 0x1FFF == 0:
        transport(rest[length:], offset + length, protocol, 4, found)


def ipv6(rest: bytes, offset: int, found: dict[str, dict[str, Any]]) -> None:
    first, payload, following, hops = struct.unpack("!IHBB", rest[:8])
    found["ip6"] = {
        "offset": offset, "traffic_class": first >> 20 & 0xFF, "flow_label": first & 0xFFFFF,
        "payload_length": payload, "next_header": following, "hop_limit": hops,
        "src": (number(rest[8:16]), number(rest[16:24])), "dst": (number(rest[24:32]), number(rest[32:40])),
    }  # fmt: skip
    at = 40
    while following in (0, 43, 44, 51, 60, 135, 139, 140) and len(rest) >= at + 8 and at <= 40 + 512:
        header, kind = rest[at : at + 8], following
        following = header[0]
        if kind == 44 and number(header[2:4]) >> 3:
            at = len(rest)
            break
        at += 8 if kind == 44 else (header[1] + 2) * 4 if kind == 51 else (header[1] + 1) * 8
    if at > 40 + 512:
        at = len(rest)
    found["packet"] = {"protocol": following}
    transport(rest[at:], offset + at, following, 6, found)


def transport(rest: bytes, offset: int, protocol: int, version: int, found: dict[str, dict[str, Any]]) -> None:
    if len(rest) < 8:
        return
    ports = {"src_port": number(rest[:2]), "dst_port": number(rest[2:4])}
    if protocol in (6, 17, 33, 132, 136):
        found["packet"] |= ports
    if protocol == 6 and len(rest) >= 20:
        seq, ack, flags, window, checksum, urgent = struct.unpack("!IIHHHH", rest[4:20])
        names = ("fin", "syn", "rst", "psh", "ack_flag", "urg", "ece", "cwr")
        found["tcp"] = {
            **ports, "offset": offset, "payload": offset + (flags >> 12) * 4, "seq": seq, "ack": ack,
            "header_length": (flags >> 12) * 4, "flags": flags & 0xFFF, "window": window, "checksum": checksum,
            "urgent": urgent, **{name: flags >> bit & 1 for bit, name in enumerate(names)},
        }  # fmt: skip
    elif protocol == 17:
        length, checksum = struct.unpack("!HH", rest[4:8])
        found["udp"] = {**ports, "offset": offset, "payload": offset + 8, "length": length, "checksum": checksum}
    elif protocol == 132 and len(rest) >= 12:
        tag, checksum = struct.unpack("!II", rest[4:12])
        found["sctp"] = {**ports, "offset": offset, "payload": offset + 12, "verification_tag": tag,
                         "checksum": checksum}  # fmt: skip
    elif (protocol, version) in ((1, 4), (58, 6)):
        kind, code, checksum, identity, seq = struct.unpack("!BBHHH", rest[:8])
        found["icmp" if version == 4 else "icmp6"] = {
            "offset": offset, "payload": offset + 8, "type": kind, "code": code, "checksum": checksum,
            "id": identity, "seq": seq,
        }  # fmt: skip


def number(data: bytes) -> int:
    return int.from_bytes(data, "big")
