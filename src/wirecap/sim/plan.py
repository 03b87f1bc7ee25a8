"""The capacity planner: how deep the pools have to be, what they cost, and what is lost nevertheless.

A queue's pool fills while packets come faster than its handler takes them.  Two situations are reckoned: a
burst at link rate that falls on the queues as the traffic does, and the mean traffic with its worst queue.
"""

from __future__ import annotations

from dataclasses import dataclass

from wirecap.config import MAX_R, PoolConfig
from wirecap.errors import UsageError
from wirecap.sim import closed_form, load, workload
from wirecap.sim.engines import WireCap
from wirecap.sim.engines.base import RING
from wirecap.sim.engines.wirecap import CAPTURE_PS
from wirecap.sim.result import Result
from wirecap.sim.simulate import simulate
from wirecap.sim.workload import PS, wire_rate_pps

LINKS_BPS = (1e6, 4e11)
QUEUES_MOST = 64
FILL_NS = 20_000
"""A chunk should fill within some 20 us at link rate, as 256 packets do at 14.88 Mp/s: the capture thread's work is per
chunk, and the last packet of a chunk waits for no other."""
M_RANGE = (64, 1024)
ATTACHED_MOST = 16_384
"""Cells that the live engine keeps attached at the most (docs/architecture.md)."""
R_LEAST = 20
UNSURE_CHUNKS = 3
"""A handler gives a chunk back whole, and at low rates one or two are handed over before they are full."""
T_CRITICAL, T_OTHERWISE = 50, 80
"""The paper's guideline: 50 % where drops are critical, 80 % otherwise [text]."""


@dataclass(frozen=True)
class Demand:
    """What is asked of a capture.

    worst_share: the largest part of the packets that one queue gets.  burst_packets: how many packets come at
    ``burst_pps`` (the link's rate where not given).  handler_pps: what one handler thread does.  mean_pps: over
    a long time, 0 where only bursts matter.
    """

    link_bps: float
    frame_bytes: int
    queues: int
    worst_share: float
    burst_packets: int
    handler_pps: float
    burst_pps: float = 0.0
    mean_pps: float = 0.0
    drops_critical: bool = True
    cell_bytes: int = 2048

    def __post_init__(self) -> None:
        if not LINKS_BPS[0] <= self.link_bps <= LINKS_BPS[1]:
            raise UsageError(f"a link of {self.link_bps:g} bit/s", "a link has 1Mbps to 400Gbps")
        if not 64 <= self.frame_bytes <= 16_384:
            raise UsageError(
                f"frames of {self.frame_bytes} bytes", "a frame has 64 to 16384, its check sequence included"
            )
        if not 1 <= self.queues <= QUEUES_MOST:
            raise UsageError(f"{self.queues} queues", f"it plans for 1 to {QUEUES_MOST}")
        if not 1 / self.queues - 1e-9 <= self.worst_share <= 1:
            least = f"{100 / self.queues:.3g} % (all alike)"
            raise UsageError(
                f"a worst queue with {100 * self.worst_share:g} % of the packets", f"it has {least} to 100 %"
            )
        if self.burst_packets < 1 or not 1 <= self.handler_pps <= 1e12:
            raise UsageError("a burst and a handler's rate are 1 or more", "give --burst 100k --handler-rate 38844")
        if self.rate_pps > self.link_pps * 1.001 or self.mean_pps > self.link_pps * 1.001:
            raise UsageError(
                f"the link carries {self.link_pps:,.0f} frames of {self.frame_bytes} bytes a second",
                "take a lower rate, shorter frames or a faster link",
            )

    @property
    def link_pps(self) -> float:
        """Frames a second that fill the link."""
        return wire_rate_pps(self.link_bps, self.frame_bytes)

    @property
    def rate_pps(self) -> float:
        """The rate of a burst."""
        return self.burst_pps or self.link_pps


@dataclass(frozen=True)
class Plan:
    """M, R and T for a demand, and what follows from them; packets of the whole link where not said otherwise."""

    demand: Demand
    advanced: bool
    M: int
    R: int
    T: int
    memory_bytes: int
    burst_survived: float
    """The longest burst at its rate without loss, infinite where the handlers keep up."""
    burst_loss: float
    """The share of the demanded burst that is lost with this M and R."""
    mean_loss: float
    """The share of the mean traffic that is lost in the long run, whatever the pools."""
    survives: bool
    notes: tuple[str, ...]


def plan(demand: Demand, *, advanced: bool | None = None, M: int | None = None, R: int | None = None) -> Plan:
    """The smallest pools that survive the demanded burst.

    M or R given: what follows from them.  advanced: None chooses it where the worst queue's handler cannot do its
    mean traffic but all handlers together can do theirs.
    """
    if advanced is None:
        overloaded = demand.mean_pps * demand.worst_share > demand.handler_pps
        advanced = demand.queues > 1 and overloaded
    T = T_CRITICAL if demand.drops_critical else T_OTHERWISE
    M = M or _chunk(demand)
    R = R or max(_chunks(demand, M), _spread(demand.queues, T) if advanced else 0)
    pool = PoolConfig(M, R, demand.cell_bytes)
    survived = survived_packets(demand, M, R)
    lost = max(0.0, demand.worst_share * _lost_of(demand, M * R))
    return Plan(
        demand, advanced, M, R, T, pool.bytes(demand.queues), survived, lost, _mean_loss(demand, advanced, R, T),
        survived >= demand.burst_packets, _notes(demand, advanced, pool, T),
    )  # fmt: skip


def survived_packets(demand: Demand, M: int, R: int) -> float:
    """The longest burst without loss, certainly: the worst queue's pool but for UNSURE_CHUNKS, by its share."""
    arrival = demand.rate_pps * demand.worst_share
    buffered = M * max(1, R - UNSURE_CHUNKS)
    return closed_form.burst_survived(buffered, demand.handler_pps, arrival) / demand.worst_share


def shares(demand: Demand) -> tuple[float, ...]:
    """The worst queue's part of the packets, and what each other queue gets of the rest."""
    others = demand.queues - 1
    return (demand.worst_share, *[(1 - demand.worst_share) / max(1, others)] * others)


def check(found: Plan) -> Result:
    """The demanded burst through the simulated engine with the plan's M, R and T."""
    demand = found.demand
    ring = max(RING, min(found.M * found.R, ATTACHED_MOST))
    engine = WireCap(found.M, found.R, found.T, found.advanced, ring)
    packets = workload.burst(demand.burst_packets, demand.rate_pps, shares(demand))
    return simulate(engine, packets, load.rate(demand.handler_pps))


def _lost_of(demand: Demand, buffered: int) -> float:
    """Share of the worst queue's part of the burst that is lost."""
    part = demand.burst_packets * demand.worst_share
    return closed_form.burst_drop(part, buffered, demand.handler_pps, demand.rate_pps * demand.worst_share)


def _chunk(demand: Demand) -> int:
    """The largest power of two of packets that come within FILL_NS at the worst queue's rate."""
    wanted = demand.rate_pps * demand.worst_share * FILL_NS / 1e9
    M = M_RANGE[0]
    while min(wanted, M_RANGE[1]) >= 2 * M:
        M *= 2
    return M


def _chunks(demand: Demand, M: int) -> int:
    """Enough chunks for the worst queue's part of the burst, UNSURE_CHUNKS more, rounded up to tens."""
    part = demand.burst_packets * demand.worst_share
    kept_up = min(1.0, demand.handler_pps / (demand.rate_pps * demand.worst_share))
    chunks = int(-(-(part * (1 - kept_up)) // M)) + UNSURE_CHUNKS
    R = max(R_LEAST, -(-chunks // 10) * 10)
    if R > MAX_R:
        raise UsageError(f"the burst needs {R:,} chunks of {M} on a queue", "spread it over more queues")
    return R


def _spread(queues: int, T: int) -> int:
    """Chunks of a queue, in tens, with which it keeps all its buddies busy.

    T percent of R wait in its own capture queue before the first one is handed over, and a buddy takes two, one at
    work and one waiting, before the next buddy gets one: of equally short capture queues the first is chosen.
    """
    return -(-(2 * (queues - 1) + UNSURE_CHUNKS) * 100 // (100 - T) // 10) * 10


def _helpers(queues: int, R: int, T: int) -> float:
    """How many buddies one queue keeps busy with R chunks: one is at work, one is being filled, T percent wait."""
    return max(0.0, min(queues - 1, (R - R * T // 100 - 2) / 2))


def _mean_loss(demand: Demand, advanced: bool, R: int, T: int) -> float:
    """Long-run loss: what exceeds one handler on the worst queue, or in advanced mode all handlers that help it."""
    if not demand.mean_pps:
        return 0.0
    worst = demand.mean_pps * demand.worst_share
    if advanced:
        helped = worst - demand.handler_pps * (1 + _helpers(demand.queues, R, T))
        return max(0.0, 1 - demand.queues * demand.handler_pps / demand.mean_pps, helped / demand.mean_pps)
    others = (demand.mean_pps - worst) / max(1, demand.queues - 1)
    lost = max(0.0, worst - demand.handler_pps) + (demand.queues - 1) * max(0.0, others - demand.handler_pps)
    return lost / demand.mean_pps


def hands_over(demand: Demand, M: int) -> bool:
    """Whether the worst queue's capture thread is through with a chunk before the next one is full."""
    return demand.rate_pps * demand.worst_share * CAPTURE_PS / PS <= M


def _notes(demand: Demand, advanced: bool, pool: PoolConfig, T: int) -> tuple[str, ...]:
    """The trade-offs that the paper discusses, as they come up here."""
    notes = []
    if advanced:
        notes.append("offloading costs core affinity: a lower T drops less, a higher T keeps flows on their core")
    elif demand.mean_pps * demand.worst_share > demand.handler_pps:
        notes.append("no pool helps against lasting overload of one queue: --mode advanced lets idle queues help")
    if advanced and _helpers(demand.queues, pool.R, T) < demand.queues - 1:
        notes.append(f"with {pool.R} chunks a queue cannot keep all its buddies busy: -R {_spread(demand.queues, T)}")
    if demand.mean_pps > demand.queues * demand.handler_pps:
        notes.append("all handlers together are slower than the mean traffic: more queues or a faster handler")
    if pool.bytes(demand.queues) > 2 << 30:
        notes.append(
            "pools above some 2 GiB cost throughput when memory is the bottleneck: huge pages, or fewer queues"
        )
    if not hands_over(demand, pool.M):
        notes.append(f"{pool.M} packets come faster than a capture thread hands over chunks: a larger M, more queues")
    if demand.frame_bytes + 264 > demand.cell_bytes:
        notes.append(f"frames of {demand.frame_bytes} bytes do not fit a cell of {demand.cell_bytes}: --cell 4096")
    notes.append("every queue has a capture thread: best with a core of its own")
    return tuple(notes)
