"""Sending by the NIC's clock: each frame is handed over ``LEAD_NS`` early, and the NIC sends it at its launch time.

The times of a run are fixed in the NIC's clock when it starts, so that gaps are as exact as that is.  This machine only
follows: between two slices it looks how the NIC's clock has moved against its own.  If somebody sets the NIC's clock
meanwhile, the times move with it.  The NIC's stamps of what it sent say how exact it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wirecap.kernels.transmit import launch_queues as k
from wirecap.kernels.transmit import paced_loop as p
from wirecap.traffic.batch import Batch
from wirecap.traffic.ring_sender import RingSender, XdpQueues
from wirecap.traffic.sender import Macs

LEAD_NS = 2_000_000
"""Enough for a thread that wakes up late, and far below what NICs hold frames back for (a second and more)."""


class Clock(Protocol):
    def offset_ns(self) -> int:
        """What to add to the monotonic clock to get this one."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Launches:
    """What the NIC's stamps say: of ``stamped`` packets, how long after their launch times they left (before: < 0)."""

    stamped: int
    earliest_ns: int = 0
    mean_ns: int = 0
    latest_ns: int = 0


class LaunchSender(RingSender):
    """Sends through queues that have launch time; a ``Sender`` (traffic/sender.py).  It closes the clock."""

    def __init__(self, queues: XdpQueues, macs: Macs, clock: Clock) -> None:
        super().__init__(queues, True, macs)
        self._words, self._clock = queues.words, clock
        self._origin_ns = self._offset_ns = 0
        self.control[p.BY_NIC] = 1

    def start(self, now_ns: int) -> None:
        super().start(now_ns)
        self._offset_ns = self._clock.offset_ns()
        self._origin_ns = now_ns + self._offset_ns + LEAD_NS
        self._words[:, k.ORIGIN] = self._origin_ns

    def send(self, staged: Batch) -> None:
        self._follow()
        super().send(staged)

    def _follow(self) -> None:
        """Look at the clocks."""
        try:
            offset_ns = self._clock.offset_ns()
        except OSError:  # the NIC is gone, and its link says so
            return
        moved_ns, self._offset_ns = offset_ns - self._offset_ns, offset_ns
        if abs(moved_ns) > LEAD_NS // 2:  # no clock drifts so far in a slice: it was set
            self._origin_ns += moved_ns
            self._words[:, k.ORIGIN] = self._origin_ns
        self.control[p.START_NS] = self._origin_ns - LEAD_NS - offset_ns

    def _look(self) -> None:
        self._tell()
        super()._look()
        self._follow()

    def finish(self) -> None:
        super().finish()
        self._tell()

    def _tell(self) -> None:
        """What the queues' stamps say, in the run's words."""
        seen = self._words[self._words[:, k.STAMPED] > 0]
        if len(seen):
            self.control[p.EARLIEST_OFF] = seen[:, k.EARLIEST].min()
            self.control[p.LATEST_OFF] = seen[:, k.LATEST].max()
            self.control[p.SUM_OFF], self.control[p.STAMPED] = seen[:, k.SUM].sum(), seen[:, k.STAMPED].sum()

    def close(self) -> None:
        super().close()
        self._clock.close()


def launches(control: NDArray[np.int64]) -> Launches | None:
    """Of a run; None where this machine kept the times."""
    if not control[p.BY_NIC]:
        return None
    stamped = int(control[p.STAMPED])
    if not stamped:
        return Launches(0)
    return Launches(
        stamped, int(control[p.EARLIEST_OFF]), int(control[p.SUM_OFF]) // stamped, int(control[p.LATEST_OFF])
    )
