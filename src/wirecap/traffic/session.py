"""A plan, a sender, and what came of it: one thread reads ahead, one sends, the caller's watches."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wirecap.kernels import jit
from wirecap.kernels import pacing as p
from wirecap.traffic.batch import Batch, Plan
from wirecap.traffic.priority import Punctual
from wirecap.traffic.sender import Sender

AHEAD = 4
"""Batches that are read ahead."""
LEAD_NS = 20_000_000
"""From the start of the threads to the first packet."""
_TICK_S = 0.1


@dataclass
class Outcome:
    """What was sent.  sent: packets completed and not refused; octets: of all handed to the kernel."""

    way: str = ""
    attempted: int = 0
    sent: int = 0
    octets: int = 0
    duration_s: float = 0.0
    planned_s: float | None = None
    """From the first packet to the last one's due time; None at full speed."""
    latest_ns: int = 0
    """The largest delay of a packet that had its time."""
    refused: int = 0
    not_sent: dict[str, int] = field(default_factory=dict)
    cut_by_capture: int = 0
    per_queue: dict[int, int] = field(default_factory=dict)
    share: float | None = None
    """How much of the plan was sent, 0 to 1; None where its end is not known."""
    interrupted: bool = False


@dataclass(frozen=True)
class _Place:
    """How far the plan is: its batch that is being sent, and what lies before that."""

    batch: Batch
    packets: int = 0
    due_ns: int = 0
    share: float | None = 0.0

    def at(self, packets: int) -> tuple[int, float | None]:
        """When the last of so many packets was due, in ns after the start, and the share of the plan that they are."""
        batch = self.batch
        n = min(max(packets - self.packets, 0), batch.n)
        due_ns = int(batch.due[n - 1]) if n else self.due_ns
        if batch.share is None or self.share is None:
            return due_ns, None
        return due_ns, self.share + (batch.share - self.share) * n / batch.n

    def following(self, batch: Batch) -> _Place:
        """The next batch, once all of this one was handed over."""
        packets = self.packets + self.batch.n
        due_ns, share = self.at(packets)
        return _Place(batch, packets, due_ns, share)


class Session:
    """Sends a plan; ``run`` returns or raises when everything that will be sent is completed."""

    def __init__(self, plan: Plan, sender: Sender, duration_ns: int | None = None) -> None:
        self.plan, self.sender = plan, sender
        self._duration_ns = duration_ns
        self._ahead: queue.Queue[tuple[Any, Batch] | None] = queue.Queue(AHEAD)
        self._failures: list[BaseException] = []
        self._asked = threading.Event()
        self._ended = threading.Event()
        self._begin_ns = 0
        self._place: _Place | None = None

    def stop(self) -> None:
        """End early, in between two packets."""
        self._asked.set()
        self.sender.control[p.STOP] = 1

    def run(
        self, watch: Callable[[Outcome], None] = lambda outcome: None, asked: threading.Event | None = None
    ) -> Outcome:
        """Send everything; ``watch`` gets the state ten times a second.  An error has the ``outcome`` so far."""
        jit.prepare([*self.plan.kernels(), *self.sender.kernels()])
        threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"wirecap {name}", daemon=True)
            for name, work in (("plan", self._read_ahead), ("send", self._send))
        ]
        self._begin_ns = time.monotonic_ns() + LEAD_NS
        for thread in threads:
            thread.start()
        while not self._ended.wait(_TICK_S):
            if (asked and asked.is_set()) or self._is_over():
                self.stop()
            watch(self.outcome())
        for thread in threads:
            thread.join()
        outcome = self.outcome()
        outcome.interrupted = bool(asked and asked.is_set())
        if self._failures:
            error = self._failures[0]
            error.outcome = outcome  # type: ignore[attr-defined]
            raise error
        return outcome

    def _is_over(self) -> bool:
        return self._duration_ns is not None and time.monotonic_ns() > self._begin_ns + self._duration_ns

    def outcome(self) -> Outcome:
        """How it stands now."""
        control, plan = self.sender.control, self.plan
        completed, refused = self.sender.completed(), self.sender.refused()
        end_ns = int(control[p.LAST_NS]) or self._begin_ns
        due_ns, share = self._place.at(completed) if self._place else (0, None)
        return Outcome(
            way=self.sender.way, attempted=completed, sent=completed - refused, octets=int(control[p.OCTETS]),
            duration_s=max(0, end_ns - self._begin_ns) / 1e9,
            planned_s=due_ns / 1e9 if plan.paced else None, latest_ns=int(control[p.LATEST_NS]),
            refused=refused, not_sent=dict(plan.not_sent.reasons), cut_by_capture=plan.not_sent.cut_by_capture,
            per_queue=self.sender.per_queue(), share=share,
        )  # fmt: skip

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._failures.append(error)
            if work == self._send:
                self.stop()
        finally:
            if work == self._send:
                self._ended.set()

    def _read_ahead(self) -> None:
        try:
            for batch in self.plan.batches():
                if not self._put((self.sender.stage(batch), batch)):
                    return
        finally:
            self._put(None)

    def _put(self, item: tuple[Any, Batch] | None) -> bool:
        while not self._asked.is_set():
            try:
                self._ahead.put(item, timeout=_TICK_S)
                return True
            except queue.Full:
                continue
        return False

    def _send(self) -> None:
        with Punctual() as punctual:
            first = self._next()
            self._begin_ns = max(self._begin_ns, time.monotonic_ns())
            self.sender.start(self._begin_ns)
            item = first
            while item is not None:
                staged, batch = item
                punctual.adapt()
                self._place = self._place.following(batch) if self._place else _Place(batch)
                self.sender.send(staged)
                batch.release()
                item = self._next()
        self.sender.finish()

    def _next(self) -> tuple[Any, Batch] | None:
        while not self._asked.is_set():
            try:
                return self._ahead.get(timeout=_TICK_S)
            except queue.Empty:
                continue
        return None
