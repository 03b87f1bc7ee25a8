"""pcap as old and unusual writers made it: what libpcap and Wireshark read is read, and gives the same packets."""

from __future__ import annotations

import gzip
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import capture_bytes as cb
import pytest
from test_reader_peers import run, tool
from test_recorded import copy, options

from wirecap.errors import UsageError
from wirecap.files.reader import open_capture

MAGICS = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1, 0xA1B2CD34: 1000}
FRAME = bytes.fromhex("0200000000020200000000010800450000140001000040006af20a0000010a000002")


def variant(order: str, magic: int, version: tuple[int, int], swap: list[bool], snaplen: int = 65535) -> bytes:
    """A packet for each of ``swap``, which says whether its original length stands first."""
    out = [struct.pack(order + "IHHiIII", magic, *version, 0, 0, snaplen, 1)]
    for number, swapped in enumerate(swap):
        data, original = FRAME + bytes(number), len(FRAME) + number + 40
        lengths = (original, len(data)) if swapped else (len(data), original)
        out.append(struct.pack(order + "IIII", 1_700_000_000 + number, 5, *lengths))
        out.append(struct.pack(order + "IHBB", 1, 0x0800, 0, 0) if magic == 0xA1B2CD34 else b"")
        out.append(data)
    return b"".join(out)


def expected(magic: int, count: int) -> list[cb.Packet]:
    tick_ns = MAGICS[magic]
    return [
        cb.Packet(FRAME + bytes(n), len(FRAME) + n + 40, (1_700_000_000 + n) * 10**9 + 5 * tick_ns)
        for n in range(count)
    ]


@pytest.mark.kernel
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("magic", MAGICS)
@pytest.mark.parametrize(
    ("version", "swap"),
    [
        ((2, 0), [True] * 4),
        ((2, 1), [True] * 4),
        ((2, 2), [True] * 4),
        ((543, 0), [True] * 4),
        ((2, 3), [True, False, False, True]),
        ((2, 4), [False] * 4),
    ],
)
def test_lengths_in_either_order(
    tmp_path: Path, order: str, magic: int, version: tuple[int, int], swap: list[bool]
) -> None:
    """Before 2.3 the original length comes first, in 2.3 the smaller is the captured one: the packets are tcpdump's."""
    (tmp_path / "a").write_bytes(variant(order, magic, version, swap))
    assert cb.read(tmp_path / "a") == expected(magic, len(swap))
    run(tool("tcpdump"), "-Z", "root", "-r", tmp_path / "a", "--nano", "-w", tmp_path / "copy")
    told = [(p.data, p.original, p.ns) for p in cb.read(tmp_path / "copy")]
    assert told == [(p.data, p.original, p.ns) for p in expected(magic, len(swap))]


@pytest.mark.parametrize("version", [(1, 4), (2, 5), (3, 0), (543, 1), (0, 0)])
def test_other_versions_are_refused_as_by_tcpdump(tmp_path: Path, version: tuple[int, int]) -> None:
    """A version that libpcap does not read is refused with its number."""
    (tmp_path / "a").write_bytes(variant("<", 0xA1B2C3D4, version, []))
    with pytest.raises(UsageError, match=rf"pcap version {version[0]}\.{version[1]} is not supported"):
        open_capture(str(tmp_path / "a"))
    refused = subprocess.run([tool("tcpdump"), "-r", str(tmp_path / "a")], capture_output=True, timeout=60)
    assert refused.returncode != 0


def long_capture(form: str, linktype: int, body: bytes) -> bytes:
    """Three packets, the second one long."""
    packets = [b"first", body, b"last"]
    if form == "pcapng":
        blocks = [cb.enhanced("<", 0, n, p, len(p), options("<", (1, b"note"))) for n, p in enumerate(packets)]
        return cb.section() + cb.interface(linktype=linktype, snaplen=262144) + b"".join(blocks)
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, linktype)
    return head + b"".join(struct.pack("<IIII", n, 0, len(p), len(p)) + p for n, p in enumerate(packets))


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
@pytest.mark.parametrize("linktype", [231, 249, 189, 220, 279])
@pytest.mark.parametrize("pack", [bytes, lambda data: gzip.compress(data, 1)], ids=["file", "stream"])
def test_long_packets(tmp_path: Path, form: str, linktype: int, pack: Callable[[bytes], bytes]) -> None:
    """D-Bus, USB and EBHSCR captures: packets of many MiB come through whole, of files and streams, into both forms."""
    body = bytes(range(256)) * (20 << 12)  # 20 MiB
    data = long_capture(form, linktype, body)
    (tmp_path / "in").write_bytes(pack(data))
    assert [len(p.data) for p in cb.read(tmp_path / "in")] == [5, len(body), 4]
    for target in ("pcap", "pcapng"):
        copy(tmp_path / "in", tmp_path / f"out.{target}", format=target)
        assert [p.data for p in cb.read(tmp_path / f"out.{target}")] == [b"first", body, b"last"]


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_the_longest_packet(tmp_path: Path, form: str) -> None:
    """A D-Bus message of 128 MiB is read, by capinfos too; one byte more is absurd to both, and one line says so."""
    most = 128 << 20
    (tmp_path / "in").write_bytes(long_capture(form, 231, bytes(most)))
    assert [len(p.data) for p in cb.read(tmp_path / "in")] == [5, most, 4]
    assert run(tool("capinfos"), "-c", "-M", "-T", "-r", tmp_path / "in").split("\t")[-1].strip() == "3"
    (tmp_path / "in").write_bytes(long_capture(form, 231, bytes(most + 1)))
    with open_capture(str(tmp_path / "in")) as file:
        packets, error = cb.collect(file)
    assert len(packets) == 1
    assert error is not None
    assert error.message.splitlines() == [f"{tmp_path / 'in'}: {error.message.split(': ', 1)[1]}"]
    assert f"invalid captured length {most + 1}, more than the maximum of {most}" in error.message
    refused = subprocess.run([tool("capinfos"), "-c", str(tmp_path / "in")], capture_output=True, timeout=60)
    assert refused.returncode != 0


def test_an_absurd_length_of_another_link_type(tmp_path: Path) -> None:
    """An Ethernet capture with a packet of a MiB is still told to be damaged."""
    (tmp_path / "in").write_bytes(long_capture("pcap", 1, bytes(1 << 20)))
    with open_capture(str(tmp_path / "in")) as file:
        packets, error = cb.collect(file)
    assert len(packets) == 1
    assert error is not None
    assert "invalid captured length 1048576, more than the maximum of 262144" in error.message
