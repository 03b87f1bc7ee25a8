"""PF_RING (Type I): the kernel copies every packet out of the NIC's ring, on the handler's own core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from wirecap.errors import UsageError
from wirecap.kernels import sim_ring as k
from wirecap.sim.engines.base import RING, RING_RANGE, Engine, check_ring
from wirecap.sim.engines.ring import KERNELS, Ring, simulate_ring
from wirecap.sim.load import Load
from wirecap.sim.result import Result
from wirecap.sim.workload import Workload

SLOTS = 4096
"""The default of PF_RING today; in 2014 perhaps 10,240 [public]."""
KERNEL_PS = 600_000
"""Kernel work and copy of a packet: 0.3-0.8 us at 2.4 GHz [derived], somewhat above the middle for the copy."""


@dataclass(frozen=True)
class PfRing(Engine):
    """The kernel's work comes before the handler's; copies wait in a ring of slots [public]."""

    ring: int = RING
    slots: int = SLOTS
    kernel_ps: int = KERNEL_PS

    name: ClassVar[str] = "pf_ring"
    label: ClassVar[str] = "PF_RING"
    kernels: ClassVar[Sequence[Any]] = KERNELS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ring(self.ring)
        if not 1 <= self.slots <= RING_RANGE[1]:
            raise UsageError(f"{self.slots} slots", f"there are 1 to {RING_RANGE[1]}, PF_RING's {SLOTS}")
        if self.kernel_ps < 1:
            raise UsageError("a kernel that takes no time", "write it as kernel=600ns")

    def simulate(self, workload: Workload, load: Load, *, seed: int = 1, transmit_ps: int = 0) -> Result:
        slots = Ring(self.slots, descriptors=self.ring, kernel_ps=self.kernel_ps)
        drops = {"nic_ring_full": k.NIC_FULL, "slots_full": k.FULL}
        return simulate_ring(self, slots, drops, workload, load, seed, transmit_ps)
