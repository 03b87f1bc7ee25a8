"""The benchmarks run: small, without judging speed, so that they do not rot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def bench(script: str, *options: str, tmp_path: Path) -> dict[str, object]:
    result = tmp_path / "result.json"
    command = [sys.executable, str(BENCH / script), "--rounds", "1", "--json", str(result), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.exists(), done.stderr
    return json.loads(result.read_text())


@pytest.mark.live
def test_count_finds_no_contradiction(tmp_path: Path) -> None:
    """count.py sends what it was told to, and the summary's numbers add up to it."""
    found = bench("count.py", "--packets", "50000", "--peers", "", tmp_path=tmp_path)
    assert [run["tool"] for run in found["runs"]] == ["wirecap", "wirecap -j host_lowprec"]
    for run in found["runs"]:
        assert (run["sent"], run["faults"]) == (50_000, [])
        assert run["delivered"] + run["dropped"] == 50_000
    assert found["failed"] == []


@pytest.mark.live("capinfos", "tcpdump")
def test_write_counts_the_packets_in_the_files(tmp_path: Path) -> None:
    """write.py finds in each program's file, by capinfos, what that program reported."""
    options = ("--packets", "20000", "--paced", "20000", "--rate", "100000", "--peers", "tcpdump")
    found = bench("write.py", *options, "--folder", str(tmp_path), tmp_path=tmp_path)
    assert found["failed"] == []
    assert {run["tool"] for run in found["runs"]["paced"]} == {"wirecap", "tcpdump"}
    assert list(tmp_path.glob("wcbench-*")) == []
