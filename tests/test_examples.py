"""Every example runs, on a file whose contents are known."""

from __future__ import annotations

import runpy
import struct
import subprocess
import sys
from pathlib import Path

import dpkt
import pytest

from rig import until
from wire_rig import WireRig
from wirecap.handlers.table import bind
from wirecap.traffic import frames

EXAMPLES = Path(__file__).parent.parent / "examples"


def frame(source: str, size: int, text: bytes = b"") -> bytes:
    address = bytes(map(int, source.split(".")))
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, size - 14, 0, 0, 64, 17, 0, address, b"\xc6\x33\x64\x01")
    return (b"\2" * 12 + b"\x08\0" + ip + b"\0" * 8 + text).ljust(size, b"\0")


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "known.pcap"
    with path.open("wb") as file:
        writer = dpkt.pcap.Writer(file)
        for number in range(300):
            writer.writepkt(frame("192.0.2.1", 100), ts=number)
        for number in range(5):
            writer.writepkt(frame("192.0.2.2", 1500, b"needle"), ts=400 + number)
        writer.writepkt(b"\2" * 12 + b"\x08\x06" + bytes(46), ts=500)
    return path


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_sizes(trace):
    """The histogram has every packet in its range."""
    lines = run("sizes.py", trace).splitlines()
    assert lines[0].split() == ["0", "-", "63", "bytes", "1", "packets"]
    assert lines[1].split()[-2:] == ["300", "packets"]
    assert lines[5].split()[-2:] == ["5", "packets"]
    assert "'received': 306" in lines[-1]


def test_talkers(trace):
    """Senders stand in the order of their bytes."""
    assert [line.split() for line in run("talkers.py", trace).splitlines()] == [
        ["192.0.2.1", "30,000", "bytes"],
        ["192.0.2.2", "7,500", "bytes"],
    ]


def test_save_matching(trace, tmp_path):
    """Exactly the packets with the text are in the new file, with their times."""
    run("save_matching.py", trace, "needle", tmp_path / "out.pcap")
    with (tmp_path / "out.pcap").open("rb") as file:
        packets = list(dpkt.pcap.Reader(file))
    assert [(float(when), data) for when, data in packets] == [
        (400.0 + number, frame("192.0.2.2", 1500, b"needle")) for number in range(5)
    ]


def test_top_talkers(trace):
    """The compiled handler's senders stand in the order of their bytes; ARP is nobody's."""
    assert [line.split() for line in run("top_talkers.py", trace).splitlines()] == [
        ["192.0.2.1", "30,000", "bytes"],
        ["192.0.2.2", "7,500", "bytes"],
    ]


def test_chunk_histogram(trace):
    """The chunk handler's histogram has every packet in its range."""
    packets = {line.split()[0]: int(line.split()[2]) for line in run("chunk_histogram.py", trace).splitlines()}
    assert packets.pop("0-63") == 1
    assert packets.pop("64-127") == 300
    assert packets.pop("1024-1518") == 5
    assert not any(packets.values())


def test_print_packets(trace):
    """The callback prints a line for each packet, with its time and its first bytes."""
    lines = run("print_packets.py", trace).splitlines()
    assert len(lines) == 306
    assert lines[299].split() == ["00:04:59.000000000", "100", "bytes", *["02"] * 12, "08", "00"]


def test_dns(tmp_path):
    """Queries, answers and errors are told apart; other ports, TCP and other packets are not DNS messages."""
    query, answer, refused = bytes.fromhex("00070100"), bytes.fromhex("00078180"), bytes.fromhex("00078185")
    path = tmp_path / "dns.pcap"
    with path.open("wb") as file:
        writer = dpkt.pcap.Writer(file)
        for ports, message in ([(999, 53), query], [(999, 53), query], [(53, 999), answer], [(53, 999), refused],
                               [(999, 5353), query]):  # fmt: skip
            udp = struct.pack("!HHHH", *ports, 20, 0) + message + bytes(8)
            writer.writepkt(frame("192.0.2.1", 34)[:34] + udp)
        writer.writepkt(frame("192.0.2.1", 34)[:34] + struct.pack("!HHH", 999, 53, 20))  # cut short
    assert run("dns.py", path) == "{'packets': 4, 'answers': 2, 'errors': 1, 'queries': 2}\n"


def test_router():
    """A hop less with the right checksum, new addresses and a tag; a packet that is too old is not sent."""
    router = runpy.run_path(str(EXAMPLES / "router.py"))
    young, old = bytearray(frames.udp(60)), bytearray(frames.udp(60))
    old[22] = 1
    with WireRig([bind(router[name]) for name in ("ttl", "next_hop", "tag")]) as rig:
        rig.run_kernel()
        rig.inject(0, [bytes(young), bytes(old)])
        until(lambda: rig.ended() == 2)
        rig.stop()
        (sent,) = rig.sent[0]
        assert rig.drops() == {"by_handler": 1}
    assert sent[:16] == bytes.fromhex("020000000002 020000000001 8100 0007")
    assert sent[26] == young[22] - 1
    assert dpkt.in_cksum(sent[18:38]) == 0
    assert sent[38:] == young[34:]


def test_no_example_is_forgotten():
    """Each example has a test here, and is at most 40 lines long."""
    for path in EXAMPLES.glob("*.py"):
        assert f"test_{path.stem}" in globals()
        assert len(path.read_text().splitlines()) <= 40
