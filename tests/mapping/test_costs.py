"""What a map costs: short forms of bench/map.py and bench/map_cost.py."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
LIMIT_S = 600


def test_a_short_form(tmp_path):
    """bench/map.py compares one worker with a capture, and two with one."""
    words = [sys.executable, str(BENCH / "map.py"), "--bytes", "2e6", "--rounds", "1", "--no-cluster"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.stderr == ""
    assert done.returncode == 0
    first, *ratios = done.stdout.splitlines()
    assert first.startswith("files of 0.00 GB, handler count")
    assert [re.sub(r": .*", "", line) for line in ratios] == [
        "capture -r / map with one worker, processor time of the commands",
        "capture -r / map with one worker, time of the commands",
        "two workers as a multiple of one, in the workers' processor time",
    ]
    assert all(float(re.search(r": ([\d.]+) \(", line)[1]) > 0 for line in ratios)


@pytest.fixture(scope="module")
def costs():
    before = list(sys.path)
    sys.path.insert(0, str(BENCH))
    try:
        spec = importlib.util.spec_from_file_location("map_cost", BENCH / "map_cost.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["map_cost"] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path[:] = before


@pytest.mark.parametrize("files", [1, 10, 1000])
def test_the_model(costs, files):
    """More workers never take longer by more than their start; none does another's work; the command bounds them."""
    parts = costs.Costs(
        start=1.0, worker=0.01, file=0.0001, part=0.01, gigabyte=0.3, merge=0.001, scheduled=0.002
    )  # fmt: skip
    work = 0.01 + 0.3 * 0.1
    times = {n: costs.simulated(parts, files, 1e8, n, cluster=False) for n in (1, 4, 64, 1000)}
    assert times[1] == pytest.approx(1.0 + 0.01 + files * (0.0001 + work), rel=1e-6)
    for n, seconds in times.items():
        began = 1.0 + files * 0.0001 + 0.01 * n
        assert seconds >= began + max(work * files / n, 0.001 * files) - 1e-9 or n >= files
        assert seconds <= began + work * -(-files // n) + 0.001 * files
    assert costs.simulated(parts, 1000, 1e8, 1000, cluster=True) >= 1000 * 0.002
