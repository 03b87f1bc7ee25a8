"""A plan, a sender, and what came of it: one thread reads ahead, one sends, the caller's watches."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wirecap.errors import WirecapError
from wirecap.kernels.base import jit
from wirecap.kernels.transmit import paced_loop as p
from wirecap.signals import Flag
from wirecap.traffic.batch import Batch, SendPlan
from wirecap.traffic.launch_sender import LEAD_NS as EARLY_NS
from wirecap.traffic.launch_sender import Launches, launches
from wirecap.traffic.sender import LinkLostError, Punctual, Sender

AHEAD = 4
"""Batches that are read ahead."""
LEAD_NS = 20_000_000
"""From the start of the threads to the first packet."""
_TICK_S = 0.1
_LEAVE_S = 1.0
_COUNT_S = 5.0
"""How long what is left of a plan is counted after a link was lost."""


@dataclass
class _Pause:
    """What the sending thread does between two batches."""

    seconds: float
    over: threading.Event = field(default_factory=threading.Event)


@dataclass
class Outcome:
    """What was sent.  attempted: packets that the kernel is done with; sent: those that the interface did not refuse.

    bytes: bytes of the packets sent; where some were refused, of as many packets of the mean length, because no
    interface tells which it drops.
    """

    way: str = ""
    attempted: int = 0
    sent: int = 0
    bytes: int = 0
    duration_s: float = 0.0
    """From the first packet to the last, or to the moment when the link was lost."""
    planned_s: float | None = None
    """From the first packet to the last one's due time; None at full speed."""
    latest_ns: int = 0
    """The largest delay of a packet that had its time: when it was handed to the kernel, or by the NIC's stamps."""
    nic: Launches | None = None
    """Where the NIC kept the times: what its stamps say."""
    refused: int = 0
    """Packets asked for that were not sent: dropped by the interface, and, where the link was lost, all that were left:
    sent + refused is what was asked for."""
    reason: str = ""
    """Why the link was lost."""
    all_counted: bool = True
    """False where a lost link left more of a plan than was counted: it has no end, comes through a pipe, or is long."""
    not_sent: dict[str, int] = field(default_factory=dict)
    cut_by_capture: int = 0
    notes: dict[str, int] = field(default_factory=dict)
    """Packets that were sent otherwise than they are in the file, by how."""
    outside: int = 0
    """Packets whose recorded time 64-bit nanoseconds cannot hold."""
    per_queue: dict[int, int] = field(default_factory=dict)
    per_interface: dict[str, int] = field(default_factory=dict)
    share: float | None = None
    """How much of the plan was sent, 0 to 1; None where its end is not known."""
    interrupted: bool = False


@dataclass(frozen=True)
class _Place:
    """How far the plan is: its batch that is being sent, and what lies before that."""

    batch: Batch
    packets: int = 0
    bytes: int = 0
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
        byte_count = self.bytes + int(batch.length[:n].sum(dtype=np.int64))
        due_ns = int(batch.due[n - 1]) if n else self.due_ns
        if batch.share is None or self.share is None:
            return byte_count, due_ns, None
        return byte_count, due_ns, self.share + (batch.share - self.share) * n / batch.n

    def following(self, batch: Batch) -> _Place:
        """The next batch, once all of this one was handed over."""
        return _Place(batch, self.end, *self.at(self.end))


class _Progress:
    """When the last packet left before a link was lost: seen only between two looks, in which the rate goes on."""

    def __init__(self) -> None:
        self._sent = self._seen_ns = 0
        self._before = (0, 0, 0)
        """Packets sent at the look before the last growth, its moment, and that of the look which saw the growth."""

    def see(self, sent: int) -> None:
        now_ns = time.monotonic_ns()
        if sent > self._sent:
            self._before = self._sent, self._seen_ns, now_ns
        self._sent, self._seen_ns = max(sent, self._sent), now_ns

    def end_ns(self, begin_ns: int) -> int:
        before, then_ns, now_ns = self._before
        if not before:
            return now_ns
        return min(now_ns, then_ns + (self._sent - before) * (then_ns - begin_ns) // before)


_Item = tuple[Any, Batch] | _Pause | None


class Session:
    """Sends a plan; ``run`` returns or raises when everything that will be sent is completed."""

    def __init__(self, plan: SendPlan, sender: Sender, duration_ns: int | None = None) -> None:
        self.plan, self.sender = plan, sender
        self._duration_ns, self._counted = duration_ns, plan.counted and duration_ns is None
        self._batches = plan.batches()
        self._ahead: queue.Queue[_Item] = queue.Queue(AHEAD)
        self._failures: list[BaseException] = []
        self._asked = threading.Event()
        self._ended = threading.Event()
        self._begin_ns = self._given = 0
        self._place: _Place | None = None
        self._progress = _Progress()
        self._all_counted = True

    def stop(self) -> None:
        """End early, in between two packets."""
        self._halt()
        self.plan.close()  # it may wait for a pipe that nobody writes to

    def _halt(self) -> None:
        self._asked.set()
        self.sender.control[p.STOP] = 1

    def run(
        self, watch: Callable[[Outcome], None] = lambda outcome: None, asked: Flag | threading.Event | None = None
    ) -> Outcome:
        """Send everything; ``watch`` gets the state ten times a second.

        Raises LinkLostError where an interface goes down, loses its carrier or is removed.  An error has the
        ``outcome`` so far.
        """
        jit.prepare([*self.plan.kernels(), *self.sender.kernels()])
        if asked and asked.is_set():
            self.stop()  # nothing is sent then
        plan, send = threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"wirecap {name}", daemon=True)
            for name, work in (("plan", self._read_ahead), ("send", self._send))
        ]
        self._begin_ns = time.monotonic_ns() + LEAD_NS
        self._check_links()
        for thread in threads:
            thread.start()
        try:
            while not self._ended.wait(_TICK_S):
                if (asked and asked.is_set()) or self._is_over():
                    self.stop()
                self._check_links()
                watch(self.outcome())
        except BaseException:
            self.stop()
            raise
        finally:
            send.join()  # what they work on is closed next
            plan.join(_LEAVE_S if self._asked.is_set() else None)  # it may be in a read that nobody ends
        if self.sender.refused():
            self._check_links()
        if self._lost:
            self._look_behind(plan.is_alive(), asked)
        outcome = self.outcome()
        outcome.interrupted = bool(asked and asked.is_set())
        if self._failures:
            lost = self._lost
            error = lost.after(outcome.sent) if lost else self._failures[0]
            error.outcome = outcome  # type: ignore[attr-defined]
            raise error
        return outcome

    def _is_over(self) -> bool:
        return self._duration_ns is not None and time.monotonic_ns() > self._begin_ns + self._duration_ns

    @property
    def _lost(self) -> LinkLostError | None:
        return next((error for error in self._failures if isinstance(error, LinkLostError)), None)

    def _check_links(self) -> None:
        """End the run where a link is lost, whether or not the kernel says so to the sender."""
        lost = self.sender.links.lost()
        if lost and not self._lost and not self._asked.is_set():
            self._fail(lost)

    def _fail(self, error: BaseException) -> None:
        self._failures.append(error)
        self._halt()
        if not isinstance(error, LinkLostError) or not self._counted:
            self.plan.close()

    def _look_behind(self, reading: bool, asked: Flag | threading.Event | None) -> None:
        """What a lost link left of the plan; if that is nothing, all is well."""
        if self._counted and not reading:
            self._count_rest(asked)
        else:
            self._all_counted = False
        outcome = self.outcome()
        if self._all_counted and outcome.sent and not outcome.refused:
            self._failures = [error for error in self._failures if not isinstance(error, LinkLostError)]

    def _count_rest(self, asked: Flag | threading.Event | None) -> None:
        """Count what a lost link left of the plan: it was asked for, and is not sent."""
        left = self.plan.left()
        if left is not None:
            self._given += left
            return
        while not self._ahead.empty():
            item = self._ahead.get_nowait()
            if isinstance(item, tuple):
                item[1].release()
        end = time.monotonic() + _COUNT_S
        try:
            for batch in self._batches:
                self._given += batch.n
                batch.release()
                if time.monotonic() > end or (asked and asked.is_set()):
                    self._all_counted = False
                    return
        except WirecapError:  # a damaged file: it has been counted as far as it would have been sent
            pass

    def outcome(self) -> Outcome:
        """How it stands now."""
        control, plan, lost = self.sender.control, self.plan, self._lost
        completed = self.sender.completed()
        refused = min(self.sender.refused(), completed)
        sent, end_ns = completed - refused, int(control[p.LAST_NS]) or self._begin_ns
        self._progress.see(sent)
        if lost:
            asked_for = self._given if self._counted else completed + self.sender.unfinished()
            refused, end_ns = max(asked_for, completed) - sent, min(end_ns, self._progress.end_ns(self._begin_ns))
        byte_count, due_ns, share = self._place.at(completed) if self._place else (0, 0, None)
        nic, latest_ns = launches(control), int(control[p.LATEST_NS])
        if nic:
            latest_ns = nic.latest_ns if nic.stamped else max(0, latest_ns - EARLY_NS)
        return Outcome(
            way=self.sender.way, attempted=completed, sent=sent, bytes=byte_count * sent // max(1, completed),
            duration_s=max(0, end_ns - self._begin_ns) / 1e9,
            planned_s=due_ns / 1e9 if plan.paced else None, latest_ns=latest_ns, nic=nic,
            refused=refused, reason=lost.reason if lost else "", all_counted=self._all_counted,
            not_sent=dict(plan.not_sent.reasons), cut_by_capture=plan.not_sent.cut_by_capture,
            notes=dict(plan.not_sent.notes), outside=plan.not_sent.outside, per_queue=self.sender.per_queue(),
            per_interface=self.sender.per_interface(), share=share,
        )  # fmt: skip

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            if work == self._send:
                self._fail(error)
            else:
                self._failures.append(error)
        finally:
            if work == self._send:
                self._ended.set()

    def _read_ahead(self) -> None:
        try:
            for batch in self._batches:
                self._given += batch.n
                if not (self._paused(batch) and self._put((self.sender.stage(batch), batch))):
                    batch.release()
                    return
            self._counted |= not self._asked.is_set()  # it ended by itself: what was given is all there is
        finally:
            self._put(None)

    def _paused(self, batch: Batch) -> bool:
        """Wait for the pause before a batch, before it is staged: live frames that are staged are sent.

        False if the run is to end.
        """
        if not batch.pause_ns:
            return True
        pause = _Pause(batch.pause_ns / 1e9)
        if not self._put(pause):
            return False
        while not pause.over.wait(_TICK_S):
            if self._ended.is_set():  # what was sent before has failed
                return False
        return not self._asked.is_set()

    def _put(self, item: _Item) -> bool:
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
                if isinstance(item, _Pause):
                    self.sender.finish()
                    self._asked.wait(item.seconds)
                    item.over.set()
                else:
                    punctual.adapt()
                    self._send_batch(*item)
                item = self._next()
            self._catch_up()
        self.sender.finish()

    def _send_batch(self, staged: Any, batch: Batch) -> None:
        self._place = self._place.following(batch) if self._place else _Place(batch)
        try:
            self.sender.send(staged)
        finally:
            batch.release()

    def _catch_up(self) -> None:
        """A sender that was ended may be ahead of the batch that it was given last."""
        while self._place and self.sender.completed() > self._place.end:
            try:
                item = self._ahead.get_nowait()
            except queue.Empty:
                return
            if isinstance(item, tuple):
                self._place = self._place.following(item[1])

    def _next(self) -> _Item:
        while not self._asked.is_set():
            try:
                return self._ahead.get(timeout=_TICK_S)
            except queue.Empty:
                continue
        return None
