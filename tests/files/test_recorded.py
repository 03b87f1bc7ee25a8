"""From one pcapng file into another: what is not changed is kept, block for block, and what is left out is told."""

from __future__ import annotations

import gzip
import resource
import signal
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import capture_bytes as cb
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from test_reader_peers import run, tool

from wirecap.config.capture import CaptureConfig, WriteConfig
from wirecap.errors import UsageError, WirecapError
from wirecap.kernels.base.jit import PURE
from wirecap.observe.live_line import open_display
from wirecap.run.capture import run_capture

SECTION, INTERFACE, OBSOLETE, SIMPLE, NAMES, STATISTICS, ENHANCED, JOURNAL, SECRETS = (
    0x0A0D0D0A,
    1,
    2,
    3,
    4,
    5,
    6,
    9,
    10,
)
PACKETS = (OBSOLETE, SIMPLE, ENHANCED)


def copy(source: Path, target: Path, filter: str = "", **write: Any) -> dict[str, Any]:
    """``wirecap capture -r source -w target filter``; the summary."""
    config = CaptureConfig(read_file=str(source), filter=filter)
    return run_capture(config, WriteConfig(path=str(target), **write), open_display(quiet=True))


@dataclass(frozen=True)
class Block:
    kind: int
    data: bytes  # whole
    order: str


def blocks(data: bytes) -> Iterator[Block]:
    """The blocks of a pcapng file."""
    at, order = 0, "<"
    while at < len(data):
        if data[at : at + 4] == b"\n\r\r\n":
            order = "<" if data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
        kind, size = struct.unpack_from(order + "II", data, at)
        yield Block(kind, data[at : at + size], order)
        at += size


def options(order: str, *pairs: tuple[int, bytes]) -> bytes:
    return b"".join(cb.option(order, code, value) for code, value in pairs) + cb.option(order, 0, b"")


texts = st.text(max_size=20).map(str.encode)


def packet_options(order: str) -> st.SearchStrategy[bytes]:
    """Comments, flags, drop counts, hashes, identifiers, queues, verdicts, custom ones; the last may lack its end."""
    one = st.one_of(
        st.tuples(st.just(1), texts),
        st.tuples(st.just(2), st.integers(0, 2**32 - 1).map(lambda v: struct.pack(order + "I", v))),
        st.tuples(st.sampled_from([4, 5]), st.integers(0, 2**64 - 1).map(lambda v: struct.pack(order + "Q", v))),
        st.tuples(st.just(3), st.binary(min_size=4, max_size=4).map(lambda v: b"\2" + v)),
        st.tuples(st.just(6), st.integers(0, 9).map(lambda v: struct.pack(order + "I", v))),
        st.tuples(st.sampled_from([7, 2988, 2989, 19372, 19373]), st.binary(min_size=5, max_size=30)),
    )
    listed = st.lists(one, max_size=4)
    ended = listed.map(lambda pairs: options(order, *pairs) if pairs else b"")
    return st.one_of(ended, listed.map(lambda pairs: b"".join(cb.option(order, c, v) for c, v in pairs)))


def other_blocks(order: str, interfaces: int) -> st.SearchStrategy[bytes]:
    """Names, secrets, statistics, journal entries, custom blocks of both kinds, and types that nobody knows."""
    statistics = st.integers(0, interfaces - 1).map(
        lambda n: cb.block(order, STATISTICS, struct.pack(order + "III", n, 0, 5) + options(order, (4, bytes(8))))
    )
    body = st.binary(max_size=40)
    rest = st.tuples(st.sampled_from([NAMES, JOURNAL, SECRETS, 0xBAD, 0x40000BAD, 0x80000001, 77]), body)
    return st.one_of(statistics, rest.map(lambda found: cb.block(order, *found)))


@st.composite
def recordings(draw: st.DrawFn) -> bytes:
    """Sections in either byte order: interfaces of every unit of time, all packet blocks, all other blocks."""
    out = []
    for _ in range(draw(st.integers(1, 3))):
        order = draw(st.sampled_from("<>"))
        out.append(cb.section(order, draw(st.sampled_from([b"", options(order, (1, b"note"), (4, b"a tool"))]))))
        out += draw(st.lists(st.just(cb.block(order, NAMES, bytes(4))), max_size=1))
        snaplens: list[int] = []
        for _ in range(draw(st.integers(0, 16))):
            data = draw(st.binary(max_size=90))
            original, ticks = len(data) + draw(st.integers(0, 9)), draw(st.integers(0, 2**64 - 1))
            kind = draw(st.sampled_from([INTERFACE, ENHANCED, ENHANCED, ENHANCED, OBSOLETE, SIMPLE, 0]))
            if kind == INTERFACE or not snaplens:
                snaplens.append(draw(st.sampled_from([0, 0, 50])))
                pairs = [(2, b"eth"), (9, bytes([draw(st.integers(0, 255))]))]
                pairs.append((14, struct.pack(order + "q", draw(st.integers(-(2**63), 2**63 - 1)))))
                out.append(cb.interface(order, 1, snaplens[-1], options(order, *pairs)))
            elif kind == SIMPLE:
                data = data[: snaplens[0] or None]
                out.append(cb.simple(order, data, original if len(data) == snaplens[0] else len(data)))
            elif kind == OBSOLETE:
                out.append(cb.obsolete(order, draw(st.integers(0, len(snaplens) - 1)), ticks, data, original))
            elif kind == ENHANCED:
                index, beside = draw(st.integers(0, len(snaplens) - 1)), draw(packet_options(order))
                out.append(cb.enhanced(order, index, ticks, data, original, beside))
            else:
                out.append(draw(other_blocks(order, len(snaplens))))
    return b"".join(out)


often = settings(
    deadline=None, max_examples=8 if PURE else 25, suppress_health_check=[*HealthCheck]
)  # a capture for each, with its threads


@pytest.mark.kernel
@often
@given(recording=recordings(), packed=st.booleans())
def test_a_copy_is_the_file(tmp_path_factory: pytest.TempPathFactory, recording: bytes, packed: bool) -> None:
    """Without a filter the copy of a pcapng file is that file, byte for byte, also of a compressed one."""
    folder = tmp_path_factory.mktemp("copy")
    (folder / "in").write_bytes(gzip.compress(recording) if packed else recording)
    summary = copy(folder / "in", folder / "out.pcapng")
    assert (folder / "out.pcapng").read_bytes() == recording
    assert summary["notes"] == []


def cut(block: Block, snaplen: int) -> bytes:
    """The block as it is to be written under -s."""
    if block.kind == INTERFACE:
        before = struct.unpack_from(block.order + "I", block.data, 12)[0]
        return block.data[:12] + struct.pack(block.order + "I", min(before or snaplen, snaplen)) + block.data[16:]
    if block.kind not in (ENHANCED, OBSOLETE):
        return block.data
    length = struct.unpack_from(block.order + "I", block.data, 20)[0]
    least = min(length, snaplen)
    data = block.data[28 : 28 + least]
    head = block.data[8:20] + struct.pack(block.order + "I", least) + block.data[24:28]
    return cb.block(
        block.order, block.kind, head + data + bytes(-least % 4) + block.data[28 + length + -length % 4 : -4]
    )


@pytest.mark.kernel
@often
@given(recording=recordings(), snaplen=st.sampled_from([1, 7, 16, 60]))
def test_cut_packets_keep_what_stands_beside_them(
    tmp_path_factory: pytest.TempPathFactory, recording: bytes, snaplen: int
) -> None:
    """-s cuts the packets' bytes and the interfaces' snap lengths, and nothing else."""
    folder = tmp_path_factory.mktemp("cut")
    (folder / "in").write_bytes(recording)
    copy(folder / "in", folder / "out.pcapng", snaplen=snaplen)
    ours, theirs = (list(blocks(data)) for data in ((folder / "out.pcapng").read_bytes(), recording))
    assert [b.kind for b in ours] == [b.kind for b in theirs]
    for copied, block in zip(ours, theirs, strict=True):
        if block.kind == SIMPLE:  # its length is the interface's snap length, or the packet's
            original = struct.unpack_from(block.order + "I", block.data, 8)[0]
            kept = min(len(block.data) - 16, snaplen, original)
            assert copied.data[8 : 12 + kept] == block.data[8 : 12 + kept]
        else:
            assert copied.data == cut(block, snaplen)


@pytest.mark.kernel
@often
@given(recording=recordings())
def test_a_filter_leaves_packets_out_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, recording: bytes
) -> None:
    """The wanted packets are there with their options, all other blocks too, and one line tells the rest."""
    folder = tmp_path_factory.mktemp("filter")
    (folder / "in").write_bytes(recording)
    summary = copy(folder / "in", folder / "out.pcapng", "greater 50")
    wanted, unwanted = [], 0
    for block in blocks(recording):
        if block.kind in (ENHANCED, OBSOLETE):
            length, original = struct.unpack_from(block.order + "II", block.data, 20)
            if original < 50:
                unwanted += len(block.data) > 32 + length + -length % 4
                continue
        if block.kind == SIMPLE and struct.unpack_from(block.order + "I", block.data, 8)[0] < 50:
            continue
        wanted.append(block.data if block.kind != INTERFACE else with_filter(block, "greater 50"))
    assert [block.data for block in blocks((folder / "out.pcapng").read_bytes())] == wanted
    of = f"the options of {unwanted} packet{'' if unwanted == 1 else 's'} that the filter did not want"
    assert summary["notes"] == ([f"{folder / 'out.pcapng'}: left out: {of}"] if unwanted else [])


def with_filter(block: Block, text: str) -> bytes:
    """An interface description of the generator's with if_filter at its end."""
    added = cb.option(block.order, 11, b"\0" + text.encode()) + cb.option(block.order, 0, b"")
    return cb.block(block.order, INTERFACE, block.data[8:-8] + added)


@pytest.mark.kernel
@often
@given(recording=recordings(), size=st.integers(1, 4))
def test_each_file_of_a_ring_can_be_read_alone(
    tmp_path_factory: pytest.TempPathFactory, recording: bytes, size: int
) -> None:
    """Rotated files have every block once, and each begins with the section, interfaces, names and secrets so far."""
    folder = tmp_path_factory.mktemp("ring")
    (folder / "in").write_bytes(recording)
    copy(folder / "in", folder / "out.pcapng", ring_packets=size)
    everything = list(blocks(recording))
    repeated = (SECTION, INTERFACE, NAMES, SECRETS)
    so_far: list[bytes] = []
    at = 0
    for path in sorted(folder.glob("out_*")):
        found = list(blocks(path.read_bytes()))
        assert [block.data for block in found[: len(so_far)]] == so_far
        for block in found[len(so_far) :]:
            assert block == everything[at]
            at += 1
            if block.kind == SECTION:
                so_far = []
            if block.kind in repeated:
                so_far.append(block.data)
    assert at == len(everything)


def annotated() -> bytes:
    """One section with everything that a capture may hold beside packets."""
    packet = bytes.fromhex("020000000002020000000001080045000014000100004000" + "66c30a0000010a000002" + "00" * 30)
    order = "<"
    return b"".join([
        cb.section(order, options(order, (1, b"section note"), (2, b"a CPU"), (4, b"a tool"))),
        cb.interface(order, 1, 0, options(order, (1, b"interface note"), (2, b"eth0"), (3, b"uplink"), (8, bytes(8)))),
        cb.block(order, NAMES, struct.pack("<HH4s4sHH", 1, 8, bytes([10, 0, 0, 1]), b"abc\0", 0, 0)),
        cb.block(order, SECRETS, struct.pack("<II", 0x544C534B, 5) + b"abcde"),
        cb.enhanced(order, 0, 1_700_000_000_000_000, packet, len(packet), options(
            order, (1, b"first note"), (1, b"second note"), (2, struct.pack("<I", 2)), (5, bytes(range(8))))),
        cb.block(order, JOURNAL, b"__REALTIME_TIMESTAMP=1700000000000000\nMESSAGE=hi\n"),
        cb.block(order, 0xBAD, struct.pack("<I", 32473) + b"hello"),
        cb.block(order, 0x40000BAD, struct.pack("<I", 32473) + b"hello"),
        cb.enhanced(order, 0, 1_700_000_000_000_001, packet, len(packet), options(
            order, (2, struct.pack("<I", 1)), (3, b"\2\1\2\3\4"), (4, struct.pack("<Q", 3)))),
        cb.block(order, STATISTICS, struct.pack("<III", 0, 0x60A24, 0x181E4000) + options(order, (5, bytes(8)))),
    ])  # fmt: skip


def test_tshark_sees_no_difference(tmp_path: Path) -> None:
    """tshark says the same of our copy as of the file, and nothing that editcap's copy keeps is missing in ours."""
    (tmp_path / "in.pcapng").write_bytes(annotated())
    copy(tmp_path / "in.pcapng", tmp_path / "out.pcapng")
    run(tool("editcap"), tmp_path / "in.pcapng", tmp_path / "edited.pcapng")
    told = [run(tool("tshark"), "-V", "-r", tmp_path / name) for name in ("in.pcapng", "out.pcapng")]
    assert told[0] == told[1]
    assert "second note" in told[1]
    kept, edited = (
        Counter(block.kind for block in blocks((tmp_path / name).read_bytes()))
        for name in ("out.pcapng", "edited.pcapng")
    )
    assert not edited - kept


def test_a_comment_is_added_to_the_sections(tmp_path: Path) -> None:
    """--capture-comment stands behind the comments that were there; the section's other options stay."""
    (tmp_path / "in").write_bytes(annotated() + cb.section(">"))
    copy(tmp_path / "in", tmp_path / "out.pcapng", comments=("mine",))
    first, last = (block for block in blocks((tmp_path / "out.pcapng").read_bytes()) if block.kind == SECTION)
    assert sorted(cb.options_of(first.data[24:-4], "<")) == [
        (1, b"mine"),
        (1, b"section note"),
        (2, b"a CPU"),
        (4, b"a tool"),
    ]
    assert cb.options_of(last.data[24:-4], ">") == [(1, b"mine")]


@pytest.mark.kernel
def test_what_pcap_cannot_hold_is_told(tmp_path: Path) -> None:
    """Into pcap the packets go, and one line says how many options and blocks stay behind."""
    (tmp_path / "in").write_bytes(annotated())
    summary = copy(tmp_path / "in", tmp_path / "out.pcap", format="pcap")
    assert len(cb.read(tmp_path / "out.pcap")) == 2
    (note,) = summary["notes"]
    assert note.startswith(
        f"{tmp_path / 'out.pcap'}: pcap cannot hold what pcapng does; left out: the options of 2 packets"
    )
    assert note.endswith(
        "2 custom blocks, 1 decryption secrets block, 1 interface statistics block, 1 name resolution block,"
        " 1 systemd journal block"
    )


def at_seconds(*seconds: int) -> bytes:
    """A packet at each time, however far from 1970."""
    offset = cb.option("<", 9, b"\0") + cb.option("<", 14, struct.pack("<q", -(2**62)))
    packets = [cb.enhanced("<", 0, s + 2**62, b"abcd", 4) for s in seconds]
    return cb.section() + cb.interface(options=offset) + b"".join(packets)


TIMES = (-(10**15), -(10**10), -300_000_000, -1, 0, 2**32 - 1, 2**32, 7 * 10**9, 10**10, 10**15)


@pytest.mark.kernel
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_times_that_pcap_cannot_hold(tmp_path: Path, nanoseconds: bool) -> None:
    """Into pcap they go as the nearest time, told in one line with their number; pcapng keeps them as they are."""
    (tmp_path / "in").write_bytes(at_seconds(*TIMES))
    summary = copy(tmp_path / "in", tmp_path / "o.pcap", format="pcap", nanoseconds=nanoseconds)
    assert [p.ns // 10**9 for p in cb.read(tmp_path / "o.pcap")] == [min(max(t, 0), 2**32 - 1) for t in TIMES]
    what = "8 packets were from before 1970 or after 2106, which pcap cannot hold: written with the nearest time"
    assert summary["notes"] == [f"{tmp_path / 'o.pcap'}: {what}"]
    assert copy(tmp_path / "in", tmp_path / "o.pcapng")["notes"] == []
    told = run(tool("tshark"), "-r", tmp_path / "o.pcapng", "-T", "fields", "-e", "frame.time_epoch")
    assert [int(line.split(".")[0]) for line in told.split()] == list(TIMES)


@pytest.mark.kernel
def test_handlers_are_told_of_times_out_of_reach(tmp_path: Path) -> None:
    """A handler gets the nearest time, and a line says of how many packets."""
    (tmp_path / "in").write_bytes(at_seconds(*TIMES))
    config = CaptureConfig(read_file=str(tmp_path / "in"))
    summary = run_capture(config, None, open_display(quiet=True))
    assert summary["packets"]["delivered"] == len(TIMES)
    assert [note.split(":")[0] for note in summary["notes"]] == ["4 packets are from before 1677 or after 2262"]


def test_packets_longer_than_a_buffer(tmp_path: Path) -> None:
    """Every byte of a packet that is longer than the writer's buffers arrives, in pcap and pcapng."""
    body = bytes(range(256)) * 40_000
    options_of_it = options("<", (1, b"long"))
    data = cb.section() + cb.interface(snaplen=1 << 24) + cb.enhanced("<", 0, 5, b"a", 1)
    data += cb.enhanced("<", 0, 6, body, len(body), options_of_it) + cb.enhanced("<", 0, 7, b"b", 1)
    (tmp_path / "in").write_bytes(data)
    copy(tmp_path / "in", tmp_path / "o.pcapng")
    assert (tmp_path / "o.pcapng").read_bytes() == data
    copy(tmp_path / "in", tmp_path / "o.pcap", format="pcap")
    assert [p.data for p in cb.read(tmp_path / "o.pcap")] == [b"a", body, b"b"]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_long_blocks(tmp_path: Path, pack: Any) -> None:
    """A block longer than any buffer is kept, of a file as it is; of a stream it is left out, and that is told."""
    long = cb.block("<", 0xBAD, struct.pack("<I", 32473) + bytes(9_000_001))
    data = cb.section() + cb.interface() + cb.enhanced("<", 0, 0, b"abc", 3) + long + cb.enhanced("<", 0, 0, b"de", 2)
    (tmp_path / "in").write_bytes(pack(data))
    summary = copy(tmp_path / "in", tmp_path / "out.pcapng")
    left_out = pack is not bytes
    assert (tmp_path / "out.pcapng").read_bytes() == (data.replace(long, b"") if left_out else data)
    assert [note.split(": ", 1)[1] for note in summary["notes"]] == (
        ["left out: 1 block longer than the stream's buffer"] if left_out else []
    )


@pytest.mark.kernel
def test_damage_behind_blocks(tmp_path: Path) -> None:
    """What was whole before the damaged place is in the copy, blocks too, and the error is one line."""
    whole = annotated()
    (tmp_path / "in").write_bytes(whole + cb.block("<", 0xBAD, bytes(40))[:-6])
    with pytest.raises(UsageError, match="truncated dump file; tried to read a block of 52 bytes, only got 46"):
        copy(tmp_path / "in", tmp_path / "out.pcapng")
    assert (tmp_path / "out.pcapng").read_bytes() == whole


def test_interfaces_that_are_found_while_the_file_is_written(tmp_path: Path) -> None:
    """In every file those interfaces are described that its packets name, and no more than were found by its end."""
    data = [cb.section()]
    for number in range(20):
        data += [cb.interface(options=cb.option("<", 2, str(number).encode())), cb.enhanced("<", number, 0, b"x", 1)]
    (tmp_path / "in").write_bytes(b"".join(data))
    copy(tmp_path / "in", tmp_path / "out.pcapng", ring_packets=3)
    found = [sum(b.kind == INTERFACE for b in blocks(path.read_bytes())) for path in sorted(tmp_path.glob("out_*"))]
    assert found == [min(20, 3 * file + 1) for file in range(1, 8)]


@pytest.mark.parametrize("order", "<>")
def test_a_full_disk_leaves_whole_blocks(tmp_path: Path, order: str) -> None:
    """A copy that fails half-way ends with a whole block, in either byte order, and the error counts the packets."""
    packets = [cb.enhanced(order, 0, n, bytes(100), 100, options(order, (1, b"note"))) for n in range(2000)]
    (tmp_path / "in").write_bytes(cb.section(order) + cb.interface(order) + b"".join(packets))
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_001, before[1]))
    try:
        with pytest.raises(WirecapError, match="packets were written") as failed:
            copy(tmp_path / "in", tmp_path / "out.pcapng")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    found = list(blocks((tmp_path / "out.pcapng").read_bytes()))
    kept = sum(block.kind == ENHANCED for block in found)
    assert kept == (100_001 - sum(len(block.data) for block in found[:2])) // len(packets[0])
    assert f"{kept} packets were written" in str(failed.value)
    assert [block.data for block in found[2:]] == packets[:kept]
