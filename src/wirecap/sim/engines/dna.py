"""DNA (Type II): the NIC's ring, mapped into the process, is all the buffer there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from wirecap.kernels import sim_ring as k
from wirecap.sim.engines.base import RING, Engine, check_ring
from wirecap.sim.engines.ring import KERNELS, Ring, simulate_ring
from wirecap.sim.load import Load
from wirecap.sim.result import Result
from wirecap.sim.workload import Workload


@dataclass(frozen=True)
class Dna(Engine):
    """No copy, no kernel work; a slot is free as soon as its packet is handled, or has left [public]."""

    ring: int = RING

    name: ClassVar[str] = "dna"
    label: ClassVar[str] = "DNA"
    kernels: ClassVar[Sequence[Any]] = KERNELS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ring(self.ring)

    def simulate(self, workload: Workload, load: Load, *, seed: int = 1, transmit_ps: int = 0) -> Result:
        return simulate_ring(self, Ring(self.ring), {"ring_full": k.FULL}, workload, load, seed, transmit_ps)
