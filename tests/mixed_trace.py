"""A capture of mixed traffic, made anew wherever the tests run: the same bytes on every machine.

    python tests/mixed_trace.py FILE

30 seconds of thousands of conversations: TCP, UDP, ICMP, SCTP and others over IPv4 and IPv6, bare, tagged and in
tunnels, beside ARP, LLC and other frames that are not IP, datagrams in fragments, packets longer than any MTU,
packets that a snap length cut, and packets whose headers lie.  Addresses are private ones and those for documentation
and benchmarks (RFC 1918, 2544, 3849, 5737, 7042), and all unicast frames go to such addresses, so that no network
stack which sees a packet answers it.

``Dice`` decides everything.  It uses only ``random.Random.random``, which is the same on every version of Python.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "mixed-30s.pcap"
PACKETS = 60_000
SHA256 = "f878f5e869517cfe251346d4fc8e40ab42d7746aff6d43f926b719d6955af169"
START_S, LENGTH_US = 1_700_000_000, 30_000_000
ETHERNET_HEADER = 14
MSS, MSS_TAGGED = 1460, 1380
"""Bytes that a TCP segment carries: in a bare frame of 1,514 bytes; with room for tags and tunnels."""

ICMP, IGMP, IPIP, TCP, UDP, SIX_IN_FOUR, FRAGMENT6, GRE, ESP, AH, ICMP6, OSPF, SCTP = (
    1, 2, 4, 6, 17, 41, 44, 47, 50, 51, 58, 89, 132,
)  # fmt: skip
IP4, ARP, VLAN, IP6, SLOW, MPLS, PPPOE, EAPOL, SERVICE_VLAN, LLDP, OLD_QINQ = (
    0x0800, 0x0806, 0x8100, 0x86DD, 0x8809, 0x8847, 0x8864, 0x888E, 0x88A8, 0x88CC, 0x9100,
)  # fmt: skip
FIN, SYN, RST, PUSH, ACK = 1, 2, 4, 8, 16
BROADCAST = b"\xff" * 6

Packet = tuple[bool, bytes]
"""Whether it goes from the first of a pair to the second, and the packet from its network header on."""


class Dice:
    """Choices, the same in every run."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random
        self._filler = bytes(self.below(256) for _ in range(1 << 15))

    def below(self, n: int) -> int:
        return int(self.random() * n)

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)

    def few(self, most: int) -> int:
        """From 1 to ``most``; small numbers are much more frequent."""
        share = self.random()
        return 1 + int(most * share * share * share * share)

    def choose(self, things: Sequence[Any]) -> Any:
        return things[self.below(len(things))]

    def weighted(self, table: Sequence[tuple[float, Any]]) -> Any:
        left = self.random() * sum(weight for weight, _ in table)
        for weight, thing in table:
            left -= weight
            if left < 0:
                return thing
        return table[-1][1]

    def junk(self, size: int) -> bytes:
        """Bytes without a meaning."""
        at = self.below(len(self._filler) - size) if size < len(self._filler) else 0
        return self._filler[at : at + size]


@dataclass(frozen=True)
class Pair:
    """Two ends that talk: MAC and IP addresses of both."""

    macs: tuple[bytes, bytes]
    addresses: tuple[bytes, bytes]
    mss: int = MSS

    @property
    def six(self) -> bool:
        return len(self.addresses[0]) == 16

    def ethernet(self, up: bool, kind: int, body: bytes) -> bytes:
        near, far = self.macs if up else self.macs[::-1]
        return far + near + kind.to_bytes(2, "big") + body

    def ip(
        self, up: bool, protocol: int, body: bytes, *, ttl: int = 64, identity: int = 0, fragment: int = 0x4000,
        extensions: bytes = b"", options: bytes = b"",
    ) -> bytes:  # fmt: skip
        """An IP packet; ``extensions``: of IPv6, and ``protocol`` is the first of them then; ``options``: of IPv4."""
        near, far = self.addresses if up else self.addresses[::-1]
        if self.six:
            label = (near[15] << 12 | far[15]) + protocol
            return struct.pack("!IHBB", 6 << 28 | label, len(extensions + body), protocol, ttl) + near + far + (
                extensions + body
            )  # fmt: skip
        words, size = 5 + len(options) // 4, 20 + len(options) + len(body)
        header = struct.pack("!BBHHHBBH", 4 << 4 | words, 0, size, identity, fragment, ttl, protocol, 0) + near + far
        return header[:10] + checksum(header + options) + header[12:] + options + body

    def transport(self, up: bool, protocol: int, header: bytes, at: int, payload: bytes, **fields: Any) -> bytes:
        """An IP packet of a protocol whose checksum stands at ``at`` and takes in the addresses."""
        near, far = self.addresses
        pseudo = near + far + struct.pack("!II", protocol, len(header) + len(payload))
        if protocol == ICMP:
            pseudo = b""
        header = header[:at] + checksum(pseudo + header + payload) + header[at + 2 :]
        return self.ip(up, protocol, header + payload, **fields)

    def tcp(
        self, up: bool, ports: tuple[int, int], flags: int, sequence: int, acknowledged: int, payload: bytes = b"",
        options: bytes = b"", **fields: Any,
    ) -> bytes:  # fmt: skip
        near, far = ports if up else ports[::-1]
        offset = (20 + len(options)) // 4 << 12
        header = struct.pack("!HHIIHHHH", near, far, sequence & 0xFFFFFFFF, acknowledged & 0xFFFFFFFF,
                             offset | flags, 502, 0, 0) + options  # fmt: skip
        return self.transport(up, TCP, header, 16, payload, **fields)

    def udp(self, up: bool, ports: tuple[int, int], payload: bytes, **fields: Any) -> bytes:
        near, far = ports if up else ports[::-1]
        return self.transport(up, UDP, struct.pack("!HHHH", near, far, 8 + len(payload), 0), 6, payload, **fields)


def checksum(data: bytes) -> bytes:
    """The Internet checksum (RFC 1071): a sum with end-around carry is a remainder by 65,535."""
    return (-int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF).to_bytes(2, "big")


# Who talks

CLIENTS = [bytes(map(int, text.split("."))) for text in (
    "192.168.1.1", "10.0.0.1", "10.0.0.2", "192.168.0.7", "172.16.4.5",
    *(f"192.168.{net}.{host}" for net in range(4) for host in range(2, 60)),
    *(f"10.{net}.0.{host}" for net in range(4) for host in range(3, 21)),
)]  # fmt: skip
NAMED = [bytes([8, 8, 8, 8]), bytes([192, 168, 1, 1]), bytes([10, 0, 0, 1]), bytes([10, 1, 2, 3])]
GATEWAYS = [bytes.fromhex("001122334455"), bytes.fromhex("000c29000000"), bytes.fromhex("00005e0053fe")]


def mac(number: int) -> bytes:
    return bytes.fromhex("00005e0053") + bytes([number % 250])


def pair_of(dice: Dice, six: bool, number: int) -> Pair:
    """Conversation ``number``'s ends; some hosts have many conversations."""
    client = dice.few(len(CLIENTS)) - 1 if dice.random() < 0.3 else dice.below(len(CLIENTS))
    macs = mac(client), GATEWAYS[client % 3]
    if six:
        local = dice.random() < 0.15
        prefix = bytes.fromhex("fe80" + "00" * 6 if local else dice.choose(("20010db800000000", "fd00000000010000")))
        far = prefix if local else bytes.fromhex("20010db8000000") + bytes([dice.below(4)])
        server = bytes(7) + b"\1" if dice.random() < 0.1 else number.to_bytes(8, "big")
        return Pair(macs, (prefix + client.to_bytes(8, "big"), far + server))
    if dice.random() < 0.15:
        server = dice.choose(NAMED)
    else:
        server = bytes([198, 18 + dice.below(2), *divmod(dice.below(1 << 16), 256)])
    return Pair(macs, (CLIENTS[client] if CLIENTS[client] != server else CLIENTS[3], server))


def stranger(number: int, six: bool = False) -> Pair:
    """Ends that have one conversation only: what is malformed is nobody else's."""
    last = number.to_bytes(2, "big")
    macs = bytes.fromhex("00005e01") + last, bytes.fromhex("00005e02") + last
    if six:
        prefix = bytes.fromhex("20010db8ffff0000") + bytes(5)
        return Pair(macs, (prefix + b"\1" + last, prefix + b"\2" + last))
    return Pair(macs, (b"\xac\x10" + last, b"\xac\x11" + last))


# What they say: each function gives the packets of one conversation

PORTS = [(30, 443), (14, 80), (4, 22), (4, 8080), (3, 8443), (2, 25), (2, 993), (2, 445), (6, 5001), (4, 3389)]


def web(port: int, dice: Dice, size: int) -> bytes:
    """A segment's payload, with the first bytes of its port's protocol."""
    if port in (80, 8080):
        head = b"GET /%d HTTP/1.1\r\nHost: example.org\r\n\r\n" % dice.below(1000)
    elif port in (443, 8443, 993):
        head = b"\x17\x03\x03" + max(size - 5, 1).to_bytes(2, "big")
    else:
        head = b""
    return head[:size] + dice.junk(max(size - len(head), 0))


def tcp(dice: Dice, pair: Pair) -> Iterator[Packet]:
    ports = dice.between(32768, 60999), dice.weighted(PORTS)
    places = [int(dice.random() * (1 << 32)) for _ in range(2)]  # the next byte up and down
    ttl = dice.choose((64, 64, 64, 128, 255, 3))

    def segment(up: bool, flags: int, payload: bytes = b"", options: bytes = b"") -> Packet:
        sent, heard = (0, 1) if up else (1, 0)
        answered = places[heard] if flags & ACK else 0
        fields = {"ttl": ttl, "identity": places[sent] & 0xFFFF}
        packet = pair.tcp(up, ports, flags, places[sent], answered, payload, options, **fields)
        places[sent] += len(payload) + (1 if flags & (SYN | FIN) else 0)
        return up, packet

    hello = bytes.fromhex("0204") + pair.mss.to_bytes(2, "big") + bytes.fromhex("0402080a0000000100000000 01030307")
    stamps = bytes.fromhex("0101080a") + dice.junk(8) if dice.random() < 0.4 else b""
    yield segment(True, SYN, options=hello)
    if dice.random() < 0.12:  # nobody listens
        yield segment(False, RST | ACK)
        return
    yield segment(False, SYN | ACK, options=hello)
    yield segment(True, ACK, options=stamps)
    room = pair.mss - len(stamps)
    bulk = dice.random() < 0.2
    if dice.random() < 0.01:
        room, bulk = dice.choose((2900, 8200)), True  # segments that a NIC joined
    for _ in range(dice.few(24)):
        yield segment(True, PUSH | ACK, web(ports[1], dice, dice.between(1, 300)), stamps)
        for _ in range(dice.few(16) if bulk else 1):
            size = room if bulk else dice.between(1, min(room, 700))
            yield segment(False, PUSH | ACK, web(ports[1], dice, size), stamps)
            if dice.random() < 0.6:
                yield segment(True, ACK, options=stamps)
    for up in (True, False):
        yield segment(up, FIN | ACK, options=stamps)
        yield segment(not up, ACK, options=stamps)


def name_of(dice: Dice) -> bytes:
    return b"\x04host\x07example" + bytes([3]) + dice.choose((b"com", b"org", b"net")) + b"\0"


def dns(dice: Dice, pair: Pair) -> Iterator[Packet]:
    ports = dice.between(1024, 65535), 53
    for _ in range(dice.few(4)):
        number, question = dice.below(1 << 16), name_of(dice) + struct.pack("!HH", 28 if pair.six else 1, 1)
        yield True, pair.udp(True, ports, struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + question)
        answer = b"\xc0\x0c" + struct.pack("!HHIH4s", 1, 1, 300, 4, bytes([198, 51, 100, dice.below(256)]))
        count = dice.few(12)
        head = struct.pack("!6H", number, 0x8180, 1, count, 0, 0)
        yield False, pair.udp(False, ports, head + question + answer * count)


def stream(dice: Dice, pair: Pair) -> Iterator[Packet]:
    """Media, games, QUIC, VPN: datagrams one way or both."""
    ports = dice.between(1024, 65535), dice.choose((443, 4500, 5004, 8000, 3478, 27015, 1194, 51820, 9999))
    size, both, steady = 20 + dice.few(pair.mss - 60), dice.random() < 0.5, dice.random() < 0.5
    if ports[1] == 9999:
        yield True, pair.udp(True, ports, b"\1\2\3\4" + dice.junk(size))
    for _ in range(dice.few(60)):
        payload = dice.junk(size if steady else dice.between(1, size))
        yield True, pair.udp(True, ports, payload, ttl=dice.choose((64, 128)))
        if both:
            yield False, pair.udp(False, ports, dice.junk(dice.between(4, size)))


def ntp(dice: Dice, pair: Pair) -> Iterator[Packet]:
    for up, first in ((True, 0x23), (False, 0x24)):
        yield up, pair.udp(up, (123, 123), bytes([first, 2, 6, 0xE9]) + dice.junk(44))


def echo(dice: Dice, pair: Pair) -> Iterator[Packet]:
    """Ping, over IPv4 or IPv6 (RFC 792, 4443)."""
    protocol, request, answer = (ICMP6, 128, 129) if pair.six else (ICMP, 8, 0)
    number, size = dice.below(1 << 16), dice.choose((32, 56, 56, 1000))
    for turn in range(dice.few(10)):
        for up, kind in ((True, request), (False, answer)):
            head = struct.pack("!BBHHH", kind, 0, 0, number, turn)
            yield up, pair.transport(up, protocol, head, 2, dice.junk(size), identity=turn)


def unreachable(dice: Dice, pair: Pair) -> Iterator[Packet]:
    """A datagram that nobody takes, and what the far end says of it."""
    lost = pair.udp(True, (dice.between(1024, 65535), 33434), dice.junk(32), ttl=dice.between(1, 4))
    yield True, lost
    protocol, kind, code = (ICMP6, 1, 4) if pair.six else (ICMP, *dice.choose(((3, 3), (11, 0), (3, 1))))
    yield False, pair.transport(False, protocol, struct.pack("!BBHI", kind, code, 0, 0), 2, lost)


def sctp(dice: Dice, pair: Pair) -> Iterator[Packet]:
    ports = dice.between(1024, 65535), 2905
    for turn in range(dice.few(12)):
        payload = dice.junk(4 * dice.between(1, 60))
        near, far = ports if turn % 2 == 0 else ports[::-1]
        data = struct.pack("!BBHIHHI", 0, 3, 16 + len(payload), turn, 0, turn, 0) + payload
        yield turn % 2 == 0, pair.ip(turn % 2 == 0, SCTP, struct.pack("!HHII", near, far, 7, turn) + data)


def secured(dice: Dice, pair: Pair) -> Iterator[Packet]:
    """ESP, and AH before something that has no ports (RFC 4303, 4302)."""
    for turn in range(dice.few(20)):
        up = turn % 3 != 0
        yield up, pair.ip(up, ESP, struct.pack("!II", 0xABC, turn) + dice.junk(4 * dice.between(5, 100)))
    head = struct.pack("!BBHII", ICMP6 if pair.six else ICMP, 4, 0, 0xABD, 1) + dice.junk(12)
    yield True, pair.ip(True, AH, head + struct.pack("!BBHI", 128 if pair.six else 8, 0, 0xFFFF, 0) + bytes(24))


def fragments(dice: Dice, pair: Pair) -> Iterator[Packet]:
    """Datagrams that no frame holds, in pieces; sometimes the last one comes first, or one is missing."""
    ports = dice.between(1024, 65535), dice.choose((2049, 5060, 53))
    for _ in range(dice.few(6)):
        identity = dice.below(1 << 16)
        datagram = struct.pack("!HHHH", *ports, 0, 0) + dice.junk(dice.between(1600, 5000))
        datagram = datagram[:4] + len(datagram).to_bytes(2, "big") + datagram[6:]
        pieces = []
        for at in range(0, len(datagram), 1368):
            piece, more = datagram[at : at + 1368], at + 1368 < len(datagram)
            if pair.six:
                head = struct.pack("!BBHI", UDP, 0, at | more, identity)
                pieces.append(pair.ip(True, FRAGMENT6, piece, extensions=head))
            else:
                pieces.append(pair.ip(True, UDP, piece, identity=identity, fragment=more << 13 | at // 8))
        if dice.random() < 0.1:
            pieces.reverse()
        if dice.random() < 0.1:
            del pieces[dice.below(len(pieces))]
        yield from ((True, piece) for piece in pieces)


def extended(dice: Dice, pair: Pair) -> Iterator[Packet]:
    """IPv6 extension headers before TCP and UDP (RFC 8200); options of IPv4."""
    ports = dice.between(1024, 65535), dice.choose((80, 443, 161))
    for _ in range(dice.few(6)):
        segment = struct.pack("!HHIIHHHH", *ports, 1, 1, 5 << 12 | ACK, 100, 0, 0) + dice.junk(dice.below(200))
        if not pair.six:
            options = dice.choose((b"\x94\x04\0\0", b"\7\7\4\0\0\0\0\0", b"\1" * 8, b"\x44\x24\5\0" + bytes(32)))
            yield True, pair.ip(True, TCP, segment, options=options)
            continue
        chain = dice.choose(((0,), (60,), (0, 60), (0, 43, 60), (51,), (0, 51, 60), (43, 44), (60, 60, 60)))
        built = b""
        for place, kind in enumerate(chain):
            following = chain[place + 1] if place + 1 < len(chain) else TCP
            if kind == FRAGMENT6:
                built += struct.pack("!BBHI", following, 0, 0, dice.below(1 << 16))
            elif kind == AH:
                built += struct.pack("!BBHII", following, 4, 0, 1, 1) + bytes(12)
            elif kind == 43:
                built += bytes([following, 2, 0, 0]) + bytes(20)
            else:
                built += bytes([following, 1, 1, 12]) + bytes(12)
        yield True, pair.ip(True, chain[0], segment, extensions=built)


Conversation = Callable[[Dice, Pair], Iterator[Packet]]
CONVERSATIONS: list[tuple[float, Conversation]] = [
    (40, tcp), (18, dns), (20, stream), (2, ntp), (7, echo), (4, unreachable), (2, sctp), (1, secured),
    (3, extended),
]  # fmt: skip


# How it is carried: each function makes a conversation's frames

Frame = Callable[[bool, bytes], bytes]


def bare(dice: Dice, pair: Pair) -> Frame:
    kind = IP6 if pair.six else IP4
    return lambda up, packet: pair.ethernet(up, kind, packet)


def tagged(dice: Dice, pair: Pair) -> Frame:
    """One to three VLAN tags (IEEE 802.1Q, 802.1ad)."""
    kinds = dice.choose(((VLAN,),) * 5 + ((SERVICE_VLAN, VLAN), (OLD_QINQ, VLAN), (SERVICE_VLAN, VLAN, VLAN)))
    numbers = [dice.choose((100, 1, 42, 4094, 7)) | dice.below(8) << 13 for _ in kinds]
    following = (*kinds[1:], IP6 if pair.six else IP4)
    tags = b"".join(struct.pack("!HH", number, kind) for number, kind in zip(numbers, following, strict=True))
    return lambda up, packet: pair.ethernet(up, kinds[0], tags + packet)


def mpls(dice: Dice, pair: Pair) -> Frame:
    """One or two labels (RFC 3032)."""
    labels = [dice.between(16, 1 << 19) for _ in range(dice.between(1, 2))]
    stack = b"".join(
        struct.pack("!I", label << 12 | (place == len(labels) - 1) << 8 | 60) for place, label in enumerate(labels)
    )
    return lambda up, packet: pair.ethernet(up, MPLS, stack + packet)


def pppoe(dice: Dice, pair: Pair) -> Frame:
    session, protocol = dice.below(1 << 16), 0x0057 if pair.six else 0x0021

    def frame(up: bool, packet: bytes) -> bytes:
        return pair.ethernet(up, PPPOE, struct.pack("!BBHHH", 0x11, 0, session, len(packet) + 2, protocol) + packet)

    return frame


def tunnel(dice: Dice, pair: Pair) -> Frame:
    """GRE, IP in IP, IPv6 in IPv4, VXLAN, Geneve or GTP between two routers."""
    routers = Pair(pair.macs, (bytes([192, 0, 2, dice.between(1, 9)]), bytes([192, 0, 2, dice.between(100, 109)])))
    way = dice.choose(("gre", "ip", "vxlan", "geneve", "gtp"))
    kind, port = IP6 if pair.six else IP4, dice.between(49152, 65535)
    number = struct.pack("!I", dice.below(1 << 24) << 8)

    def outer(up: bool, packet: bytes) -> bytes:
        if way == "gre":
            return routers.ip(up, GRE, struct.pack("!HH", 0, kind) + packet)
        if way == "ip":
            return routers.ip(up, SIX_IN_FOUR if pair.six else IPIP, packet)
        if way == "gtp":
            return routers.udp(up, (2152, 2152), struct.pack("!BBHI", 0x30, 255, len(packet), 7) + packet)
        inner = pair.ethernet(up, kind, packet)
        if way == "vxlan":
            return routers.udp(up, (port, 4789), b"\x08\0\0\0" + number + inner)
        return routers.udp(up, (port, 6081), b"\0\0\x65\x58" + number + inner)

    return lambda up, packet: pair.ethernet(up, IP4, outer(up, packet))


CARRIERS: list[tuple[float, Callable[[Dice, Pair], Frame]]] = [
    (90.5, bare), (4, tagged), (0.7, mpls), (0.3, pppoe), (4.5, tunnel),
]  # fmt: skip


def talk(dice: Dice, number: int) -> Iterator[bytes]:
    """The frames of a conversation of some kind, carried in some way."""
    way = dice.weighted(CONVERSATIONS)
    six = dice.random() < (0.6 if way is extended else 0.1)
    yield from carried(dice, way, pair_of(dice, six, number))


def datagrams(dice: Dice, number: int) -> Iterator[bytes]:
    """Datagrams in pieces, which have no ports: they are told apart by their ends."""
    six = dice.random() < 0.2
    yield from carried(dice, fragments, stranger(number, six) if six else pair_of(dice, six, number))


def carried(dice: Dice, way: Conversation, pair: Pair) -> Iterator[bytes]:
    carrier = dice.weighted(CARRIERS)
    if carrier is not bare:
        pair = Pair(pair.macs, pair.addresses, MSS_TAGGED)
    frame = carrier(dice, pair)
    padded = dice.random() < 0.5  # seen by the sender, before its NIC pads them, or by the other end
    for up, packet in way(dice, pair):
        made = frame(up, packet)
        yield made + bytes(60 - len(made)) if len(made) < 60 and padded else made


# What is no conversation


def neighbours(dice: Dice, number: int) -> Iterator[bytes]:
    """ARP (RFC 826), neighbour discovery (RFC 4861), IGMP, DHCP and what hosts tell all others."""
    pair = pair_of(dice, False, number)
    near, address = pair.macs[0], pair.addresses[0]
    sought = bytes([198, 51, 100, dice.below(256)])
    padding = bytes(dice.choose((0, 18)))

    def said(to: bytes, kind: int, body: bytes) -> bytes:
        return to + near + kind.to_bytes(2, "big") + body

    def group(last: bytes) -> bytes:
        return bytes.fromhex("01005e") + bytes([last[1] & 127]) + last[2:]

    way = dice.below(8)
    if way <= 2:
        head = struct.pack("!HHBBH", 1, IP4, 6, 4, 1)
        yield said(BROADCAST, ARP, head + near + address + bytes(6) + sought + padding)
        if way:
            head = struct.pack("!HHBBH", 1, IP4, 6, 4, 2)
            yield pair.ethernet(False, ARP, head + pair.macs[1] + sought + near + address + padding)
    elif way == 3:
        six = pair_of(dice, True, number)
        to = bytes.fromhex("ff0200000000000000000001ff") + six.addresses[1][13:]
        ask = Pair((near, b"\x33\x33" + to[12:]), (six.addresses[0], to))
        body = struct.pack("!BBHI", 135, 0, 0, 0)
        yield ask.ethernet(True, IP6, ask.transport(True, ICMP6, body, 2, six.addresses[1] + b"\1\1" + near, ttl=255))
    elif way == 4:
        all_hosts = dice.choose((bytes([224, 0, 0, 251]), bytes([239, 255, 255, 250]), bytes([224, 0, 0, 22])))
        many = Pair((near, group(all_hosts)), (address, all_hosts))
        report = b"\x16\0" + checksum(b"\x16\0\0\0" + all_hosts) + all_hosts
        yield many.ethernet(True, IP4, many.ip(True, IGMP, report, ttl=1, options=b"\x94\x04\0\0"))
        port = 5353 if all_hosts[3] == 251 else 1900
        head = struct.pack("!6H", 0, 0, 1, 0, 0, 0) + name_of(dice) + struct.pack("!HH", 12, 1)
        text = head if port == 5353 else b"M-SEARCH * HTTP/1.1\r\nST: ssdp:all\r\n\r\n"
        yield many.ethernet(True, IP4, many.udp(True, (port, port), text, ttl=1))
    elif way == 5:
        everybody = Pair((near, BROADCAST), (bytes(4), b"\xff" * 4))
        request = b"\1\1\6\0" + dice.junk(4) + bytes(20) + near + bytes(202) + b"c\x82Sc5\1\1\xff"
        yield everybody.ethernet(True, IP4, everybody.udp(True, (68, 67), request))
        subnet = Pair((near, BROADCAST), (address, address[:3] + b"\xff"))
        yield subnet.ethernet(True, IP4, subnet.udp(True, (137, 137), struct.pack("!6H", 9, 0x110, 1, 0, 0, 0) + (
            b"\x20" + b"CA" * 16 + b"\0" + struct.pack("!HH", 32, 1))))  # fmt: skip
    elif way == 6:
        routers = Pair((near, group(bytes([224, 0, 0, 5]))), (address, bytes([224, 0, 0, 5])))
        yield routers.ethernet(True, IP4, routers.ip(True, OSPF, b"\2\1\0\x2c" + dice.junk(40), ttl=1))
    else:
        yield from links(dice, near)


def links(dice: Dice, near: bytes) -> Iterator[bytes]:
    """What switches and adapters say: spanning tree, LLDP, slow protocols, 802.1X, NetBIOS and IPX over LLC."""
    bridges = bytes.fromhex("0180c20000")
    tree = bytes.fromhex("424203") + bytes(4) + dice.junk(31)
    yield bridges + b"\0" + near + len(tree).to_bytes(2, "big") + tree + bytes(8)
    yield bridges + b"\x0e" + near + LLDP.to_bytes(2, "big") + b"\2\7\4" + near + b"\4\3\7ab\6\2\0\x78\0\0" + bytes(27)
    yield bridges + b"\2" + near + SLOW.to_bytes(2, "big") + b"\1\1" + bytes(108)
    yield bridges + b"\3" + near + EAPOL.to_bytes(2, "big") + b"\2\1\0\0" + bytes(42)
    body = dice.choose((b"\xf0\xf0\3", b"\xe0\xe0\3\xff\xff")) + dice.junk(40)
    yield BROADCAST + near + len(body).to_bytes(2, "big") + body
    kind = dice.choose((0x0900, 0x6003, 0x8035, 0x80F3, 0x88B5, 0x9000))
    yield near[:5] + b"\xfb" + near + kind.to_bytes(2, "big") + dice.junk(50)


def lie(dice: Dice, number: int) -> Iterator[bytes]:
    """One packet whose headers contradict it, as faulty senders and attackers make them."""
    six = dice.random() < 0.3
    pair = stranger(number, six)
    ports, data = (dice.between(1024, 65535), 80), dice.junk(dice.between(30, 400))
    way = dice.choose((pair.tcp(True, ports, PUSH | ACK, 1, 1, data), pair.udp(True, ports, data)))
    packet, flaw = bytearray(way), dice.below(10)

    def number16(at: int, value: int) -> None:
        packet[at : at + 2] = value.to_bytes(2, "big")

    header = 40 if six else 20
    if flaw == 0:
        packet[0] = dice.choose((0x00, 0x55, 0x65, 0xF5)) if not six else dice.choose((0x40, 0x00, 0x70))
    elif flaw == 1 and not six:
        packet[0] = 0x40 | dice.choose((0, 1, 4, 15))  # a header of so many words
    elif flaw == 2:
        number16(4 if six else 2, dice.choose((0, 1, 19, 24, 45, len(packet) + 1, 9000, 65535)))
    elif flaw == 3:
        packet[header + 12] = dice.choose((0x00, 0x40, 0xF0))  # TCP's data offset
        packet[header + 13] = dice.choose((0x00, 0xFF, SYN | FIN))
    elif flaw == 4:
        number16(header + 4, dice.choose((0, 7, 9, 65535)))  # UDP's length
    elif flaw == 5:
        if six:
            packet[6], packet[41] = dice.choose((0, 43, 51, 60)), dice.choose((200, 255))
        else:
            number16(6, dice.choose((0x1FFF, 0x3FFF, 0x8000, 0x2001)))
    elif flaw == 6:
        packet[6 if six else 9] = dice.choose((61, 99, 170, 255))
    elif flaw == 7:
        packet[-4:] = packet[:4]
        del packet[header + dice.below(24) :]  # less than the lengths say
    elif flaw == 8 and not six:
        packet[10] ^= 0x40
        packet[16:20] = dice.choose((packet[12:16], b"\xe0\0\0\1"))  # to itself; to a group in a frame to one
    else:
        packet[header:] = dice.junk(len(packet) - header)
    yield pair.ethernet(True, IP6 if six else IP4, bytes(packet))


SLOW_US, AT_ONCE_US = 200_000, 20
"""The longest pause between two frames; pieces of a datagram leave one after the other."""
Source = tuple[Callable[[Dice, int], Iterator[bytes]], int]
SOURCES: list[tuple[float, Source]] = [
    (72, (talk, SLOW_US)), (3, (datagrams, AT_ONCE_US)), (15, (neighbours, SLOW_US)), (10, (lie, SLOW_US)),
]  # fmt: skip


def packets(count: int = PACKETS, seed: int = 20141105) -> list[tuple[int, bytes, int]]:
    """(microseconds since the start, captured bytes, original length) in order of time."""
    dice, found = Dice(seed), []
    number = 0
    while len(found) < count + count // 50:
        number += 1
        source, pause = dice.weighted(SOURCES)
        at, pace = dice.below(LENGTH_US), dice.few(pause)
        for frame in source(dice, number):
            size = len(frame)
            if size > 40 and dice.random() < 0.01:
                frame = frame[: dice.choose((34, 40, 54, 60, 64, 68, 96, 128))]
            found.append((at, len(found), frame, size))
            at += 1 + dice.below(pace + pause // 1000)
            if at >= LENGTH_US:
                break
    found.sort()
    return [(at, frame, size) for at, _, frame, size in found[:count]]


def write(path: Path) -> Path:
    """The trace as a pcap file of microseconds."""
    parts = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)]
    for at, frame, size in packets():
        seconds, rest = divmod(at, 1_000_000)
        parts += [struct.pack("<IIII", START_S + seconds, rest, len(frame), size), frame]
    path.write_bytes(b"".join(parts))
    return path


if __name__ == "__main__":
    write(Path(sys.argv[1]))
