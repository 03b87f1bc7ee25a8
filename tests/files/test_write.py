"""What is written is read back by others: tshark, capinfos, tcpdump, and a parser of a few lines."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import capture_bytes as cb
import numpy as np
import pytest
from capture_bytes import Packet
from hypothesis import given, settings
from hypothesis import strategies as st

from wirecap.files import pcap, pcapng
from wirecap.kernels.pcap_write import PCAP_NS, PCAP_US, PCAPNG_NS, put_chunk, whole_records

packets_ns = st.lists(
    st.builds(
        lambda data, more, ns: Packet(data, len(data) + more, ns),
        st.binary(max_size=70),
        st.integers(0, 2**31),
        st.integers(0, 2**32 * 10**9 - 1),
    ),
    max_size=12,
)
layouts = st.sampled_from([PCAP_US, PCAP_NS, PCAPNG_NS])
NO_LIMIT = 1 << 62


def put(layout: int, packets: list[Packet], snaplen: int, room: int, full: int = NO_LIMIT, interface: int = 0):
    """(bytes, packets put) of one put_chunk into a buffer of so many bytes, full of dirt."""
    n = len(packets)
    arena = np.frombuffer(bytearray(b"".join(p.data for p in packets) + b"\xee"), dtype=np.uint8)
    captured = np.array([len(p.data) for p in packets], dtype=np.uint32)
    address = np.concatenate([[0], np.cumsum(captured)[:-1]]).astype(np.int64) if n else np.zeros(0, np.int64)
    original = np.array([p.original for p in packets], dtype=np.uint32)
    stamp = np.array([p.ns for p in packets], dtype=np.int64)
    out = np.full(room, 0xEE, dtype=np.uint8)
    k, position = put_chunk(layout, out, 0, full, arena, address, captured, original, stamp, 0, n, snaplen, interface)
    assert (out[position:] == 0xEE).all()
    return out[:position].tobytes(), int(k)


def expected(layout: int, packets: list[Packet], snaplen: int, interface: int = 0) -> list[bytes]:
    """The same records by struct."""
    records = []
    for p in packets:
        data = p.data[:snaplen]
        if layout == PCAPNG_NS:
            records.append(cb.enhanced("<", interface, p.ns, data, p.original))
        else:
            records.append(cb.pcap([Packet(data, p.original, p.ns)], tick_ns=1000 if layout == PCAP_US else 1)[24:])
    return records


@pytest.mark.kernel
@settings(deadline=None)
@given(layouts, packets_ns, st.sampled_from([1, 17, 262144]), st.integers(0, 900), st.integers(0, 900))
def test_records_are_as_specified(layout: int, packets: list[Packet], snaplen: int, room: int, full: int) -> None:
    """As many whole records as fit the buffer, and none once it is as full as asked, each byte as specified."""
    got, count = put(layout, packets, snaplen, room, full, interface=3)
    records = expected(layout, packets, snaplen, interface=3)
    fitting = 0
    while fitting < len(records):
        before = sum(map(len, records[:fitting]))
        if before >= full or before + len(records[fitting]) > room:
            break
        fitting += 1
    assert count == fitting
    assert got == b"".join(records[:fitting])


@pytest.mark.kernel
@settings(deadline=None)
@given(layouts, packets_ns, st.integers(0, 1000))
def test_whole_records_are_found(layout: int, packets: list[Packet], cut: int) -> None:
    """Wherever written records are cut, the end of the last whole one and their number are found."""
    records = expected(layout, packets, 262144)
    written = np.frombuffer(bytearray(b"\xee" * 5 + b"".join(records)), dtype=np.uint8)
    end = min(5 + cut, len(written))
    ends = [5]
    for record in records:
        ends.append(ends[-1] + len(record))
    whole = sum(position <= end for position in ends) - 1
    octets = sum(len(packet.data) for packet in packets[:whole])
    assert tuple(map(int, whole_records(layout, written, 5, end))) == (ends[whole], whole, octets)


@pytest.mark.kernel
def test_whole_records_walks_over_other_blocks() -> None:
    """Statistics and descriptions count as records without a packet."""
    blocks = [cb.interface(), cb.enhanced("<", 0, 1, b"abc", 3), cb.block("<", 5, bytes(12)), bytes(9)]
    written = np.frombuffer(bytearray(b"".join(blocks)), dtype=np.uint8)
    assert tuple(map(int, whole_records(PCAPNG_NS, written, 0, len(written)))) == (len(written) - 9, 1, 3)


@pytest.mark.kernel
@pytest.mark.parametrize("ns", [-1, -(10**9) - 1, -(2**63), 2**63 - 1])
def test_times_outside_the_format_do_no_harm(ns: int) -> None:
    """pcapng keeps any int64 time; pcap wraps the seconds, the fraction stays one."""
    data, _ = put(PCAPNG_NS, [Packet(b"a", 1, ns)], 100, 100)
    assert struct.unpack_from("<II", data, 12) == (ns >> 32 & 0xFFFFFFFF, ns & 0xFFFFFFFF)
    data, _ = put(PCAP_NS, [Packet(b"a", 1, ns)], 100, 100)
    assert struct.unpack_from("<II", data) == (ns // 10**9 % 2**32, ns % 10**9)


@pytest.mark.kernel
@settings(deadline=None, max_examples=40)
@given(layouts, packets_ns)
def test_a_written_file_is_read_back(tmp_path_factory: pytest.TempPathFactory, layout: int, packets: list[Packet]):
    """The reader gets the packets that the writer put, to the resolution of the format."""
    path = tmp_path_factory.mktemp("written") / "a"
    header = pcap.global_header(262144, 1, layout == PCAP_NS)
    if layout == PCAPNG_NS:
        header = pcapng.section_header("wirecap") + pcapng.interface_description("eth1", 262144)
    path.write_bytes(header + put(layout, packets, 262144, 4000)[0])
    tick = 1000 if layout == PCAP_US else 1
    assert cb.read(path) == [Packet(p.data, p.original, p.ns - p.ns % tick) for p in packets]


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=60, env=os.environ | {"TZ": "UTC"}
    )
    assert done.returncode == 0, done.stderr
    assert "damaged" not in done.stderr
    return done.stdout


def described(tmp_path: Path) -> Path:
    """A pcapng file of two interfaces with everything that can be said of them."""
    statistics = pcapng.Statistics(1_700_000_000_000_000_001, 1_700_000_009_000_000_002, 11, 2, 10, 3, 7)
    packets = [Packet(bytes(14), 60, 1_700_000_001_123_456_789), Packet(bytes(61), 61, 1_700_000_002_000_000_000)]
    path = tmp_path / "a.pcapng"
    path.write_bytes(
        pcapng.section_header("wirecap 1.2", comments=["für später"], os_name="Linux 6.18", cpu="a CPU")
        + pcapng.interface_description("eth1", 262144, filter="tcp port 80", description="the left port")
        + pcapng.interface_description("eth2", 96)
        + put(PCAPNG_NS, packets, 262144, 4000, interface=1)[0]
        + pcapng.interface_statistics(1, 1_700_000_009_000_000_003, statistics, "end")
        + pcapng.interface_statistics(0, 1_700_000_009_000_000_003, pcapng.Statistics(received=5))
    )
    return path


def test_capinfos_reads_what_is_said(tmp_path: Path) -> None:
    """Application, system, hardware, comment, and each interface's name, filter and resolution are understood."""
    said = run(tool("capinfos"), described(tmp_path))
    for line in [
        "Capture hardware:    a CPU",
        "Capture oper-sys:    Linux 6.18",
        "Capture application: wirecap 1.2",
        "Capture comment:     für später",
        "Name = eth1",
        "Description = the left port",
        "Filter string = tcp port 80",
        "Name = eth2",
        "Capture length = 96",
        "Time ticks per second = 1000000000",
        "Number of stat entries = 1",
    ]:
        assert line in said
    assert said.count("Number of stat entries = 1") == 2


def test_tshark_reads_the_statistics_block(tmp_path: Path) -> None:
    """The counters and times of the interface statistics block are where Wireshark looks for them."""
    shown = run(tool("tshark"), "-r", described(tmp_path), "-X", "read_format:MIME Files Format", "-V")
    block = shown.partition("Block: Interface Statistics Block")[2]
    for line in [
        "Interface: 1",
        "22:13:29.000000003",
        "Code: Start Time (2)",
        "Code: End Time (3)",
        "Number of Received Packets: 11",
        "Number of Dropped Packets: 2",
        "Number of Accepted by Filter Packets: 10",
        "Number of Dropped Packets by OS: 3",
        "Number of Delivered to the User Packets: 7",
        "Comment: end",
    ]:
        assert line in block


def test_tshark_reads_the_times_to_the_nanosecond(tmp_path: Path) -> None:
    """An enhanced packet's time arrives unrounded, on its own interface."""
    shown = run(tool("tshark"), "-r", described(tmp_path), "-T", "fields", "-e", "frame.time_epoch",
                "-e", "frame.interface_name", "-e", "frame.len", "-e", "frame.cap_len")  # fmt: skip
    assert shown.splitlines() == ["1700000001.123456789\teth2\t60\t14", "1700000002.000000000\teth2\t61\t61"]


@pytest.mark.parametrize("nanoseconds", [False, True])
def test_tcpdump_reads_pcap(tmp_path: Path, nanoseconds: bool) -> None:
    """Both resolutions of pcap are read by tcpdump, with the times as they were put."""
    header = pcap.global_header(65535, nanoseconds=nanoseconds)
    layout = PCAP_NS if nanoseconds else PCAP_US
    (tmp_path / "a").write_bytes(
        header + put(layout, [Packet(bytes(60), 60, 1_700_000_001_123_456_789)], 65535, 100)[0]
    )
    shown = run(tool("tcpdump"), "-tt", "--nano", "-nr", tmp_path / "a")
    assert shown.startswith("1700000001.123456789" if nanoseconds else "1700000001.123456000")


def test_long_texts_are_cut_to_what_an_option_holds() -> None:
    """An option's 65535 bytes are never exceeded, and a character is never halved."""
    block = pcapng.interface_description("ü" * 40_000, 0)
    (length,) = struct.unpack_from("<H", block, 18)
    assert length == 65534
    block[20 : 20 + length].decode()
