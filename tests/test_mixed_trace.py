"""The made trace: the same bytes everywhere, and something of each kind in it, as tcpdump's filters find it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import dpkt
import pytest

import mixed_trace
from forward_rig import by_flow, frames_of
from wirecap.lab.process import find


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> Path:
    return mixed_trace.write(tmp_path_factory.mktemp("made") / mixed_trace.NAME)


def test_the_bytes_are_the_same_everywhere(tmp_path):
    """Whatever the interpreter hashes by, the script writes the bytes that SHA256 names."""
    path = tmp_path / "made.pcap"
    command = [sys.executable, str(Path(mixed_trace.__file__)), str(path)]
    subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "123"}, check=True, timeout=60)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == mixed_trace.SHA256


def test_times_and_sizes(trace):
    """Times go forward through 30 s; frames are from cut ones to more than any MTU, most lengths between are there."""
    with trace.open("rb") as file:
        rows = [(stamp, len(data)) for stamp, data in dpkt.pcap.Reader(file)]
    times, sizes = zip(*rows, strict=True)
    assert len(rows) == mixed_trace.PACKETS
    assert list(times) == sorted(times)
    assert 25 < times[-1] - times[0] < 30
    assert min(sizes) == 34
    assert max(sizes) > 8000
    assert len(set(sizes) & set(range(60, 1515))) > 1000


def test_thousands_of_flows(trace):
    """More than 3,000 TCP and UDP flows over IPv4 alone, each direction for itself."""
    assert len(by_flow(frames_of(trace))) > 3000


KINDS = (
    "tcp", "udp", "icmp", "icmp6", "sctp", "arp", "rarp", "igmp", "ip proto 50", "ip proto 51", "ip proto 89",
    "ip proto 47", "ip proto 4", "ip proto 41", "udp port 4789", "udp port 6081", "udp port 2152", "vlan",
    "vlan and vlan", "ether proto 0x88a8", "ether proto 0x9100", "mpls", "mpls and mpls", "pppoes", "stp", "llc",
    "ether proto 0x88cc", "ip[6:2] & 0x3fff != 0", "ip6 proto 44", "ip6[6] = 0", "ip6[6] = 43", "ip6[6] = 60",
    "ip6 proto 51", "ip[0] & 0xf > 5", "ip[0] & 0xf < 5", "ip[2:2] > len", "ip[2:2] < 20", "ip[8] <= 1", "broadcast",
    "multicast", "greater 1515", "greater 4000", "less 59", "tcp[12] & 0xf0 < 0x50",
)  # fmt: skip


@pytest.mark.parametrize("expression", KINDS)
def test_something_of_each_kind(trace, tmp_path, expression):
    """tcpdump finds at least ten packets of the kind, and others."""
    tcpdump = find("tcpdump")
    if not tcpdump:
        pytest.skip("needs tcpdump")
    command = [tcpdump, "--count", "-r", str(trace), expression]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert 10 <= int(done.stdout.split()[0]) < mixed_trace.PACKETS


def test_packets_that_were_cut(trace):
    """Some packets are longer on the wire than in the file."""
    data, at, cut = trace.read_bytes(), 24, 0
    while at < len(data):
        captured, original = (int.from_bytes(data[at + n : at + n + 4], "little") for n in (8, 12))
        assert captured <= original
        cut += captured < original
        at += 16 + captured
    assert cut > 200
