"""The chunk-by-chunk simulation of WireCAP against one that visits every packet."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from naive_wirecap import Naive
from small import cost_of, loads, times, workloads

from wirecap.kernels.pool import offload_policy
from wirecap.sim.models import WireCap
from wirecap.sim.workload import PS

choose = getattr(offload_policy.choose_capture_queue, "py_func", offload_policy.choose_capture_queue)
pytestmark = pytest.mark.kernel


@st.composite
def engines(draw):
    M = draw(st.integers(1, 8))
    return WireCap(
        M=M,
        R=draw(st.integers(2, 8)),
        T=draw(st.sampled_from([1, 25, 50, 60, 100])),
        advanced=draw(st.booleans()),
        ring=max(2, M * draw(st.integers(1, 4))),
        capture_ps=draw(st.sampled_from([0, 0, 1, 7, 100])),
        timeout_ps=draw(st.sampled_from([1, 10, 50, 1000])),
        chunk_ps=draw(st.sampled_from([0, 3])),
        away_percent=draw(st.sampled_from([0, 20])),
        groups=draw(st.sampled_from([(), ((0,),)])),
    )


def naive(engine: WireCap, workload, cost, seed, transmit_ps) -> Naive:
    everyone = tuple(range(len(workload.queues)))

    def chosen(home, depths):
        group = next((group for group in engine.groups or (everyone,) if home in group), ())
        if not engine.advanced:
            return home
        return int(choose(home, np.array(depths), np.array(group, np.int64), len(group), engine.R, engine.T))

    return Naive(
        times(workload), cost_of(cost, seed), chosen, M=engine.M, R=engine.R,
        most=min(engine.R, max(1, engine.ring // engine.M)), capture_ps=engine.capture_ps,
        timeout_ps=engine.timeout_ps, chunk_ps=engine.chunk_ps, away=engine.away_percent, transmit_ps=transmit_ps,
    ).run()  # fmt: skip


@given(engines(), workloads(), loads(), st.integers(0, 3), st.sampled_from([0, 0, 2]))
@settings(max_examples=600, deadline=None)
def test_chunks_and_packets_agree(engine, workload, cost, seed, transmit_ps):
    """Whatever the pool, the traffic and the costs, with coincidences: every counter of every queue is the same."""
    result = engine.simulate(workload, cost, seed=seed, transmit_ps=transmit_ps)
    expected = naive(engine, workload, cost, seed, transmit_ps)
    for queue, counted in zip(result.queues, expected.counts, strict=True):
        busy_ps = counted.pop("busy_ps")
        assert {name: getattr(queue, name, queue.drops.get(name)) for name in counted} == counted
        assert queue.busy_s == busy_ps / PS
    assert result.duration_s == expected.ended / PS


def test_random_situations_reach_every_branch():
    """The situations above have drops of both kinds and offloaded chunks: the agreement is not an empty one."""
    seen = set()

    @given(engines(), workloads(), loads())
    @settings(max_examples=400, deadline=None, database=None, derandomize=True)
    def look(engine, workload, cost):
        result = engine.simulate(workload, cost)
        seen.update(result.drops())
        if result.total("offloaded"):
            seen.add("offloaded")

    look()
    assert seen == {"pool_exhausted", "capture_late", "offloaded"}
