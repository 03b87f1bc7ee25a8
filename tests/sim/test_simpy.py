"""The simulator's event loops against SimPy's, on small cases: identical counts."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from small import cost_of, loads, times, workloads

from wirecap.kernels import policy
from wirecap.sim.engines import Dna, Netmap, PfRing, WireCap

pytest.importorskip("simpy", reason="SimPy is not installed (it is in the extra 'test')")
import simpy_engines as peer

choose = getattr(policy.choose, "py_func", policy.choose)
pytestmark = pytest.mark.kernel
few = settings(max_examples=150, deadline=None)


@given(workloads(), loads(), st.integers(2, 9))
@few
def test_dna(workload, load, ring):
    """DNA loses what SimPy says, queue by queue."""
    result = Dna(ring).simulate(workload, load)
    cost = cost_of(load, 1)
    for queue, arrivals in enumerate(times(workload)):
        found = result.queues[queue]
        expected = peer.dna(arrivals, lambda number, queue=queue: cost(queue, number), ring)
        assert (found.delivered, found.dropped) == expected


@given(workloads(), loads(), st.integers(2, 9), st.sampled_from([0, 3, 50]))
@few
def test_netmap(workload, load, ring, sync_ps):
    """NETMAP loses what SimPy says: a slot stays empty, and slots come back at a sync."""
    result = Netmap(ring, sync_ps).simulate(workload, load)
    cost = cost_of(load, 1)
    for queue, arrivals in enumerate(times(workload)):
        found = result.queues[queue]
        expected = peer.netmap(arrivals, lambda number, queue=queue: cost(queue, number), ring - 1, sync_ps)
        assert (found.delivered, found.dropped) == expected


@given(workloads(), loads(), st.integers(2, 9), st.integers(1, 9), st.sampled_from([1, 2, 5, 20]))
@few
def test_pf_ring(workload, load, ring, slots, kernel_ps):
    """PF_RING loses what SimPy says, at the NIC's ring and at the slots."""
    result = PfRing(ring, slots, kernel_ps).simulate(workload, load)
    cost = cost_of(load, 1)
    for queue, arrivals in enumerate(times(workload)):
        found = result.queues[queue]
        expected = peer.pf_ring(arrivals, lambda number, queue=queue: cost(queue, number), ring, slots, kernel_ps)
        assert (found.delivered, found.drops["nic_ring_full"], found.drops["slots_full"]) == expected


@given(
    workloads(), loads(), st.integers(1, 6), st.integers(2, 6), st.booleans(), st.sampled_from([1, 50, 100]),
    st.sampled_from([0, 5, 40]), st.sampled_from([5, 60, 1000]),
)  # fmt: skip
@few
def test_wirecap(workload, load, M, R, advanced, T, capture_ps, timeout_ps):
    """WireCAP delivers, offloads and loses what SimPy says, with the live engine's policy in both."""
    engine = WireCap(M, R, T, advanced, ring=2 * M, capture_ps=capture_ps, timeout_ps=timeout_ps)
    result = engine.simulate(workload, load)
    group = np.arange(len(workload.queues))

    def chosen(home, depths):
        return int(choose(home, np.array(depths), group, len(group), R, T)) if advanced else home

    expected = peer.WireCap(
        times(workload), cost_of(load, 1), chosen, M=M, R=R, most=min(R, 2), capture_ps=capture_ps,
        timeout_ps=timeout_ps,
    ).counts  # fmt: skip
    assert [[queue.delivered, queue.offloaded, queue.dropped] for queue in result.queues] == expected
