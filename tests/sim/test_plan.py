"""The planner against the simulator."""

from __future__ import annotations

import json
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given, settings

from wirecap.errors import UsageError
from wirecap.kernels.jit import PURE
from wirecap.sim import measured
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
@settings(max_examples=120, deadline=None)
def test_a_longer_burst_does_not(demand):
    """In basic mode a burst of five chunks more on the worst queue loses packets: no pool is planned too deep."""
    assume(demand.handler_pps < 0.9 * demand.rate_pps * demand.worst_share)
    found = plan(demand, advanced=False)
    filled = 1 - demand.handler_pps / demand.rate_pps / demand.worst_share
    longer = int(found.burst_survived + 5 * found.M / filled / demand.worst_share) + demand.queues
    assume(longer < 3_000_000)
    assert check(replace(found, demand=replace(demand, burst_packets=longer))).drop_rate > 0


@given(demands(), st.integers(64, 512), st.integers(4, 200))
@settings(max_examples=120, deadline=None)
def test_expected_loss_of_given_pools(demand, M, R):
    """With M and R given, the loss on the worst queue is the simulated one's, within three chunks."""
    found = plan(demand, advanced=False, M=M, R=R)
    assume(hands_over(demand, M))
    simulated = check(found).queues[0].dropped
    assert simulated == pytest.approx(found.burst_loss * demand.burst_packets, abs=3 * M + demand.queues)


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
        assert (lost > 0.01) == any("all its buddies busy" in note for note in found.notes)


def test_a_capture_thread_that_cannot_follow():
    """400 Gbit/s of short frames on one queue: the plan says that chunks of 64 come too fast, and so does the loss."""
    demand = Demand(4e11, 64, 1, 1, 100_000, 1e8)
    found = plan(demand, M=64, R=2000)
    assert any("faster than a capture thread" in note for note in found.notes)
    assert "capture_late" in check(found).drops()


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


def test_from_summary(tmp_path):
    """A summary gives queues, worst share, mean rate, and the handler's rate where a queue was overloaded."""
    rows = [
        {"received": 900, "delivered": 500, "drops": {"pool_exhausted": 400}},
        {"received": 100, "delivered": 100, "drops": {}},
    ]
    summary = {"duration_s": 2.0, "packets": {"received": 1000}, "bytes": {"received": 60_000}, "per_queue": rows}
    file = tmp_path / "summary.json"
    file.write_text(json.dumps(summary))
    assert measured.read(str(file)) == measured.Measured(2, 0.9, 500.0, 64, 250.0)
    summary["mode"] = "advanced"  # then the other queue's handler did a part of it
    file.write_text(json.dumps(summary))
    assert measured.read(str(file)).handler_pps == 150.0
    summary["per_queue"][0]["drops"] = {}
    file.write_text(json.dumps(summary))
    assert measured.read(str(file)).handler_pps is None
    file.write_text("{}")
    with pytest.raises(UsageError, match="no summary"):
        measured.read(str(file))


@pytest.mark.parametrize(
    "wrong",
    [
        {"queues": 65}, {"queues": 0}, {"worst_share": 0.1}, {"worst_share": 1.5}, {"link_bps": 1e12},
        {"frame_bytes": 40}, {"burst_packets": 0}, {"handler_pps": 0}, {"mean_pps": 2e7}, {"burst_pps": 2e7},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(wrong):
    """A demand that no link or NIC can have is an error with a hint, not a plan."""
    good = {"link_bps": 1e10, "frame_bytes": 64, "queues": 4, "worst_share": 0.4, "burst_packets": 1000,
            "handler_pps": 1e5}  # fmt: skip
    with pytest.raises(UsageError) as error:
        Demand(**{**good, **wrong})
    assert error.value.hint
