"""NETMAP (Type II): as DNA, but slots come back only at a sync call, and one stays empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from wirecap.kernels import sim_ring as k
from wirecap.sim.engines.base import RING, Engine, check_ring
from wirecap.sim.engines.ring import ALL, KERNELS, Ring, simulate_ring
from wirecap.sim.load import Load
from wirecap.sim.result import Result
from wirecap.sim.workload import Workload

SYNC_PS = 1_000_000
"""A system call and a poll of the ring: about a microsecond [derived]."""


@dataclass(frozen=True)
class Netmap(Engine):
    """A batch is all that lies in the ring at a sync; its slots are free at the next one [public]."""

    ring: int = RING
    sync_ps: int = SYNC_PS

    name: ClassVar[str] = "netmap"
    label: ClassVar[str] = "NETMAP"
    forwards: ClassVar[bool] = False
    """Its sync calls did not work per queue [text]."""
    kernels: ClassVar[Sequence[Any]] = KERNELS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ring(self.ring)

    def simulate(self, workload: Workload, load: Load, *, seed: int = 1, transmit_ps: int = 0) -> Result:
        slots = Ring(self.ring - 1, ALL, self.sync_ps)
        return simulate_ring(self, slots, {"ring_full": k.FULL}, workload, load, seed, transmit_ps)
