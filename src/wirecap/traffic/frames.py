"""Frames made from nothing: Ethernet, IPv4 (RFC 791) and UDP (RFC 768)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from wirecap.errors import UsageError

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
        raise UsageError(f"a UDP frame of {length_bytes} bytes", f"it has {HEADERS_BYTES} to {65535 + 14}")
    size = length_bytes - 14
    addresses = IPv4Address(source).packed + IPv4Address(destination).packed
    start = struct.pack("!BBHHHBB", 0x45, 0, size, 0, 0, 64, 17)
    checksum = struct.pack("!H", internet_checksum(start + b"\0\0" + addresses))
    ethernet = _mac(destination_mac) + _mac(source_mac) + b"\x08\0"
    udp_header = struct.pack("!HHHH", source_port, destination_port, size - 20, 0)
    return (ethernet + start + checksum + addresses + udp_header).ljust(length_bytes, b"\0")


def internet_checksum(data: bytes) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def _mac(text: str) -> bytes:
    return bytes(int(part, 16) for part in text.split(":"))
