"""The benchmark of handlers runs: small, without judging speed, so that it does not rot."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "handlers.py"


def test_programs_agree_on_how_many_packets_have_a_five_tuple(tmp_path, mixed_trace):
    """Ours and each peer that is installed count nearly the same share of packets: they do the same job."""
    result = tmp_path / "result.json"
    command = [sys.executable, str(BENCH), "--rounds", "1", "--copies", "2", "--shrink", "20"]
    environment = {**os.environ, "WIRECAP_TRACES": str(mixed_trace.parent), "NUMBA_DISABLE_JIT": "0"}
    done = subprocess.run(
        [*command, "--folder", str(tmp_path), "--json", str(result)],
        capture_output=True, text=True, env=environment, timeout=110,
    )  # fmt: skip
    assert result.exists(), done.stderr
    found = json.loads(result.read_text())
    assert set(found["peers"]) == {name for name in ("scapy", "dpkt") if importlib.util.find_spec(name)}
    [row] = found["rounds"]
    assert row["five_tuple"]["share"] > 0.9
    for peer in found["peers"]:
        assert abs(row[peer]["share"] - row["five_tuple"]["share"]) < 0.03
    assert list(tmp_path.glob("wcbench-*")) == []
