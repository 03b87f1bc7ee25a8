"""A run's outcome: bytes, wanted time and progress are those of the packets that the kernel is done with."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rig import time_limit, until
from wirecap.errors import UsageError
from wirecap.kernels.transmit import paced_loop as p
from wirecap.traffic.batch import Batch, NotSent
from wirecap.traffic.sender import NO_CARRIER, LinkLostError, Links
from wirecap.traffic.session import Outcome, Session

__all__ = ["time_limit"]
N, BATCHES, GAP_NS = 10, 6, 1000


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine ends the thread that reads ahead, and counts what is left of a plan, in any time."""
    monkeypatch.setattr("wirecap.traffic.session._LEAVE_S", 60.0)
    monkeypatch.setattr("wirecap.traffic.session._COUNT_S", 60.0)


class Counted:
    """Packets of 100, 101, 102 ... bytes, one every GAP_NS."""

    paced, queues, counted = True, 1, True

    def __init__(self) -> None:
        self.not_sent = NotSent()
        self.released = 0

    def kernels(self) -> list[Any]:
        return []

    def batches(self) -> Iterator[Batch]:
        for number in range(BATCHES):
            packets = np.arange(number * N, (number + 1) * N)
            yield Batch(
                N, np.zeros(1, np.uint8), np.zeros(N, np.int64), (100 + packets).astype(np.uint32), packets * GAP_NS,
                np.zeros(N, np.int64), (number + 1) / BATCHES, self._release,
            )  # fmt: skip

    def left(self) -> int | None:
        return None

    def _release(self) -> None:
        self.released += 1

    def close(self) -> None: ...


class Sender:
    """Completes a batch when it is given it, less ``lost`` packets that the interface drops."""

    way = "in memory"

    def __init__(self, lost: int = 0) -> None:
        self.control = np.zeros(p.CONTROL_WORDS, np.int64)
        self.done, self.lost = 0, lost
        self.links = Links([])

    def kernels(self) -> list[Any]:
        return []

    def stage(self, batch: Batch) -> Batch:
        return batch

    def start(self, now_ns: int) -> None:
        self.control[p.START_NS] = now_ns

    def send(self, staged: Batch) -> None:
        self.done += staged.n
        self.control[p.LAST_NS] = self.control[p.START_NS] + int(staged.due[-1])

    def finish(self) -> None: ...

    def completed(self) -> int:
        return self.done

    def unfinished(self) -> int:
        return 0

    def per_queue(self) -> dict[int, int]:
        return {}

    def per_interface(self) -> dict[str, int]:
        return {}

    def refused(self) -> int:
        return self.lost

    def close(self) -> None: ...


class Ahead(Sender):
    """Has sent so many packets, some of batches that it was not given yet, when the run is ended."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.session: Session | None = None

    def send(self, staged: Batch) -> None:
        session = self.session
        assert session
        until(lambda: session._ahead.full())
        self.done = self.count
        session.stop()


def bytes_of(packets: int) -> int:
    return sum(range(100, 100 + packets))


def test_whole_plan() -> None:
    """All packets, the last one's time; each batch is given back; what the interface dropped is not sent, nor are its
    bytes, which are those of packets of the mean length."""
    plan = Counted()
    outcome = Session(plan, Sender(lost=3)).run()
    assert (outcome.attempted, outcome.sent, outcome.refused) == (N * BATCHES, N * BATCHES - 3, 3)
    assert outcome.bytes == int((N * BATCHES - 3) * (100 + 159) / 2)
    assert outcome.planned_s == pytest.approx((N * BATCHES - 1) * GAP_NS / 1e9)
    assert outcome.duration_s == pytest.approx(outcome.planned_s)
    assert outcome.share == 1.0
    assert plan.released == BATCHES


@pytest.mark.parametrize("count", [1, N - 1, N, N + 1, 3 * N + 5])
def test_ended_early_by_a_sender_that_is_ahead(count: int) -> None:
    """However far the kernel was when the run was ended, within its batch or beyond, just that is told."""
    sender = Ahead(count)
    session = sender.session = Session(Counted(), sender)
    outcome = session.run()
    assert (outcome.attempted, outcome.bytes) == (count, bytes_of(count))
    assert outcome.planned_s == pytest.approx((count - 1) * GAP_NS / 1e9)
    assert outcome.share == pytest.approx(count / (N * BATCHES))


def test_run_that_is_ended_before_it_begins() -> None:
    """What was asked to end before its first packet sends none, at whichever speed."""
    sender, asked = Sender(), threading.Event()
    asked.set()
    outcome = Session(Counted(), sender).run(asked=asked)
    assert outcome.interrupted
    assert (sender.done, outcome.attempted, outcome.bytes) == (0, 0, 0)


def test_plan_that_fails_ends_the_run_after_what_it_gave() -> None:
    """An error of the plan is raised with the outcome once all packets before it were sent."""

    class Damaged(Counted):
        def batches(self) -> Iterator[Batch]:
            yield from list(super().batches())[:2]
            raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged") as raised:
        Session(Damaged(), Sender()).run()
    assert raised.value.outcome.sent == 2 * N  # type: ignore[attr-defined]


def test_plan_that_waits_is_ended() -> None:
    """A run ends also while its plan waits for packets that never come, as of a pipe that nobody writes to."""

    class Waiting(Counted):
        ended = False

        def batches(self) -> Iterator[Batch]:
            yield from list(super().batches())[:1]
            while not self.ended:
                time.sleep(0.01)

        def close(self) -> None:
            self.ended = True

    assert run_until(Waiting(), N).sent == N


def run_until(plan: Counted, packets: int) -> Outcome:
    """A run whose duration is over once so many packets are sent."""
    session = Session(plan, Sender(), duration_ns=10**15)

    def watch(outcome: Outcome) -> None:
        if outcome.sent == packets:
            session._duration_ns = 1

    return session.run(watch)


class Pausing(Counted):
    """Its third batch wants a pause."""

    paced = False
    pause_ns = 200_000_000

    def batches(self) -> Iterator[Batch]:
        for number, batch in enumerate(super().batches()):
            batch.pause_ns = self.pause_ns if number == 2 else 0
            yield batch


def test_pause_at_full_speed() -> None:
    """It begins once all before it is sent, and what is behind it is not even staged (live frames would leave)."""

    class Noting(Sender):
        def __init__(self) -> None:
            super().__init__()
            self.told: list[tuple[str, int, float]] = []

        def stage(self, batch: Batch) -> Batch:
            self.told.append(("staged", self.done, time.monotonic()))
            return super().stage(batch)

        def finish(self) -> None:
            self.told.append(("finished", self.done, time.monotonic()))

    sender, plan = Noting(), Pausing()
    outcome = Session(plan, sender).run()
    assert (outcome.sent, plan.released) == (N * BATCHES, BATCHES)
    (_, done, finished), (_, whole, _) = [one for one in sender.told if one[0] == "finished"]
    assert (done, whole) == (2 * N, N * BATCHES)
    staged = [one for one in sender.told if one[0] == "staged"]
    assert staged[2][1] == 2 * N
    assert staged[2][2] - finished >= Pausing.pause_ns / 1e9


def test_pause_that_is_ended() -> None:
    """Ctrl-C, or the end of --duration, does not wait for the end of a pause."""

    class Long(Pausing):
        pause_ns = 10**12

    plan = Long()
    assert run_until(plan, 2 * N).sent == 2 * N
    assert plan.released == 3  # also the one that waited for its pause


class Cut(Sender):
    """Loses its link in the second batch, of which it has completed 4 packets; 3 more are under way."""

    def send(self, staged: Batch) -> None:
        if self.done:
            self.done += 4
            raise LinkLostError("eth1", NO_CARRIER, 99)
        super().send(staged)

    def unfinished(self) -> int:
        return 3


class Endless(Counted):
    counted = False

    def batches(self) -> Iterator[Batch]:
        while True:
            yield from super().batches()


class Told(Counted):
    """Knows how many packets are left without being read."""

    given = 0

    def batches(self) -> Iterator[Batch]:
        for batch in super().batches():
            self.given += batch.n
            yield batch

    def left(self) -> int | None:
        return N * BATCHES - self.given


class Torn(Counted):
    """A file that is damaged behind its fourth batch."""

    def batches(self) -> Iterator[Batch]:
        yield from list(super().batches())[:4]
        raise UsageError("damaged")


@pytest.mark.parametrize(("plan", "asked_for"), [(Counted, 60), (Told, 60), (Endless, 17), (Torn, 40)])
def test_lost_link(plan: type[Counted], asked_for: int) -> None:
    """What was left of the plan was asked for and is not sent; of one without an end, what was under way."""
    given = plan()
    with pytest.raises(LinkLostError, match="eth1: no carrier, after 14 packets were sent") as raised:
        Session(given, Cut()).run()
    outcome = raised.value.outcome  # type: ignore[attr-defined]
    assert (outcome.sent, outcome.refused, outcome.reason) == (14, asked_for - 14, NO_CARRIER)
    assert outcome.all_counted == (plan is not Endless)
    if plan is Counted:
        assert given.released == BATCHES


@pytest.mark.parametrize("counted", [True, False])
def test_link_lost_behind_the_last_packet(counted: bool) -> None:
    """A run that sent everything is a success, also if nobody knew beforehand how much that is; not if some of it was
    dropped."""

    class Behind(Sender):
        def finish(self) -> None:
            raise LinkLostError("eth1", NO_CARRIER, self.done)

    plan = Counted()
    plan.counted = counted
    outcome = Session(plan, Behind()).run()
    assert (outcome.sent, outcome.refused, outcome.reason) == (N * BATCHES, 0, "")
    with pytest.raises(LinkLostError, match="after 57 packets"):
        Session(plan, Behind(lost=3)).run()


def test_lost_link_while_the_plan_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a read does not end, what is behind it was not counted."""
    monkeypatch.setattr("wirecap.traffic.session._LEAVE_S", 0.05)
    goes_on = threading.Event()

    class Slow(Counted):
        def batches(self) -> Iterator[Batch]:
            yield from list(super().batches())[:3]
            goes_on.wait(30)

    with pytest.raises(LinkLostError) as raised:
        Session(Slow(), Cut()).run()
    goes_on.set()
    assert not raised.value.outcome.all_counted  # type: ignore[attr-defined]


def test_run_that_its_watcher_breaks_off() -> None:
    """Nothing is sent any more when the error arrives: its caller closes the sender."""

    class Until(Sender):
        ended = False

        def send(self, staged: Batch) -> None:
            until(lambda: self.control[p.STOP])
            self.ended = True

    def fail(outcome: Outcome) -> None:
        raise BrokenPipeError

    sender = Until()
    with pytest.raises(BrokenPipeError):
        Session(Counted(), sender).run(fail)
    assert sender.ended
