"""A plan, a sender, and what came of it: one thread reads ahead, one sends, the caller's watches."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wirecap.flag import Flag
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
_LEAVE_S = 1.0


@dataclass
class Outcome:
    """What was sent.  attempted: packets completed; sent: those of them that the interface did not refuse.

    octets: bytes of the packets sent; where some were refused, of as many packets of the mean length, because no
    interface tells which it drops.
    """

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
    octets: int = 0
    due_ns: int = 0
    share: float | None = 0.0

    @property
    def end(self) -> int:
        """Packets up to the end of the batch."""
        return self.packets + self.batch.n

    def at(self, packets: int) -> tuple[int, int, float | None]:
        """Of the first so many packets: their bytes, when the last was due (ns after the start), share of the plan."""
        batch = self.batch
        n = min(max(packets - self.packets, 0), batch.n)
        octets = self.octets + int(batch.length[:n].sum(dtype=np.int64))
        due_ns = int(batch.due[n - 1]) if n else self.due_ns
        if batch.share is None or self.share is None:
            return octets, due_ns, None
        return octets, due_ns, self.share + (batch.share - self.share) * n / batch.n

    def following(self, batch: Batch) -> _Place:
        """The next batch, once all of this one was handed over."""
        return _Place(batch, self.end, *self.at(self.end))


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
        self.plan.close()  # it may wait for a pipe that nobody writes to
        self.sender.control[p.STOP] = 1

    def run(
        self, watch: Callable[[Outcome], None] = lambda outcome: None, asked: Flag | threading.Event | None = None
    ) -> Outcome:
        """Send everything; ``watch`` gets the state ten times a second.  An error has the ``outcome`` so far."""
        jit.prepare([*self.plan.kernels(), *self.sender.kernels()])
        if asked and asked.is_set():
            self.stop()  # nothing is sent then
        plan, send = threads = [
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
        send.join()
        plan.join(_LEAVE_S if self._asked.is_set() else None)  # it may be in a read that nobody ends
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
        sent = completed - refused
        end_ns = int(control[p.LAST_NS]) or self._begin_ns
        octets, due_ns, share = self._place.at(completed) if self._place else (0, 0, None)
        return Outcome(
            way=self.sender.way, attempted=completed, sent=sent, octets=octets * sent // max(1, completed),
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
            now_ns = time.monotonic_ns()
            self._begin_ns = max(self._begin_ns, now_ns) if self.plan.paced else now_ns
            self.sender.start(self._begin_ns)
            item = first
            while item is not None:
                staged, batch = item
                punctual.adapt()
                self._place = self._place.following(batch) if self._place else _Place(batch)
                self.sender.send(staged)
                batch.release()
                item = self._next()
            self._catch_up()
        self.sender.finish()

    def _catch_up(self) -> None:
        """A sender that was ended may be ahead of the batch that it was given last."""
        while self._place and self.sender.completed() > self._place.end:
            try:
                item = self._ahead.get_nowait()
            except queue.Empty:
                return
            if item:
                self._place = self._place.following(item[1])

    def _next(self) -> tuple[Any, Batch] | None:
        while not self._asked.is_set():
            try:
                return self._ahead.get(timeout=_TICK_S)
            except queue.Empty:
                continue
        return None
