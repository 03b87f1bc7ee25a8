"""What every model has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from wirecap.config.capture import PoolConfig
from wirecap.errors import UsageError
from wirecap.sim.handler_cost import HandlerCost
from wirecap.sim.result import Result
from wirecap.sim.workload import LATEST_PS, Workload

RING = 1024
"""Descriptors of a receive ring [recalled, WireCAP, IMC 2014]."""
RING_RANGE = (2, 1 << 20)
LONGEST_PS = 3600 * 10**12
SLICE = 2_000_000
"""Events per call of a kernel; Python handles signals between calls."""


@dataclass(frozen=True)
class Model(ABC):
    """A model: its fields are its settings (whole numbers, times in ps), and ``simulate`` runs it."""

    name: ClassVar[str]
    kernels: ClassVar[Sequence[Any]]
    """The kernels to compile before it runs."""
    forwards: ClassVar[bool] = True
    """Whether the paper could forward packets with it."""
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    """The settings that ``--engine all`` runs it with, one after the other."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name.endswith("_ps") and not 0 <= getattr(self, field.name) <= LONGEST_PS:
                what = field.name.removesuffix("_ps")
                raise UsageError(
                    f"{self.name}: {what} is too long: {getattr(self, field.name) / 1e12:,.0f} s",
                    "use at most an hour, such as 600ns or 1ms",
                )

    @property
    @abstractmethod
    def label(self) -> str:
        """The name as the paper writes it."""

    @property
    def pool(self) -> PoolConfig | None:
        """The pool behind each queue; None if a ring is all there is."""
        return None

    @property
    def settings(self) -> dict[str, Any]:
        """Every field, with times in ns, for the summary."""
        found = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_ps"):
                found[field.name.removesuffix("ps") + "ns"] = value / 1000
            else:
                found[field.name] = value
        return found

    def check(self, workload: Workload, cost: HandlerCost, transmit_ps: int = 0) -> None:  # noqa: B027
        """UsageError for what the engine cannot simulate: before its kernels are compiled, and before it runs."""

    @abstractmethod
    def simulate(self, workload: Workload, cost: HandlerCost, *, seed: int = 1, transmit_ps: int = 0) -> Result:
        """Run every packet of the workload through the model.

        seed: for the handler's costs; transmit_ps: how long a packet occupies the wire of the outgoing NIC, which all
        queues share; 0 if packets are not forwarded.
        """


def check_ring(ring: int) -> None:
    """Raise UsageError for a ring size that no NIC has."""
    if not RING_RANGE[0] <= ring <= RING_RANGE[1]:
        raise UsageError(
            f"unsupported ring size: {ring} descriptors", f"use {RING_RANGE[0]} to {RING_RANGE[1]}; the paper has 1024"
        )


def check_clock(left_ps: float) -> None:
    """Raise UsageError if what may be buffered when the last packet arrives takes longer than the clock's range."""
    if left_ps > LATEST_PS:
        raise UsageError(
            f"the packets in the buffers could take {left_ps / 86400e12:,.0f} days to handle, but the simulated clock"
            " ends after 26 days",
            "use a faster handler or smaller buffers",
        )
