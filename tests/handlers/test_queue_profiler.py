"""queue_profiler: packets of each queue in bins of time, in a table and a plot."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from rig import Rig, counted
from wirecap.errors import UsageError
from wirecap.handlers.handler import Setting
from wirecap.handlers.pipeline import Pipeline
from wirecap.handlers.queue_profiler import QueueProfiler

BIN = 10_000_000
START = 1_700_000_000 * 10**9


def profile(path: Path, advanced: bool = False) -> dict[str, object]:
    """Two queues: 5 packets in bin 0, 3 in bin 4; and 2 in bin 1."""
    handler = QueueProfiler.make({"file": str(path)}, Setting())
    pipeline = Pipeline([handler])
    with Rig(pipeline, queues=2, advanced=advanced, T=1) as rig:
        timestamps = [START + k for k in range(5)] + [START + 4 * BIN + k for k in range(3)]
        rig.inject(0, [counted(k) for k in range(8)], timestamps)
        rig.inject(1, [counted(k) for k in range(2)], [START + BIN, START + 2 * BIN - 1])
        rig.done(10)
        rig.stop()
        return pipeline.results()[0]["result"]


@pytest.mark.parametrize("advanced", [False, True])
def test_bins_of_each_queue(tmp_path: Path, advanced: bool) -> None:
    """Packets count in the bin of their own time for the queue that received them, whoever handled them."""
    found = profile(tmp_path / "p.png", advanced)
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0][0] == "seconds"
    assert [name.endswith(f"queue {queue}") for queue, name in enumerate(rows[0][1:])] == [True, True]
    assert [[float(value) for value in row] for row in rows[1:]] == [
        [0.0, 500, 0], [0.01, 0, 200], [0.02, 0, 0], [0.03, 0, 0], [0.04, 300, 0],
    ]  # fmt: skip
    assert [queue["packets"] for queue in found["queues"]] == [8, 2]  # type: ignore[attr-defined]


def test_plot_is_a_picture(tmp_path: Path) -> None:
    """With matplotlib there is a PNG."""
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    found = profile(tmp_path / "p.png")
    assert found["plot"] == str(tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_table_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where matplotlib is missing the table is written, and the result says how to get the plot."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    found = profile(tmp_path / "p.png")
    assert "wirecap[plot]" in str(found["plot"])
    assert (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("options", [{"width": "3"}, {"bin": "1ns"}, {"bin": "soon"}])
def test_bad_options(options: dict[str, str]) -> None:
    """Unknown options and bins that cannot be are usage errors."""
    with pytest.raises(UsageError):
        QueueProfiler.make(options, Setting())
