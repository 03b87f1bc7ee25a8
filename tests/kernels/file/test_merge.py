"""The merge step by step: what may be written now, and what must wait for a queue that is behind."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from rig import Nobody, Rig, until
from wirecap.kernels.base import libc
from wirecap.kernels.base.jit import kernel, prepare
from wirecap.kernels.base.kinds import i64, words
from wirecap.kernels.file import merge
from wirecap.kernels.file.merge import merge_packets
from wirecap.kernels.file.write import PCAP_NS
from wirecap.kernels.pool import pool as k
from wirecap.kernels.pool.handler_loop import NO_FILTER, address_of, everything
from wirecap.kernels.pool.pool import POOL
from wirecap.kernels.pool.work_queues import EMPTY_HANDED, HOLDING, WAITING, wake_consumer
from wirecap.kernels.xdp import rings as r
from wirecap.kernels.xdp.capture_loop import turn

M, R, SECOND = 4, 8, 1_000_000_000


@kernel(i64(POOL, k.RINGS, i64, i64, i64, words, words))
def look(pool, rings, queue, now, timeout_ns, depths, scratch):
    """What a capture thread does in every round of its loop."""
    return turn(pool, rings, queue, now, timeout_ns, depths, scratch)


class Desk:
    """Queues of a NIC and a writer for all of them; capture and merge happen when the test says so."""

    def __init__(self, queues=2):
        self.rig = Rig(Nobody(1), queues, M, R)
        prepare([look, merge_packets, everything, wake_consumer])
        self.pool, self.rings = self.rig.engine.pool, self.rig.source.rings
        self.rig.source.start()
        self.merge = merge.new_merge(queues, list(range(queues)), 2 * R)
        settings = self.merge.settings
        settings[merge.LAYOUT], settings[merge.SNAPLEN] = PCAP_NS, 65535
        settings[merge.FILE_END], settings[merge.PACKETS_LEFT] = 1 << 62, 1 << 62
        settings[merge.DIRECT], settings[merge.CLOSING] = 1, k.CLOSE
        self.out, self.scratch = np.zeros(1 << 20, np.uint8), libc.scratch()

    def arrive(self, queue, *timestamps):
        """Packets are in the RX ring; nobody took them yet."""
        self.rig.inject(queue, [bytes([queue]) * 60] * len(timestamps), timestamps)

    def capture(self, queue):
        """The capture thread takes a queue's packets and hands them over; the slots that came home are its own."""
        for now in (0, SECOND):
            look(self.pool, self.rings, queue, now, 1, np.zeros(1, np.int64), self.scratch)

    def write(self, patience_ns=2_000_000):
        """Let the writer work until it has nothing to do; (why it stopped, timestamps written)."""
        counts = self.merge.counts
        before = int(counts[merge.POSITION])
        self.merge.settings[merge.DEADLINE] = time.time_ns() + patience_ns
        why = merge_packets(
            self.pool, self.rings, address_of(everything), NO_FILTER, self.merge, self.out, self.scratch
        )
        written = self.out[before : int(counts[merge.POSITION])].reshape(-1, 76)[:, :8].copy().view(np.uint32)
        return why, [seconds * SECOND + rest for seconds, rest in written.astype(int).tolist()]


@pytest.fixture
def now():
    return time.time_ns()


def in_time(attempt):
    """What ``attempt`` makes of a new desk and a time that is ahead, but not as if a clock was set back; again, if the
    machine stopped until that time."""
    for _ in range(20):
        desk, young = Desk(), time.time_ns() + merge.SET_BACK_NS * 9 // 10
        found = attempt(desk, young)
        if time.time_ns() < young:
            return desk, young, found
    pytest.fail("20 times the machine stopped for a second")


def test_silent_queue_holds_nothing_back_for_long():
    """A queue that has nothing lets packets pass that are older than the slack, and no younger ones."""

    def attempt(desk, young):
        desk.arrive(0, young - 2 * SECOND, young)
        desk.capture(0)
        return desk.write(), desk.write()

    desk, young, found = in_time(attempt)
    assert found == ((merge.IDLE, [young - 2 * SECOND]), (merge.IDLE, []))
    desk.pool.control[k.PHASE] = k.CLOSE
    assert desk.write() == (merge.CLOSED, [young])


def test_a_clock_that_is_ahead_holds_nothing_back(now):
    """Timestamps of a NIC ahead of the host's clock (TAI: 37 s) are written in order, without waiting for it."""
    desk = Desk()
    desk.pool.control[k.FOREIGN_CLOCK] = 1
    young = now + 37 * SECOND
    desk.arrive(0, young)
    desk.capture(0)
    assert desk.write() == (merge.IDLE, [young])
    desk.arrive(0, young + 3)
    desk.arrive(1, young + 2, young + 4)
    desk.capture(0)
    assert desk.write() == (merge.IDLE, [])  # the other queue has something on its way
    desk.capture(1)
    assert desk.write() == (merge.IDLE, [young + 2, young + 3, young + 4])


def test_packet_on_its_way_is_waited_for(now):
    """As long as a queue's packets lie in its RX ring nothing is written, however old it is."""
    desk = Desk()
    desk.arrive(0, now - 5 * SECOND, now - 3 * SECOND)
    desk.arrive(1, now - 4 * SECOND)
    desk.capture(0)
    assert desk.write() == (merge.IDLE, [])
    desk.capture(1)
    assert desk.write() == (merge.IDLE, [now - 5 * SECOND, now - 4 * SECOND, now - 3 * SECOND])


def test_queue_that_is_behind_bounds_the_others(now):
    """What is not later than the last packet of a queue that has more on its way may be written."""
    desk = Desk()
    desk.arrive(1, now - 4 * SECOND)
    desk.capture(1)
    assert desk.write()[1] == [now - 4 * SECOND]
    desk.arrive(0, now - 5 * SECOND, now - 4 * SECOND, now - 3 * SECOND)
    desk.arrive(1, now - 3 * SECOND)
    desk.capture(0)
    assert desk.write() == (merge.IDLE, [now - 5 * SECOND, now - 4 * SECOND])
    assert desk.merge.counts[merge.LATE] == 1


def test_chunks_that_overtake_each_other_are_put_in_order(now):
    """Chunks of one queue come from several handler threads in any order, and are written in theirs."""
    desk = Desk(queues=1)
    timestamps = [now - 10 * SECOND + i for i in range(4 * M)]
    desk.arrive(0, *timestamps)
    desk.capture(0)
    places = desk.pool.work_queues
    first = 24  # work_queues.PLACES
    order = [places[first + i] for i in (2, 0, 3, 1)]
    places[first : first + 4] = order
    assert desk.write() == (merge.IDLE, timestamps)
    assert desk.merge.counts[merge.HELD] == 0


@pytest.mark.parametrize("held", [R // 2, R // 2 + 1])
def test_slack_shrinks_while_much_is_held(now, held):
    """With more than half of R chunks at hand, packets wait a shorter time for a silent queue."""
    much = held * 2 > R
    for _ in range(100):
        desk, came_ns = Desk(), time.time_ns() - 10_000_000
        desk.arrive(0, *[came_ns] * (held * M))
        desk.capture(0)
        assert desk.merge.counts[merge.HELD] == 0
        why, written = desk.write()
        assert why == merge.IDLE
        if much or not written or time.time_ns() - came_ns < merge.SLACK_NS:
            break  # else the machine was busy until the longer wait was over, too: that says nothing
    assert bool(written) == much


@pytest.mark.parametrize("between", [0, 1])
def test_a_queue_with_nothing_before_its_ring_holds_nobody_up(now, between):
    """Where the XDP program's count says that no packet is between timestamp and ring, packets wait a millisecond; with
    one that it has counted and the ring does not show, they wait the whole slack."""
    for _ in range(100):
        desk, came_ns = Desk(), time.time_ns() - 2 * merge.SHORT_SLACK_NS
        words = desk.pool.queues[k.QUEUE_WORDS : 2 * k.QUEUE_WORDS]
        words[k.ADMITTED_AT] = words[r.LEDGER] + r.ADMITTED + 1
        desk.rings.ledger[words[r.LEDGER] + r.ADMITTED] += between
        desk.arrive(0, came_ns)
        desk.capture(0)
        why, written = desk.write()
        assert why == merge.IDLE
        if not (between and written) or time.time_ns() - came_ns < merge.SLACK_NS:
            break  # else the machine was busy until the whole slack was over
    assert written == ([] if between else [came_ns])


@pytest.mark.parametrize("merging", [0, 1])
def test_a_small_chunk_of_a_merged_queue_is_not_kept_back(now, merging):
    """A queue's small chunk whose time is over goes to a merging writer, though that has others waiting: it cannot
    write them before it knows this one.  Another consumer gets it when it has nothing else."""
    desk = Desk()
    desk.pool.control[k.MERGING] = merging
    desk.arrive(0, *[now] * M)
    desk.arrive(1, now)
    for queue in (0, 1):
        desk.capture(queue)
    assert desk.pool.queues[k.QUEUE_WORDS + k.FILL_COUNT] == 1 - merging


def test_written_chunks_are_home(now):
    """Everything that was written is recycled: the queue has its cells and slots back."""
    desk = Desk()
    for _ in range(5):
        for queue in (0, 1):
            desk.arrive(queue, *[now - SECOND] * (M * R // 2))
            desk.capture(queue)
        assert desk.write()[0] == merge.IDLE
    assert desk.merge.counts[merge.WRITTEN] == 5 * M * R
    for queue in (0, 1):
        desk.capture(queue)
        own = desk.pool.queues[queue * k.QUEUE_WORDS :]
        assert own[k.FREE_SLOTS] == 2 * R
        assert own[k.FREE_CELLS] + own[r.SUBMITTED] - own[k.TAKEN] == M * R


def test_aborted_writer_stops_at_once(now):
    """After an abort nothing more is written."""
    desk = Desk()
    desk.arrive(0, now - SECOND)
    desk.capture(0)
    desk.pool.control[k.PHASE] = k.ABORT
    assert desk.write() == (merge.ABORTED, [])


@pytest.mark.parametrize(("limit", "why"), [("FILE_END", merge.FILE_FULL), ("PACKETS_LEFT", merge.FILE_FULL)])
def test_limits_of_a_file_are_seen_before_the_next_packet(now, limit, why):
    """A full file stops the writer only when another packet is to be written, and that packet is not lost."""
    desk = Desk()
    timestamps = [now - SECOND + i for i in range(3)]
    setting = getattr(merge, limit)
    desk.merge.settings[setting] = 1 if limit == "PACKETS_LEFT" else 76
    desk.arrive(0, *timestamps)
    desk.capture(0)
    assert desk.write() == (why, timestamps[:1])
    desk.merge.settings[setting] = 1 << 62
    assert desk.write() == (merge.IDLE, timestamps[1:])


def test_a_writer_that_waits_for_its_time_is_not_idle():
    """While a packet may not be written yet, the writer asks for no small chunks; with nothing at all it does."""

    def attempt(desk, young):
        desk.arrive(0, young)
        desk.capture(0)
        return sleeping(desk, desk.pool.work_queues[WAITING:][:1])

    assert in_time(attempt)[2] == HOLDING
    desk = Desk()
    assert sleeping(desk, desk.pool.work_queues[WAITING:][:1]) == EMPTY_HANDED


def sleeping(desk, word):
    """How the writer sleeps."""
    writer = threading.Thread(target=desk.write, args=(30 * SECOND,))
    writer.start()
    found = int(until(lambda: word[0]))
    desk.pool.control[k.PHASE] = k.ABORT
    while writer.is_alive():
        wake_consumer(desk.pool.work_queues, 0)
        writer.join(0.01)
    return found
