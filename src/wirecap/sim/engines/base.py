"""What every simulated engine has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from wirecap.config import PoolConfig
from wirecap.errors import UsageError
from wirecap.sim.load import Load
from wirecap.sim.result import Result
from wirecap.sim.workload import LATEST_PS, Workload

RING = 1024
"""Descriptors of a receive ring [recalled, WireCAP, IMC 2014]."""
RING_RANGE = (2, 1 << 20)
LONGEST_PS = 3600 * 10**12
SLICE = 2_000_000
"""Events of a kernel's call; Python sees signals in between."""


@dataclass(frozen=True)
class Engine(ABC):
    """A model: its settings are its fields (whole numbers, times in ps), ``simulate`` runs it."""

    name: ClassVar[str]
    kernels: ClassVar[Sequence[Any]]
    """What to compile before it runs."""
    forwards: ClassVar[bool] = True
    """Whether the paper could forward packets with it."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name.endswith("_ps") and not 0 <= getattr(self, field.name) <= LONGEST_PS:
                what = field.name.removesuffix("_ps")
                raise UsageError(
                    f"{self.name}: {what} is {getattr(self, field.name) / 1e12:,.0f} s",
                    "an engine's times are up to an hour: 600ns, 1ms",
                )

    @property
    @abstractmethod
    def label(self) -> str:
        """As the paper writes it."""

    @property
    def pool(self) -> PoolConfig | None:
        """The memory behind each queue, where that is more than a ring."""
        return None

    @property
    def settings(self) -> dict[str, Any]:
        """Every field, times in ns, as the summary has them."""
        found = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_ps"):
                found[field.name.removesuffix("ps") + "ns"] = value / 1000
            else:
                found[field.name] = value
        return found

    @abstractmethod
    def simulate(self, workload: Workload, load: Load, *, seed: int = 1, transmit_ps: int = 0) -> Result:
        """Every packet of the workload through the engine.

        seed: of the handler's costs; transmit_ps: what a packet takes on the wire of the NIC that it is forwarded
        through, which all queues share, 0 where packets are not forwarded.
        """


def check_ring(ring: int) -> None:
    """UsageError for a ring that no NIC has."""
    if not RING_RANGE[0] <= ring <= RING_RANGE[1]:
        raise UsageError(
            f"a ring of {ring} descriptors", f"it has {RING_RANGE[0]} to {RING_RANGE[1]}, the paper's 1024"
        )


def check_clock(left_ps: float) -> None:
    """UsageError where what may be left when the last packet has come takes longer than the clock can tell."""
    if left_ps > LATEST_PS:
        raise UsageError(
            f"what waits in the buffers would take {left_ps / 86400e12:,.0f} days to handle",
            "the simulated clock has room for 26 days: a faster handler, smaller buffers",
        )
