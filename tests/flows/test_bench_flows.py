"""bench/flows.py in a short form: it runs, and its programs agree; the times mean nothing here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "flows.py"


def run(*arguments: str) -> str:
    command = [sys.executable, str(BENCH), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout


def test_the_table():
    """A small table: the flows that were put in are there, and both laws have their times."""
    printed = run("--only", "table", "--flows", "20000", "--drawn", "50000", "--rounds", "2")
    assert "flow table, 16384 flows" in printed
    assert "zipf: " in printed
    assert "uniform: " in printed


def test_whole_runs():
    """Our run accounts for every packet of a looped file, which the program checks."""
    printed = run("--only", "compare", "--packets", "70000", "--scapy", "0")
    assert "whole runs on 70000 packets" in printed
    assert "wirecap: " in printed
