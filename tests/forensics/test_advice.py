"""The advised R and T: with them the recorded packets lose nothing, with 5 % less they do; exactly."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from wirecap.forensics import advice, explain
from wirecap.forensics.advice import LEAST, Setting, advise, lost, peak, workload
from wirecap.forensics.losses import Loss
from wirecap.kernels.base.jit import PURE

pytestmark = pytest.mark.skipif(PURE, reason="the simulator's kernels are compiled")


def bursts(seed: int, queues: int) -> np.ndarray:
    """Packets by millisecond: a few bursts of different rates on top of quiet traffic, the first queue the busiest."""
    numbers = np.random.default_rng(seed)
    found = numbers.poisson(3, (queues, 400)).astype(np.int32)
    for _ in range(4):
        start, length = numbers.integers(0, 300), numbers.integers(5, 30)
        found[0, start : start + length] += numbers.integers(50, 800)
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("queues", "advanced"), [(1, False), (4, True)])
def test_advice_holds_and_less_does_not(seed, queues, advanced):
    """The bar, on the simulator: exactly 0 lost with what is advised, more than 0 with 5 % less, whatever came."""
    arrivals = bursts(seed, queues)
    setting = Setting(64, 40, 60, advanced)
    found = advise(setting, arrivals, 38_844.0)
    assert found
    packets = workload(arrivals)
    assert packets.packets == arrivals.sum()
    assert lost(found.setting, packets, 38_844.0) == 0
    assert found.less <= 0.95 * found.setting.R
    assert (
        found.less < LEAST or lost(replace(found.setting, R=found.less), packets, 38_844.0) == found.lost_with_less > 0
    )
    assert found.lost_as_it_was == lost(setting, packets, 38_844.0)
    if not advanced:
        R = found.setting.R
        for more in (R + 1, R + 7, 2 * R):
            assert lost(replace(setting, R=more), packets, 38_844.0) == 0
        for less in (LEAST, R // 2, R - 7, R - 1):  # there is no smaller one
            assert lost(replace(setting, R=less), packets, 38_844.0) > 0
        assert abs(found.setting.R - found.peak / 64) <= 4


def test_buddies_need_smaller_pools():
    """One busy queue of four: in advanced mode R is much smaller, with a T that is in the list."""
    arrivals = np.zeros((4, 400), np.int32)
    arrivals[0] = 100  # two and a half times what one handler takes
    alone = advise(Setting(64, 40, 60, False), arrivals[:1], 38_844.0)
    helped = advise(Setting(64, 40, 60, True), arrivals, 38_844.0)
    assert helped.setting.R < alone.setting.R / 4
    assert helped.setting.T in {60, *advice.THRESHOLDS}


def test_the_peak():
    """The most packets that wait at once: what came in a burst less what was handled meanwhile."""
    arrivals = np.zeros(100, np.int32)
    arrivals[10:20] = 1000
    assert peak(arrivals, 100_000) == 10_000 - 10 * 100
    assert peak(np.zeros(10, np.int32), 5.0) == 0
    arrivals[60:70] = 1000  # the first is not done with when the second comes
    assert peak(arrivals, 100_000) == 20_000 - 60 * 100


@pytest.mark.parametrize(("arrivals", "rate_pps"), [(np.zeros((1, 0), np.int32), 1000.0), (bursts(1, 1), 0.0)])
def test_nothing_to_go_by(arrivals, rate_pps):
    """Without arrivals, or without a rate, there is no advice."""
    assert advise(Setting(64, 40, 60, False), arrivals, rate_pps) is None


def test_too_long_a_recording(monkeypatch):
    """What would be simulated for too long is not."""
    monkeypatch.setattr(advice, "CHUNKS_MOST", 10)
    assert advise(Setting(64, 40, 60, False), bursts(1, 1), 38_844.0) is None


def test_the_largest_losses_are_simulated_as_long_as_there_is_time(monkeypatch):
    """Whoever ends a capture waits for a bounded time; the losses stay in order of time."""
    losses = [Loss(queue, queue, queue, drops=Counter(pool_exhausted=packets)) for queue, packets in enumerate((5, 50))]
    clock, order = iter([0.0, 1.0, explain.ADVICE_S + 1]), []

    def explained(engine, loss, ring, cell, tell, in_time):
        order.append(loss.queue)
        return {"queue": loss.queue, "in_time": in_time}

    monkeypatch.setattr(explain, "time", SimpleNamespace(monotonic=clock.__next__))
    monkeypatch.setattr(explain, "_explained", explained)
    recorder = SimpleNamespace(engine=None, losses=SimpleNamespace(all=lambda: losses))
    found = explain.explain(recorder)
    assert order == [1, 0]
    assert found == [{"queue": 0, "in_time": False}, {"queue": 1, "in_time": True}]
