"""The capacity planner: how deep the pools have to be, what they cost, and what is lost nevertheless.

A queue's pool fills while packets come faster than its handler takes them.  Two situations are reckoned: a
burst at link rate that falls on the queues as the traffic does, and the mean traffic with its worst queue.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from wirecap.config import MAX_R, PoolConfig
from wirecap.errors import UsageError
from wirecap.sim import closed_form, load, trade_offs, workload
from wirecap.sim.demand import Demand
from wirecap.sim.engines import WireCap
from wirecap.sim.engines.base import RING
from wirecap.sim.engines.wirecap import TIMEOUT_PS
from wirecap.sim.result import Result
from wirecap.sim.simulate import Tell, simulate
from wirecap.sim.trade_offs import UNSURE_CHUNKS
from wirecap.sim.workload import LATEST_PS, PS

FILL_NS = 20_000
"""A chunk should fill within some 20 us at link rate, as 256 packets do at 14.88 Mp/s: the capture thread's work is per
chunk, and the last packet of a chunk waits for no other."""
M_RANGE = (64, 1024)
ATTACHED_MOST = 16_384
"""Cells that the live engine keeps attached at the most (docs/architecture.md)."""
R_LEAST = 20
T_CRITICAL, T_OTHERWISE = 50, 80
"""The paper's guideline: 50 % where drops are critical, 80 % otherwise [text]."""
CHUNKS_MOST = 2_000_000
"""As many chunks are simulated, in some seconds.  Pools that any host has are full long before."""


@dataclass(frozen=True)
class Plan:
    """M, R and T for a demand, and what follows from them; packets of the whole link where not said otherwise.

    Bursts are reckoned as if no buddy helped: in advanced mode they are survived longer, and less is lost.
    """

    demand: Demand
    advanced: bool
    M: int
    R: int
    T: int
    memory_bytes: int
    burst_survived: float
    """At least so long a burst is without loss; infinite where the handlers keep up."""
    burst_loss: float
    """At most this share of the demanded burst is lost with this M and R."""
    mean_loss: float
    """The share of the mean traffic that is lost in the long run, whatever the pools."""
    notes: tuple[str, ...]

    @property
    def survives(self) -> bool:
        """Whether the demanded burst is certainly without loss."""
        return self.burst_survived >= self.demand.burst_packets

    def loss_of(self, packets: int) -> float:
        """``burst_loss`` of another length."""
        return _loss(self.demand, self.M, self.R, packets)


def plan(demand: Demand, *, advanced: bool | None = None, M: int | None = None, R: int | None = None) -> Plan:
    """The smallest pools that survive the demanded burst.

    M or R given: what follows from them.  advanced: None chooses it where the worst queue's handler cannot do its
    mean traffic but all handlers together can do theirs.
    """
    if advanced is None:
        overloaded = demand.mean_pps * demand.worst_share > demand.handler_pps
        advanced = demand.queues > 1 and overloaded
    T = T_CRITICAL if demand.drops_critical else T_OTHERWISE
    pool = PoolConfig(M=_chunk(demand) if M is None else M, cell=demand.cell_bytes)
    if R is None:
        R = max(_chunks(demand, pool.M), trade_offs.spread(demand.queues, T) if advanced else 0)
    pool = replace(pool, R=R)
    return Plan(
        demand, advanced, pool.M, pool.R, T, pool.bytes(demand.queues),
        burst_survived=_survived(demand, pool.M, pool.R),
        burst_loss=_loss(demand, pool.M, pool.R, demand.burst_packets),
        mean_loss=_mean_loss(demand, advanced, pool.R, T),
        notes=trade_offs.notes(demand, advanced, pool, T),
    )  # fmt: skip


def check(found: Plan, tell: Tell | None = None) -> Result | None:
    """The demanded burst through the simulated engine with the plan's M, R and T; None where the pools are too large.

    Of a long burst only the beginning, at the most CHUNKS_MOST chunks: ``received`` says how much.
    """
    demand = found.demand
    if demand.queues * found.R > CHUNKS_MOST:
        return None
    ring = max(RING, min(found.M * found.R, max(ATTACHED_MOST, 2 * found.M)))
    engine = WireCap(found.M, found.R, found.T, found.advanced, ring)
    length = min(demand.burst_packets, _simulated_most(demand, found.M))
    packets = workload.burst(length, demand.rate_pps, demand.shares)
    return simulate(engine, packets, load.rate(demand.handler_pps), tell=tell)


def _simulated_most(demand: Demand, M: int) -> int:
    """Packets of CHUNKS_MOST chunks, which at low rates are not full, and of a time that the simulator's clock has."""
    in_time = demand.rate_pps * TIMEOUT_PS / PS
    chunks = sum(share / min(M, max(1.0, share * in_time)) for share in demand.shares)
    return int(min(CHUNKS_MOST / chunks, demand.rate_pps * LATEST_PS / PS / 2))


def _certain(M: int, R: int) -> int:
    """Packets that a queue's pool holds in any case."""
    return M * max(1, R - UNSURE_CHUNKS)


def _survived(demand: Demand, M: int, R: int) -> float:
    """The longest burst that is certainly without loss: the worst queue's, by its share; 0 if chunks come too fast."""
    if not trade_offs.hands_over(demand, M):
        return 0.0
    return closed_form.burst_survived(_certain(M, R), demand.handler_pps, demand.worst_pps) / demand.worst_share


def _loss(demand: Demand, M: int, R: int, packets: float) -> float:
    """The share of a burst that is lost at the most, each queue with its part of the packets on its own."""
    if not trade_offs.hands_over(demand, M):
        return 1.0
    buffered = _certain(M, R)
    return sum(
        share * closed_form.burst_drop(packets * share, buffered, demand.handler_pps, demand.rate_pps * share)
        for share in demand.shares
        if share
    )


def _chunk(demand: Demand) -> int:
    """The largest power of two of packets that come within FILL_NS at the worst queue's rate."""
    wanted = demand.worst_pps * FILL_NS / 1e9
    M = M_RANGE[0]
    while min(wanted, M_RANGE[1]) >= 2 * M:
        M *= 2
    return M


def _chunks(demand: Demand, M: int) -> int:
    """Enough chunks for the worst queue's part of the burst, UNSURE_CHUNKS more, rounded up to tens."""
    part = demand.burst_packets * demand.worst_share
    kept_up = min(1.0, demand.handler_pps / demand.worst_pps)
    chunks = int(-(-(part * (1 - kept_up)) // M)) + UNSURE_CHUNKS
    R = max(R_LEAST, -(-chunks // 10) * 10)
    if R > MAX_R:
        raise UsageError(f"the burst needs {R:,} chunks of {M} on a queue", "spread it over more queues")
    return R


def _mean_loss(demand: Demand, advanced: bool, R: int, T: int) -> float:
    """Long-run loss: what exceeds one handler on the worst queue, or in advanced mode all handlers that help it."""
    if not demand.mean_pps:
        return 0.0
    worst = demand.mean_pps * demand.worst_share
    if advanced:
        helped = worst - demand.handler_pps * (1 + trade_offs.helpers(demand.queues, R, T))
        return max(0.0, 1 - demand.queues * demand.handler_pps / demand.mean_pps, helped / demand.mean_pps)
    lost = sum(max(0.0, demand.mean_pps * share - demand.handler_pps) for share in demand.shares)
    return lost / demand.mean_pps
