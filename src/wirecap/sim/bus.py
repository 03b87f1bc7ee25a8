"""NICs that share a bus, which is what figure 14 saturates.

The bus moves a fixed number of packets per second; a packet takes one place with DNA and 1 + e with WireCAP.  While
more arrive than fit, each queue loses the same share of its packets before the engine sees them; those that pass keep
their times, or are spread over the time of their run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wirecap.config.capture import PoolConfig
from wirecap.errors import UsageError
from wirecap.kernels.base import jit
from wirecap.kernels.sim import bus as k
from wirecap.sim.handler_cost import HandlerCost
from wirecap.sim.models import Model
from wirecap.sim.models.model import SLICE
from wirecap.sim.result import QueueResult, Result
from wirecap.sim.workload import PS, Runs, Words, Workload, carried

BUDGET_PPS = 23.8e6
"""Packets per second that the bus moves for DNA.  Fitted: the highest value of figure 14 is 24-29 %, and nothing is
lost at 20.8 Mp/s [derived]."""
OPERATIONS = 0.06
"""What WireCAP's own operations add to a packet's cost with one queue per NIC; with n queues it is 1 / n of
that.  Fitted: worse than DNA at one queue, like DNA at more [text]."""
RESIDENT_BYTES = 2 << 30
PER_GIB = 0.077
"""Cost added by each GiB of pools beyond RESIDENT_BYTES (TLB misses).  Fitted: (256,500) does badly at 5 and 6 queues
per NIC, which is 2.4 and 2.9 GiB, but not below [text]."""
HELD_PS = 10_000_000
HELD = 64
"""How much can wait for the bus: what it moves in 10 us, but at least 64 packets.  Figure 14's traffic is steady, so
the values do not matter there [derived]."""
NICS_MOST = 16
KERNELS = (k.run,)


@dataclass(frozen=True)
class Bus:
    """How much the bus moves, and what costs more on it than DNA does."""

    budget_pps: float = BUDGET_PPS
    operations: float = OPERATIONS
    per_gib: float = PER_GIB

    def __post_init__(self) -> None:
        if not 1 <= self.budget_pps <= PS:
            raise UsageError(
                f"unsupported bus speed: {self.budget_pps:g} packets per second", "the fitted bus moves 23.8Mpps"
            )

    def cost(self, model: Model, queues_per_nic: int, nics: int) -> float:
        """How many places one of the engine's packets takes: 1, or with a pool 1 + e."""
        return 1.0 if model.pool is None else 1 + self.extra(model.pool, queues_per_nic, nics)

    def extra(self, pool: PoolConfig, queues_per_nic: int, nics: int = 2) -> float:
        """WireCAP's e: by what share a packet costs more than with DNA."""
        beyond = max(0, pool.bytes(queues_per_nic * nics) - RESIDENT_BYTES) / (1 << 30)
        return self.operations / queues_per_nic + self.per_gib * beyond


def check(nics: int) -> None:
    """UsageError for a number of NICs that no bus has."""
    if not 2 <= nics <= NICS_MOST:
        raise UsageError(f"unsupported number of NICs on a bus: {nics}", f"use 2 to {NICS_MOST}")


def simulate(
    model: Model, workload: Workload, cost: HandlerCost, *, nics: int, bus: Bus, seed: int = 1, transmit_ps: int = 0
) -> Result:
    """Several NICs on one bus, each with the same traffic and each captured separately.

    When packets are forwarded, each NIC's packets leave on a wire of their own: with two NICs, both directions.
    """
    bus_cost = bus.cost(model, len(workload.queues), nics)
    left = passing(workload, max(1, round(PS * bus_cost * nics / bus.budget_pps)))
    results = [model.simulate(left, cost, seed=seed + number, transmit_ps=transmit_ps) for number in range(nics)]
    lost = [before.packets - after.packets for before, after in zip(workload.queues, left.queues, strict=True)]
    queues: list[QueueResult] = []
    for result in results:
        for queue, count in zip(result.queues, lost, strict=True):
            drops = {"bus_saturated": count, **queue.drops}
            queues.append(replace(queue, received=queue.received + count, drops=drops))
    settings = {**results[0].settings, "nics": nics, "bus_pps": bus.budget_pps, "bus_cost": bus_cost}
    if "pool_bytes" in settings:
        settings["pool_bytes"] *= nics
    return Result(model.name, model.label, settings, queues, max(result.duration_s for result in results), nics)


def passing(workload: Workload, place_ps: int) -> Workload:
    """The packets that pass a bus that takes ``place_ps`` for each."""
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
    """Keep shares[i] of the packets from edges[i] on: runs are cut there, and fractions of packets carried over."""
    if not runs.count.size:
        return runs
    ends = np.cumsum(runs.count)
    cuts = np.union1d(ends, before(runs, edges))  # packet numbers, from 0
    number, count = cuts[:-1], np.diff(cuts)
    run = np.searchsorted(ends, number, side="right")
    interval = runs.interval[run]
    start = runs.start[run] + (number - ends[run] + runs.count[run]) * interval
    share = shares[np.searchsorted(edges, start, side="right") - 1]
    lossy, kept = share < 1, count.copy()
    kept[lossy] = carried(count[lossy] * share[lossy])
    return Runs.of(start, np.where(lossy, count * interval // np.maximum(kept, 1), interval), kept)


def before(runs: Runs, edges_ps: Words) -> Words:
    """How many packets arrive before each of the times; there is at least one run."""
    started = np.searchsorted(runs.start, edges_ps)
    totals = np.concatenate([[0], np.cumsum(runs.count)])
    run = np.maximum(started - 1, 0)
    since = edges_ps - runs.start[run]
    interval = np.maximum(runs.interval[run], 1)
    inside = np.where(runs.interval[run] > 0, (since + interval - 1) // interval, runs.count[run])
    found: Words = np.where(started > 0, totals[run] + np.minimum(inside, runs.count[run]), 0)
    return found
