"""What arrives, and what it costs: counts, times, distributions, and what is refused."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from small import runs

from wirecap.config import PoolConfig
from wirecap.errors import UsageError
from wirecap.kernels.jit import PURE
from wirecap.kernels.sim_arrivals import unroll
from wirecap.sim import border_router, bus, load, workload, workload_spec
from wirecap.sim.engines import Dna
from wirecap.sim.workload import PS, Runs, Workload, times_of
from wirecap.traffic import border_router as shape


def test_wire_rate():
    """64-byte frames at 10 Gbit/s are 67.2 ns apart, which is 14.88 Mp/s; 100-byte frames are 10.42 Mp/s."""
    assert workload.interval_ps(workload.wire_rate_pps(10e9, 64)) == 67_200
    assert workload.wire_rate_pps(10e9, 64) == pytest.approx(14_880_952, abs=1)
    assert workload.wire_rate_pps(10e9, 100) == pytest.approx(10_416_667, abs=1)


@pytest.mark.kernel
@given(st.lists(runs(), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_kernels_and_numpy_unroll_alike(queues):
    """The kernels' view of runs is every packet's time, in order, queue by queue."""
    arrivals = Workload("random", tuple(queues)).arrivals()
    for number, queue in enumerate(queues):
        times = np.zeros(queue.packets + 1, np.int64)
        assert unroll(arrivals, number, times) == queue.packets
        assert times[:-1].tolist() == times_of(queue).tolist() == sorted(times[:-1].tolist())


@given(st.integers(1, 10**6), st.lists(st.floats(0, 10), min_size=1, max_size=8).filter(sum))
def test_a_burst_has_as_many_packets_as_asked_for(packets, shares):
    """Shares are met to a packet or so, and none is lost to rounding; a share of 0 gets nothing."""
    parts = workload.split(packets, shares)
    assert sum(parts) == packets
    for part, share in zip(parts, shares, strict=True):
        assert part == pytest.approx(packets * share / sum(shares), abs=len(shares) + 1)
        assert part == 0 or share > 0


def test_poisson():
    """Mean rate and shares are as asked for, the distances' deviation is their mean; the seed repeats it."""
    first, again, other = (workload.poisson(200_000, 1e6, (0.75, 0.25), seed) for seed in (1, 1, 2))
    times = np.sort(np.concatenate([times_of(queue) for queue in first.queues])) / PS
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(1e-6, rel=0.02)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.02)
    assert first.queues[0].packets == pytest.approx(150_000, rel=0.02)
    assert (
        times_of(first.queues[0]).tolist() == times_of(again.queues[0]).tolist() != times_of(other.queues[0]).tolist()
    )


def test_on_off():
    """200 kp/s for 10 ms of every 100 ms is 2,000 packets each time, and silence in between."""
    (queue,) = workload.on_off(200_000, 0.01, 0.09, 1.0).queues
    assert queue.count.tolist() == [2000] * 10
    assert np.diff(queue.start).tolist() == [PS // 10] * 9
    assert queue.interval.tolist() == [5_000_000] * 10


@pytest.mark.parametrize("queues", [1, 4, 5, 6])
def test_border_router(queues):
    """32 s, 5 to 6 million packets, the same number however many queues; the hot queue near 80 kp/s with six."""
    packets = border_router.workload(queues)
    assert packets.packets == pytest.approx(5_920_065, abs=queues)
    assert 5e6 < packets.packets < 6e6
    assert packets.duration_s == pytest.approx(32, abs=0.01)
    means = [queue.packets / 32 for queue in packets.queues]
    assert means[0] == max(means)
    if queues == 6:
        assert means[0] == pytest.approx(80_000, rel=0.02)
        assert max(means[1:]) < 38_844
        busiest = max(shape.rates(6)[:, 1:].max(axis=0))
        assert busiest > 5 * 38_844  # short bursts on the others


def test_what_cannot_be_is_refused():
    """Packets out of order, in the past or for ever, and handlers or workloads that are none."""
    for wrong in ([5, 4], [-1], [2 * workload.LATEST_PS]):
        with pytest.raises(UsageError):
            Runs.at(wrong)
    for text in ("pkt_handler", "pkt_handler:x=-1", "pkt_handler:x=3,rate=4", "lognormal:rate=1k,sigma=0", "write"):
        with pytest.raises(UsageError):
            load.parse(text)
    for text in ("burst", "burst:packets=1", "burst:packets=0,rate=1", "flood:rate=1", "burst:packets=1,rate=1,x=2"):
        with pytest.raises(UsageError):
            workload_spec.parse(text, (1.0,))
    for text in ("", "a", "0,0", "-1,2", "nan"):
        with pytest.raises(UsageError):
            workload_spec.parse_shares(text)
    with pytest.raises(UsageError):
        Dna(1)


def test_handler_costs(tmp_path):
    """x = 300 is 38,844 p/s; every distribution has the mean that was asked for; a file's costs are resampled."""
    assert load.filters(300).rate_pps == pytest.approx(38_844, rel=1e-6)
    assert load.filters(0).mean_ps < 67_200
    assert load.filters(299).mean_ps == pytest.approx(load.filters(300).mean_ps * 299 / 300, rel=1e-3)
    for text in ("exponential:rate=38844", "lognormal:rate=38844,sigma=1.5", "pkt_handler:rate=38844"):
        assert load.parse(text).rate_pps == pytest.approx(38_844, rel=1e-4)
    file = tmp_path / "costs"
    file.write_text("100\n300\n")
    found = load.parse(f"costs:file={file}")
    assert found.mean_ps == pytest.approx(200_000)
    assert found.costs.min() < 110_000 < 290_000 < found.costs.max()


@pytest.mark.skipif(PURE, reason="so many draws take compiled kernels")
def test_drawn_costs_have_their_distribution():
    """The mean busy time of 10^6 exponential packets is the distribution's, and another seed gives other costs."""
    cost = load.exponential(1e6)
    packets = workload.burst(10**6, 1e3)
    first, other = (Dna().simulate(packets, cost, seed=seed).queues[0].busy_s for seed in (1, 2))
    assert first == pytest.approx(1.0, rel=0.01)
    assert first != other


@given(st.integers(1, 3), st.integers(1, 4), st.floats(0.2, 3))
@settings(max_examples=40, deadline=None)
def test_bus_takes_its_share_of_every_queue(nics, queues, fill):
    """Below its budget the bus loses nothing; above it, budget packets a second pass, each queue losing alike."""
    rate = 1e6
    offered = [workload.burst(20_000 * queues, rate, workload.even(queues)) for _ in range(nics)]
    left, lost = bus.share(offered, nics * rate / fill, 1.0)
    for before, after, gone in zip(offered, left, lost, strict=True):
        for first, second, missing in zip(before.queues, after.queues, gone, strict=True):
            assert first.packets == second.packets + missing
            expected = first.packets * max(0, 1 - 1 / fill)
            # the last slice is not full: at most one slice of 1 ms more passes
            assert missing == pytest.approx(expected, abs=0.001 * rate / queues + 2)


def test_what_wirecap_costs_on_the_bus():
    """(256,100) costs 6 % more than DNA with one queue and 1 % with six; (256,500) grows from 2 GiB of pools on."""
    small, large = PoolConfig(256, 100), PoolConfig(256, 500)
    model = bus.Bus()
    assert [model.extra(small, queues) for queues in (1, 6)] == pytest.approx([0.06, 0.01])
    assert [model.extra(large, queues) - model.extra(small, queues) for queues in (1, 4)] == [0, 0]
    assert model.extra(large, 6) > model.extra(large, 5) > model.extra(small, 5)
