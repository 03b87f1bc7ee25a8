"""NETMAP (Type II): as DNA, but slots come back only at a sync call, and one stays empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from wirecap.kernels import sim_ring as k
from wirecap.kernels.sim_arrivals import Arrivals
from wirecap.sim.engines.base import RING, check_ring, check_time, queue_by_queue
from wirecap.sim.engines.dna import ring_result
from wirecap.sim.load import Load
from wirecap.sim.result import QueueResult, Result
from wirecap.sim.workload import Workload

SYNC_PS = 1_000_000
"""A system call and a poll of the ring: about a microsecond [derived]."""


@dataclass(frozen=True)
class Netmap:
    """A batch is all that lies in the ring at a sync; its slots are free at the next one [public]."""

    ring: int = RING
    sync_ps: int = SYNC_PS

    name: ClassVar[str] = "netmap"
    label: ClassVar[str] = "NETMAP"
    forwards: ClassVar[bool] = False
    """Its sync calls did not work per queue [text]."""
    kernels: ClassVar[Sequence[Any]] = (k.netmap,)

    def __post_init__(self) -> None:
        check_ring(self.ring)

    def simulate(self, workload: Workload, load: Load, *, seed: int = 1, transmit_ps: int = 0) -> Result:
        check_time(load, self.ring)

        def serve(arrivals: Arrivals, queue: int) -> tuple[QueueResult, int]:
            counters = np.zeros(k.COUNTER_WORDS, np.int64)
            received = k.netmap(arrivals, queue, load.costs, seed, self.ring - 1, self.sync_ps, counters)
            return ring_result(received, counters)

        return queue_by_queue(self, {"ring": self.ring, "sync_ns": self.sync_ps / 1e3}, workload, serve, transmit_ps)
