"""What every simulated engine has, and what those have in common that serve each queue on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from wirecap.errors import UsageError
from wirecap.kernels.sim_arrivals import Arrivals
from wirecap.sim.load import Load
from wirecap.sim.result import QueueResult, Result
from wirecap.sim.workload import LATEST_PS, PS, Workload

RING = 1024
"""Descriptors of a receive ring [recalled, WireCAP, IMC 2014]."""
RING_RANGE = (2, 1 << 20)


class Engine(Protocol):
    """A model: its settings are its fields, ``simulate`` runs it."""

    name: ClassVar[str]
    forwards: ClassVar[bool]
    """Whether the paper could forward packets with it."""

    @property
    def label(self) -> str:
        """As the paper writes it."""
        ...

    @property
    def kernels(self) -> Sequence[Any]:
        """What to compile before it runs."""
        ...

    def simulate(self, workload: Workload, load: Load, *, seed: int = 1, transmit_ps: int = 0) -> Result:
        """Every packet of the workload through the engine.

        seed: of the handler's costs; transmit_ps: what a packet takes on the wire of the NIC that it is forwarded
        through, 0 where packets are not forwarded.
        """
        ...


def check_ring(ring: int) -> None:
    """UsageError for a ring that no NIC has."""
    if not RING_RANGE[0] <= ring <= RING_RANGE[1]:
        raise UsageError(
            f"a ring of {ring} descriptors", f"it has {RING_RANGE[0]} to {RING_RANGE[1]}, the paper's 1024"
        )


def check_time(load: Load, waiting: int) -> None:
    """UsageError where handling ``waiting`` packets would take longer than the simulated clock can tell."""
    if waiting * float(load.costs.max()) > LATEST_PS:
        raise UsageError(
            f"a handler of {load.rate_pps:g} packets a second", "what waits in the pool would take it more than 26 days"
        )


Serve = Callable[[Arrivals, int], tuple[QueueResult, int]]
"""(arrivals, queue) -> what became of its packets, and when the last one was handled, in ps."""


def queue_by_queue(
    engine: Engine, settings: dict[str, Any], workload: Workload, serve: Serve, transmit_ps: int
) -> Result:
    """Run an engine whose queues know nothing of each other."""
    arrivals = workload.arrivals()
    results, ended = [], 0
    for number in range(len(workload.queues)):
        result, last = serve(arrivals, number)
        result.forwarded = result.delivered if transmit_ps else 0
        results.append(result)
        ended = max(ended, last)
    return Result(engine.name, engine.label, settings, results, ended / PS)
