"""The flows of lost packets: read from the first bytes that the XDP program kept of some of them."""

from __future__ import annotations

import ipaddress
import struct
from collections import Counter

from wirecap.linux.xdp_program import HEADER_BYTES

FLOWS_MOST = 4096
"""Flows that are told apart; then the smallest half are given up."""

_VLANS = (0x8100, 0x88A8)
_IPV4, _IPV6 = 0x0800, 0x86DD
_PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 58: "icmp6", 89: "ospf", 132: "sctp"}
_WITH_PORTS = (6, 17, 132)
_PLAIN = b"\x08\x00\x45"
"""What stands at byte 12 of an untagged frame with an IPv4 header without options."""
_KINDS = {0x0806: "arp", 0x88CC: "lldp"}


class Flows:
    """Lost packets by flow, in bounded memory.  A sample stands for all packets that were lost in its time."""

    def __init__(self) -> None:
        self._packets: Counter[bytes | str] = Counter()

    def add(self, header: bytes, packets: int) -> None:
        """header: the first bytes of a packet that was lost, at most HEADER_BYTES."""
        usual = len(header) >= 38 and header[12:15] == _PLAIN and header[23] in _WITH_PORTS
        plain = usual and not _half(header, 20) & 0x1FFF
        key = header[23:24] + header[26:38] if plain else flow_of(header)  # the usual kind is decoded only in the end
        self._packets[key] += packets
        if len(self._packets) > FLOWS_MOST:
            self._packets = Counter(dict(self._packets.most_common(FLOWS_MOST // 2)))

    def most(self, count: int) -> list[tuple[str, int]]:
        """The flows that lost most, with the packets that their samples stand for."""
        found: Counter[str] = Counter()
        for key, packets in self._packets.most_common(4 * count):
            found[key if isinstance(key, str) else _of_key(key)] += packets
        return found.most_common(count)


def _of_key(key: bytes) -> str:
    return flow_of(bytes(12) + _PLAIN + bytes(8) + key[:1] + bytes(2) + key[1:])


def flow_of(header: bytes) -> str:
    """``tcp 10.0.0.1:80 > 10.0.0.2:5000``, or as much of that as the bytes say."""
    at, kind = 12, _half(header, 12)
    while kind in _VLANS:
        at += 4
        kind = _half(header, at)
    start = at + 2
    if kind == _IPV4 and len(header) >= start + 20:
        size = (header[start] & 15) * 4
        fragment = _half(header, start + 6) & 0x1FFF
        return _ip(header, header[start + 9], start + 12, 4, start + size if not fragment else HEADER_BYTES)
    if kind == _IPV6 and len(header) >= start + 40:
        return _ip(header, header[start + 6], start + 8, 16, start + 40)
    return _KINDS.get(kind, f"ethertype 0x{kind:04x}") if len(header) >= at + 2 else "too short to tell"


def _ip(header: bytes, protocol: int, addresses: int, size: int, ports: int) -> str:
    source, target = (str(ipaddress.ip_address(header[at : at + size])) for at in (addresses, addresses + size))
    name = _PROTOCOLS.get(protocol, f"protocol {protocol}")
    if protocol not in _WITH_PORTS or len(header) < ports + 4:
        return f"{name} {source} > {target}"
    if size == 16:
        source, target = f"[{source}]", f"[{target}]"
    return f"{name} {source}:{_half(header, ports)} > {target}:{_half(header, ports + 2)}"


def _half(header: bytes, at: int) -> int:
    return int(struct.unpack_from(">H", header, at)[0]) if len(header) >= at + 2 else 0
