"""What bench/soak.py and bench/overload.py find in figures that are made up."""

from __future__ import annotations

import importlib
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "bench"
PACKETS = {
    "received": 10_000,
    "delivered": 9_000,
    "filtered_out": 0,
    "dropped": 1_000,
    "drops": {"pool_exhausted": 1_000},
}
SUMMARY = {"packets": PACKETS, "per_queue": [{"received": 10_000}]}


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("soak")


@pytest.fixture
def overload(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("overload")


def samples(soak: Any, rss: list[float], lag_s: list[float]) -> list[Any]:
    """One each minute."""
    each = enumerate(zip(rss, lag_s, strict=True))
    return [soak.Sample(60.0 * (k + 1), int(memory), 27, 13, 100 * k, lag) for k, (memory, lag) in each]


@pytest.mark.parametrize(
    ("rss", "lag_s", "found"),
    [
        ([100, 190, *[200] * 18], [0.3, 0.01] * 10, []),
        (range(100, 200, 5), [0.01] * 20, ["rss grew from 140 to 177.5"]),
        ([200] * 20, np.arange(20) * 0.1, ["timestamps drift: files were complete 0.500 s after them, then 1.200 s"]),
        ([200] * 20, [-0.3] * 20, ["timestamps are 0.300 s ahead"]),
    ],
)
def test_a_soak(soak: Any, rss: Any, lag_s: Any, found: list[str]) -> None:
    """Memory that settles is none that grows, and files that are late now and then are no clock that goes wrong."""
    assert soak.judge(samples(soak, list(rss), list(lag_s)), SUMMARY, 10_000) == found


def test_the_figures_of_a_soak(soak: Any) -> None:
    """They are read from what the JSON holds."""
    found = {"samples": [asdict(each) for each in samples(soak, [204800] * 4, [0.01] * 4)], "packets": PACKETS}
    said = soak.written(Namespace(near="2^63"), found)
    assert "4.0 minutes, 10,000 packets, 9,000 of them delivered, 1,000 lost as `pool_exhausted`; 200 MiB" in said


def test_packets_that_wait(overload: Any) -> None:
    """A chunk of 100 each second, of which each was taken three seconds later, behind the two before it and itself."""
    second = 1_000_000_000
    first = np.arange(10) * second
    chunks = np.stack([first, first + 5, np.full(10, 100), first + 3 * second], axis=1)
    found = overload.waits(chunks, 0, 5 * second)
    assert (found["p50_s"], found["p99_s"], found["longest_s"]) == (3, 3, 3)
    assert found["recovery_s"] == 3  # the chunk of second 5 is taken in second 8
    assert found["most_ahead"] == 300
    assert found["slowest_pps"] == 0


def test_an_overload(overload: Any) -> None:
    """Each broken promise is named."""
    kept = {"packets": PACKETS, "most_ahead": 5000, "recovery_s": 0.3, "delivered_later": 1000}
    assert overload.judge(kept, 1.0) == []
    unnamed = {**PACKETS, "drops": {"unaccounted": 3}}
    broken = {"packets": unnamed, "most_ahead": 6000, "recovery_s": 1.5, "delivered_later": 999}
    assert [line.split(":")[0] for line in overload.judge(broken, 1.0)] == [
        "lost as unaccounted", "a packet waited behind 6000, but the pool holds 5120",
        "packets still waited after 1.50 s", "later 1000 were sent, and 999 delivered",
    ]  # fmt: skip
