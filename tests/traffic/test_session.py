"""A run's outcome: bytes, wanted time and progress are those of the packets that the kernel is done with."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rig import time_limit, until
from wirecap.kernels import pacing as p
from wirecap.traffic.batch import Batch, NotSent
from wirecap.traffic.session import Session

__all__ = ["time_limit"]
N, BATCHES, GAP_NS = 10, 6, 1000


class Counted:
    """Packets of 100, 101, 102 ... bytes, one every GAP_NS."""

    paced, queues = True, 1

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

    def _release(self) -> None:
        self.released += 1

    def close(self) -> None: ...


class Sender:
    """Completes a batch when it is given it, less ``lost`` packets that the interface drops."""

    way = "in memory"

    def __init__(self, lost: int = 0) -> None:
        self.control = np.zeros(p.CONTROL_WORDS, np.int64)
        self.done, self.lost = 0, lost

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

    def per_queue(self) -> dict[int, int]:
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


def octets_of(packets: int) -> int:
    return sum(range(100, 100 + packets))


def test_whole_plan() -> None:
    """All packets, the last one's time; each batch is given back; what the interface dropped is not sent, nor are its
    bytes, which are those of packets of the mean length."""
    plan = Counted()
    outcome = Session(plan, Sender(lost=3)).run()
    assert (outcome.attempted, outcome.sent, outcome.refused) == (N * BATCHES, N * BATCHES - 3, 3)
    assert outcome.octets == int((N * BATCHES - 3) * (100 + 159) / 2)
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
    assert (outcome.attempted, outcome.octets) == (count, octets_of(count))
    assert outcome.planned_s == pytest.approx((count - 1) * GAP_NS / 1e9)
    assert outcome.share == pytest.approx(count / (N * BATCHES))


def test_run_that_is_ended_before_it_begins() -> None:
    """What was asked to end before its first packet sends none, at whichever speed."""
    sender, asked = Sender(), threading.Event()
    asked.set()
    outcome = Session(Counted(), sender).run(asked=asked)
    assert outcome.interrupted
    assert (sender.done, outcome.attempted, outcome.octets) == (0, 0, 0)


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

    session = Session(Waiting(), Sender(), duration_ns=100_000_000)
    assert session.run().sent == N
