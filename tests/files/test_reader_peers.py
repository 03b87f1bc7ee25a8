"""The reader beside tcpdump, tshark and capinfos, on real traffic and on what Wireshark's tools make of it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import capture_bytes as cb
import pytest

from wirecap.files.reader import open_capture

EPOCH = "-e frame.time_epoch -e frame.cap_len -e frame.len -e frame.interface_id".split()


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_tshark(path: Path) -> list[tuple[str, int, int, int]]:
    """(time to the ns, captured, original, interface) of each packet."""
    lines = run(tool("tshark"), "-n", "-r", path, "-T", "fields", *EPOCH).splitlines()  # fmt: skip
    return [(t, int(c), int(o), int(i or 0)) for t, c, o, i in (line.split("\t") for line in lines)]


def by_wirecap(path: Path) -> list[tuple[str, int, int, int]]:
    return [
        (f"{p.ns // 10**9}.{p.ns % 10**9:09}", len(p.data), p.original, p.interface) for p in cb.read(path, limit=256)
    ]


@pytest.mark.parametrize("form", ["pcap", "nsecpcap", "modpcap", "pcapng"])
@pytest.mark.parametrize("snap", [None, 60])
def test_as_tshark_reads_it(mixed_trace: Path, tmp_path: Path, form: str, snap: int | None) -> None:
    """Times, lengths and interfaces of the trace in every form that editcap writes are tshark's."""
    options = ["-s", str(snap)] if snap else []
    run(tool("editcap"), "-F", form, *options, "-r", mixed_trace, tmp_path / "a", "1-5000")
    assert by_wirecap(tmp_path / "a") == by_tshark(tmp_path / "a")


def test_several_interfaces(mixed_trace: Path, tmp_path: Path) -> None:
    """mergecap's file of three captures with different resolutions is read packet for packet as tshark does."""
    parts = []
    for k, form in enumerate(["pcap", "nsecpcap", "pcapng"]):
        parts.append(tmp_path / str(k))
        run(
            tool("editcap"),
            "-F",
            form,
            "-t",
            f"0.00000{k}",
            "-r",
            mixed_trace,
            parts[-1],
            f"{k * 700 + 1}-{k * 700 + 900}",
        )
    run(tool("mergecap"), "-w", tmp_path / "merged", *parts)
    ours = by_wirecap(tmp_path / "merged")
    assert {packet[3] for packet in ours} == {0, 1, 2}
    assert ours == by_tshark(tmp_path / "merged")


def test_a_file_of_several_sections(mixed_trace: Path, tmp_path: Path) -> None:
    """Sections one after the other, as cat makes them, are read through; capinfos counts the same."""
    run(tool("editcap"), "-F", "pcapng", "-r", mixed_trace, tmp_path / "a", "1-1000")
    (tmp_path / "twice").write_bytes((tmp_path / "a").read_bytes() * 2)
    ours = by_wirecap(tmp_path / "twice")
    counted = run(tool("capinfos"), "-c", "-M", "-T", "-r", tmp_path / "twice").split("\t")[-1]
    assert len(ours) == int(counted) == 2000


def test_the_bytes_are_tcpdumps(mixed_trace: Path, tmp_path: Path) -> None:
    """tcpdump -r's copy of the trace holds the same packets, byte for byte."""
    run(tool("tcpdump"), "-Z", "root", "-r", mixed_trace, "-w", tmp_path / "copy")
    digests = []
    for path in (mixed_trace, tmp_path / "copy"):
        digest = hashlib.sha256()
        for packet in cb.read(path, limit=256):
            digest.update(packet.data + packet.ns.to_bytes(8, "little") + packet.original.to_bytes(4, "little"))
        digests.append(digest.digest())
    assert digests[0] == digests[1]


def test_a_cut_file_gives_as_many_packets_as_tcpdump(mixed_trace: Path, tmp_path: Path) -> None:
    """Where the trace is cut in the middle of a packet, as many packets are kept as tcpdump shows."""
    (tmp_path / "cut").write_bytes(mixed_trace.read_bytes()[:1_000_003])
    printed = subprocess.run(
        [tool("tcpdump"), "-nn", "-tt", "-q", "-r", str(tmp_path / "cut")], capture_output=True, text=True, timeout=60
    )
    assert "truncated dump file" in printed.stderr
    with open_capture(str(tmp_path / "cut")) as file:
        packets, error = cb.collect(file, 256)
    assert error is not None
    assert "truncated dump file" in error.message
    times = [line.split(" ", 1)[0] for line in printed.stdout.splitlines() if line[:1].isdigit()]
    assert [f"{p.ns // 10**9}.{p.ns % 10**9 // 1000:06}" for p in packets] == times
