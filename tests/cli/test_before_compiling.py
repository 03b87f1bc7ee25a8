"""What is wrong with a command line is told at once: before kernels are compiled, which takes up to a minute."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from wirecap.cli.main import run
from wirecap.kernels.base import jit


def pcap(linktype: int) -> bytes:
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, linktype)
    return header + struct.pack("<IIII", 1, 1, 60, 60) + bytes(60)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory: a capture file, one without Ethernet, a text, and one that no program may write."""
    (tmp_path / "good.pcap").write_bytes(pcap(1))
    (tmp_path / "raw.pcap").write_bytes(pcap(101))
    (tmp_path / "foreign.pcap").write_bytes(pcap(250))
    (tmp_path / "text").write_text("no capture file " * 9)
    (tmp_path / "mine.py").write_text("import wirecap\n@wirecap.handler\ndef mine(packet, state):\n    state.n += 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("simulate -r none.pcap", "none.pcap: No such file"),
        ("simulate -r text", "text: not a capture file"),
        ("simulate -r raw.pcap", "raw.pcap has link type RAW (Raw IP), not Ethernet"),
        ("simulate --nics 17", "NICs on a bus: 17"),
        (
            "simulate --engine all --workload burst:packets=1k,rate=1M --engine wirecap:groups=0-9",
            "does not exist: there are 1",
        ),
        ("capture -r none.pcap", "none.pcap: No such file"),
        ("capture -r text", "text: not a capture file"),
        ("capture -r good.pcap -w none/x.pcap", "none/x.pcap: No such file or directory"),
        ("capture -r good.pcap -w text/x.pcap", "text/x.pcap: Not a directory"),
        ("capture -r good.pcap -w .", ".: Is a directory"),
        ("capture -r good.pcap -w good.pcap", "good.pcap: the file is being read"),
        ("capture -r good.pcap -w none/%H.pcap -G 60", "No such file or directory"),
        ("capture -r good.pcap -w x -b filesize:10 -b printname:none/x", "none/x: No such file or directory"),
        ("capture -r good.pcap --handler none.py:mine", "none.py: no such file"),
        ("capture -r good.pcap -F none", "-F none: no such file or directory (name a file that holds one filter"),
        ("capture -r good.pcap -w none/x --limit 80%", "none: no such file or directory (name one that exists)"),
        ("capture -r good.pcap -w x.pcap --keep 900TB", "819 TiB for kept packets are more than this host has free"),
        ("man /proc/none", "/proc/none: no such file or directory (name a folder with wirecap man DIR)"),
        ("capture -r foreign.pcap --handler mine.py:mine", "link type RTAC_SERIAL"),
        ("capture -r good.pcap --buddies lo@0 --mode advanced", "lo is in a buddy group but is not captured"),
        ("capture -i nosuchnic", "nosuchnic"),
        ("forward nosuchnic nosuchnic2", "nosuchnic"),
        ("replay -i lo none.pcap", "none.pcap: No such file"),
        ("replay -i lo text", "text: not a capture file"),
        ("replay -i nosuchnic good.pcap", "nosuchnic"),
        ("generate -i nosuchnic", "nosuchnic"),
        ("generate -i lo --size 1", "--size: '1' is out of range"),
        ("figure 8 -o text", "text: "),
        ("plan --handler-rate 1k --queues 4 --burst 1T", "chunks of 64 packets on one queue"),
    ],
)
def test_wrong_input_is_told_before_anything_is_compiled(folder, command, message, capsys, monkeypatch):
    """Status 2 and one line that says what; no entry point of the kernels is asked for."""

    def prepare(*_: object) -> int:
        raise AssertionError("kernels are compiled first")

    monkeypatch.setattr(jit, "prepare", prepare)
    assert run(command.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["simulate -r none.pcap", "capture -r good.pcap -w none/x.pcap"])
def test_an_empty_cache_changes_no_error(folder, command):
    """As a user runs it for the first time: one line, and nothing was compiled."""
    environment = {**os.environ, "WIRECAP_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "wirecap", *command.split()], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No such file" in done.stderr
    assert not list((folder / "cache").rglob("*.code"))


def test_files_that_are_checked_are_neither_made_nor_emptied(folder, capsys):
    """A refused command leaves the files alone that it would have written."""
    (folder / "kept.pcap").write_bytes(b"kept")
    command = "capture -r good.pcap -w kept.pcap -b filesize:10 -b printname:none/x"
    assert run(command.split()) == 2
    assert (folder / "kept.pcap").read_bytes() == b"kept"
    assert "none/x" in capsys.readouterr().err
