"""NICs on one bus: what figure 14 saturates.

The bus moves so many packets a second; a packet takes one place with DNA and 1 + e with WireCAP.  While more
comes than fits, each queue loses the same share of its packets, before the engine sees them; what passes keeps its
times, or is spread over those of its run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wirecap.config import PoolConfig
from wirecap.errors import UsageError
from wirecap.kernels import jit
from wirecap.kernels import sim_bus as k
from wirecap.sim.engines import Engine
from wirecap.sim.engines.base import SLICE
from wirecap.sim.load import Load
from wirecap.sim.result import QueueResult, Result
from wirecap.sim.workload import PS, Runs, Words, Workload, carried

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
HELD_PS = 10_000_000
HELD = 64
"""What waits for the bus: what it moves in 10 us, and 64 packets at the least.  Figure 14's traffic is steady, so that
the values do not matter there [derived]."""
NICS_MOST = 16
KERNELS = (k.run,)


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
        """What a packet of the engine takes: 1, or with a pool 1 + e."""
        return 1.0 if engine.pool is None else 1 + self.extra(engine.pool, queues_per_nic, nics)

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
    left = passing(workload, max(1, round(PS * cost * nics / bus.budget_pps)))
    results = [engine.simulate(left, load, seed=seed + number, transmit_ps=transmit_ps) for number in range(nics)]
    lost = [before.packets - after.packets for before, after in zip(workload.queues, left.queues, strict=True)]
    queues: list[QueueResult] = []
    for result in results:
        for queue, count in zip(result.queues, lost, strict=True):
            drops = {"bus_saturated": count, **queue.drops}
            queues.append(replace(queue, received=queue.received + count, drops=drops))
    settings = {**results[0].settings, "nics": nics, "bus_pps": bus.budget_pps, "bus_cost": cost}
    if "pool_bytes" in settings:
        settings["pool_bytes"] *= nics
    return Result(engine.name, engine.label, settings, queues, max(result.duration_s for result in results), nics)


def passing(workload: Workload, place_ps: int) -> Workload:
    """What is left of the packets behind a bus that takes ``place_ps`` for each."""
    jit.prepare(KERNELS)
    arrivals, state = workload.arrivals(), np.zeros(k.STATE_WORDS, np.int64)
    size = k.STEPS_OF_A_RUN * arrivals.start.size + k.STEPS_MORE
    edges, shares = np.empty(size, np.int64), np.empty(size)
    edges[0], shares[0], state[k.STEPS] = 0, 1.0, 1
    while k.run(arrivals, state, place_ps, max(HELD_PS, HELD * place_ps), edges, shares, SLICE) == SLICE:
        pass
    steps = int(state[k.STEPS])
    return Workload(workload.name, tuple(_thinned(queue, edges[:steps], shares[:steps]) for queue in workload.queues))


def _thinned(runs: Runs, edges: Words, shares: NDArray[np.float64]) -> Runs:
    """From edges[i] on shares[i] of the packets: runs are cut there; fractions of packets are carried on."""
    if not runs.count.size:
        return runs
    ends = np.cumsum(runs.count)
    cuts = np.union1d(ends, before(runs, edges))  # numbers of packets, from 0 on
    number, count = cuts[:-1], np.diff(cuts)
    run = np.searchsorted(ends, number, side="right")
    interval = runs.interval[run]
    start = runs.start[run] + (number - ends[run] + runs.count[run]) * interval
    share = shares[np.searchsorted(edges, start, side="right") - 1]
    lossy, kept = share < 1, count.copy()
    kept[lossy] = carried(count[lossy] * share[lossy])
    return Runs.of(start, np.where(lossy, count * interval // np.maximum(kept, 1), interval), kept)


def before(runs: Runs, edges_ps: Words) -> Words:
    """How many packets of at least one run arrive before each of the times."""
    started = np.searchsorted(runs.start, edges_ps)
    totals = np.concatenate([[0], np.cumsum(runs.count)])
    run = np.maximum(started - 1, 0)
    since = edges_ps - runs.start[run]
    interval = np.maximum(runs.interval[run], 1)
    inside = np.where(runs.interval[run] > 0, (since + interval - 1) // interval, runs.count[run])
    found: Words = np.where(started > 0, totals[run] + np.minimum(inside, runs.count[run]), 0)
    return found
