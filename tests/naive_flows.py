"""Flow records reckoned the slow and plain way, a dict and an object for each flow, to compare the flow table with."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from naive_packet import naive

PORTS, EXTENSIONS = (6, 17, 33, 132, 136), (0, 43, 44, 51, 60, 135, 139, 140)
SECOND = 1_000_000_000
FIN, SYN, RST, ACK = 1, 2, 4, 16
IDLE, ACTIVE, END, FORCED = 1, 2, 3, 4


@dataclass
class Packet:
    time: int
    data: bytes
    size: int


def packets_of(path: Path) -> Iterator[Packet]:
    """The packets of a little-endian pcap file of microseconds."""
    data, at = path.read_bytes(), 24
    while at < len(data):
        seconds, micros, captured, size = struct.unpack("<IIII", data[at : at + 16])
        yield Packet(seconds * SECOND + micros * 1000, data[at + 16 : at + 16 + captured], size)
        at += 16 + captured


@dataclass
class Side:
    """What one end sent."""

    packets: int = 0
    octets: int = 0
    frames: int = 0
    flags: int = 0
    tos: int = 0


@dataclass
class Flow:
    key: tuple[Any, ...]
    source: tuple[Any, int]
    target: tuple[Any, int]
    initiated: bool
    last: int
    first: int | None = None
    sides: dict[bool, Side] = field(default_factory=lambda: {False: Side(), True: Side()})
    captured: int = 0
    icmp: int | None = None
    finished: set[bool] = field(default_factory=set)
    closed: bool = False

    def forget(self) -> None:
        self.first, self.captured, self.icmp = None, 0, None
        self.sides = {False: Side(), True: Side()}


class Reckoning:
    """records: dicts with the names of the JSON lines.  without: packets without a flow by kind."""

    def __init__(self, idle_s: float = 30, active_s: float = 120, linger_s: float = 2, inner: bool = False) -> None:
        self.inner = inner
        self.idle, self.active, self.linger = (int(s * SECOND) for s in (idle_s, active_s, linger_s))
        self.flows: dict[tuple[Any, ...], Flow] = {}
        self.records: list[dict[str, Any]] = []
        self.without: Counter[str] = Counter()
        self.now = 0

    def read(self, packets: Iterable[Packet]) -> Reckoning:
        for packet in packets:
            self.now = max(self.now, packet.time)
            self.add(packet)
        for flow in list(self.flows.values()):
            if not self.settle(flow, self.now):
                self.end(flow, FORCED)
        return self

    def add(self, packet: Packet) -> None:
        data = packet.data
        while self.inner and (carried := _carried(data)) and not _without(carried, naive(carried)):
            data = carried
        found = naive(data)
        why = _without(data, found)
        if why:
            self.without[why] += 1
            return
        header, version = (found["ip"], 4) if "ip" in found else (found["ip6"], 6)
        transport, sent = found["packet"], found.get("tcp", {}).get("flags", 0)
        ends = [(_text(header[name], version), transport.get(f"{name}_port", 0)) for name in ("src", "dst")]
        key = (found.get("vlan", {}).get("id", 0), version, transport["protocol"], frozenset(ends))
        flow = self.flows.get(key)
        if flow and flow.closed and sent & (SYN | ACK) == SYN:
            if not self.settle(flow, packet.time):
                self.end(flow, END)
            flow = None
        elif flow and self.settle(flow, packet.time):
            flow = None
        if flow is None:
            answers = sent & SYN and sent & ACK
            source, target = reversed(ends) if answers else ends
            flow = Flow(key, source, target, bool(transport["protocol"] != 6 or sent & SYN), packet.time)
            self.flows[key] = flow
        flow.first = packet.time if flow.first is None else min(flow.first, packet.time)
        flow.last = max(flow.last, packet.time)
        reverse = ends[0] != flow.source
        side = flow.sides[reverse]
        if side.packets == 0:
            side.tos = header["dscp"] << 2 | header["ecn"] if version == 4 else header["traffic_class"]
            icmp = found.get("icmp") or found.get("icmp6")
            if icmp and flow.icmp is None:
                flow.icmp = icmp["type"] << 8 | icmp["code"]
        side.packets += 1
        side.octets += _octets(header, version) or packet.size - (len(packet.data) - len(data)) - header["offset"]
        side.frames += packet.size
        side.flags |= sent
        flow.captured += len(packet.data)
        if sent & FIN:
            flow.finished.add(reverse)
        flow.closed = flow.closed or bool(sent & RST) or len(flow.finished) == 2

    def settle(self, flow: Flow, now: int) -> bool:
        quiet, why = flow.last + self.idle, IDLE
        if flow.closed and flow.last + self.linger < quiet:
            quiet, why = flow.last + self.linger, END
        if flow.first is not None and flow.first + self.active <= now and flow.first + self.active < quiet:
            self.tell(flow, ACTIVE)
            flow.forget()
        if quiet > now:
            return False
        self.end(flow, why)
        return True

    def end(self, flow: Flow, why: int) -> None:
        if flow.first is not None:
            self.tell(flow, why)
        del self.flows[flow.key]

    def tell(self, flow: Flow, why: int) -> None:
        vlan, version, protocol, _ = flow.key
        forward, reverse = flow.sides[False], flow.sides[True]
        record: dict[str, Any] = {
            "flowStartNanoseconds": flow.first, "flowEndNanoseconds": flow.last, "flowEndReason": why,
            "biflowDirection": int(flow.initiated), "ipVersion": version, "protocolIdentifier": protocol,
            f"sourceIPv{version}Address": flow.source[0], f"destinationIPv{version}Address": flow.target[0],
            "capturedOctets": flow.captured,
        }  # fmt: skip
        for name, side in (("", forward), ("reverse", reverse)):
            values = {"packetDeltaCount": side.packets, "octetDeltaCount": side.octets,
                      "layer2OctetDeltaCount": side.frames}  # fmt: skip
            if not name or side.packets:
                values["ipClassOfService"] = side.tos
            if protocol == 6:
                values["tcpControlBits"] = side.flags
            record |= {(name + key[0].upper() + key[1:] if name else key): value for key, value in values.items()}
        if protocol in PORTS:
            record |= {"sourceTransportPort": flow.source[1], "destinationTransportPort": flow.target[1]}
        if vlan:
            record["vlanId"] = vlan
        if flow.icmp is not None:
            record[f"icmpTypeCodeIPv{version}"] = flow.icmp
        self.records.append(record)


def _text(address: Any, version: int) -> str:
    if version == 4:
        return str(IPv4Address(address))
    high, low = address
    return socket.inet_ntop(socket.AF_INET6, (high << 64 | low).to_bytes(16, "big"))


def _octets(header: dict[str, Any], version: int) -> int:
    if version == 4:
        return int(header["total_length"])
    return header["payload_length"] + 40 if header["payload_length"] else 0


def _without(data: bytes, found: dict[str, dict[str, Any]]) -> str:
    """The kind of a packet that has no flow."""
    if "ip" not in found and "ip6" not in found:
        kind, offset, tags = int.from_bytes(data[12:14], "big"), 14, 0
        while kind in (0x8100, 0x88A8, 0x9100) and tags < 4 and len(data) >= offset + 4:
            kind, offset, tags = int.from_bytes(data[offset + 2 : offset + 4], "big"), offset + 4, tags + 1
        least = {0x0800: 20, 0x86DD: 40}.get(kind)
        return "not_ip" if least is None else "truncated" if len(data) < offset + least else "malformed"
    protocol = found["packet"]["protocol"]
    if "ip" in found:
        if protocol not in PORTS or "src_port" in found["packet"]:
            return ""
        return "fragment" if found["ip"]["fragment_offset"] else "truncated"
    if "src_port" in found["packet"] or protocol not in (*PORTS, *EXTENSIONS):
        return ""
    return "fragment" if _is_fragment(data[found["ip6"]["offset"] :]) else "truncated"


def _is_fragment(header: bytes) -> bool:
    kind, at = header[6], 40
    while kind in EXTENSIONS and len(header) >= at + 8 and at <= 552:
        if kind == 44 and int.from_bytes(header[at + 2 : at + 4], "big") >> 3:
            return True
        length = 8 if kind == 44 else (header[at + 1] + 2) * 4 if kind == 51 else (header[at + 1] + 1) * 8
        kind, at = header[at], at + length
    return False


def _carried(data: bytes) -> bytes:
    """The packet in a tunnel's packet, as a frame; of IP with an Ethernet header in front."""
    found = naive(data)
    network = found.get("ip") or found.get("ip6")
    if not network or network.get("fragment_offset"):
        return b""
    start = _transport_at(data, found)
    protocol, body = found["packet"]["protocol"], data[start:]
    if start < 0 or len(body) < 8:
        return b""
    if protocol in (4, 41):
        return _framed(body)
    if protocol == 47:
        flags, kind = struct.unpack("!HH", body[:4])
        if flags & 0x4007:
            return b""
        body = body[4 + 4 * sum(bool(flags & bit) for bit in (0x8000, 0x2000, 0x1000)) :]
        return _of_type(kind, body)
    if protocol != 17 or len(body) < 16:
        return b""
    port, body = int.from_bytes(body[2:4], "big"), body[8:]
    if port == 4789 and body[0] & 8:
        return body[8:]
    if port == 6081 and body[0] < 64:
        return _of_type(int.from_bytes(body[2:4], "big"), body[8 + 4 * (body[0] & 63) :])
    if port == 2152 and body[0] >> 4 == 3 and body[1] == 255:
        if not body[0] & 7:
            return _framed(body[8:])
        if len(body) < 12:
            return b""
        following, body = body[11] if body[0] & 4 else 0, body[12:]
        while following and body and 0 < 4 * body[0] <= len(body):
            following, body = body[4 * body[0] - 1], body[4 * body[0] :]
        return b"" if following else _framed(body)
    return b""


def _of_type(kind: int, body: bytes) -> bytes:
    return _framed(body) if kind in (0x0800, 0x86DD) else body if kind == 0x6558 else b""


def _framed(body: bytes) -> bytes:
    """IP behind an Ethernet header of its version."""
    kind = {4: b"\x08\x00", 6: b"\x86\xdd"}.get(body[0] >> 4 if body else 0, b"\xff\xff")
    return bytes(12) + kind + body


def _transport_at(data: bytes, found: dict[str, dict[str, Any]]) -> int:
    """Where the transport header begins; -1: in no captured byte, or in another fragment."""
    if "ip" in found:
        return int(found["ip"]["offset"] + found["ip"]["header_length"])
    header = data[found["ip6"]["offset"] :]
    if _is_fragment(header):
        return -1
    kind, at = header[6], 40
    while kind in EXTENSIONS:
        if len(header) < at + 8 or at > 552:
            return -1
        length = 8 if kind == 44 else (header[at + 1] + 2) * 4 if kind == 51 else (header[at + 1] + 1) * 8
        kind, at = header[at], at + length
    return int(found["ip6"]["offset"]) + at
