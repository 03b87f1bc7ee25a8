"""PF_RING (Type I): the kernel copies every packet out of the NIC's ring, on the handler's own core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from wirecap.errors import UsageError
from wirecap.kernels import sim_pf_ring as k
from wirecap.kernels.sim_arrivals import Arrivals
from wirecap.sim.engines.base import RING, check_ring, check_time, queue_by_queue
from wirecap.sim.load import Load
from wirecap.sim.result import QueueResult, Result
from wirecap.sim.workload import PS, Workload

SLOTS = 4096
"""The default of PF_RING today; in 2014 perhaps 10,240 [public]."""
KERNEL_PS = 600_000
"""Kernel work and copy of a packet: 0.3-0.8 us at 2.4 GHz [derived], somewhat above the middle for the copy."""


@dataclass(frozen=True)
class PfRing:
    """The kernel's work comes before the handler's; copies wait in a ring of slots [public]."""

    ring: int = RING
    slots: int = SLOTS
    kernel_ps: int = KERNEL_PS

    name: ClassVar[str] = "pf_ring"
    label: ClassVar[str] = "PF_RING"
    forwards: ClassVar[bool] = True
    kernels: ClassVar[Sequence[Any]] = (k.pf_ring,)

    def __post_init__(self) -> None:
        check_ring(self.ring)
        if self.slots < 1 or self.kernel_ps < 1:
            raise UsageError(f"{self.slots} slots, {self.kernel_ps} ps of kernel work", "both are above 0")

    def simulate(self, workload: Workload, load: Load, *, seed: int = 1, transmit_ps: int = 0) -> Result:
        check_time(load, self.ring + self.slots)

        def serve(arrivals: Arrivals, queue: int) -> tuple[QueueResult, int]:
            state = np.zeros(k.STATE_WORDS, np.int64)
            leaves = np.zeros(self.ring, np.int64)
            received = k.pf_ring(arrivals, queue, load.costs, seed, self.slots, self.kernel_ps, leaves, state)
            drops = {"nic_ring_full": int(state[k.NIC_FULL]), "slots_full": int(state[k.SLOTS_FULL])}
            busy_s = float(state[k.BUSY_PS]) / PS
            return QueueResult(received, int(state[k.DELIVERED]), drops=drops, busy_s=busy_s), int(state[k.ENDED_PS])

        settings = {"ring": self.ring, "slots": self.slots, "kernel_ns": self.kernel_ps / 1e3}
        return queue_by_queue(self, settings, workload, serve, transmit_ps)
