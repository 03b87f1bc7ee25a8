"""What a source is: something that fills an arena and yields descriptors, on one or more receive queues."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wirecap.files.interface import Interface
from wirecap.kernels.pool import Pool
from wirecap.kernels.rings import Rings


@dataclass(frozen=True)
class SourceQueue:
    """A receive queue."""

    interface: str
    queue: int
    interface_id: int = 0


@dataclass
class HookCounts:
    """What the source's own counters say of one queue, packets and bytes."""

    received: int = 0
    received_octets: int = 0
    in_ring: int = 0
    """Captured by the kernel and not yet taken by the capture thread."""
    drops: dict[str, int] = field(default_factory=dict)
    filtered: int = 0
    """Packets that a filter inside the kernel did not want."""


@dataclass(frozen=True)
class CaptureSettings:
    """How capture threads behave."""

    timeout_ns: int = 1_000_000
    coalesce_ns: int = 100_000


class Source(Protocol):
    """One kind of place that packets come from.

    The engine calls, in this order: ``equip`` (put cells on the free stacks and the rings' places into the
    queues' words), ``claim``, ``run`` in each capture thread, ``start``, later ``stop``, and ``close`` when all is
    read.
    """

    engine: str
    arena: NDArray[np.uint8]
    queues: list[SourceQueue]
    rings: Rings
    truncates: bool
    """True when a captured length can be less than the original."""
    keeps_unread: bool
    """True when what the engine did not read is still there (a file): it does not count as received."""

    @property
    def interfaces(self) -> list[Interface]:
        """Where packets come from; a slot's INTERFACE word is an index.  A file's may grow while it is read."""
        ...

    def equip(self, pool: Pool, cells_per_queue: int) -> None: ...

    def kernels(self) -> list[Any]:
        """The entry points that ``run`` calls, to be compiled ahead."""
        ...

    def run(self, pool: Pool, mine: list[int], settings: CaptureSettings) -> None:
        """A capture thread's life: serve the home queues ``mine`` until the phase says DRAIN or ABORT."""
        ...

    def claim(self) -> None:
        """Take what others may hold; raises SystemCallError.  No output file is touched before."""
        ...

    def start(self) -> None:
        """Let packets in."""
        ...

    def check(self) -> None:
        """Raise WirecapError when no packet can come any more (the interface is gone)."""
        ...

    def stop(self) -> None:
        """Let no more packets in; returns when none is under way."""
        ...

    def counts(self, pool: Pool, queue: int) -> HookCounts: ...

    def describe(self) -> dict[str, object]:
        """xdp_mode and zero_copy, for the summary."""
        ...

    def close(self) -> None: ...
