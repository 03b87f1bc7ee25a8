"""The benchmarks of forwarding run: small, without judging speed, so that they do not rot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def bench(script: str, folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    result = folder / "result.json"
    command = [sys.executable, str(BENCH / script), "--rounds", "1", "--json", str(result), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.exists(), done.stderr
    return json.loads(result.read_text()), done.stdout


@pytest.mark.live
def test_forwarders_are_counted_at_the_far_end(tmp_path):
    """What the summary calls forwarded arrived, and the redirect inside the kernel loses nothing."""
    found, _ = bench("forward.py", tmp_path, "--packets", "50000", "--peers", "xdp-redirect")
    assert found["failed"] == []
    assert [run["tool"] for run in found["runs"]] == ["wirecap", "xdp-redirect"]
    assert found["runs"][1]["arrived"] == found["runs"][1]["sent"] == 50_000


@pytest.mark.live
def test_the_scalability_experiment_prints_its_table(tmp_path):
    """A row for each frame length and number of queues, both directions sent, every packet accounted for."""
    small = ("--sizes", "64", "--queues", "2", "--seconds", "0.5", "--scale-pps", "20000")
    found, printed = bench("forward_both.py", tmp_path, "--part", "scale", *small)
    assert found["failed"] == []
    [row] = found["rows"]
    assert (row["size"], row["queues"]) == (64, 2)
    assert row["rounds"][0]["sent"] == pytest.approx(20_000, rel=0.1)
    assert "frame bytes" in printed
    assert "64" in printed
