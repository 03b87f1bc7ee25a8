"""``wirecap index``: what it says that it made, as lines and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rig import PCAP_HEADER, pcap_records
from wirecap.cli import main
from wirecap.kernels.base.jit import PURE

pytestmark = pytest.mark.skipif(PURE, reason="the commands run compiled")

NAMES = ("good.pcap", "new.pcap", "cut.pcap", "text.pcap")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file whose index is good, one that has none, one that is damaged behind three packets, and one that is none."""
    data = {"good": pcap_records(5), "new": pcap_records(7), "cut": pcap_records(3) + b"\xff" * 16}
    for name, records in data.items():
        (tmp_path / f"{name}.pcap").write_bytes(PCAP_HEADER + records)
    (tmp_path / "text.pcap").write_text("no capture file")
    assert main.run(["index", "-q", str(tmp_path / "good.pcap")]) == 0
    return tmp_path


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was made, left alone and refused: with its numbers, beside the lines on standard error."""
    assert main.run(["index", *(str(folder / name) for name in NAMES), "--json", "-"]) == 1
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["files"] == {"named": 4, "indexed": 2, "good": 1, "without": 1}
    new, cut = found["indexed"]
    size = (folder / "new.pcap.wcidx").stat().st_size
    assert new == {"file": str(folder / "new.pcap"), "packets": 7, "index_bytes": size, "damage": ""}
    assert (cut["file"], cut["packets"]) == (str(folder / "cut.pcap"), 3)
    assert cut["damage"]
    (failure,) = found["failures"]
    assert failure.startswith(f"{folder / 'text.pcap'}: not a capture file")
    assert f"wirecap: {failure}" in shown.err
    assert f"{new['file']}: 7 packets, index of " in shown.err
    assert (found["summary"], found["notes"]) == (None, [])


def test_json_of_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --summary, the table and its blocks; a file that is left out is among those without an index once."""
    pytest.importorskip("pyarrow")
    table, told = folder / "all.wcidx.parquet", folder / "told.json"
    files = [str(folder / name) for name in NAMES]
    assert main.run(["index", "-q", *files, "--summary", str(table), "--json", str(told)]) == 1
    found = json.loads(told.read_text())
    assert found["files"] == {"named": 4, "indexed": 2, "good": 1, "without": 1}
    assert found["summary"] == {"file": str(table), "blocks": 3}
    assert capsys.readouterr().out == ""
    assert main.run(["index", "-q", str(folder / "good.pcap"), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == {"named": 1, "indexed": 0, "good": 1, "without": 0}
