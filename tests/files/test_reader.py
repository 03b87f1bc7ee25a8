from __future__ import annotations

import os
import struct
import threading
from fractions import Fraction
from pathlib import Path

import capture_bytes as cb
import cypcap
import numpy as np
import pytest
from capture_bytes import Packet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wirecap.files.headers import Interface
from wirecap.files.reader import Progress, open_capture
from wirecap.kernels.file import read as at

pytestmark = pytest.mark.kernel
on_files = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
orders = st.sampled_from("<>")

bodies = st.binary(max_size=90)
packets_us = st.lists(
    st.builds(
        lambda data, more, us: Packet(data, len(data) + more, us * 1000),
        bodies,
        st.integers(0, 2000),
        st.integers(0, (2**32 - 1) * 10**6 + 999_999),
    ),
    max_size=23,
)


@on_files
@given(packets=packets_us, order=orders, tick_ns=st.sampled_from([1, 1000]), limit=st.integers(1, 30))
def test_pcap_comes_back(tmp_path: Path, packets: list[Packet], order: str, tick_ns: int, limit: int) -> None:
    """Microsecond and nanosecond pcap in both byte orders gives the packets that are in it, at any row length."""
    path = tmp_path / "a.pcap"
    path.write_bytes(cb.pcap(packets, order, tick_ns))
    assert cb.read(path, limit) == packets


def test_kuznetzov_pcap_comes_back(tmp_path: Path) -> None:
    """The variant with 24-byte record headers is read."""
    packets = [Packet(b"abc", 3, 5_000_001_000), Packet(b"", 60, 6_000_000_000)]
    for order in "<>":
        (tmp_path / "a").write_bytes(cb.pcap(packets, order, kuznetzov=True))
        assert cb.read(tmp_path / "a") == packets


def expected_ns(ticks: int, resolution: int, offset_s: int) -> Fraction:
    """The time by the specification, exactly."""
    unit = Fraction(1, 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution)
    return ticks * unit * 10**9 + offset_s * 10**9


def boundary_ticks(resolution: int, offset_s: int) -> set[int]:
    """Ticks around every edge: of the second, of 2**63, of the epoch, and of the times that int64 ns can hold."""
    per_s = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    edges = [0, per_s, 12345 * per_s + per_s // 3, 2**31, 2**32, 2**63, 2**64, -offset_s * per_s]
    edges += [int((Fraction(sign * 2**63, 10**9) - offset_s) * per_s) for sign in (-1, 1)]
    return {tick for edge in edges for tick in range(edge - 2, edge + 3) if 0 <= tick < 2**64}


def nearest_ns(exact: Fraction) -> int:
    """Rounded down, or the end of what int64 ns can hold."""
    return max(at.EARLIEST_NS, min(at.LATEST_NS, exact.numerator // exact.denominator))


@pytest.mark.parametrize("offset_s", [0, 1_700_000_000, -3600, -(10**9), -(10**10), 10**10, -(2**63), 2**63 - 1])
def test_times_of_every_resolution(offset_s: int) -> None:
    """All 256 values of if_tsresol, unsigned ticks, offsets of both signs: the ns, rounded down, else the nearest."""
    for resolution in range(256):
        words = Interface(resolution=resolution, offset_s=offset_s).words()
        for ticks in boundary_ticks(resolution, offset_s):
            ns = int(at.to_ns(words, 0, np.uint64(ticks).astype(np.int64)))
            assert ns == nearest_ns(expected_ns(ticks, resolution, offset_s)), (resolution, ticks)


@given(ticks=st.integers(0, 2**64 - 1), resolution=st.integers(0, 255), offset_s=st.integers(-(2**63), 2**63 - 1))
@settings(deadline=None, max_examples=300)
def test_any_time(ticks: int, resolution: int, offset_s: int) -> None:
    """Any time, resolution and offset gives the right ns, or the nearest end of int64."""
    ns = int(
        at.to_ns(Interface(resolution=resolution, offset_s=offset_s).words(), 0, np.uint64(ticks).astype(np.int64))
    )
    assert ns == nearest_ns(expected_ns(ticks, resolution, offset_s))


@pytest.mark.parametrize("order", "<>")
def test_times_out_of_reach_are_counted(tmp_path: Path, order: str) -> None:
    """The options are read in either byte order, and a packet whose time int64 ns cannot hold is counted."""
    options = cb.option(order, 9, b"\0") + cb.option(order, 14, struct.pack(order + "q", -(2**62)))
    ticks = [2**62 + 5, 2**62 - 5, 0, 2**64 - 1, 2**62 + 9_223_372_036, 2**62 + 9_223_372_037]
    blocks = [cb.enhanced(order, 0, tick, b"x", 1) for tick in ticks]
    (tmp_path / "a").write_bytes(cb.section(order) + cb.interface(order, options=options) + b"".join(blocks))
    with open_capture(str(tmp_path / "a")) as file:
        times = [packet.ns for packet in cb.take_all(file)]
        assert times == [5 * 10**9, -5 * 10**9, at.EARLIEST_NS, at.LATEST_NS, 9_223_372_036 * 10**9, at.LATEST_NS]
        assert file.state[at.OUTSIDE] == 3


@st.composite
def pcapng_files(draw: st.DrawFn) -> tuple[bytes, list[Packet]]:
    """Sections of either byte order with interfaces, every kind of packet block, and blocks to be skipped."""
    out, packets, known = [], [], 0
    for _ in range(draw(st.integers(1, 3))):
        order = draw(orders)
        out.append(cb.section(order, draw(st.sampled_from([b"", cb.option(order, 4, b"a tool")]))))
        snaplens: list[int] = []
        for _ in range(draw(st.integers(0, 14))):
            kind = draw(st.sampled_from(["interface", "enhanced", "enhanced", "obsolete", "simple", "other"]))
            data = draw(bodies)
            original, us = len(data) + draw(st.integers(0, 9)), draw(st.integers(0, 2**50))
            if kind == "other":
                out.append(cb.block(order, draw(st.sampled_from([4, 5, 10, 0xBAD, 0x80000001])), data))
            elif kind == "interface" or not snaplens:
                snaplens.append(draw(st.sampled_from([0, 16, 65535])))
                out.append(cb.interface(order, 1, snaplens[-1], cb.option(order, 2, b"eth")))
            elif kind == "simple":
                data = data[: snaplens[0] or None]
                original = original if snaplens[0] and len(data) == snaplens[0] else len(data)
                out.append(cb.simple(order, data, original))
                packets.append(Packet(data, original, 0, known))
            else:
                index = draw(st.integers(0, len(snaplens) - 1))
                put = cb.enhanced if kind == "enhanced" else cb.obsolete
                out.append(put(order, index, us, data, original))
                packets.append(Packet(data, original, us * 1000, known + index))
        known += len(snaplens)
    return b"".join(out), packets


@on_files
@given(made=pcapng_files(), limit=st.integers(1, 9))
def test_pcapng_comes_back(tmp_path: Path, made: tuple[bytes, list[Packet]], limit: int) -> None:
    """Sections, interfaces and packet blocks of all kinds give their packets, each with its own interface."""
    (tmp_path / "a").write_bytes(made[0])
    assert cb.read(tmp_path / "a", limit) == made[1]


@settings(deadline=None, max_examples=60)
@given(
    made=st.one_of(pcapng_files(), packets_us.map(lambda packets: (cb.pcap(packets), packets))),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    block_bytes=st.integers(256, 700),
)
def test_a_stream_gives_what_the_mapping_gives(made: tuple[bytes, list[Packet]], sizes: list[int], block_bytes: int):
    """Read through a ring of small blocks in pieces of any size, a file has the same packets."""
    assert list(cb.take_all(cb.stream(made[0], sizes, block_bytes))) == made[1]


@settings(deadline=None, max_examples=40)
@given(packets=packets_us, sizes=st.lists(st.integers(1, 300), min_size=1, max_size=4), data=st.data())
def test_a_held_block_is_not_reused(packets: list[Packet], sizes: list[int], data: st.DataObject) -> None:
    """The bytes of a chunk stay as they are until it is released; a full ring says BUSY, not wrong bytes."""
    file = cb.stream(cb.pcap(packets), sizes, 256)
    rows, held, seen = cb.Rows(3), [], []
    while True:
        n, progress = rows.fill(file)
        if n:
            held.append((int(rows.address[0]), rows.address[:n].copy(), list(rows.packets(file, n))))
            seen += held[-1][2]
        for _, addresses, chunk in held:
            for address, packet in zip(addresses, chunk, strict=True):
                assert file.arena[address : address + len(packet.data)].tobytes() == packet.data
        if progress is Progress.ENDED:
            break
        if progress is Progress.BUSY:
            assert held
        if held and (progress is Progress.BUSY or data.draw(st.booleans())):
            file.release(held.pop(data.draw(st.integers(0, len(held) - 1)))[0])
    assert seen == packets
    for address, _, _ in held:
        file.release(address)
    assert not file.held.any()


def test_a_ring_whose_blocks_are_all_held_is_busy() -> None:
    """With every chunk held the reader stops after the ring's blocks, and goes on when the oldest is released."""
    packets = [Packet(bytes([k]) * 100, 100, k * 1000) for k in range(40)]
    file = cb.stream(cb.pcap(packets), [1000], 256, blocks=3)
    rows, held, seen = cb.Rows(3), [], []
    for _ in range(3):
        while (filled := rows.fill(file))[0]:
            held.append((int(rows.address[0]), list(rows.packets(file, filled[0]))))
            seen += held[-1][1]
        assert filled[1] is Progress.BUSY
        block = (held[0][0] - 1) // 256
        for address, chunk in held:
            assert file.arena[address : address + 100].tobytes() == chunk[0].data
        for address, _ in [chunk for chunk in held if (chunk[0] - 1) // 256 == block]:
            file.release(address)
        held = [chunk for chunk in held if (chunk[0] - 1) // 256 != block]
    assert seen == packets[: len(seen)]
    assert 6 <= len(seen) < 40


def test_a_long_block_without_packets_is_passed_over_in_a_stream() -> None:
    """A block that holds no packet may be longer than the ring's blocks; the offsets after it are right."""
    packet = cb.enhanced("<", 0, 1, b"abcd", 4)
    data = cb.section() + cb.interface() + packet + cb.block("<", 5, bytes(5000)) + packet
    file = cb.stream(data, [100], 256)
    assert [p.data for p in cb.take_all(file)] == [b"abcd", b"abcd"]
    assert file.offset == len(data)


def test_many_interfaces(tmp_path: Path) -> None:
    """The table of interfaces grows."""
    blocks = [cb.interface(linktype=k) + cb.enhanced("<", k, k, b"p", 1) for k in range(100)]
    (tmp_path / "a").write_bytes(cb.section() + b"".join(blocks))
    with open_capture(str(tmp_path / "a")) as file:
        assert [packet.interface for packet in cb.take_all(file)] == list(range(100))
        assert [described.linktype for described in file.interfaces] == list(range(100))


def test_what_an_interface_says(tmp_path: Path) -> None:
    """Name, description, filter, snap length and link type are read."""
    options = cb.option(">", 2, b"eth1") + cb.option(">", 3, "Büro".encode()) + cb.option(">", 11, b"\0port 80")
    (tmp_path / "a").write_bytes(cb.section(">") + cb.interface(">", 101, 96, options) + cb.block(">", 5, b"1234"))
    with open_capture(str(tmp_path / "a")) as file:
        assert not list(cb.take_all(file))
        assert file.interfaces == [Interface(101, 96, 6, 0, "eth1", "Büro", "port 80")]


def test_interfaces_are_known_before_the_first_packet(tmp_path: Path) -> None:
    """A filter must know the link type: what stands before the first packet is read when the file is opened."""
    data = cb.section() + cb.interface(linktype=101) + cb.interface() + cb.enhanced("<", 0, 1, b"p", 1)
    (tmp_path / "a").write_bytes(data + cb.interface())
    with open_capture(str(tmp_path / "a")) as file:
        assert [described.linktype for described in file.interfaces] == [101, 1]
    out, into = os.pipe()
    os.write(into, cb.section() + cb.interface(linktype=101))
    file = open_capture(f"/dev/fd/{out}")  # does not wait for a packet
    assert [described.linktype for described in file.interfaces] == [101]
    os.close(out)
    os.close(into)
    file.close()


def test_link_types_as_libpcap_numbers_them(tmp_path: Path) -> None:
    """An interface's dlt is what libpcap makes of the file's link type."""
    for linktype in [*range(12), *range(99, 110), 113, 127, 276]:
        header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, linktype)
        (tmp_path / "a").write_bytes(header)
        with cypcap.open_offline(str(tmp_path / "a")) as file:
            assert Interface(linktype).dlt == int(file.datalink())


def test_a_pipe_is_read_as_it_comes() -> None:
    """Packets are handed over as soon as they are there; until then the pipe is IDLE; its end is the end."""
    packets = [Packet(bytes([k]) * 40, 40, k * 1_000_000) for k in range(3)]
    data = cb.pcap(packets)
    out, into = os.pipe()
    os.write(into, data[:24])
    file = open_capture(f"/dev/fd/{out}")
    os.close(out)
    rows = cb.Rows()
    assert rows.fill(file, 0.0) == (0, Progress.IDLE)
    os.write(into, data[24 : 24 + 56 + 10])
    n, _ = rows.fill(file, 0.0)
    assert list(rows.packets(file, n)) == packets[:1]
    assert rows.fill(file, 0.0) == (0, Progress.IDLE)
    os.write(into, data[24 + 56 + 10 :])
    n, _ = rows.fill(file, 0.0)
    assert list(rows.packets(file, n)) == packets[1:]
    os.close(into)
    assert rows.fill(file, 0.0) == (0, Progress.ENDED)
    file.close()


@pytest.mark.parametrize("suffix", ["gz", "zst", "pcap"])
def test_compressed_files_and_pipes(tmp_path: Path, suffix: str) -> None:
    """gzip and Zstandard, of several members, by file and by pipe, give what the plain file gives."""
    import gzip

    import zstandard

    packets = [Packet(os.urandom(70), 70, k * 1000) for k in range(2000)]
    data = cb.pcap(packets)
    pack = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress, "pcap": bytes}[suffix]
    packed = pack(data[:50_000]) + pack(data[50_000:])
    path = tmp_path / "a"
    path.write_bytes(packed)
    assert cb.read(path, 64) == packets
    os.mkfifo(tmp_path / "pipe")
    feeder = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(packed,))
    feeder.start()
    assert cb.read(tmp_path / "pipe", 64) == packets
    feeder.join()


def test_rows_tell_their_interface(tmp_path: Path) -> None:
    """A row ends where another interface's packet follows."""
    blocks = [cb.enhanced("<", k, k, b"p", 1) for k in (0, 0, 1, 1, 1, 0)]
    (tmp_path / "a").write_bytes(cb.section() + cb.interface() * 2 + b"".join(blocks))
    rows = cb.Rows(10)
    with open_capture(str(tmp_path / "a")) as file:
        got = []
        while (filled := rows.fill(file))[0]:
            got.append((filled[0], int(file.state[at.INTERFACE])))
    assert got == [(2, 0), (3, 1), (1, 0)]


def test_rows_mix_interfaces_where_the_caller_allows_it(tmp_path: Path) -> None:
    """With MIXED a row goes on over interfaces of one link type, and ends before another link type."""
    links = cb.interface(linktype=1) * 2 + cb.interface(linktype=101)
    blocks = [cb.enhanced("<", k, k, b"p", 1) for k in (0, 1, 0, 2, 2, 1)]
    (tmp_path / "a").write_bytes(cb.section() + links + b"".join(blocks))
    rows = cb.Rows(10)
    with open_capture(str(tmp_path / "a")) as file:
        file.state[at.MIXED] = 1
        got = []
        while (filled := rows.fill(file))[0]:
            got.append((filled[0], int(file.state[at.INTERFACE])))
    assert got == [(3, 0), (2, 2), (1, 1)]
