"""The simulator's event loops against SimPy's, on small cases: identical counts."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from small import cost_of, loads, times, workloads

from wirecap.kernels.pool import offload_policy
from wirecap.sim.models import Dna, Netmap, PfRing, WireCap
from wirecap.sim.workload import PS

pytest.importorskip("simpy", reason="SimPy is not installed (it is in the extra 'test')")
import simpy_engines as peer

choose = getattr(offload_policy.choose_capture_queue, "py_func", offload_policy.choose_capture_queue)
pytestmark = pytest.mark.kernel
few = settings(max_examples=150, deadline=None)
wires = st.sampled_from([0, 0, 3, 30])


def assert_agree(result, expected):
    """Every counter of every queue, how long its handler worked, and when all was over."""
    for queue, counted in zip(result.queues, expected.counts, strict=True):
        assert queue.busy_s == counted.pop("busy_ps", 0) / PS
        found = Counter({name: getattr(queue, name) for name in ("delivered", "forwarded", "offloaded")} | queue.drops)
        assert found == counted
    assert result.duration_s == expected.ended / PS


@given(workloads(), loads(), st.integers(2, 9), wires)
@few
def test_dna(workload, cost, ring, transmit_ps):
    """DNA does what SimPy says, also when all queues' packets leave on one wire."""
    result = Dna(ring).simulate(workload, cost, transmit_ps=transmit_ps)
    assert_agree(result, peer.Dna(times(workload), cost_of(cost, 1), ring, transmit_ps))


@given(workloads(), loads(), st.integers(2, 9), st.sampled_from([0, 3, 50]))
@few
def test_netmap(workload, cost, ring, sync_ps):
    """NETMAP does what SimPy says: a slot stays empty, and slots come back at a sync."""
    result = Netmap(ring, sync_ps).simulate(workload, cost)
    assert_agree(result, peer.Netmap(times(workload), cost_of(cost, 1), ring - 1, sync_ps))


@given(workloads(), loads(), st.integers(2, 9), st.integers(1, 9), st.sampled_from([1, 2, 5, 20]), wires)
@few
def test_pf_ring(workload, cost, ring, slots, kernel_ps, transmit_ps):
    """PF_RING does what SimPy says, and loses at the NIC's ring and at the slots."""
    result = PfRing(ring, slots, kernel_ps).simulate(workload, cost, transmit_ps=transmit_ps)
    assert_agree(result, peer.PfRing(times(workload), cost_of(cost, 1), ring, slots, kernel_ps, transmit_ps))


@given(
    workloads(), loads(), st.integers(1, 6), st.integers(2, 6), st.booleans(), st.sampled_from([1, 50, 100]),
    st.sampled_from([0, 5, 40]), st.sampled_from([5, 60, 1000]), wires,
)  # fmt: skip
@few
def test_wirecap(workload, cost, M, R, advanced, T, capture_ps, timeout_ps, transmit_ps):
    """WireCAP delivers, offloads, forwards and loses what SimPy says, with the live engine's policy in both."""
    engine = WireCap(M, R, T, advanced, ring=2 * M, capture_ps=capture_ps, timeout_ps=timeout_ps)
    result = engine.simulate(workload, cost, transmit_ps=transmit_ps)
    group = np.arange(len(workload.queues))

    def chosen(home, depths):
        return int(choose(home, np.array(depths), group, len(group), R, T)) if advanced else home

    expected = peer.WireCap(
        times(workload), cost_of(cost, 1), chosen, M=M, R=R, most=min(R, 2), capture_ps=capture_ps,
        timeout_ps=timeout_ps, transmit_ps=transmit_ps,
    )  # fmt: skip
    assert_agree(result, expected)


def test_random_situations_reach_every_branch():
    """The situations above have every engine's drops, and a full wire: the agreement is not an empty one."""
    seen = set()

    @given(workloads(), loads(), st.integers(2, 9), st.integers(1, 9), st.integers(0, 20))
    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    def look(workload, cost, ring, slots, transmit_ps):
        for engine in (Dna(ring), Netmap(ring), PfRing(ring, slots, 20)):
            seen.update((engine.name, name) for name in engine.simulate(workload, cost).drops())
        free, wired = (Dna(ring).simulate(workload, cost, transmit_ps=ps) for ps in (0, transmit_ps))
        if wired.total("dropped") > free.total("dropped"):
            seen.add("wire")

    look()
    assert seen == {("dna", "ring_full"), ("netmap", "ring_full"), ("pf_ring", "nic_ring_full"),
                    ("pf_ring", "slots_full"), "wire"}  # fmt: skip
