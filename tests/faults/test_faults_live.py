"""Each fault of bench/faults.py, in its short form: the capture goes on or says why not, and no packet is uncounted."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"
FAULTS = [
    "memory_eaten", "broker_gone", "scheduler_gone", "clock_back", "clock_forward",
    "handler_crash", "handler_crash_kept", "kills", "disk_full", "disk_error", "disk_slow", "closed_pipe",
    "down_and_up", "deleted", "recreated", "queue_count", "queues_added", "mtu", "other_program", "other_program_first",
    "memory_limit", "stopped", "signal_storm", "log_storm", "overload",
]  # fmt: skip
ELSEWHERE = {"disk_full", "down_and_up"}
"""In tests/test_capture_live.py and tests/source/test_xdp_live.py."""


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("faults")


def test_every_fault_is_tested(faults: Any) -> None:
    assert set(FAULTS) == set(faults.FAULTS)


@pytest.mark.live
@pytest.mark.parametrize("name", [name for name in FAULTS if name not in ELSEWHERE])
def test_fault(faults: Any, name: str) -> None:
    """It raises where a promise is not kept."""
    try:
        outcome = faults.run(name)
    except faults.ImpossibleError as reason:
        pytest.skip(str(reason))
    assert "\n" not in outcome.said
