"""Capture files through the engine: every packet once, as the peers read them."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path

import pytest
import zstandard

import wirecap
from rig import Nobody, Rig, check_identity, read_pcap, read_pcapng, until
from wirecap.cli.main import run
from wirecap.lab.process import find

__all__ = ["Nobody", "Rig", "check_identity", "until"]


@pytest.fixture
def little_trace(mixed_trace, tmp_path) -> Path:
    """The first 3,000 packets of the mixed trace."""
    data, at = mixed_trace.read_bytes(), 24
    for _ in range(3000):
        at += 16 + int.from_bytes(data[at + 8 : at + 12], "little")
    path = tmp_path / "little.pcap"
    path.write_bytes(data[:at])
    return path


def test_copy_of_a_trace_is_tcpdumps(mixed_trace, tmp_path):
    """capture -r FILE -w OUT.pcap gives, byte for byte, what tcpdump -r FILE -w OUT gives."""
    tcpdump = find("tcpdump")
    if not tcpdump:
        pytest.skip("needs tcpdump")
    ours, theirs = tmp_path / "ours.pcap", tmp_path / "theirs.pcap"
    assert run(["capture", "-q", "-r", str(mixed_trace), "-w", str(ours)]) == 0
    subprocess.run([tcpdump, "-r", mixed_trace, "-w", theirs], check=True, capture_output=True, timeout=60)
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("expression", ["tcp port 443", "udp and len > 200", "not ip", "ip6 or arp"])
def test_filtered_copy_of_a_trace_is_tcpdumps(mixed_trace, tmp_path, expression):
    """The same with a filter."""
    tcpdump = find("tcpdump")
    if not tcpdump:
        pytest.skip("needs tcpdump")
    ours, theirs = tmp_path / "ours.pcap", tmp_path / "theirs.pcap"
    assert run(["capture", "-q", "-r", str(mixed_trace), "-w", str(ours), expression]) == 0
    subprocess.run([tcpdump, "-r", mixed_trace, "-w", theirs, expression], check=True, capture_output=True, timeout=60)
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_compressed_files_are_streamed(little_trace, tmp_path, pack):
    """A compressed file gives the same packets, through a pool that is much smaller than the file."""
    packed, out = tmp_path / "packed", tmp_path / "out.pcapng"
    packed.write_bytes(pack(little_trace.read_bytes()))
    assert run(["capture", "-q", "-r", str(packed), "-M", "16", "-R", "4", "-w", str(out)]) == 0
    expected = read_pcap(little_trace)
    assert [(p.timestamp, p.data, p.original) for p in read_pcapng(out)] == [
        (p.timestamp * 1000, p.data, p.original) for p in expected
    ]


@pytest.mark.parametrize("shape", [(1, 2), (7, 3), (256, 100)])
def test_summary_of_a_file(little_trace, shape):
    """All packets of a file are received and delivered, whatever the pool; bytes are those of the packets."""
    expected = read_pcap(little_trace)
    with wirecap.open(str(little_trace), M=shape[0], R=shape[1]) as capture:
        sizes = [size for chunk in capture for size in chunk.lengths.tolist()]
        assert sizes == [len(packet.data) for packet in expected]
        summary = capture.summary()
    check_summary(summary)
    assert summary["packets"]["received"] == summary["packets"]["delivered"] == len(expected)
    assert summary["bytes"]["received"] == sum(sizes)


@pytest.mark.parametrize("limit", [1, 255, 256, 257, 2999, 3000, 4000])
def test_limit_on_a_file(little_trace, limit):
    """With a limit, what was not read is neither received nor dropped: it is still in the file."""
    expected = read_pcap(little_trace)[:limit]
    with wirecap.open(str(little_trace), count=limit) as capture:
        found = [bytes(packet) for chunk in capture for packet in chunk]
    assert found == [packet.data for packet in expected]
    summary = capture.summary()
    check_summary(summary)
    assert summary["packets"]["received"] == len(expected)
    assert summary["bytes"]["received"] == sum(map(len, found))


def check_summary(summary):
    packets = summary["packets"]
    assert packets["received"] == packets["delivered"] + packets["filtered_out"] + packets["dropped"]
    assert packets["dropped"] == sum(packets["drops"].values())
    assert "unaccounted" not in packets["drops"]
    for name in ("received", "delivered", "dropped", "offloaded"):
        assert packets[name] == sum(row[name] for row in summary["per_queue"])


def test_limit_of_the_written_file(little_trace, tmp_path):
    """-a filesize on a file: received, delivered and written are the packets of the output, bytes too."""
    out = tmp_path / "out.pcap"
    summary = tmp_path / "summary.json"
    arguments = ["-r", str(little_trace), "-w", str(out), "-a", "filesize:50", "--summary-json", str(summary)]
    assert run(["capture", "-q", *arguments]) == 0
    found = json.loads(summary.read_text())
    check_summary(found)
    packets = read_pcap(out)
    assert [packet.data for packet in packets] == [packet.data for packet in read_pcap(little_trace)[: len(packets)]]
    counts = found["packets"]
    assert counts["received"] == counts["delivered"] == counts["written"] == len(packets)
    assert found["bytes"] == dict.fromkeys(["received", "written"], sum(len(packet.data) for packet in packets))
