"""Addresses as people write them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

MAPPED = 0xFFFF << 32
"""The lower half of an IPv4 address in an IPv6 address (RFC 4291, section 2.5.5.2); the upper half is 0."""


def ip_text(high: int, low: int) -> str:
    """An address of two 64-bit halves: ``2001:db8::1``, or ``192.0.2.1`` for a mapped one."""
    if high == 0 and low >> 32 == 0xFFFF:
        return str(IPv4Address(low & 0xFFFFFFFF))
    return str(IPv6Address(high << 64 | low))


def mac_text(address: int) -> str:
    return ":".join(f"{byte:02x}" for byte in address.to_bytes(6, "big"))


def ip_texts(halves: Iterable[tuple[int, int]]) -> list[str]:
    return [ip_text(high, low) for high, low in halves]
