"""What all ways to send share: a run's words, MAC addresses to put in, the state of links, a thread that is on time."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import WirecapError
from wirecap.kernels.base import libc
from wirecap.kernels.transmit import paced_loop as p
from wirecap.kernels.transmit.frames import TO_DESTINATION, TO_SOURCE
from wirecap.linux import syscall
from wirecap.linux.link import Link, State
from wirecap.traffic.batch import Batch

_PR_SET_TIMERSLACK = 29  # linux/prctl.h
_MOST_BUSY = 0.9
"""Share of a CPU above which a thread is not preferred: it would starve others, and the kernel holds real-time
threads that never sleep up for 50 ms in each second (sched_rt_runtime_us)."""


class Punctual:
    """The calling thread: timer slack 1 ns instead of 50 us, SCHED_FIFO while it mostly sleeps (where allowed)."""

    def __enter__(self) -> Punctual:
        syscall.libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)
        self._preferred = prefer(True)
        self._wall, self._busy = time.monotonic(), time.thread_time()
        return self

    def adapt(self) -> None:
        """Between two pieces of work: be preferred or not, by how busy the thread was."""
        wall, busy = time.monotonic(), time.thread_time()
        if wall - self._wall < 0.005:
            return
        idle = (busy - self._busy) / (wall - self._wall) < _MOST_BUSY
        self._wall, self._busy = wall, busy
        if idle != self._preferred:
            self._preferred = prefer(idle) and idle

    def __exit__(self, *_: object) -> None:
        prefer(False)
        syscall.libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(0), 0, 0, 0)


@contextmanager
def first_in_line() -> Iterator[None]:
    """The calling thread before others; it sleeps between bursts, so that they get their time."""
    prefer(True)
    try:
        yield
    finally:
        prefer(False)


def prefer(wanted: bool) -> bool:
    """SCHED_FIFO or the normal policy for the calling thread; False where the system does not allow it."""
    policy, priority = (os.SCHED_FIFO, 1) if wanted else (os.SCHED_OTHER, 0)
    try:
        os.sched_setscheduler(0, policy, os.sched_param(priority))
    except PermissionError:  # no CAP_SYS_NICE
        return False
    return True


SLICE_NS = 100_000_000
"""How long a compiled loop runs before Python may look around."""
STALLED_S = 3.0


@dataclass(frozen=True)
class Macs:
    """Ethernet addresses to put into every frame, 6 bytes or 6 for each interface; None leaves what is there."""

    source: bytes | None = None
    destination: bytes | None = None

    def of(self, places: int) -> NDArray[np.uint8]:
        """Destination and source for each of so many queues, uint8 (12 * places,)."""
        found = np.zeros((places, 2, 6), np.uint8)
        for side, given in enumerate((self.destination, self.source)):
            if given:
                found[:, side] = np.resize(np.frombuffer(given, np.uint8).reshape(-1, 6), (places, 6))
        return found.ravel()


class Sender(Protocol):
    """A way to send.  ``stage`` runs in the plan's thread, all else in the sender's."""

    way: str
    """For people: what sends, and how."""
    control: NDArray[np.int64]
    links: Links

    def kernels(self) -> list[Any]: ...

    def stage(self, batch: Batch) -> Any:
        """Do what can be done for a batch before its time; may wait until there is room."""
        ...

    def start(self, now_ns: int) -> None:
        """The moment of CLOCK_MONOTONIC that all times count from."""
        ...

    def send(self, staged: Any) -> None:
        """Send what was staged, each packet at its time.  Raises WirecapError where the interface takes no more."""
        ...

    def finish(self) -> None:
        """Wait until everything handed to the kernel is completed."""
        ...

    def completed(self) -> int:
        """Packets that the kernel is done with, taken by the interface or not."""
        ...

    def unfinished(self) -> int:
        """Packets that were handed to the kernel, which is not done with them."""
        ...

    def per_queue(self) -> dict[int, int]:
        """Packets sent, by the transmit queue of the only interface; empty where the kernel chooses it."""
        ...

    def per_interface(self) -> dict[str, int]:
        """Packets sent, by interface; empty where there is only one."""
        ...

    def refused(self) -> int:
        """Those of them that the interface dropped; other senders' too, where it counts all alike."""
        ...

    def close(self) -> None: ...


class Run:
    """The words of one sender's run (kernels/transmit/paced_loop.py), and the scratch of its thread."""

    def __init__(self, paced: bool, macs: Macs, interfaces: int = 1, places: int = 1) -> None:
        """places: the queues that the loop sends on, all of one interface or one of each."""
        self.control = np.zeros(p.CONTROL_WORDS, np.int64)
        self.control[p.PACED] = paced
        self.control[p.MARGIN_NS] = p.MOST_MARGIN_NS
        self.control[p.REWRITE] = (TO_DESTINATION if macs.destination else 0) | (TO_SOURCE if macs.source else 0)
        self.control[p.IN_TURN] = interfaces > 1
        self.addresses = macs.of(places)
        self.scratch = libc.scratch()

    def start(self, now_ns: int) -> None:
        self.control[p.START_NS] = now_ns

    def slice(self) -> None:
        """Let the compiled loop run for a while."""
        self.control[p.UNTIL_NS] = time.monotonic_ns() + SLICE_NS


GONE, DOWN, NO_CARRIER = "the interface is gone", "network is down", "no carrier"
_HINTS = {
    GONE: "it was removed; set it up and send again",
    DOWN: "set it up and send again",
    NO_CARRIER: "plug the cable in or set the other end up, and send again",
}


class LinkLostError(WirecapError):
    """An interface that sends no more: ``reason`` is GONE, DOWN or NO_CARRIER."""

    def __init__(self, interface: str, reason: str, sent: int) -> None:
        super().__init__(f"{interface}: {reason}, after {sent} packets were sent", _HINTS[reason])
        self.interface, self.reason = interface, reason

    def after(self, sent: int) -> LinkLostError:
        """The same, with the final count."""
        return LinkLostError(self.interface, self.reason, sent)


class Links:
    """The links of the interfaces that a sender sends on: what they dropped since now, and whether one is lost."""

    def __init__(self, interfaces: Sequence[str]) -> None:
        self._links = [Link(name) for name in interfaces]
        self._first = self._last = [self._look(link) for link in self._links]

    def _look(self, link: Link) -> State:
        return link.state() or State(False, False, 0)

    def dropped(self) -> list[int]:
        """Packets that each interface dropped since the start, by whomever they were sent; one that is gone keeps its
        last count."""
        now = [link.state() for link in self._links]
        self._last = [state or last for state, last in zip(now, self._last, strict=True)]
        return [last.dropped - first.dropped for last, first in zip(self._last, self._first, strict=True)]

    def lost(self, sent: int = 0) -> LinkLostError | None:
        """The error for the first interface that sends nothing now, None where all do."""
        for link in self._links:
            state = link.state()
            reason = GONE if state is None else DOWN if not state.up else "" if state.carrier else NO_CARRIER
            if reason:
                return LinkLostError(link.interface, reason, sent)
        return None

    def close(self) -> None:
        for link in self._links:
            link.close()


class Stall:
    """Tells whether a count has not moved for too long."""

    def __init__(self, limit_s: float = STALLED_S) -> None:
        self._limit_s, self._last, self._moved = limit_s, -1, time.monotonic()

    def lasts(self, count: int) -> bool:
        if count != self._last:
            self._last, self._moved = count, time.monotonic()
        return time.monotonic() - self._moved > self._limit_s


def queue_list(queues: Sequence[int]) -> str:
    """For people: ``queue 0`` or ``queues 0, 1, 5``."""
    return f"queue{'s' * (len(queues) > 1)} {', '.join(map(str, queues))}"
