"""The flows of synthetic traffic: headers that differ in addresses and ports, and how often each comes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.kernels import synthesis as k

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
    """Templates for the kernel ``build``: octets uint8 (flows, TEMPLATE_BYTES), facts int64 (flows, FLOW_WORDS)."""

    octets: NDArray[np.uint8]
    facts: NDArray[np.int64]
    longest: int
    """Bytes of the longest headers: no frame can be shorter."""


def headers_of(flows: Sequence[Flow], ipv6: bool = False, vlan: int | None = None) -> Headers:
    """The headers of the flows: Ethernet, a VLAN tag, IPv4 or IPv6, UDP."""
    if vlan is not None and not 0 <= vlan <= 4095:
        raise UsageError(f"VLAN {vlan}", "a VLAN has a number from 0 to 4095")
    octets = np.zeros((len(flows), k.TEMPLATE_BYTES), np.uint8)
    facts = np.zeros((len(flows), k.FLOW_WORDS), np.int64)
    kind = b"\x86\xdd" if ipv6 else b"\x08\x00"
    tag = b"" if vlan is None else struct.pack("!2sH", b"\x81\x00", vlan)
    ethernet = _DESTINATION_MAC + _SOURCE_MAC + tag + kind
    for number, flow in enumerate(flows):
        network, pseudo = _ipv6(flow) if ipv6 else _ipv4(flow)
        udp = struct.pack("!4H", flow.source_port, flow.destination_port, 0, 0)
        whole = ethernet + network + udp
        octets[number, : len(whole)] = np.frombuffer(whole, np.uint8)
        facts[number] = (
            len(ethernet), len(ethernet) + len(network), _sum(network), _sum(pseudo + udp), 6 if ipv6 else 4,
        )  # fmt: skip
    return Headers(octets, facts, headers_bytes(ipv6, vlan))


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
