"""What all ways to send have in common: a run's words, counters, and MAC addresses to put in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wirecap.kernels import libc, send
from wirecap.kernels import pacing as p
from wirecap.traffic.batch import Batch

SLICE_NS = 100_000_000
"""How long a compiled loop runs before Python may look around."""
STALLED_S = 3.0


@dataclass(frozen=True)
class Macs:
    """Ethernet addresses to put into every frame; None leaves what is there."""

    source: bytes | None = None
    destination: bytes | None = None


class Sender(Protocol):
    """A way to send.  ``stage`` runs in the plan's thread, all else in the sender's."""

    way: str
    """For people: what sends, and how."""
    control: NDArray[np.int64]

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

    def per_queue(self) -> dict[int, int]:
        """Packets completed, by the interface's transmit queue; empty where the kernel chooses it."""
        ...

    def refused(self) -> int:
        """Those of them that the interface dropped; other senders' too, where it counts all alike."""
        ...

    def close(self) -> None: ...


class Run:
    """The words of one sender's run (kernels/pacing.py), and the scratch of its thread."""

    def __init__(self, paced: bool, macs: Macs) -> None:
        self.control = np.zeros(p.CONTROL_WORDS, np.int64)
        self.control[p.PACED] = paced
        self.control[p.MARGIN_NS] = p.MOST_MARGIN_NS
        self.control[p.REWRITE] = (send.TO_DESTINATION if macs.destination else 0) | (
            send.TO_SOURCE if macs.source else 0
        )
        both = (macs.destination or bytes(6)) + (macs.source or bytes(6))
        self.addresses = np.frombuffer(both, np.uint8).copy()
        self.scratch = libc.scratch()

    def start(self, now_ns: int) -> None:
        self.control[p.START_NS] = now_ns

    def slice(self) -> None:
        """Let the compiled loop run for a while."""
        self.control[p.UNTIL_NS] = time.monotonic_ns() + SLICE_NS


def dropped(interface: str) -> int:
    """Packets that an interface of this thread's namespace dropped instead of sending them."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == interface:
            return int(counters.split()[11])
    return 0


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
