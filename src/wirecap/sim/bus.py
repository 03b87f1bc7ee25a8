"""Two NICs on one bus: what figure 14 saturates.

The bus moves so many packets a second; a packet takes one place with DNA and 1 + e with WireCAP.  While more
comes than fits, each queue loses the same share of its packets, before the engine sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wirecap.config import PoolConfig
from wirecap.errors import UsageError
from wirecap.sim.engines import Engine, WireCap
from wirecap.sim.load import Load
from wirecap.sim.result import QueueResult, Result
from wirecap.sim.workload import PS, Runs, Words, Workload

BUDGET_PPS = 23.8e6
"""Packets a second that the bus moves for DNA.  Fitted: the highest value of figure 14 is 24-29 %, and nothing is
lost at 20.8 Mp/s [derived]."""
OPERATIONS = 0.06
"""What WireCAP's own operations add to a packet's cost with one queue per NIC; spread over n queues it is 1 / n of
it.  Fitted: worse than DNA at one queue, like DNA at more [text]."""
RESIDENT_BYTES = 2 << 30
PER_GIB = 0.077
"""Cost added by each GiB of pools beyond RESIDENT_BYTES (TLB misses).  Fitted: (256,500) is poor at 5 and 6 queues
per NIC, which is 2.4 and 2.9 GiB, and not before [text]."""
SLICE_S = 0.001
NICS_MOST = 16


@dataclass(frozen=True)
class Bus:
    """How much it moves, and what is more costly than DNA on it."""

    budget_pps: float = BUDGET_PPS
    operations: float = OPERATIONS
    per_gib: float = PER_GIB

    def __post_init__(self) -> None:
        if not 1 <= self.budget_pps <= PS:
            raise UsageError(f"a bus of {self.budget_pps:g} packets a second", "the fitted one moves 23.8Mpps")

    def cost(self, engine: Engine, queues_per_nic: int, nics: int) -> float:
        """What a packet of the engine takes: 1, or WireCAP's 1 + e."""
        if not isinstance(engine, WireCap):
            return 1.0
        return 1 + self.extra(PoolConfig(engine.M, engine.R), queues_per_nic, nics)

    def extra(self, pool: PoolConfig, queues_per_nic: int, nics: int = 2) -> float:
        """WireCAP's e: cost of a packet beyond DNA's, as a share of it."""
        beyond = max(0, pool.bytes(queues_per_nic * nics) - RESIDENT_BYTES) / (1 << 30)
        return self.operations / queues_per_nic + self.per_gib * beyond


def simulate(
    engine: Engine, workload: Workload, load: Load, *, nics: int, bus: Bus, seed: int = 1, transmit_ps: int = 0
) -> Result:
    """So many NICs with the same traffic each, each captured for itself, all on one bus.

    When packets are forwarded, each NIC's go out on a wire of their own: with two NICs, both directions.
    """
    if not 2 <= nics <= NICS_MOST:
        raise UsageError(f"{nics} NICs on a bus", f"there are 2 to {NICS_MOST}")
    cost = bus.cost(engine, len(workload.queues), nics)
    left, lost = share([workload] * nics, bus.budget_pps, cost)
    results = [
        engine.simulate(nic, load, seed=seed + number, transmit_ps=transmit_ps) for number, nic in enumerate(left)
    ]
    queues: list[QueueResult] = []
    for result, missing in zip(results, lost, strict=True):
        for queue, count in zip(result.queues, missing, strict=True):
            drops = {"bus_saturated": count, **queue.drops}
            queues.append(replace(queue, received=queue.received + count, drops=drops))
    settings = {**results[0].settings, "nics": nics, "bus_pps": bus.budget_pps, "bus_cost": cost}
    return Result(engine.name, engine.label, settings, queues, max(result.duration_s for result in results), nics)


def share(nics: Sequence[Workload], budget_pps: float, cost: float) -> tuple[list[Workload], list[list[int]]]:
    """What is left of each NIC's packets behind the bus, and how many each of its queues lost.

    Reckoned in slices of SLICE_S, equally spaced within each; fractions of packets are carried on.
    """
    last = max(nic.duration_s for nic in nics)
    edges = np.arange(0, int(last / SLICE_S) + 2, dtype=np.int64) * round(SLICE_S * PS)
    counts = [[np.diff(before(queue, edges)) for queue in nic.queues] for nic in nics]
    demand = np.sum([np.sum(queues, axis=0) for queues in counts], axis=0) * cost
    kept_share = np.minimum(1.0, budget_pps * SLICE_S / np.maximum(demand, 1e-9))
    left, lost = [], []
    for nic, queues in zip(nics, counts, strict=True):
        kept = [np.diff(np.floor(np.cumsum(count * kept_share) + 1e-6), prepend=0) for count in queues]
        runs = [_spread(edges, each.astype(np.int64)) for each in kept]
        left.append(Workload(nic.name, tuple(runs)))
        lost.append([int(count.sum()) - queue.packets for count, queue in zip(queues, runs, strict=True)])
    return left, lost


def _spread(edges: Words, counts: Words) -> Runs:
    return Runs.of(edges[:-1], np.diff(edges) // np.maximum(counts, 1), counts)


def before(runs: Runs, edges_ps: Words) -> NDArray[np.int64]:
    """How many packets arrive before each of the times."""
    started = np.searchsorted(runs.start, edges_ps)
    totals = np.concatenate([[0], np.cumsum(runs.count)])
    run = np.maximum(started - 1, 0)
    if not runs.count.size:
        return np.zeros_like(edges_ps)
    since = edges_ps - runs.start[run]
    interval = np.maximum(runs.interval[run], 1)
    inside = np.where(runs.interval[run] > 0, (since + interval - 1) // interval, runs.count[run])
    found: NDArray[np.int64] = np.where(started > 0, totals[run] + np.minimum(inside, runs.count[run]), 0)
    return found
