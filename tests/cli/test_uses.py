"""Files and options that a command line uses twice: refused before anything is written."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from rig import PCAP_HEADER, pcap_records
from wirecap.cli import main


@pytest.fixture
def captures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A folder with captures to begin with: what they held."""
    (tmp_path / "more").mkdir()
    for name in ("e.pcap", "more/inner.pcap"):
        (tmp_path / name).write_bytes(PCAP_HEADER + pcap_records(20))
    (tmp_path / "link.pcap").hardlink_to(tmp_path / "e.pcap")
    monkeypatch.chdir(tmp_path)
    return {name: (tmp_path / name).read_bytes() for name in ("e.pcap", "more/inner.pcap")}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("capture -r e.pcap --json e.pcap", "--summary-json e.pcap: the file has another use (use another name)"),
        ("capture -r e.pcap --json ./more/../e.pcap", "the file has another use"),
        ("capture -r e.pcap --json link.pcap", "the file has another use"),
        ("capture -r e.pcap -w n1.pcap --json n1.pcap", "--summary-json n1.pcap: the file has another use"),
        ("capture -r e.pcap -w n1.pcap --ready-file n1.pcap", "--ready-file n1.pcap: the file has another use"),
        ("capture -r e.pcap --ready-file e.pcap", "--ready-file e.pcap: the file has another use"),
        ("capture -i lo --ready-file e.pcap", "--ready-file e.pcap: the file holds something else"),
        ("capture -i lo -w n.pcap -b filesize:9 -b printname:n.pcap", "-b printname: n.pcap: the file has another use"),
        ("capture -i lo --json n --ready-file n", "n: the file has another use"),
        ("capture -i lo -F e.pcap --decisions e.pcap", "--decisions e.pcap: the file has another use"),
        ("find udp e.pcap --json e.pcap", "--json e.pcap: the file has another use"),
        ("find udp more --json more/inner.pcap", "--json more/inner.pcap: the file is one of the captures"),
        ("find udp e.pcap -w n.pcap --json n.pcap", "--json n.pcap: the file has another use"),
        ("index e.pcap --summary e.pcap", "--summary e.pcap: the file has another use"),
        ("index more --summary more/inner.pcap", "--summary more/inner.pcap: the file is one of the captures"),
        ("replay -i lo e.pcap --json e.pcap", "--summary-json e.pcap: the file has another use"),
        ("simulate -r e.pcap --json e.pcap", "--json e.pcap: the file has another use"),
        ("capture -r e.pcap -r more/inner.pcap", "-r is given twice (for several files: wirecap convert FILES"),
        ("capture -i lo -c 5 -c 6", "-c is given twice (give it once)"),
        ("capture -i lo --json - --summary-json a", "--summary-json is given twice"),
        ("capture -i lo --nano --time-stamp-precision micro", "--nano and --time-stamp-precision cannot be combined"),
        ("find --since 14:00 --since 15:00 udp more", "--since is given twice"),
    ],
)
def test_a_second_use_is_refused(
    captures: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    assert main.run(shlex.split(line)) == 2
    assert says in capsys.readouterr().err
    assert {name: (tmp_path / name).read_bytes() for name in captures} == captures
    assert not list(tmp_path.glob("n*"))


def test_what_may_be_shared_or_repeated(captures: dict[str, bytes], tmp_path: Path) -> None:
    """Devices, flags, options that add up, and a file that a killed capture left."""
    assert main.run(["capture", "-q", "-q", "-r", "e.pcap", "-w", "/dev/null", "--json", "/dev/null"]) == 0
    (tmp_path / "ready").write_text("1234\n")
    assert main.run(["capture", "-q", "-r", "e.pcap", "--ready-file", "ready", "--json", "more/s.json"]) == 0
    assert not (tmp_path / "ready").exists()
    assert main.run(["find", "-q", "udp", "more", "--json", "more/s.json"]) == 0
