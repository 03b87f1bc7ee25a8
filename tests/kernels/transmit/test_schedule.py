"""Times and admission: what is due when, and which packets an interface can send."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wirecap.errors import UsageError
from wirecap.kernels.transmit import schedule as k
from wirecap.kernels.transmit.frames import Frames
from wirecap.traffic.timing import Schedule, Timing


def times(timing, timestamps, lengths=None, batches=1):
    """When packets are due, given to the schedule in so many parts."""
    schedule = Schedule(timing)
    lengths = [60] * len(timestamps) if lengths is None else lengths
    found = []
    for timestamp, length in zip(np.array_split(timestamps, batches), np.array_split(lengths, batches), strict=True):
        found += schedule.apply(timestamp.astype(np.int64), length.astype(np.uint32), len(timestamp)).tolist()
    return found


rising = st.lists(st.integers(0, 10**12), min_size=1, max_size=40).map(sorted)


@settings(deadline=None)
@given(rising, st.integers(1, 5))
def test_as_recorded_is_exact(timestamps, batches):
    """At speed 1 each packet is as far from the first as it was, to the nanosecond, however it is cut in batches."""
    assert times(Timing(speed=1.0), timestamps, batches=batches) == [
        timestamp - timestamps[0] for timestamp in timestamps
    ]


def test_factor_and_disorder():
    """Twice as fast is half the time; a packet recorded before the one ahead of it goes out right after that."""
    assert times(Timing(speed=2.0), [1000, 3000, 2000, 9000]) == [0, 1000, 1000, 4000]


def test_long_gaps_are_shortened():
    """A pause above the bound becomes the bound, and all that follows moves up; other pauses stay."""
    assert times(Timing(speed=1.0, most_gap_ns=100), [0, 50, 5000, 5060, 9000]) == [0, 50, 150, 210, 310]


@settings(deadline=None)
@given(st.integers(1, 10**9), st.integers(1, 50), st.integers(1, 7), st.integers(1, 4))
def test_packet_rate(pps, count, burst, batches):
    """Packet k is due k / rate after the first, rounded down, bursts at once: no error adds up."""
    due = times(Timing(pps=pps, burst=burst), [0] * count, batches=batches)
    exact = [k // burst * burst * 10**9 / pps for k in range(count)]
    assert all(abs(one - other) <= 1 for one, other in zip(due, exact, strict=True))


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 999_999), st.integers(1, 50), st.integers(1, 7), st.integers(1, 4))
def test_packet_rate_with_decimals(whole, millionths, count, burst, batches):
    """A rate written with up to six decimals is kept as it was written, not as a float is near to it."""
    pps = whole + Fraction(millionths, 10**6)
    due = times(Timing(pps=float(pps), burst=burst), [0] * count, batches=batches)
    assert due == [int(k // burst * burst * 10**9 / pps) for k in range(count)]


def test_packet_rate_after_a_year():
    """At packet 10**13 the time is still exact to the nanosecond."""
    schedule = Schedule(Timing(pps=300_000))
    schedule._state[k.PACKETS] = 10**13
    assert schedule.apply(np.zeros(1, np.int64), np.full(1, 60, np.uint32), 1)[0] == 10**13 * 10**9 // 300_000


def test_bit_rate_counts_the_bytes_before():
    """At a bit rate a packet is due when those before it are out; the line rate counts 24 bytes more for each."""
    lengths = [60, 1514, 60]
    assert times(Timing(bps=10**9), [0] * 3, lengths) == [0, 480, 480 + 12112]
    line = times(Timing(bps=400 * 10**9, overhead_bytes=24), [0] * 1001, [60] * 1001)
    assert line[1000] == 1000 * 84 * 8 * 10**9 // (400 * 10**9)


def test_next_file_begins_where_the_last_ended():
    """After ``restart`` a recording's first packet is due with the last one of the file before, or a pause later."""
    schedule = Schedule(Timing(speed=1.0))
    one = np.array([100, 400], np.int64), np.full(2, 60, np.uint32)
    assert schedule.apply(*one, 2).tolist() == [0, 300]
    schedule.restart(50)
    assert schedule.apply(*one, 2).tolist() == [350, 650]


@pytest.mark.parametrize("timing", [Timing(pps=10**7), Timing(bps=480 * 10**7)])
def test_pause_between_passes_at_a_rate(timing):
    """At a packet or bit rate too, what follows ``restart`` is due a pause later than it would be without."""
    schedule = Schedule(timing)
    one = np.zeros(2, np.int64), np.full(2, 60, np.uint32)
    assert schedule.apply(*one, 2).tolist() == [0, 100]
    schedule.restart(5000)
    assert schedule.apply(*one, 2).tolist() == [5200, 5300]
    schedule.restart(1000)
    assert schedule.apply(*one, 2).tolist() == [6400, 6500]


def test_what_cannot_be_sent_is_counted_by_reason():
    """Frames above the MTU and below an Ethernet header are left out and counted; a VLAN tag is no part of the MTU."""
    sizes = [1514, 1515, 1518, 1519, 13, 60, 60]
    tags = [False, False, True, True, False, False, False]
    arena = np.zeros(1600 * len(sizes), np.uint8)
    for number, tagged in enumerate(tags):
        if tagged:
            arena[1600 * number + 12 : 1600 * number + 14] = 0x81, 0x00
    address, captured = np.arange(len(sizes)) * 1600, np.array(sizes, np.uint32)
    original, timestamp = captured.copy(), np.arange(len(sizes)) * 10
    original[6] = 90
    counts, queue, mtu = np.zeros(k.COUNTS, np.int64), np.zeros(len(sizes), np.int64), np.array([1500])
    kept = k.admit(arena, address, captured, original, timestamp, queue, len(sizes), mtu, 14, counts)
    assert captured[:kept].tolist() == [1514, 1518, 60, 60]
    assert timestamp[:kept].tolist() == [0, 20, 50, 60]
    assert (counts[k.TOO_LONG], counts[k.TOO_SHORT], counts[k.CUT]) == (2, 1, 1)


def test_each_interface_has_its_own_mtu():
    """IP packets have no header beside the MTU, and each is measured by that of the interface that it goes to."""
    captured, queue = np.array([1500, 1501, 9000, 9001, 0], np.uint32), np.array([0, 0, 1, 1, 1])
    arena, address, counts = np.zeros(9100, np.uint8), np.zeros(5, np.int64), np.zeros(k.COUNTS, np.int64)
    kept = k.admit(
        arena, address, captured, captured.copy(), np.arange(5), queue, 5, np.array([1500, 9000]), 0, counts
    )  # fmt: skip
    assert (captured[:kept].tolist(), queue[:kept].tolist()) == ([1500, 9000], [0, 1])
    assert (counts[k.TOO_LONG], counts[k.TOO_SHORT]) == (2, 1)


@pytest.mark.parametrize(
    "wrong", [{"speed": 0.0}, {"pps": 0}, {"pps": 1e-9}, {"speed": 1.0, "pps": 5}, {"pps": 5, "burst": 0}]
)
def test_timings_that_cannot_be(wrong):
    """No speed, two speeds and empty bursts are usage errors."""
    with pytest.raises(UsageError):
        Timing(**wrong)


def scheduled(goal, per_tick, tick_ns, room):
    """Due time and queue of all frames, scheduled ``room`` at a time."""
    goal, done, length = np.array(goal), np.zeros(len(goal), np.int64), np.arange(60, 60 + len(goal), dtype=np.uint32)
    address, due, queue = np.zeros((3, room), np.int64)
    frames = Frames(np.zeros(1, np.uint8), address, np.zeros(room, np.uint32), due, queue)
    found = []
    while n := k.schedule_queues(goal, done, np.array(per_tick), tick_ns, length, 100, frames):
        assert (address[:n] == queue[:n] * 100).all()
        assert (frames.length[:n] == 60 + queue[:n]).all()
        found += zip(due[:n].tolist(), queue[:n].tolist(), strict=True)
    assert done.tolist() == goal.tolist()
    return found


queues = st.lists(st.tuples(st.integers(0, 200), st.floats(0.001, 500)), min_size=1, max_size=6)


@settings(deadline=None)
@given(queues, st.integers(1, 10**6), st.integers(1, 64))
def test_queues_with_rates_are_due_at_ticks(queues, tick_ns, room):
    """Every frame is scheduled once, at the first tick that is not before its time; times rise, of all queues."""
    goal, per_tick = zip(*queues, strict=True)
    found = scheduled(goal, per_tick, tick_ns, room)
    assert [due for due, _ in found] == sorted(due for due, _ in found)
    for place in range(len(goal)):
        ticks = [due / tick_ns for due, queue in found if queue == place]
        late = [tick - number / per_tick[place] for number, tick in enumerate(ticks)]
        assert len(ticks) == goal[place]
        assert all(-1e-6 <= one < 1 + 1e-6 for one in late)


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=6), st.integers(1, 64))
def test_queues_alike_take_turns(goal, room):
    """While a queue has frames left, no other is more than a tick's frames ahead of it."""
    sent = [0] * len(goal)
    for _, queue in scheduled(goal, [32.0] * len(goal), 1, room):
        sent[queue] += 1
        assert all(sent[queue] <= sent[other] + 33 for other in range(len(goal)) if sent[other] < goal[other])
    assert sent == goal
