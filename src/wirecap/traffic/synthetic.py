"""Synthetic traffic: flows, their headers, and plans that give the same packets for the same seed, on every machine."""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.kernels.transmit import synthesis as k
from wirecap.traffic.batch import PACKETS, Batch, NotSent
from wirecap.traffic.steering import Rss
from wirecap.traffic.timing import Schedule, Timing

HEADERS_BYTES = 14 + 20 + 8
MINIMUM_BYTES = 60
"""The shortest Ethernet frame, without its check sequence (IEEE 802.3)."""


def udp(
    length_bytes: int = MINIMUM_BYTES,
    source: str = "192.0.2.1",
    destination: str = "198.51.100.1",
    source_port: int = 1024,
    destination_port: int = 9,
    source_mac: str = "02:00:00:00:00:01",
    destination_mac: str = "02:00:00:00:00:02",
) -> bytes:
    """One UDP packet of so many bytes, payload zero.  Without UDP checksum, so that the payload may change."""
    if not HEADERS_BYTES <= length_bytes <= 65535 + 14:
        raise UsageError(
            f"unsupported UDP frame size: {length_bytes} bytes", f"use {HEADERS_BYTES} to {65535 + 14} bytes"
        )
    size = length_bytes - 14
    addresses = IPv4Address(source).packed + IPv4Address(destination).packed
    start = struct.pack("!BBHHHBB", 0x45, 0, size, 0, 0, 64, 17)
    checksum = struct.pack("!H", internet_checksum(start + b"\0\0" + addresses))
    ethernet = _mac(destination_mac) + _mac(source_mac) + b"\x08\0"
    udp_header = struct.pack("!HHHH", source_port, destination_port, size - 20, 0)
    return (ethernet + start + checksum + addresses + udp_header).ljust(length_bytes, b"\0")


def tcp(
    source: str, destination: str, ports: tuple[int, int], flags: int, sequence: int, payload: bytes = b""
) -> bytes:
    """One TCP packet over IPv4, in an Ethernet frame, with its checksums; sequence counts from 0."""
    addresses = IPv4Address(source).packed + IPv4Address(destination).packed
    segment = struct.pack("!HHIIBBHHH", *ports, sequence, 0, 5 << 4, flags, 65_535, 0, 0) + payload
    checksum = internet_checksum(addresses + struct.pack("!HH", 6, len(segment)) + segment)
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(segment), 0, 0, 64, 6)
    header = start + struct.pack("!H", internet_checksum(start + b"\0\0" + addresses)) + addresses
    frame = _DESTINATION_MAC + _SOURCE_MAC + b"\x08\0" + header + segment[:16]
    return (frame + struct.pack("!H", checksum) + segment[18:]).ljust(MINIMUM_BYTES, b"\0")


def internet_checksum(data: bytes) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def _mac(text: str) -> bytes:
    return bytes(int(part, 16) for part in text.split(":"))


MOST_FLOWS = 1 << 20
_SOURCE_MAC, _DESTINATION_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
_IPV4_SOURCE, _IPV4_DESTINATION = 0x0A000000, 0xC6120000
"""10.0.0.0/8 (RFC 1918) sends to 198.18.0.0/15, the network for benchmarks (RFC 2544)."""
_IPV6_SOURCE, _IPV6_DESTINATION = bytes.fromhex("20010db8000000000000"), bytes.fromhex("20010002000000000000")
"""2001:db8::/32 (RFC 3849) sends to 2001:2::/48, the network for benchmarks (RFC 5180)."""
_TTL = 64
_UDP = 17


@dataclass(frozen=True)
class Flow:
    """One flow's addresses (numbers within the networks above) and ports."""

    source: int
    destination: int
    source_port: int
    destination_port: int


def flow_of(number: int) -> Flow:
    """Flow ``number``: all differ, and neighbours in more than a bit, as connections do."""
    mixed = (number * 2654435761 + 12345) & 0xFFFFFFFF  # Knuth's multiplier: one to one on 32 bits
    return Flow(
        source=mixed & 0xFFFFFF, destination=mixed >> 15 & 0x1FFFF, source_port=1024 + (mixed >> 24) * 251,
        destination_port=(53, 80, 123, 443, 4789, 5060, 8080, 8443)[mixed & 7],
    )  # fmt: skip


def headers_bytes(ipv6: bool = False, vlan: int | None = None) -> int:
    """Bytes of all headers of a frame, which is never shorter."""
    return 14 + (0 if vlan is None else 4) + (40 if ipv6 else 20) + k.UDP_BYTES


@dataclass(frozen=True)
class Headers:
    """Templates for the kernel ``build``: bytes uint8 (flows, TEMPLATE_BYTES), facts int64 (flows, FLOW_WORDS)."""

    bytes: NDArray[np.uint8]
    facts: NDArray[np.int64]
    longest: int
    """Bytes of the longest headers: no frame can be shorter."""


def headers_of(flows: Sequence[Flow], ipv6: bool = False, vlan: int | None = None) -> Headers:
    """The headers of the flows: Ethernet, a VLAN tag, IPv4 or IPv6, UDP."""
    if vlan is not None and not 0 <= vlan <= 4095:
        raise UsageError(f"unsupported VLAN number: {vlan}", "use 0 to 4095")
    data = np.zeros((len(flows), k.TEMPLATE_BYTES), np.uint8)
    facts = np.zeros((len(flows), k.FLOW_WORDS), np.int64)
    kind = b"\x86\xdd" if ipv6 else b"\x08\x00"
    tag = b"" if vlan is None else struct.pack("!2sH", b"\x81\x00", vlan)
    ethernet = _DESTINATION_MAC + _SOURCE_MAC + tag + kind
    for number, flow in enumerate(flows):
        network, pseudo = _ipv6(flow) if ipv6 else _ipv4(flow)
        udp = struct.pack("!4H", flow.source_port, flow.destination_port, 0, 0)
        whole = ethernet + network + udp
        data[number, : len(whole)] = np.frombuffer(whole, np.uint8)
        facts[number] = (
            len(ethernet), len(ethernet) + len(network), _sum(network), _sum(pseudo + udp), 6 if ipv6 else 4,
        )  # fmt: skip
    return Headers(data, facts, headers_bytes(ipv6, vlan))


def shares(flows: int, zipf: float = 0.0, of_queue: Sequence[float] | None = None) -> NDArray[np.float64]:
    """The share of each flow, float64 (flows,), in all 1: uniform, or Zipf's with this exponent.

    of_queue: the share of each queue, of which flow f has queue f modulo queues.
    """
    weights = 1.0 / np.arange(1, flows + 1) ** zipf
    if of_queue is not None:
        queue = np.arange(flows) % len(of_queue)
        held = np.bincount(queue, weights, len(of_queue))
        wanted = np.array(of_queue) / sum(of_queue)
        weights = weights / held[queue] * wanted[queue]
    return np.asarray(weights / weights.sum())


def edges(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cumulative shares; the last is above every draw."""
    found = np.cumsum(weights / weights.sum())
    found[-1] = 1.0
    return found


def _ipv4(flow: Flow) -> tuple[bytes, bytes]:
    addresses = struct.pack("!II", _IPV4_SOURCE + flow.source, _IPV4_DESTINATION + flow.destination)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, _TTL, _UDP, 0) + addresses
    return header, addresses + struct.pack("!BB", 0, _UDP)


def _ipv6(flow: Flow) -> tuple[bytes, bytes]:
    addresses = _IPV6_SOURCE + struct.pack("!2xI", flow.source) + _IPV6_DESTINATION
    addresses += struct.pack("!2xI", flow.destination)
    header = struct.pack("!IHBB", 6 << 28, 0, _UDP, _TTL) + addresses
    return header, addresses + struct.pack("!BB", 0, _UDP)


def _sum(data: bytes) -> int:
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


IMIX = ((60, 7.0), (590, 4.0), (1514, 1.0))
"""The "simple IMIX": IP packets of 40, 576 and 1,500 bytes, 7 to 4 to 1; a frame has 14 bytes more, 60 at least."""
_RANGE = re.compile(r"([0-9]+)-([0-9]+)")
_MOST_BYTES = 65_535

Sizes = tuple[tuple[int, float], ...]


def parse_sizes(text: str) -> Sizes:
    """``60``, ``imix``, ``64-1500`` (each alike) or ``60:7,590:4`` (with weights): bytes without check sequence."""
    forms = "write it as 60, imix, 64-1500 or 60:7,590:4,1514:1"
    if text.lower() == "imix":
        return IMIX
    found: list[tuple[int, float]] = []
    for part in text.split(","):
        where = f"--size {text}: {part!r}" if part != text else f"--size: {text!r}"
        size, _, weight = part.partition(":")
        between = _RANGE.fullmatch(size.strip())
        try:
            first, last = (int(between[1]), int(between[2])) if between else (int(size), int(size))
            share = float(weight) if weight else 1.0
        except ValueError:
            raise UsageError(f"{where} is not a frame size", forms) from None
        if not 14 <= first <= last <= _MOST_BYTES or not 0 < share < 1e9:
            raise UsageError(f"{where} is out of range", f"use sizes of 14 to {_MOST_BYTES} and weights above 0")
        found += [(size, share / (last - first + 1)) for size in range(first, last + 1)]
    return tuple(found)


def at_least(shortest: int, sizes: Sizes) -> Sizes:
    """The sizes, those below ``shortest`` bytes made that long: IPv6 and a VLAN tag do not fit 60 bytes."""
    return tuple((max(size, shortest), weight) for size, weight in sizes)


class Builder:
    """Batches of frames, each batch's bytes in a stretch of memory that is used again once it was sent."""

    def __init__(self, headers: Headers, sizes: Sizes, mtu: int, seed: int) -> None:
        shortest, longest = min(size for size, _ in sizes), max(size for size, _ in sizes)
        tag = int(headers.facts[0, k.NETWORK]) - 14
        if shortest < headers.longest:
            raise UsageError(
                f"frame size too small: {shortest} bytes", f"use at least {headers.longest}, which the headers take"
            )
        if longest - 14 - tag > mtu:
            raise UsageError(
                f"frames of {longest} bytes do not fit an MTU of {mtu}", f"use at most {mtu + 14 + tag} bytes"
            )
        self._headers = headers
        self._sizes = np.array([size for size, _ in sizes], np.int64)
        self._size_edges = edges(np.array([weight for _, weight in sizes]))
        self._key = seed
        self._free: deque[NDArray[np.uint8]] = deque()
        self._room = PACKETS * longest

    def kernels(self) -> list[Any]:
        return [k.draw_packets, k.build]

    def draw(self, first: int, n: int, flow_edges: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Flow, int64 (n,), and length, uint32 (n,) bytes, of packets from number ``first`` on."""
        flow, length = np.empty(n, np.int64), np.empty(n, np.uint32)
        k.draw_packets(self._key, first, n, flow_edges, self._size_edges, self._sizes, flow, length)
        return flow, length

    def batch(
        self, first: int, flow: NDArray[np.int64], length: NDArray[np.uint32], due: NDArray[np.int64],
        queue: NDArray[np.int64],
    ) -> Batch:  # fmt: skip
        arena = self._free.popleft() if self._free else np.zeros(self._room, np.uint8)
        address = np.empty(len(flow), np.int64)
        k.build(arena, address, length, flow, first, len(flow), self._headers.bytes, self._headers.facts)
        return Batch(len(flow), arena, address, length, due, queue, release=lambda: self._free.append(arena))


@dataclass(frozen=True)
class Traffic:
    """What to generate.  shares: of the queues, by position; without them RSS chooses a flow's queue."""

    sizes: Sizes = ((60, 1.0),)
    flows: int = 1
    zipf: float = 0.0
    ipv6: bool = False
    vlan: int | None = None
    seed: int = 1
    shares: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.flows <= MOST_FLOWS:
            raise UsageError(f"unsupported number of flows: {self.flows}", f"use 1 to {MOST_FLOWS}")
        if not 0 <= self.zipf <= 10:
            raise UsageError(
                f"unsupported Zipf exponent: {self.zipf:g}", "use 0 to 10: 0 is uniform, 1 is the usual value"
            )


class Synthetic:
    """``count`` packets of one kind of traffic (None: without end), on ``queues`` queues."""

    def __init__(
        self, traffic: Traffic, timing: Timing, mtu: int, *, count: int | None = None, duration_ns: int | None = None,
        queues: int = 1, rss: Rss | None = None,
    ) -> None:  # fmt: skip
        if traffic.shares is not None and len(traffic.shares) != queues:
            raise UsageError(
                f"there are {len(traffic.shares)} shares for {queues} queues", "give one share per queue of --queues"
            )
        self.paced, self.queues, self.not_sent = timing.paced, queues, NotSent()
        flows = max(traffic.flows, queues) if traffic.shares is not None else traffic.flows
        headers = headers_of([flow_of(number) for number in range(flows)], traffic.ipv6, traffic.vlan)
        self._builder = Builder(headers, traffic.sizes, mtu, traffic.seed)
        self._flow_edges = edges(shares(flows, traffic.zipf, traffic.shares))
        self._queue_of = queues_of(headers, queues, rss) if traffic.shares is None else np.arange(flows) % queues
        self._schedule, self._count, self._duration_ns = Schedule(timing), count, duration_ns
        self.counted = count is not None and duration_ns is None
        self._done = 0
        self._stopped = False

    def kernels(self) -> list[Any]:
        return [*self._builder.kernels(), *self._schedule.kernels()]

    def left(self) -> int | None:
        return None if self._count is None else self._count - self._done

    def close(self) -> None:
        self._stopped = True

    def batches(self) -> Iterator[Batch]:
        while not self._stopped and self._done != self._count:
            n = PACKETS if self._count is None else min(PACKETS, self._count - self._done)
            flow, length = self._builder.draw(self._done, n, self._flow_edges)
            due = self._schedule.apply(np.zeros(n, np.int64), length, n)
            if self._duration_ns is not None:
                n = int(np.searchsorted(due, self._duration_ns))
                self._stopped = n < len(due)
            if n == 0:
                return
            flow, length, due = flow[:n], length[:n], due[:n]
            batch = self._builder.batch(self._done, flow, length, due, self._queue_of[flow])
            self._done += n
            batch.share = self._share(int(due[-1]))
            yield batch

    def _share(self, due_ns: int) -> float | None:
        """How much is handed out: by the count or by the duration, whichever ends first."""
        ends = [self._done / self._count] if self._count else []
        if self._duration_ns:
            ends.append(due_ns / self._duration_ns)
        return max(ends, default=None)


def queues_of(headers: Headers, queues: int, rss: Rss | None) -> NDArray[np.int64]:
    """The queue of each flow, as RSS chooses it: int64 (flows,)."""
    flows, size = headers.bytes.shape
    if queues == 1 or rss is None:
        return np.zeros(flows, np.int64)
    return rss.choose(headers.bytes.ravel(), np.arange(flows) * size, np.full(flows, size, np.uint32), flows)
