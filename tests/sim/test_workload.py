"""What arrives, and what it costs: counts, times, distributions, and what is refused."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from small import cost_of, runs, workloads

from wirecap.config.capture import PoolConfig
from wirecap.errors import UsageError
from wirecap.kernels.base.jit import PURE, kernel
from wirecap.kernels.base.kinds import i64, words
from wirecap.kernels.sim.arrivals import ARRIVALS
from wirecap.sim import bus, handler_cost, workload
from wirecap.sim.models import Dna, Netmap, PfRing, WireCap
from wirecap.sim.models.ring_models import SYNC_PS
from wirecap.sim.workload import PS, Runs, Workload, times_of
from wirecap.traffic import border_router as shape


@kernel(i64(ARRIVALS, i64, words))
def unroll(arrivals, queue, times):
    """The first times.size arrivals of a queue, one by one; how many there were."""
    total = 0
    for run in range(arrivals.first[queue], arrivals.first[queue + 1]):
        for i in range(arrivals.size[run]):
            if total == times.size:
                return total
            times[total] = arrivals.start[run] + i * arrivals.interval[run]
            total += 1
    return total


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


POISSON_BEGINS = [717_074, 3_722_123, 3_877_794]
"""PCG64's first number with seed 1 is 0.511821..., and -ln(1 - 0.511821...) is 0.717074."""


def test_poisson():
    """The same times on every machine, with the mean rate and shares that were asked for, and distances whose deviation
    is their mean; the seed repeats it."""
    first, again, other = (workload.poisson(200_000, 1e6, (0.75, 0.25), seed) for seed in (1, 1, 2))
    times = np.sort(np.concatenate([times_of(queue) for queue in first.queues])) / PS
    gaps = np.diff(times)
    assert sum(queue.packets for queue in first.queues) == 200_000
    assert times_of(first.queues[0])[:3].tolist() == POISSON_BEGINS
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


@given(
    st.integers(1, 10**7), st.integers(1, 5000), st.integers(0, 5000), st.integers(1, 10**5),
    st.lists(st.floats(0, 1), min_size=1, max_size=4).filter(lambda shares: sum(shares) > 0.01),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_on_off_loses_no_fractions(rate, on_us, off_us, duration_us, shares):
    """However few packets fall into a period, all periods together have as many as the rate asks for."""
    found = workload.on_off(rate, on_us / 1e6, off_us / 1e6, duration_us / 1e6, shares)
    period = on_us + off_us
    for number, (share, queue) in enumerate(zip(shares, found.queues, strict=True)):
        phase = period * number / len(shares)
        left = max(0, duration_us - phase)
        lasts_us = left // period * on_us + min(on_us, left % period)
        expected = rate * share / sum(shares) * lasts_us / 1e6
        assert queue.packets == pytest.approx(expected, abs=1 + 1e-6 * expected)
        assert queue.last_ps < duration_us * 10**6


def test_on_off_without_a_pause():
    """Packets that are always on are a constant rate, and less than one a period is one now and then."""
    (queue,) = workload.on_off(15e6, 1.0, 0.0, 3.0).queues
    assert queue.packets == 45_000_000
    assert workload.on_off(400, 1e-3, 9e-3, 10.0).packets == 400


@pytest.mark.parametrize("queues", [1, 4, 5, 6])
def test_border_router(queues):
    """32 s, 5 to 6 million packets, the same number however many queues; the hot queue near 80 kp/s with six."""
    packets = workload.border_router(queues)
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
            handler_cost.parse_handler_cost(text)
    for text in ("onoff:rate=1,on=1ns,off=0s,duration=1s", "onoff:rate=1,on=1s,off=1s,duration=300d",
                 "poisson:packets=50M,rate=1"):  # fmt: skip
        with pytest.raises(UsageError):
            workload.parse_workload(text, (1.0,))
    for text in ("burst", "burst:packets=1", "burst:packets=0,rate=1", "flood:rate=1", "burst:packets=1,rate=1,x=2"):
        with pytest.raises(UsageError):
            workload.parse_workload(text, (1.0,))
    for text in ("", "a", "0,0", "-1,2", "nan"):
        with pytest.raises(UsageError):
            workload.parse_shares(text)
    with pytest.raises(UsageError):
        Dna(1)
    for engine, field in ((PfRing, "kernel_ps"), (Netmap, "sync_ps"), (WireCap, "capture_ps"), (WireCap, "chunk_ps")):
        with pytest.raises(UsageError, match="at most an hour"):
            engine(**{field: 3601 * PS})


def test_costs_that_are_none(tmp_path):
    """A file of costs that is empty, no text, not numbers or beyond the clock is refused in one line."""
    for data in (b"", b"# nothing\n", b"x", b"-1", b"nan", b"inf", b"1e300", b"1 2\n", b"\xff\xfe"):
        (tmp_path / "costs").write_bytes(data)
        with pytest.raises(UsageError):
            handler_cost.measured(str(tmp_path / "costs"))


@pytest.mark.parametrize("engine", [Dna(8), Netmap(8), PfRing(8, 8), WireCap(4, 2, ring=8)])
def test_every_engine_meets_the_same_work(engine):
    """A packet costs what it costs, whatever was lost before it: a handler that gets the last packet, and the first
    that comes, works as long for it with every engine."""
    cost = handler_cost.exponential(1e6)
    alone = Runs.of([0, PS], [0, 0], [100, 1])  # most of the first hundred are lost, the last one is not
    busy_s = engine.simulate(Workload("two", (alone,)), cost).queues[0].busy_s
    first = engine.simulate(Workload("one", (Runs.of([0], [0], [100]),)), cost).queues[0].busy_s
    extra = SYNC_PS / PS if isinstance(engine, Netmap) else 0
    expected = cost_of(cost, 1)(0, 100) / PS
    assert busy_s - first - extra == pytest.approx(expected, rel=1e-6)


def test_handler_costs(tmp_path):
    """x = 300 is 38,844 p/s; every distribution has the mean that was asked for; a file's costs are resampled."""
    assert handler_cost.filters(300).rate_pps == pytest.approx(38_844, rel=1e-6)
    assert handler_cost.filters(0).mean_ps < 67_200
    assert handler_cost.filters(299).mean_ps == pytest.approx(handler_cost.filters(300).mean_ps * 299 / 300, rel=1e-3)
    for text in ("exponential:rate=38844", "lognormal:rate=38844,sigma=1.5", "pkt_handler:rate=38844"):
        assert handler_cost.parse_handler_cost(text).rate_pps == pytest.approx(38_844, rel=1e-4)
    file = tmp_path / "costs"
    file.write_text("100\n300\n")
    found = handler_cost.parse_handler_cost(f"costs:file={file}")
    assert found.mean_ps == pytest.approx(200_000)
    assert found.costs.min() < 110_000 < 290_000 < found.costs.max()


@pytest.mark.skipif(PURE, reason="so many draws take compiled kernels")
def test_drawn_costs_have_their_distribution():
    """The mean busy time of 10^6 exponential packets is the distribution's, and another seed gives other costs."""
    cost = handler_cost.exponential(1e6)
    packets = workload.burst(10**6, 1e3)
    first, other = (Dna().simulate(packets, cost, seed=seed).queues[0].busy_s for seed in (1, 2))
    assert first == pytest.approx(1.0, rel=0.01)
    assert first != other


@given(st.integers(1, 4), st.floats(0.2, 3))
@settings(max_examples=40, deadline=None)
def test_bus_takes_its_share_of_every_queue(queues, fill):
    """Below its budget the bus loses nothing; above it, budget packets a second pass, each queue losing alike."""
    rate = 1e6
    offered = workload.burst(20_000 * queues, rate, workload.even(queues))
    left = bus.passing(offered, round(PS / rate * fill))
    for first, second in zip(offered.queues, left.queues, strict=True):
        expected = first.packets * max(0, 1 - 1 / fill)
        assert first.packets - second.packets == pytest.approx(expected, abs=bus.HELD / queues + 2)


@pytest.mark.kernel
@given(workloads())
@settings(max_examples=200, deadline=None)
def test_a_bus_that_moves_everything_changes_nothing(offered):
    """A bus with room for all of the packets leaves every run as it is, whatever the workload."""
    left = bus.passing(offered, 1)
    for first, second in zip(offered.queues, left.queues, strict=True):
        assert all((getattr(first, name) == getattr(second, name)).all() for name in ("start", "interval", "count"))


@pytest.mark.kernel
@given(workloads(), st.integers(1, 10**9), st.integers(1, 10**9), st.data())
@settings(max_examples=300, deadline=None)
def test_what_passes_a_bus_is_what_it_can_move(small, scale, place_ps, data):
    """Nothing is made up or moved out of its run, and in no stretch of time more passes than the bus moves and holds,
    give or take two packets at each end of a queue's stretch."""
    offered = Workload("scaled", tuple(Runs.of(q.start * scale, q.interval * scale, q.count) for q in small.queues))
    left = bus.passing(offered, place_ps)
    whole = np.sort(np.concatenate([times_of(queue) for queue in left.queues]))
    for first, second in zip(offered.queues, left.queues, strict=True):
        assert second.packets <= first.packets
        after = times_of(second)
        for start, interval, count in zip(first.start, first.interval, first.count, strict=True):
            end = start + (count - 1) * interval
            inside = ((after >= start) & (after <= end)).sum()
            elsewhere = ((times_of(first) >= start) & (times_of(first) <= end)).sum()
            assert inside <= elsewhere
        assert not after.size or any(first.start <= after[0])
    if whole.size:
        begin, end = sorted(data.draw(st.integers(0, whole.size - 1)) for _ in range(2))
        held = max(bus.HELD_PS, bus.HELD * place_ps)
        most = (whole[end] - whole[begin] + held) / place_ps + 4 * len(offered.queues)
        assert end - begin + 1 <= most


@pytest.mark.kernel
@given(workloads(), st.integers(1, 10**9), st.integers(10**3, 10**9), st.integers(2, 3))
@settings(max_examples=100, deadline=None)
def test_every_packet_of_a_bus_has_a_name(small, scale, budget_pps, nics):
    """Whatever comes, each NIC's queues account for each of their packets: handled, lost on the bus, or in the ring."""
    offered = Workload("scaled", tuple(Runs.of(q.start * scale, q.interval * scale, q.count) for q in small.queues))
    result = bus.simulate(Dna(8), offered, handler_cost.rate(10**8), nics=nics, bus=bus.Bus(budget_pps))
    assert [queue.received for queue in result.queues] == [queue.packets for queue in offered.queues] * nics
    for queue in result.queues:
        assert queue.received == queue.delivered + queue.drops["bus_saturated"] + queue.drops["ring_full"]


def test_a_bus_cuts_short_bursts_and_leaves_the_silence():
    """Bursts of 672 us that come at 1.25 times what the bus moves lose a fifth each, and last as long as before."""
    offered = workload.on_off(14.88e6, 672e-6, 0.01, 0.1)
    left = bus.passing(offered, round(PS / 11.904e6))
    assert left.packets / offered.packets == pytest.approx(0.8, abs=0.02)
    gaps = np.diff(times_of(left.queues[0]))
    assert (gaps > PS // 200).sum() == (np.diff(times_of(offered.queues[0])) > PS // 200).sum()


def test_a_slow_burst_on_a_bus_costs_no_time():
    """What the bus reckons depends on the runs, not on how long they last: 10^6 packets in 11 days, none is lost."""
    offered = workload.burst(10**6, 1.0)
    assert bus.passing(offered, 10**9) == offered


def test_single_packets_fill_a_bus():
    """Poisson packets at 1.25 times what the bus moves lose a fifth, at four fifths of it none."""
    offered = workload.poisson(100_000, 1e6, (0.5, 0.5))
    assert bus.passing(offered, 1_250_000).packets / offered.packets == pytest.approx(0.8, abs=0.01)
    assert bus.passing(offered, 800_000).packets == offered.packets


def test_what_wirecap_costs_on_the_bus():
    """(256,100) costs 6 % more than DNA with one queue and 1 % with six; (256,500) grows from 2 GiB of pools on."""
    small, large = PoolConfig(256, 100), PoolConfig(256, 500)
    model = bus.Bus()
    assert [model.extra(small, queues) for queues in (1, 6)] == pytest.approx([0.06, 0.01])
    assert [model.extra(large, queues) - model.extra(small, queues) for queues in (1, 4)] == [0, 0]
    assert model.extra(large, 6) > model.extra(large, 5) > model.extra(small, 5)
