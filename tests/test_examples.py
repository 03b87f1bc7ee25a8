"""Every example runs, on a file whose contents are known."""

from __future__ import annotations

import runpy
import struct
import subprocess
import sys
from pathlib import Path

import dpkt
import pytest

import wirecap
from rig import until
from wire_rig import WireRig
from wirecap.handlers.table import bind
from wirecap.traffic import synthetic

EXAMPLES = Path(wirecap.__file__).parent / "examples"


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


@pytest.mark.parametrize("name", [path.name for path in sorted(EXAMPLES.glob("*.py")) if path.stem != "router"])
def test_what_is_missing_is_told(name, monkeypatch, capsys):
    """Without arguments an example tells which it takes; a file that there is not is one line."""
    for given, status, says in (
        ([], 2, "the following arguments are required: source"),
        (["./nowhere.pcap", *["text", "./out.pcap"] * name.startswith("save")], "./nowhere.pcap", ""),
    ):
        monkeypatch.setattr(sys, "argv", [name, *given])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        assert str(ended.value.code).startswith(str(status))
        assert says in capsys.readouterr().err


def test_talkers_of_both_versions(tmp_path, monkeypatch, capsys):
    """Addresses of IPv4 and IPv6 are counted together, and a chunk without any is no harm."""
    six = (
        bytes(12) + b"\x86\xdd\x60" + bytes(5) + b"\x3b\x40" + bytes.fromhex("20010db8") + bytes(11) + b"\1" + bytes(16)
    )
    with wirecap.write(tmp_path / "both.pcap") as out:
        for data in [bytes(12) + b"\x08\x06" + bytes(46)] * 256 + [six, six, frame("192.0.2.1", 60)]:
            out.write(data, 1)
    monkeypatch.setattr(sys, "argv", ["talkers.py", str(tmp_path / "both.pcap")])
    runpy.run_path(str(EXAMPLES / "talkers.py"), run_name="__main__")
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert printed == [["2001:db8::1", "108", "bytes"], ["192.0.2.1", "60", "bytes"]]


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
    """The compiled handler's pairs stand in the order of their bytes; ARP is nobody's."""
    assert run("top_talkers.py", trace).splitlines() == [
        "192.0.2.1 > 198.51.100.1 30,000 bytes",
        "192.0.2.2 > 198.51.100.1 7,500 bytes",
    ]


def test_first_bytes(trace):
    """A handler in plain Python returns what it counted."""
    assert run("first_bytes.py", trace).split() == [*["02"] * 6, "306", "packets"]


def test_payload_sizes(trace):
    """UDP's payloads are in their bins; the frames have an empty one, of 0 - 8 bytes, so that it is below all."""
    rows = {
        line.rpartition(" bytes ")[0].strip(): line.split()[-2] for line in run("payload_sizes.py", trace).splitlines()
    }
    assert rows["below 0"] == "305"
    assert rows["512-1023"] == "0"


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
    assert run("dns_sources.py", path) == "192.0.2.1 2\n"
    assert run("dns.py", path) == "{'packets': 4, 'answers': 2, 'errors': 1, 'queries': 2}\n"


def test_router():
    """A hop less with the right checksum, new addresses and a tag; a packet that is too old is not sent."""
    router = runpy.run_path(str(EXAMPLES / "router.py"))
    young, old = bytearray(synthetic.udp(60)), bytearray(synthetic.udp(60))
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
        assert f"test_{path.stem}" in globals() or path.stem == "dns_sources"  # with dns.py
        assert len(path.read_text().splitlines()) <= 40
