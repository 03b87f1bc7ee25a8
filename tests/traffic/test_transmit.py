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
from wirecap.errors import SystemCallError, UsageError, WirecapError
from wirecap.kernels import libc
from wirecap.kernels import transmit as k
from wirecap.lab.testbed import Testbed
from wirecap.linux import netlink, netns
from wirecap.traffic import frames
from wirecap.traffic.transmit import Transmitter, _goals, shares

Make = Callable[..., Testbed]
FRAME = frames.udp(60)


class KernelSide:
    """Rings without a kernel: a thread takes frames from the TX ring and completes them, some turns later."""

    CELLS, CELL = 8, 128

    def __init__(self, first: int) -> None:
        octets = np.zeros(4096, np.uint8)
        self.words, self.halves = octets.view(np.int64), octets.view(np.uint32)
        self.halves[:4] = first  # TX producer, TX consumer, completion producer, completion consumer
        self.umem = np.zeros(self.CELLS * self.CELL, np.uint8)
        self.queues = np.zeros((1, k.QUEUE_WORDS), np.int64)
        queue = self.queues[0]
        queue[k.TX_PRODUCER], queue[k.TX_DESCRIPTORS], queue[k.MASK] = 0, 8, self.CELLS - 1
        queue[k.DONE_PRODUCER], queue[k.DONE_CONSUMER], queue[k.DONE_DESCRIPTORS] = 2, 3, 64
        queue[k.SOCKET], queue[k.FREE], queue[k.LENGTH] = -1, self.CELLS, 60
        self.free = np.arange(self.CELLS, dtype=np.int64).reshape(1, -1) * self.CELL
        self.control = np.zeros(k.CONTROL_WORDS, np.int64)
        self.control[k.TICK_NS], self.control[k.NUMBER_AT] = 100_000, 8
        self.seen: list[tuple[int, int]] = []
        self.stopped = threading.Event()

    def complete(self) -> None:
        """Frames lie in the kernel for a turn: meanwhile nobody else may have their cells."""
        held: list[int] = []
        while not self.stopped.is_set():
            for cell in held:
                place = int(self.halves[2])
                self.words[64 + place % self.CELLS] = cell
                self.halves[2] = (place + 1) % 2**32
            held = []
            while self.halves[1] != self.halves[0] and len(held) < 3:
                place = int(self.halves[1])
                cell, length = self.words[8 + place % self.CELLS * 2 :][:2].tolist()
                assert cell not in held
                number = int.from_bytes(self.umem[cell + 8 : cell + 16].tobytes(), "big")
                self.seen.append((number, length))
                held.append(cell)
                self.halves[1] = (place + 1) % 2**32
            time.sleep(0)


@pytest.mark.kernel
@pytest.mark.parametrize(("first", "rate_pps"), [(0, 0.0), (2**32 - 5, 0.0), (2**32 - 5, 20_000.0)])
def test_cells_go_around_the_rings(first: int, rate_pps: float) -> None:
    """Eight cells carry 300 frames, each number once and in order, also where the rings' counters wrap at 2**32."""
    side = KernelSide(first)
    side.queues[0, k.GOAL], side.queues[0, k.NUMBER] = 300, 2**40
    side.control[k.START_NS] = time.monotonic_ns()
    side.control[k.UNTIL_NS] = time.monotonic_ns() + 20_000_000_000
    thread = threading.Thread(target=side.complete)
    thread.start()
    try:
        rates = np.array([rate_pps / 1e9])
        rings = (side.words, side.halves, side.umem, side.queues, side.free)
        ended = k.transmit(*rings, rates, side.control, libc.scratch())
        taken_ns = time.monotonic_ns() - side.control[k.START_NS]
    finally:
        side.stopped.set()
        thread.join()
    assert ended == k.DONE
    assert side.seen == [(2**40 + n, 60) for n in range(300)]
    assert side.queues[0, k.COMPLETED] == 300
    assert sorted(side.free[0].tolist()) == [n * side.CELL for n in range(side.CELLS)]
    if rate_pps:
        assert taken_ns >= 299 / rate_pps * 1e9


@pytest.mark.kernel
def test_loop_returns_when_told_or_when_its_time_is_over() -> None:
    """Frames that the kernel never completes do not hold the loop: it ends at UNTIL_NS, and at once when stopped."""
    side = KernelSide(0)
    side.queues[0, k.GOAL] = 100
    side.control[k.START_NS] = time.monotonic_ns()
    side.control[k.UNTIL_NS] = time.monotonic_ns() + 30_000_000
    arguments = (side.words, side.halves, side.umem, side.queues, side.free, np.zeros(1), side.control, libc.scratch())
    assert k.transmit(*arguments) == k.UNFINISHED
    assert (side.queues[0, k.SUBMITTED], side.queues[0, k.COMPLETED]) == (8, 0)
    side.control[k.STOP], side.control[k.UNTIL_NS] = 1, 2**62
    assert k.transmit(*arguments) == k.UNFINISHED


class Receiver:
    """Takes everything that arrives on the capture side of a testbed's first NIC, for 2.5 s, in a thread."""

    def __init__(self, bed: Testbed) -> None:
        self.capture = wirecap.open(bed.nics[0].inside, netns=bed.name, duration_s=2.5)
        self.packets: dict[int, list[tuple[int, bytes]]] = {}
        self._thread = threading.Thread(target=self._take)

    def _take(self) -> None:
        for chunk in self.capture:
            mine = self.packets.setdefault(chunk.queue, [])
            mine += [(int(stamp), bytes(packet)) for stamp, packet in zip(chunk.timestamps, chunk, strict=True)]

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)
        self.summary = self.capture.summary()
        self.capture.close()

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
    own = {0: frames.udp(60), 1: frames.udp(300)}
    for _ in range(5):
        bed = testbed(queues=2)
        with Transmitter(bed.nics[0].outside, own, [0, 1], preferred=True) as sender, Receiver(bed) as at:
            begin = time.monotonic()
            sender.send(rates, duration_s=0.5)
            assert time.monotonic() - begin > 0.49
        medians = []
        for queue, rate in rates.items():
            assert {packet for _, packet in at.packets[queue]} == {own[queue]}
            stamps = np.array([stamp for stamp, _ in at.packets[queue]])
            late_ns = stamps - stamps[0] - np.arange(len(stamps)) * 1e9 / rate
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
    numbers = at.numbers(0)
    assert numbers == sorted(set(numbers))
    assert len(numbers) + sender.refused + at.summary["packets"]["dropped"] == 20_000


@pytest.mark.live
def test_stop_ends_with_an_exact_count(testbed: Make) -> None:
    """stop() from another thread ends a long send soon; what it says was sent is what arrived."""
    bed = testbed(queues=2)
    with Transmitter(bed.nics[0].outside, FRAME, [0, 1], sequence_at=42) as sender, Receiver(bed) as at:
        threading.Timer(0.3, sender.stop).start()
        begin = time.monotonic()
        sent = sender.send({0: 2000, 1: 1000}, duration_s=60)
        assert time.monotonic() - begin < 10
    assert 0 < sent[1] < sent[0] < 20_000
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
        threading.Timer(0.3, down).start()
        with pytest.raises(WirecapError, match=r"network is down, after [1-9]\d* packets") as raised:
            sender.send({0: 1000}, duration_s=30)
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
        with pytest.raises(UsageError, match="no transmit queue 1 was opened"):
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
        ([], FRAME, None, "transmit queues none"),
        ([1, 1], FRAME, None, "transmit queues 1, 1"),
        ([-1], FRAME, None, "transmit queues -1"),
        ([0], bytes(13), None, "a frame of 13 bytes"),
        ([0], bytes(4097), None, "a frame of 4097 bytes"),
        ([0], FRAME, 53, "no 8 bytes at offset 53"),
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
