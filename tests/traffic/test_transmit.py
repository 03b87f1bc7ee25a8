"""AF_XDP transmit: every frame on its queue, numbered, at its rate, and counted when it was completed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wirecap
from rig import until
from wirecap.errors import SystemCallError, UsageError, WirecapError
from wirecap.lab.testbed import Testbed
from wirecap.linux import netlink, netns
from wirecap.traffic import synthetic
from wirecap.traffic.transmitter import Transmitter, _goals, shares

Make = Callable[..., Testbed]
FRAME = synthetic.udp(60)


class Receiver:
    """Takes everything that arrives on the capture side of a testbed's first NIC, in a thread, until it has
    ``expected`` packets.  All cells are attached: none of them is lost while its threads have no CPU."""

    def __init__(self, bed: Testbed) -> None:
        self.expected = 0
        self.capture = wirecap.open(bed.nics[0].inside, netns=bed.name, ring=100 * 256)
        self.packets: dict[int, list[tuple[int, bytes]]] = {}
        self._thread = threading.Thread(target=self._take)

    def _take(self) -> None:
        for chunk in self.capture:
            mine = self.packets.setdefault(chunk.queue, [])
            mine += [(int(timestamp), bytes(packet)) for timestamp, packet in zip(chunk.timestamps, chunk, strict=True)]

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        if failure[0] is None:
            until(lambda: self.capture.summary()["packets"]["received"] >= self.expected)
        self.capture.stop()
        self._thread.join()
        self.capture.close()
        self.summary = self.capture.summary()

    def numbers(self, queue: int) -> list[int]:
        return [int.from_bytes(packet[42:50], "big") for _, packet in self.packets.get(queue, [])]


@pytest.mark.live
def test_every_frame_arrives_on_its_queue_in_order(testbed: Make) -> None:
    """What was completed on transmit queue q arrives on receive queue q: all of it, in order, byte for byte."""
    bed = testbed(queues=4)
    with Transmitter(bed.nics[0].outside, FRAME, [0, 1, 3], sequence_at=42, first=5) as sender, Receiver(bed) as at:
        sent = sender.send({0: 20_000, 1: 3_000, 3: 5_000}, duration_s=0.3)
        again = sender.send({3: float("inf")}, count=1000)
        assert sender.refused == 0
        at.expected = 9400
    assert sent == {0: 6000, 1: 900, 3: 1500}
    assert again == {0: 0, 1: 0, 3: 1000}
    assert at.summary["packets"]["received"] == at.summary["packets"]["delivered"] == 9400
    assert at.numbers(0) == list(range(5, 6005))
    assert at.numbers(1) == list(range(5, 905))
    assert at.numbers(2) == []
    assert at.numbers(3) == list(range(5, 2505))
    whole = FRAME[:42] + bytes(8) + FRAME[50:]
    assert {p[:42] + bytes(8) + p[50:] for queue in at.packets.values() for _, p in queue} == {whole}


@pytest.mark.live
def test_frames_keep_their_schedule(testbed: Make) -> None:
    """Each queue's frames arrive when they are due, most of them within two ticks, whatever the other's rate is.

    A busy machine may wake the sender late: one of five goes has to be on time.
    """
    rates = {0: 10_000, 1: 1_000}
    own = {0: synthetic.udp(60), 1: synthetic.udp(300)}
    for _ in range(5):
        bed = testbed(queues=2)
        with Transmitter(bed.nics[0].outside, own, [0, 1], preferred=True) as sender, Receiver(bed) as at:
            begin = time.monotonic()
            at.expected = sum(sender.send(rates, duration_s=0.5).values()) - sender.refused
            assert time.monotonic() - begin > 0.49
        medians = []
        for queue, rate in rates.items():
            assert {packet for _, packet in at.packets[queue]} == {own[queue]}
            timestamps = np.array([timestamp for timestamp, _ in at.packets[queue]])
            late_ns = timestamps - timestamps[0] - np.arange(len(timestamps)) * 1e9 / rate
            medians.append(np.median(np.abs(late_ns)))
        if max(medians) < 1_000_000:
            return
    pytest.fail(f"late by {medians} ns in the median")


@pytest.mark.live
def test_full_speed_loses_nothing_by_a_reused_cell(testbed: Make) -> None:
    """At full speed, with a ring that goes round many times, each number is seen once, or the drop is counted."""
    bed = testbed(queues=1)
    with Transmitter(bed.nics[0].outside, FRAME, [0], sequence_at=42) as sender, Receiver(bed) as at:
        assert sender.send({0: float("inf")}, count=20_000) == {0: 20_000}
        at.expected = 20_000 - sender.refused
    numbers = at.numbers(0)
    assert numbers == sorted(set(numbers))
    assert len(numbers) + sender.refused + at.summary["packets"]["dropped"] == 20_000


def once_it_sends(sender: Transmitter, do: Callable[[], None]) -> None:
    """For a thread beside ``send``: before that has begun nothing could be ended."""
    until(lambda: min(sender.completed().values()) > 100)
    do()


@pytest.mark.live
def test_stop_ends_with_an_exact_count(testbed: Make) -> None:
    """stop() from another thread ends a long send soon; what it says was sent is what arrived."""
    bed = testbed(queues=2)
    with Transmitter(bed.nics[0].outside, FRAME, [0, 1], sequence_at=42) as sender, Receiver(bed) as at:
        thread = threading.Thread(target=once_it_sends, args=(sender, sender.stop))
        thread.start()
        sent = sender.send({0: 2000, 1: 1000}, duration_s=60)
        thread.join()
        at.expected = sum(sent.values())
    assert 0 < sent[1] < sent[0] < 60 * 2000
    assert [q["received"] for q in at.summary["per_queue"]] == [sent[0], sent[1]]


@pytest.mark.live
def test_interface_that_goes_down_is_reported_with_the_count(testbed: Make) -> None:
    """When the interface goes down mid-way, send() raises one line with the number of frames that were sent."""
    bed = testbed(queues=1)
    outside = bed.nics[0].outside

    def down() -> None:
        from pyroute2 import IPRoute

        with IPRoute() as route:
            route.link("set", index=netlink.interface(outside).index, state="down")

    with Transmitter(outside, FRAME, [0]) as sender:
        thread = threading.Thread(target=once_it_sends, args=(sender, down))
        thread.start()
        with pytest.raises(WirecapError, match=r"network is down, after [1-9]\d* packets") as raised:
            sender.send({0: 1000}, duration_s=100)
        thread.join()
        assert raised.value.exit_status == 1
        with pytest.raises(UsageError, match="is down"):
            Transmitter(outside, FRAME, [0])


@pytest.mark.live
def test_what_cannot_be_opened_says_why(testbed: Make) -> None:
    """A queue that is not there, one that is taken, and an unknown interface are errors of one line with a hint."""
    bed = testbed(queues=2)
    outside = bed.nics[0].outside
    with pytest.raises(UsageError, match="no transmit queue 2") as error:
        Transmitter(outside, FRAME, [2])
    assert "queues 0-1" in error.value.hint
    with Transmitter(outside, FRAME, [0]) as sender:
        with pytest.raises(SystemCallError, match=r"queue 0: .*busy") as taken:
            Transmitter(outside, FRAME, [0])
        assert "stop its owner" in taken.value.hint
        with pytest.raises(UsageError, match="transmit queue 1 was not opened"):
            sender.send({1: 100}, duration_s=1)
    with pytest.raises(UsageError, match="no interface 'nosuch'"):
        Transmitter("nosuch", FRAME, [0])
    inside = bed.nics[0].inside
    with Transmitter(inside, FRAME, [1], namespace=bed.name) as sender:
        assert sender.send({1: float("inf")}, count=10) == {1: 10}
    assert netns.call(bed.name, netlink.interface, inside).tx_queues == 2


@pytest.mark.parametrize(
    ("queues", "frame", "sequence_at", "message"),
    [
        ([], FRAME, None, "unsupported transmit queues: none"),
        ([1, 1], FRAME, None, "unsupported transmit queues: 1, 1"),
        ([-1], FRAME, None, "unsupported transmit queues: -1"),
        ([0], bytes(13), None, "unsupported frame size: 13 bytes"),
        ([0], bytes(4097), None, "unsupported frame size: 4097 bytes"),
        ([0], FRAME, 53, "the number does not fit at offset 53"),
    ],
)
def test_bad_arguments_are_refused(queues: list[int], frame: bytes, sequence_at: int | None, message: str) -> None:
    """What cannot be sent is refused before anything is opened."""
    with pytest.raises(UsageError, match=message):
        Transmitter("lo", frame, queues, sequence_at=sequence_at)


@pytest.mark.parametrize(
    ("rates", "duration_s", "count"),
    [({}, 1, None), ({0: 0}, 1, None), ({0: 1}, None, None), ({0: 1}, 1, 1), ({0: float("inf")}, 1, None)],
)
def test_rates_that_make_no_sense_are_refused(
    rates: dict[int, float], duration_s: float | None, count: int | None
) -> None:
    """No rate, a rate of nothing, both or neither of duration and count, full speed for a duration."""
    with pytest.raises(UsageError):
        _goals(rates, duration_s, count)


@given(st.dictionaries(st.integers(0, 63), st.floats(1, 1e7), min_size=1, max_size=64), st.integers(0, 10**9))
def test_a_count_is_shared_out_whole(weights: dict[int, float], count: int) -> None:
    """The queues' frames add up to the count, and each is within one of its share."""
    goals = _goals(shares(1e6, weights), None, count)
    assert sum(goals.values()) == count
    exact = shares(count, weights)
    assert all(abs(goals[queue] - exact[queue]) <= 1 for queue in weights)
