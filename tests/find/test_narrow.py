"""The index rules out no block in which a full scan finds a packet."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from archive_rig import chosen, full_scan, indexed, pcap, queries, records

from wirecap.filters import narrow
from wirecap.filters.expression import compile_filter
from wirecap.kernels.file import index as k

SMALL = 4096


def lost(path: Path, texts: list[str], block_bytes: int = SMALL, linktype: int = 1) -> tuple[int, float, int]:
    """(matches, mean share of the blocks read, queries that read less than a tenth) for all queries, none of which
    misses a packet."""
    packets, index = records(path), indexed(path, block_bytes)
    matches, shares, narrow_ones = 0, [], 0
    for text in texts:
        program = compile_filter(text, linktype)
        at = full_scan(program, packets)
        found, read, blocks = chosen(index, program, at)
        assert found.all(), f"{text}: {len(at) - found.sum()} of {len(at)} packets are in blocks that are ruled out"
        matches += len(at)
        shares.append(read / blocks)
        narrow_ones += read < blocks / 10
    return matches, float(np.mean(shares)), narrow_ones


def test_a_thousand_random_queries(part):
    """Of 1,000 queries, half of them random, half about what is there, none misses a packet; most read little."""
    packets = records(part)
    matches, share, narrow_ones = lost(part, queries(packets, 1000, seed=1))
    assert matches > 5_000
    assert share < 0.6
    assert narrow_ones > 200


def test_packets_that_are_cut(part, tmp_path):
    """Packets cut anywhere, most within their headers, are filed as the filter sees them."""
    dice = random.Random(2)
    packets = records(part)
    cut = [
        packet[: dice.choice((13, 14, 17, 18, 23, 24, 30, 34, 36, 38, 42, 54, 56, 58, 62))] for _, _, packet in packets
    ]
    path = pcap(tmp_path / "cut.pcap", cut, originals=40)
    matches, _, _ = lost(path, queries(packets, 200, seed=3)[100:])
    assert matches > 1000


def test_tags_within_tags(part, tmp_path):
    """Up to six VLAN tags in front of anything."""
    dice, tags = random.Random(4), (b"\x81\0", b"\x88\xa8", b"\x91\0")
    packets = []
    for _, _, packet in records(part)[:1000]:
        tagged = b"".join(dice.choice(tags) + bytes((0, dice.randint(1, 5))) for _ in range(dice.randint(0, 6)))
        packets.append(packet[:12] + tagged + packet[12:])
    path = pcap(tmp_path / "tagged.pcap", packets)
    texts = [f"vlan {n}" for n in range(6)] + [f"vlan {n} and vlan {m}" for n in (1, 2) for m in (3, 4)]
    texts += [f"{text} and tcp" for text in texts] + ["vlan and vlan and vlan and ip", "vlan and vlan and port 443"]
    texts += ["vlan and " * 5 + "ip", "vlan and " * 6 + "udp port 53", "not vlan", "vlan and not vlan 3"]
    lost(path, texts + queries(records(path), 100, seed=5)[60:])


@pytest.mark.parametrize(("linktype", "header"), [
    (101, b""), (12, b""), (0, b"\2\0\0\0"), (113, bytes(14) + b"\x08\0"), (276, b"\x08\0" + bytes(18)),
])  # fmt: skip
def test_other_link_types(part, tmp_path, linktype, header):
    """Raw IP, BSD loopback and Linux cooked captures."""
    packets = [packet[14:] for _, _, packet in records(part) if packet[12:14] == b"\x08\0"][:2000]
    path = pcap(tmp_path / "other.pcap", (header + packet for packet in packets), linktype)
    ethernet = [(0, 0, bytes(12) + b"\x08\0" + packet) for packet in packets]
    texts = queries(ethernet, 60, seed=6)[30:]
    _, share, _ = lost(path, texts, linktype=linktype)
    assert share < 0.9


def test_a_link_type_that_is_not_known_is_read():
    """Of 802.11 frames nothing is ruled out."""
    assert narrow.narrowed(compile_filter("host 10.0.0.1", 105)) == narrow.ALWAYS


def test_long_lists_are_looked_up():
    """A list that became a set asks for one of its members."""
    hosts = " or ".join(f"host 10.9.{n}.1" for n in range(64))
    found = narrow.narrowed(compile_filter(hosts))
    assert found not in (narrow.ALWAYS, narrow.NEVER)


def test_what_is_no_comparison_rules_nothing_out():
    for text in ("", "len > 100", "ether[0] = 1", "not host 10.0.0.1", "tcp[13] & 2 != 0 or ether broadcast"):
        assert narrow.narrowed(compile_filter(text)) == narrow.ALWAYS, text


@pytest.mark.kernel
def test_hashes_are_the_kernels(tmp_path):
    """Filters ask for the bits that the kernel sets."""
    six = bytes(range(16)), bytes(range(16, 32))
    packets = [
        bytes(12) + b"\x08\0\x45" + bytes(8) + b"\x06" + bytes(2) + bytes((10, 1, 2, 3, 10, 4, 5, 6)) + b"\1\xbb09",
        bytes(12) + b"\x86\xdd" + b"\x60" + bytes(5) + b"\x11" + bytes(1) + b"".join(six) + b"\0\x35\x12\x34",
    ]  # fmt: skip
    index = indexed(pcap(tmp_path / "two.pcap", packets), k.BLOCK_BYTES)
    (segment,) = index.segments()
    one, two = ([int.from_bytes(end[n : n + 4], "big") for n in range(0, 16, 4)] for end in six)
    there = [
        narrow.term(k.ADDRESS, 0x0A010203), narrow.term(k.NETWORK, 0x0A0405), narrow.term(k.PORT, 443),
        narrow.term(k.PROTOCOL, 6), narrow.term(k.PROTOCOL6, 17), narrow.term(k.ETHERTYPE, 0x86DD),
        narrow.address6(*one), narrow.network6(*two[:2]), narrow.term(k.PORT, 0x1234),
    ]  # fmt: skip
    assert all(index.has(segment, hashed).all() for hashed in there)
    assert sum(bool(index.has(segment, narrow.term(k.PORT, n)).any()) for n in range(20_000, 21_000)) < 300
