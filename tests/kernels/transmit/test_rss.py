"""RSS in software: the hash that a NIC computes, and the queue that it points at."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wirecap.errors import UsageError
from wirecap.traffic.steering import STANDARD_KEY, SYMMETRIC_KEY, Rss

WIDE = 1 << 14  # a table that shows the hash's low 14 bits

# "Verifying the RSS hash calculation": destination, source, hash of the addresses, and with TCP ports
PUBLISHED = [
    ("161.142.100.80", 1766, "66.9.149.187", 2794, 0x323E8FC2, 0x51CCC178),
    ("65.69.140.83", 4739, "199.92.111.2", 14230, 0xD718262A, 0xC626B0EA),
    ("12.22.207.184", 38024, "24.19.198.95", 12898, 0xD2D0A5DE, 0x5C2B394A),
    ("209.142.163.6", 2217, "38.27.205.30", 48228, 0x82989176, 0xAFC7327F),
    ("202.188.127.2", 1303, "153.39.163.191", 44251, 0x5D1809C5, 0x10E828A2),
    ("3ffe:2501:200:3::1", 1766, "3ffe:2501:200:1fff::7", 2794, 0x2CC18CD5, 0x40207D3D),
    ("ff02::1", 4739, "3ffe:501:8::260:97ff:fe40:efab", 14230, 0x0F0C461C, 0xDDE51BBF),
    ("fe80::200:f8ff:fe21:67cf", 38024, "3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, 0x4B61E985, 0x02D1FEEF),
]


def packet(source: str, source_port: int, destination: str, port: int, protocol: int = 6, tag: bytes = b"") -> bytes:
    ports = struct.pack("!HH", source_port, port) + bytes(16)
    first, second = ip_address(source), ip_address(destination)
    if first.version == 4:
        start = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, protocol, 0)
        return bytes(12) + tag + b"\x08\0" + start + first.packed + second.packed + ports
    return (
        bytes(12)
        + tag
        + b"\x86\xdd"
        + struct.pack("!IHBB", 6 << 28, 20, protocol, 64)
        + first.packed
        + second.packed
        + ports
    )


def low_bits(frames: list[bytes], key: bytes = STANDARD_KEY) -> list[int]:
    rss = Rss(WIDE, key, list(range(WIDE)))
    sizes = np.array([len(frame) for frame in frames], np.uint32)
    starts = (np.cumsum(sizes) - sizes).astype(np.int64)
    return rss.choose(np.frombuffer(b"".join(frames), np.uint8).copy(), starts, sizes, len(frames)).tolist()


def naive(data: bytes, key: bytes) -> int:
    """The definition: for each bit that is set, the 32 bits of the key that begin at its place."""
    whole, result = int.from_bytes(key, "big"), 0
    for place in range(8 * len(data)):
        if data[place // 8] >> (7 - place % 8) & 1:
            result ^= whole >> (8 * len(key) - 32 - place) & 0xFFFFFFFF
    return result


@pytest.mark.parametrize(("destination", "port", "source", "source_port", "addresses", "whole"), PUBLISHED)
def test_published_values(destination, port, source, source_port, addresses, whole):
    """TCP is hashed with its ports, other protocols without, as Microsoft's published values have it."""
    tcp = packet(source, source_port, destination, port)
    other = packet(source, source_port, destination, port, protocol=47)
    assert low_bits([tcp, other]) == [whole % WIDE, addresses % WIDE]


@settings(deadline=None)
@given(st.binary(min_size=8, max_size=8), st.binary(min_size=4, max_size=4), st.binary(min_size=40, max_size=40))
def test_any_key_and_any_addresses(addresses, ports, key):
    """The table look-ups give what the bit-by-bit definition gives."""
    frame = (
        bytes(12) + b"\x08\0" + struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 17, 0) + addresses + ports + bytes(4)
    )
    assert low_bits([frame], key) == [naive(addresses + ports, key) % WIDE]


def test_symmetric_key_joins_both_directions():
    """With the symmetric key both directions of a connection have one queue, with the standard key not all do."""
    there = [packet(source, a, destination, b) for destination, b, source, a, _, _ in PUBLISHED]
    back = [packet(destination, b, source, a) for destination, b, source, a, _, _ in PUBLISHED]
    assert low_bits(there, SYMMETRIC_KEY) == low_bits(back, SYMMETRIC_KEY)
    assert low_bits(there) != low_bits(back)


def test_tags_fragments_and_strange_packets():
    """A VLAN tag changes nothing; a fragment is hashed without ports; what is not IP, or cut, goes to entry 0."""
    destination, port, source, source_port, addresses, whole = PUBLISHED[0]
    tagged = packet(source, source_port, destination, port, tag=b"\x81\0\0\x05")
    twice = packet(source, source_port, destination, port, tag=b"\x88\xa8\0\x05\x81\0\0\x06")
    fragment = bytearray(packet(source, source_port, destination, port))
    fragment[20:22] = b"\x20\x10"
    arp, cut = bytes(12) + b"\x08\x06" + bytes(46), packet(source, source_port, destination, port)[:30]
    expected = [whole % WIDE, whole % WIDE, addresses % WIDE, 0, 0]
    assert low_bits([tagged, twice, bytes(fragment), arp, cut]) == expected


@pytest.mark.parametrize("table", [[], [0, 1, 0], [0, 2]])
def test_tables_that_cannot_be(table):
    """An indirection table has a power of two of entries, each a queue that is there."""
    with pytest.raises(UsageError):
        Rss(2, table=table)
