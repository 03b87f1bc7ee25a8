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

from wirecap.files import headers
from wirecap.kernels.base.jit import kernel, prepare
from wirecap.kernels.base.kinds import byte_array, i64, lengths, none, words
from wirecap.kernels.file.write import PCAP_NS, PCAP_US, PCAPNG_FLAGS, PCAPNG_NS, packet_room, put_packet, whole_of

packets_ns = st.lists(
    st.builds(
        lambda data, more, ns: Packet(data, len(data) + more, ns),
        st.binary(max_size=70),
        st.integers(0, 2**31),
        st.integers(0, 2**32 * 10**9 - 1),
    ),
    max_size=12,
)
layouts = st.sampled_from([PCAP_US, PCAP_NS, PCAPNG_NS, PCAPNG_FLAGS])
NO_LIMIT = 1 << 62


@kernel(none(i64, byte_array, words, i64, byte_array, words, lengths, lengths, words, i64, i64, i64, i64))
def put_chunk(
    layout, out, place, full, arena, address, captured, original, timestamp, first, n, snaplen, interface
):  # fmt: skip
    """Write packets first..n-1 of a row into out[place[1]:] until one does not fit or the position is full or more.

    place becomes (index of the first packet not written, position after the last one written).
    """
    end, position = len(out), place[1]
    place[0] = n
    for k in range(first, n):
        length = np.int64(captured[k])
        if position >= full or position + packet_room(layout, length, snaplen) > end:
            place[0] = k
            break
        position = put_packet(
            layout, out, position, arena, address[k], length, np.int64(original[k]), timestamp[k], snaplen, interface
        )
    place[1] = position


def flags_before(packet: Packet) -> int:
    """What stands before a packet's bytes in the arena."""
    return packet.original % 18


def put(layout: int, packets: list[Packet], snaplen: int, room: int, full: int = NO_LIMIT, interface: int = 0):
    """(bytes, packets put) of one put_chunk into a buffer of so many bytes, full of dirt."""
    prepare([put_chunk])
    n = len(packets)
    before = (bytes([flags_before(p)]) + p.data for p in packets)
    arena = np.frombuffer(bytearray(b"".join(before) + b"\xee"), dtype=np.uint8)
    captured = np.array([len(p.data) for p in packets], dtype=np.uint32)
    address = np.cumsum(np.array([1] + [len(p.data) + 1 for p in packets], np.int64))[:n]
    original = np.array([p.original for p in packets], dtype=np.uint32)
    timestamp = np.array([p.ns for p in packets], dtype=np.int64)
    out = np.full(room, 0xEE, dtype=np.uint8)
    place = np.zeros(2, np.int64)
    put_chunk(layout, out, place, full, arena, address, captured, original, timestamp, 0, n, snaplen, interface)
    k, position = place.tolist()
    assert (out[position:] == 0xEE).all()
    return out[:position].tobytes(), k


def expected(layout: int, packets: list[Packet], snaplen: int, interface: int = 0) -> list[bytes]:
    """The same records by struct."""
    records = []
    for p in packets:
        data = p.data[:snaplen]
        if layout == PCAPNG_NS:
            records.append(cb.enhanced("<", interface, p.ns, data, p.original))
        elif layout == PCAPNG_FLAGS:
            flags = cb.option("<", 2, struct.pack("<I", flags_before(p))) + cb.option("<", 0, b"")
            records.append(cb.enhanced("<", interface, p.ns, data, p.original, flags))
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
    data = sum(len(packet.data) for packet in packets[:whole])
    assert whole_of(layout, written, 5, end, 0) == (ends[whole], whole, data)


@pytest.mark.kernel
def test_whole_records_walks_over_other_blocks() -> None:
    """Statistics and descriptions count as records without a packet."""
    blocks = [cb.interface(), cb.enhanced("<", 0, 1, b"abc", 3), cb.block("<", 5, bytes(12)), bytes(9)]
    written = np.frombuffer(bytearray(b"".join(blocks)), dtype=np.uint8)
    assert whole_of(PCAPNG_NS, written, 0, len(written), 0) == (len(written) - 9, 1, 3)


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
    header = headers.pcap_header(262144, 1, layout == PCAP_NS)
    if layout >= PCAPNG_NS:
        header = headers.section_header("wirecap") + headers.interface_description("eth1", 262144)
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
    statistics = headers.Statistics(1_700_000_000_000_000_001, 1_700_000_009_000_000_002, 11, 2, 10, 3, 7)
    packets = [Packet(bytes(14), 60, 1_700_000_001_123_456_789), Packet(bytes(61), 61, 1_700_000_002_000_000_000)]
    path = tmp_path / "a.pcapng"
    path.write_bytes(
        headers.section_header("wirecap 1.2", comments=["für später"], os_name="Linux 6.18", cpu="a CPU")
        + headers.interface_description("eth1", 262144, filter="tcp port 80", description="the left port")
        + headers.interface_description("eth2", 96)
        + put(PCAPNG_NS, packets, 262144, 4000, interface=1)[0]
        + headers.interface_statistics(1, 1_700_000_009_000_000_003, statistics, "end")
        + headers.interface_statistics(0, 1_700_000_009_000_000_003, headers.Statistics(received=5))
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
    header = headers.pcap_header(65535, nanoseconds=nanoseconds)
    layout = PCAP_NS if nanoseconds else PCAP_US
    (tmp_path / "a").write_bytes(
        header + put(layout, [Packet(bytes(60), 60, 1_700_000_001_123_456_789)], 65535, 100)[0]
    )
    shown = run(tool("tcpdump"), "-tt", "--nano", "-nr", tmp_path / "a")
    assert shown.startswith("1700000001.123456789" if nanoseconds else "1700000001.123456000")


def test_long_texts_are_cut_to_what_an_option_holds() -> None:
    """An option's 65535 bytes are never exceeded, and a character is never halved."""
    block = headers.interface_description("ü" * 40_000, 0)
    (length,) = struct.unpack_from("<H", block, 18)
    assert length == 65534
    block[20 : 20 + length].decode()
