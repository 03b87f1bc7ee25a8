"""Losses: one for each time that a queue lost packets, from the first to the last, with a second of peace after it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wirecap.forensics.flows import Flows

LOSSES_MOST = 24
"""Losses that are kept; of more, those of the fewest packets are only counted."""
PEACE_MS = 1000
"""So long without a lost packet ends a loss."""


@dataclass
class Loss:
    """Packets that one queue lost.  Times are in ns since the epoch, UTC, or in ms since the recording began."""

    queue: int
    first_ns: int
    last_ns: int
    exact: bool = True
    """The times are those of packets; else they are when the counters were looked at."""
    drops: Counter[str] = field(default_factory=Counter)
    flows: Flows = field(default_factory=Flows)
    sampled: int = 0
    """Packets that the samples of ``flows`` stand for."""
    held: Counter[str] = field(default_factory=Counter)
    """Who had the queue's chunks, each time that somebody looked: handler, writer, disk."""
    first_ms: int = 0
    """When the queue began to fill up."""
    arrivals: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    """Packets that came on each queue, lost ones included, in each millisecond from ``first_ms`` on."""
    since_start: bool = True
    """``arrivals`` goes back to when the queue was empty."""
    rates_pps: tuple[float, ...] = ()
    """What became of each home queue's packets, packets per second, while there was something to do; 0: not known."""
    handler_pps: float = 0.0
    """What a handler thread did, likewise."""

    @property
    def packets(self) -> int:
        return self.drops.total()

    def happened(self, first_ns: int, last_ns: int) -> None:
        self.first_ns, self.last_ns = min(self.first_ns, first_ns), max(self.last_ns, last_ns)


class Losses:
    """The losses of a run, in bounded memory."""

    def __init__(self) -> None:
        self._open: dict[int, Loss] = {}
        self._closed: list[Loss] = []
        self.left_out = 0
        """Losses that were not kept."""
        self.packets_left_out = 0

    def of(self, queue: int, first_ns: int, last_ns: int, exact: bool = True) -> Loss:
        """The loss that goes on in a queue, or a new one; its times are widened to these."""
        loss = self._open.get(queue)
        if loss is None:
            loss = self._open[queue] = Loss(queue, first_ns, last_ns, exact)
        loss.happened(first_ns, last_ns)
        return loss

    def going_on(self) -> list[Loss]:
        return list(self._open.values())

    def close(self, loss: Loss) -> None:
        """It is over."""
        del self._open[loss.queue]
        if not loss.packets:
            return
        self._closed.append(loss)
        if len(self._closed) > LOSSES_MOST:
            least = min(self._closed, key=lambda one: one.packets)
            self._closed.remove(least)
            self.left_out += 1
            self.packets_left_out += least.packets

    def all(self) -> list[Loss]:
        """Those that are over, in order of time."""
        return sorted(self._closed, key=lambda loss: (loss.first_ns, loss.queue))
