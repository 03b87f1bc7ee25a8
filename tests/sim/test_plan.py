"""The planner against the simulator."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, assume, given, settings

from wirecap.errors import UsageError
from wirecap.kernels.base.jit import PURE
from wirecap.sim import plan as planner
from wirecap.sim.plan import Demand, check, hands_over, plan

pytestmark = pytest.mark.skipif(PURE, reason="plans are checked by compiled kernels")


@st.composite
def demands(draw):
    queues = draw(st.integers(1, 64))
    return Demand(
        link_bps=draw(st.sampled_from([1e9, 1e10, 2.5e10, 1e11, 4e11])),
        frame_bytes=draw(st.sampled_from([64, 100, 512, 1518])),
        queues=queues,
        worst_share=draw(st.floats(1 / queues, 1)),
        burst_packets=draw(st.integers(1_000, 2_000_000)),
        handler_pps=draw(st.floats(1_000, 5_000_000)),
    )


@given(demands(), st.booleans())
@settings(max_examples=120, deadline=None)
def test_the_planned_burst_survives_in_the_simulator(demand, advanced):
    """From 1 GbE to 400 GbE and up to 64 queues: with the planned M and R the simulated burst loses nothing."""
    found = plan(demand, advanced=advanced)
    assert found.survives
    assert check(found).drop_rate == 0
    assert found.memory_bytes == demand.queues * found.R * found.M * 2048


@given(demands())
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_longer_burst_does_not(demand):
    """In basic mode a burst of five chunks more on the worst queue loses packets: no pool is planned too deep."""
    assume(demand.handler_pps < 0.9 * demand.rate_pps * demand.worst_share)
    found = plan(demand, advanced=False)
    filled = 1 - demand.handler_pps / demand.rate_pps / demand.worst_share
    longer = int(found.burst_survived + 5 * found.M / filled / demand.worst_share) + demand.queues
    assume(longer < 3_000_000)
    assert check(replace(found, demand=replace(demand, burst_packets=longer))).drop_rate > 0


@given(demands(), st.integers(64, 512), st.integers(4, 200))
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_expected_loss_of_given_pools(demand, M, R):
    """With M and R given, what all queues together lose when simulated is at most the reckoned loss, and at most three
    chunks of each queue less."""
    found = plan(demand, advanced=False, M=M, R=R)
    assume(hands_over(demand, M))
    reckoned, simulated = found.burst_loss * demand.burst_packets, check(found).total("dropped")
    rounded = 2 * demand.queues
    assert reckoned - 3 * M * demand.queues - rounded <= simulated <= reckoned + rounded


@given(demands(), st.integers(64, 512), st.integers(4, 200))
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_buddies_lose_no_more(demand, M, R):
    """In advanced mode the reckoned loss of a burst is a bound: buddies make it smaller, never larger."""
    found = plan(demand, advanced=True, M=M, R=R)
    assume(hands_over(demand, M))
    assert check(found).total("dropped") <= found.burst_loss * demand.burst_packets + 2 * demand.queues


@given(demands(), st.integers(64, 512), st.integers(2, 200))
@settings(max_examples=120, deadline=None)
def test_a_burst_that_survives_loses_nothing(demand, M, R):
    """In a plan a burst survives exactly when none of it is lost."""
    found = plan(demand, M=M, R=R)
    assert found.survives == (found.burst_loss < 1e-12)


@pytest.mark.parametrize("handler_pps", [38_844, 15_000_000])
def test_of_an_endless_burst_the_beginning_is_simulated(handler_pps):
    """Of 10^12 packets at 10 GbE as much is simulated as takes seconds, long after the pool is full (or never will be),
    and its loss is the one reckoned for so many packets."""
    found = plan(Demand(1e10, 64, 1, 1, 10**12, handler_pps), M=256, R=100)
    simulated = check(found)
    packets = simulated.total("received")
    assert 1000 * 256 * 100 < packets <= planner.CHUNKS_MOST * 256
    assert simulated.drop_rate == pytest.approx(found.loss_of(packets), abs=1e-4)


def test_a_slow_endless_burst_is_bounded_too():
    """At one packet a second every chunk has one packet: the simulated time is bounded, not the packets alone."""
    found = plan(Demand(1e10, 64, 4, 0.25, 10**12, 1000, burst_pps=1), M=256, R=100)
    assert check(found).drop_rate == 0


def test_pools_beyond_any_host_are_not_simulated():
    """Pools of 64 million chunks are reckoned, not simulated."""
    found = plan(Demand(4e11, 64, 64, 1 / 64, 10**6, 1000), M=64, R=1_000_000)
    assert found.survives
    assert check(found) is None


@given(st.integers(1, 8), st.floats(0, 1), st.floats(0.2, 4), st.booleans())
@settings(max_examples=20, deadline=None)
def test_loss_in_the_long_run(queues, uneven, load_of_all, advanced):
    """What is lost of traffic that lasts is the simulated loss, within one percentage point: 200 times what the pools
    hold comes, so that what they hold counts for half a point at the most."""
    worst = 1 / queues + uneven * (1 - 1 / queues)
    handler = 50_000.0
    mean = load_of_all * queues * handler
    found = plan(Demand(1e10, 64, queues, worst, 1000, handler, burst_pps=mean, mean_pps=mean), advanced=advanced)
    lasting = replace(found.demand, burst_packets=200 * queues * found.M * found.R)
    assert check(replace(found, demand=lasting)).drop_rate == pytest.approx(found.mean_loss, abs=0.01)


@pytest.mark.parametrize("queues", [2, 6, 16, 64])
def test_buddies_need_chunks(queues):
    """All traffic on one of n queues, as much as all handlers do: the planned R keeps every buddy busy; a quarter of it
    does not, and loses what its note and its reckoned loss say, within what one handler does."""
    mean = 0.99 * queues * 50_000
    demand = Demand(4e11, 64, queues, 1.0, 1000, 50_000, burst_pps=mean, mean_pps=mean)
    for R in (None, plan(demand, advanced=True).R // 4):
        found = plan(demand, advanced=True, M=64, R=R)
        lasting = replace(found.demand, burst_packets=200 * 64 * found.R)
        lost = check(replace(found, demand=lasting)).drop_rate
        assert lost == pytest.approx(found.mean_loss, abs=0.01 if R is None else 1 / queues)
        assert (lost > 0.01) == any("cannot keep all buddies of a queue busy" in note for note in found.notes)


def test_a_capture_thread_that_cannot_follow():
    """400 Gbit/s of short frames on one queue: the plan says that chunks of 64 come too fast, and promises nothing."""
    demand = Demand(4e11, 64, 1, 1, 100_000, 1e8)
    found = plan(demand, M=64, R=2000)
    assert not found.survives
    assert any("faster than a capture thread" in note for note in found.notes)
    simulated = check(found)
    assert "capture_late" in simulated.drops()
    assert simulated.drop_rate <= found.burst_loss


def test_lasting_overload_of_one_queue_calls_for_advanced_mode():
    """One queue beyond its handler, all together below: advanced mode, T = 50 % where drops are critical, else 80 %."""
    demand = Demand(1e10, 64, 4, 0.6, 100_000, 40_000, mean_pps=100_000)
    assert plan(demand).advanced
    assert plan(demand).T == 50
    assert plan(replace(demand, drops_critical=False)).T == 80
    assert plan(demand).mean_loss == 0
    assert plan(demand, advanced=False).mean_loss == pytest.approx(0.2)
    assert not plan(replace(demand, mean_pps=50_000)).advanced


def test_paper_pool():
    """(256,100) on six queues is 300 MiB, as the paper reckons n*R*M*2 KiB."""
    found = plan(Demand(1e10, 64, 6, 1, 10_000, 38_844), M=256, R=100)
    assert found.memory_bytes == 300 << 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"queues": 65}, {"queues": 0}, {"worst_share": 0.1}, {"worst_share": 1.5}, {"link_bps": 1e12},
        {"frame_bytes": 40}, {"burst_packets": 0}, {"handler_pps": 0}, {"mean_pps": 2e7}, {"burst_pps": 2e7},
        {"burst_pps": 0}, {"mean_pps": -1},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(wrong):
    """A demand that no link or NIC can have is an error with a hint, not a plan."""
    good = {"link_bps": 1e10, "frame_bytes": 64, "queues": 4, "worst_share": 0.4, "burst_packets": 1000,
            "handler_pps": 1e5}  # fmt: skip
    with pytest.raises(UsageError) as error:
        Demand(**{**good, **wrong})
    assert error.value.hint
