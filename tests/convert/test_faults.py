"""Bad input, a full disk, an interruption: one line, whole files, and what was good is kept."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import capture_bytes as cb
import pytest
from beside_editcap import ours, peer

from wirecap.cli import main


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writing behind this size fails, as on a full disk."""
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line about what went wrong, behind those about what had to be compiled."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("wirecap: ")]
    (line,) = (line for line in lines if not line.startswith("wirecap: compiling "))
    return line


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("IN", "nothing to write to (give -w FILE, or -w - for standard output)"),
        ("-w OUT", "no file to convert"),
        ("IN -w IN", "in.pcap: the file is being read (write to another name)"),
        ("IN IN -w OUT --packets 1-3", "packets are numbered in one file, but there are several"),
        ("IN -w OUT --packets 3-1", "--packets: '3-1' is not a range of packets"),
        ("IN -w OUT --split size", "--split: 'size' does not say how to split"),
        ("IN -w OUT -D 5 --duplicates-within 1", "-D and --duplicates-within both say what a duplicate is"),
        ("IN -w OUT --since yesterday", "-A: 'yesterday' is not a time"),
        ("IN -w - --split flow", "several files cannot go to standard output"),
        ("IN -w OUT -f 'tcp porr 1'", "filter 'tcp porr 1': "),
        ("IN -w OUT -F snoop", "-F: 'snoop' is not known (use pcap, "),
        ("TEXT -w OUT", "not a capture file but text"),
        ("PARQUET -w OUT", "not a capture file but a Parquet file (Parquet has no packets: name the capture"),
        ("MISSING -w OUT", "No such file or directory"),
        ("IN -w OUT --summary-json IN", "in.pcap: the file has another use (use another name)"),
        ("IN -w OUT --summary-json OUT", "out: the file has another use (use another name)"),
        ("IN -w OUT --anonymise OUT", "out: the key would be overwritten by the packets (use another name)"),
        ("IN -w OUT --since 1700000010 --until 1700000010", "no packet can be at or after -A and before -B"),
        ("IN -w /nowhere/out.pcap", "/nowhere/out.pcap: No such file or directory"),
        ("TWO -w OUT.pcap", "a pcap file has only one link type, but these packets have several (write pcapng)"),
    ],
)
def test_bad_usage_is_one_line(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    """The line says what is wrong, the status is 2, and no output was made."""
    import shlex

    peer("editcap", "-F", "pcap", "-r", trace, tmp_path / "in.pcap", "1-5")
    (tmp_path / "text").write_text("hello, world, this is text")
    (tmp_path / "parquet").write_bytes(b"PAR1" + bytes(40) + b"PAR1")
    (tmp_path / "two").write_bytes(cb.section() + cb.interface() + cb.interface(linktype=101))
    names = {"IN": "in.pcap", "TEXT": "text", "PARQUET": "parquet", "MISSING": "missing", "TWO": "two",
             "OUT": "out", "OUT.pcap": "out.pcap"}  # fmt: skip
    words = [str(tmp_path / names[word]) if word in names else word for word in shlex.split(line)]
    assert main.run(["convert", *words]) == 2
    assert says in error(capsys)
    assert not list(tmp_path.glob("out*"))


def test_a_cut_input_is_written_as_far_as_it_goes(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where it is merged: the other file's packets are all there."""
    (tmp_path / "cut").write_bytes(trace.read_bytes()[:500_000])
    for sources in ([tmp_path / "cut"], [trace, tmp_path / "cut"]):
        ours(*sources, "-w", tmp_path / "out.pcapng", status=2)
        assert "truncated dump file" in error(capsys)
        whole = len(cb.collect(cb.open_capture(str(tmp_path / "cut")), 1000)[0])
        assert len(cb.read(tmp_path / "out.pcapng", 1000)) == whole + 6000 * (len(sources) - 1)


def test_a_full_disk_leaves_whole_packets(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error says how many packets are in the file, and they are."""
    for options in ([], ["--split", "interface"]):
        with file_size_limit(300_001):
            ours(trace, "-w", tmp_path / "out.pcap", *options, status=1)
        (file,) = tmp_path.glob("out*")
        packets = cb.read(file, 1000)
        assert 200 < len(packets) < 6000
        line = error(capsys)
        assert f"{len(packets)} packets were written" in line
        assert "--split size:BYTES" in line
        file.unlink()


def test_a_full_disk_leaves_no_broken_parquet(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that nothing can read is removed, and that is told."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    with file_size_limit(10_001):
        ours(trace, "-w", tmp_path / "out.parquet", status=1)
    assert "the file is incomplete and was removed" in error(capsys)
    assert not list(tmp_path.glob("out*"))


def test_an_interruption_leaves_whole_files(trace: Path, tmp_path: Path) -> None:
    """Ctrl-C while a pipe is silent: what came so far is in the file, the last line says it, the status is 1."""
    out = tmp_path / "out.pcapng"
    command = [sys.executable, "-m", "wirecap", "convert", "-", "-w", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as child:
        assert child.stdin
        assert child.stderr
        child.stdin.write(trace.read_bytes()[:200_000])
        child.stdin.flush()
        deadline = time.monotonic() + 60
        while not (out.exists() and out.stat().st_size > 100_000) and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        told = child.stderr.read().decode().splitlines()
        assert child.wait(60) == 1
    packets = cb.read(out, 1000)
    assert told[-1] == "wirecap: interrupted"
    assert f"{len(packets)} packets written" in told
    assert len(packets) > 100


@pytest.mark.kernel
def test_pcapng_stays_as_it_is(tmp_path: Path) -> None:
    """Comments, options, names and unknown blocks are copied byte for byte; only what is shifted or cut changes."""
    note = cb.option("<", 1, b"a note") + cb.option("<", 0, b"")
    parts = [
        cb.section(options=note), cb.interface(options=note), cb.block("<", 4, bytes(4)),
        cb.block("<", 0xBAD, bytes(8)), cb.enhanced("<", 0, 5_000_000, b"abcdef", 60, note),
        cb.block("<", 5, bytes(12)), cb.simple("<", b"xyz", 3),
    ]  # fmt: skip
    (tmp_path / "in").write_bytes(b"".join(parts))
    ours(tmp_path / "in", "-w", tmp_path / "out.pcapng")
    assert (tmp_path / "out.pcapng").read_bytes() == b"".join(parts)
    ours(tmp_path / "in", "-w", tmp_path / "out.pcapng", "-t", "2.5", "-s", "4")
    parts[1] = cb.interface(snaplen=4, options=note)
    parts[4] = cb.enhanced("<", 0, 7_500_000, b"abcd", 60, note)
    assert (tmp_path / "out.pcapng").read_bytes() == b"".join(parts)


@pytest.mark.kernel
def test_big_endian_inputs_are_joined(tmp_path: Path) -> None:
    """Options and statistics of a big-endian file mean the same in the little-endian section that files share."""
    flags = {order: cb.option(order, 2, (1).to_bytes(4, sys_order(order))) + cb.option(order, 0, b"") for order in "<>"}
    for order, name in (("<", "little"), (">", "big")):
        end = cb.option(order, 0, b"")
        offset = cb.option(order, 14, (7).to_bytes(8, sys_order(order))) + end
        statistics = cb.block(order, 5, bytes(12) + cb.option(order, 4, (9).to_bytes(8, sys_order(order))) + end)
        packet = cb.enhanced(order, 0, 5_000_000, b"abcdef", 6, flags[order])
        (tmp_path / name).write_bytes(cb.section(order) + cb.interface(order, options=offset) + packet + statistics)
    outputs = []
    for first, second in (("little", "little"), ("big", "little")):
        ours(tmp_path / first, tmp_path / second, "-w", tmp_path / "out.pcapng")
        outputs.append((tmp_path / "out.pcapng").read_bytes())
    assert outputs[0] == outputs[1]
    assert [packet.interface for packet in cb.read(tmp_path / "out.pcapng")] == [1, 0]


@pytest.mark.parametrize("out", ["out.pcap", "out.pcapng"])
def test_a_file_holds_a_packet_however_small_it_is_to_be(trace: Path, tmp_path: Path, out: str) -> None:
    """A size below that of the header gives a file for each packet, not files without one for ever."""
    ours(trace, "-w", tmp_path / out, "--split", "size:1", "--packets", "1-20")
    assert [len(cb.read(path)) for path in sorted(tmp_path.iterdir())] == [1] * 20


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (b"../../x", "out_.._.._x.pcapng"), (b"a" * 300, f"out_{'a' * 60}.pcapng"), (b"e\nt\0h", "out_e_t_h.pcapng"),
        ("ö".encode(), "out_ö.pcapng"), (b"\xff/", "out_\ufffd_.pcapng"), (b"", "out_0.pcapng"),
    ],
)  # fmt: skip
def test_files_are_named_after_any_interface(tmp_path: Path, name: bytes, file: str) -> None:
    """Whatever a capture says that its interface is called, the file is beside the others and can be made."""
    named = cb.option("<", 2, name) + cb.option("<", 0, b"")
    (tmp_path / "in").write_bytes(
        cb.section() + cb.interface(options=named) + cb.enhanced("<", 0, 5_000_000, b"abcdef", 60)
    )
    ours(tmp_path / "in", "-w", tmp_path / "out.pcapng", "--split", "interface")
    (made,) = tmp_path.glob("out*")
    assert made.name.replace("_", "") == file.replace("_", "").replace("\ufffd", "")
    assert len(cb.read(made)) == 1


def test_pcap_files_of_interfaces_have_their_link_types(tmp_path: Path) -> None:
    """A capture of several link types fits pcap files where each interface has its own."""
    parts = [cb.section(), cb.interface(), cb.enhanced("<", 0, 5_000_000, b"abcdef", 60)]
    parts += [cb.interface(linktype=101), cb.enhanced("<", 1, 6_000_000, b"E", 60)]
    (tmp_path / "in").write_bytes(b"".join(parts))
    ours(tmp_path / "in", "-w", tmp_path / "out.pcap", "--split", "interface")
    found = [path.read_bytes() for path in sorted(tmp_path.glob("out*"))]
    assert [int.from_bytes(data[20:24], "little") for data in found] == [1, 101]
    assert [len(data) for data in found] == [24 + 16 + 6, 24 + 16 + 1]


def sys_order(order: str) -> str:
    return "little" if order == "<" else "big"
