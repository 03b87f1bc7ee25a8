"""DNA (Type II): the NIC's ring, mapped into the process, is all the buffer there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from wirecap.kernels import sim_ring as k
from wirecap.kernels.sim_arrivals import Arrivals
from wirecap.sim.engines.base import RING, check_ring, check_time, queue_by_queue
from wirecap.sim.load import Load
from wirecap.sim.result import QueueResult, Result
from wirecap.sim.workload import PS, Workload


@dataclass(frozen=True)
class Dna:
    """No copy, no kernel work; a slot is free as soon as its packet is handled [public]."""

    ring: int = RING

    name: ClassVar[str] = "dna"
    label: ClassVar[str] = "DNA"
    forwards: ClassVar[bool] = True
    kernels: ClassVar[Sequence[Any]] = (k.dna,)

    def __post_init__(self) -> None:
        check_ring(self.ring)

    def simulate(self, workload: Workload, load: Load, *, seed: int = 1, transmit_ps: int = 0) -> Result:
        check_time(load, self.ring)

        def serve(arrivals: Arrivals, queue: int) -> tuple[QueueResult, int]:
            counters = np.zeros(k.COUNTER_WORDS, np.int64)
            received = k.dna(arrivals, queue, load.costs, seed, np.zeros(self.ring, np.int64), counters)
            return ring_result(received, counters)

        return queue_by_queue(self, {"ring": self.ring}, workload, serve, transmit_ps)


def ring_result(received: int, counters: Any) -> tuple[QueueResult, int]:
    """The counters of kernels/sim_ring.py as a result."""
    drops = {"nic_ring_full": int(counters[k.LOST])}
    delivered = int(counters[k.TAKEN])
    result = QueueResult(received, delivered, drops=drops, busy_s=float(counters[k.BUSY_PS]) / PS)
    return result, int(counters[k.ENDED_PS])
