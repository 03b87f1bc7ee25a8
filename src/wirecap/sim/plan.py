"""The capacity planner: how deep the pools must be, what they cost, and what is lost all the same.

A queue's pool fills while packets arrive faster than its handler takes them.  The planner considers two situations:
a burst at link rate, spread over the queues like the traffic, and the mean traffic with its worst queue.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from wirecap.config.capture import CELLS, MAX_R, PoolConfig
from wirecap.errors import UsageError
from wirecap.kernels.pool.large import HEADROOM_BYTES
from wirecap.sim import closed_form, handler_cost, workload
from wirecap.sim.models import WireCap
from wirecap.sim.models.model import RING
from wirecap.sim.models.wirecap import CAPTURE_PS, TIMEOUT_PS
from wirecap.sim.result import Result
from wirecap.sim.simulate import Tell, simulate
from wirecap.sim.workload import LATEST_PS, PS, wire_rate_pps
from wirecap.units import format_bit_rate, format_packet_rate, format_size

LINKS_BPS = (1e6, 4e11)
QUEUES_MOST = 64
FCS_BYTES = 4
"""The check sequence, which a frame has on the wire but a captured packet does not."""


@dataclass(frozen=True)
class Demand:
    """What a capture must cope with.

    worst_share: the largest share of the packets on any queue.  burst_packets: how many packets arrive at
    ``burst_pps`` (None: the link's rate).  handler_pps: what one handler thread can process.  mean_pps: the
    long-term rate, 0 if only bursts matter.
    """

    link_bps: float
    frame_bytes: int
    queues: int
    worst_share: float
    burst_packets: int
    handler_pps: float
    burst_pps: float | None = None
    mean_pps: float = 0.0
    drops_critical: bool = True
    cell_bytes: int = 2048

    def __post_init__(self) -> None:
        if not LINKS_BPS[0] <= self.link_bps <= LINKS_BPS[1]:
            raise UsageError(f"unsupported link speed: {format_bit_rate(self.link_bps)}", "use 1Mbps to 400Gbps")
        if not 64 <= self.frame_bytes <= 16_384:
            raise UsageError(
                f"unsupported frame size: {self.frame_bytes} bytes",
                "use 64 to 16384 bytes, including the check sequence",
            )
        if not 1 <= self.queues <= QUEUES_MOST:
            raise UsageError(f"unsupported number of queues: {self.queues}", f"use 1 to {QUEUES_MOST}")
        if not 1 / self.queues - 1e-9 <= self.worst_share <= 1:
            what = f"the worst queue cannot get {100 * self.worst_share:g} % of the packets"
            if self.queues == 1:
                raise UsageError(f"{what}: the only one gets all of them", "leave --worst out, or add --queues N")
            raise UsageError(
                what, f"with {self.queues} queues, use --worst {100 / self.queues:.3g}% (an even spread) to 100%"
            )
        if self.burst_packets < 1 or not self.rate_pps >= 1 or not 1 <= self.handler_pps <= 1e12:
            raise UsageError(
                "the burst, its rate and the handler's rate must be 1 or more",
                "for example --burst 100k --handler-rate 38844",
            )
        if not self.rate_pps <= self.link_pps * 1.001 or not 0 <= self.mean_pps <= self.link_pps * 1.001:
            raise UsageError(
                f"the link carries only {self.link_pps:,.0f} frames of {self.frame_bytes} bytes per second",
                "use a lower rate, shorter frames or a faster link",
            )
        if self.mean_pps > self.rate_pps * 1.001:
            raise UsageError(
                f"the mean rate, {self.mean_pps:,.0f} p/s, is above the burst's, {self.rate_pps:,.0f} p/s",
                "raise --burst-rate",
            )

    @property
    def link_pps(self) -> float:
        """Frames per second that fill the link."""
        return wire_rate_pps(self.link_bps, self.frame_bytes)

    @property
    def rate_pps(self) -> float:
        """The rate of a burst."""
        return self.link_pps if self.burst_pps is None else self.burst_pps

    @property
    def worst_pps(self) -> float:
        """The rate of a burst on the worst queue."""
        return self.rate_pps * self.worst_share

    @property
    def shares(self) -> tuple[float, ...]:
        """The worst queue's share of the packets, then an equal share of the rest for each other queue."""
        others = self.queues - 1
        return (self.worst_share, *[max(0.0, 1 - self.worst_share) / max(1, others)] * others)


Kind = TypeVar("Kind")

OVERLOADED = ("pool_exhausted", "ring_full", "nic_ring_full", "slots_full")
"""Drops that mean that a handler was too slow, and nothing else (docs/drops.md)."""
NOT_IN_BYTES = ("pool_exhausted", "capture_late")
"""Packets that the packet engine lost before it knew their length (docs/summary.md)."""


@dataclass(frozen=True)
class Measured:
    """What a summary says; rates are in packets per second, for the whole link."""

    queues: int
    worst_share: float
    mean_pps: float
    """0 if packets came from a file, which is read as fast as possible."""
    frame_bytes: int | None
    """Including the check sequence; None if bytes were not counted."""
    handler_pps: float | None
    """The least that one handler can do; None if no queue was overloaded."""


def read_summary(path: str) -> Measured:
    """Read a file of ``wirecap capture --summary-json``, or of ``wirecap simulate --json`` with one engine."""
    hint = "name a file written by wirecap capture --summary-json"
    try:
        found = json.loads(Path(path).read_text())
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}", hint) from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is not JSON", hint) from None
    try:
        return _of(_only(path, found))
    except (LookupError, TypeError, ValueError):
        raise UsageError(f"{path} is not the summary of a run with packets", "capture some traffic first") from None


def _only(path: str, found: Any) -> Any:
    """The summary: the whole file, or its only result."""
    if "results" not in found:
        return found
    if len(found["results"]) != 1:
        raise UsageError(
            f"{path} has the results of {len(found['results'])} engines", "simulate only one: --engine wirecap"
        )
    return found["results"][0]


def _of(summary: Any) -> Measured:
    rows = _typed(summary["per_queue"], list)
    duration_s = _number(summary["duration_s"], least=1e-9)
    received = [_number(row["received"]) for row in rows]
    total = _number(sum(received), least=1)
    return Measured(
        queues=len(rows),
        worst_share=max(received) / total,
        mean_pps=0.0 if summary.get("engine") == "file" else total / duration_s,
        frame_bytes=_frame_bytes(summary, total),
        handler_pps=handler_pps(summary, duration_s),
    )


def _frame_bytes(summary: dict[str, Any], total: float) -> int | None:
    """The mean size of the frames whose bytes were counted."""
    if summary.get("engine") == "packet":
        total -= sum(_number(_typed(summary["packets"]["drops"], dict).get(name, 0)) for name in NOT_IN_BYTES)
    received_bytes = _number(_typed(summary.get("bytes", {}), dict).get("received", 0))
    return max(64, round(received_bytes / total) + FCS_BYTES) if received_bytes and total >= 1 else None


def handler_pps(summary: dict[str, Any], duration_s: float) -> float | None:
    """Packets per second that a handler thread processed while its queue was overloaded; None if no queue was.

    This is a lower bound: the thread may have been idle for part of ``duration_s``.  In advanced mode all threads work
    for an overloaded queue, so the result is their average.
    """
    rows = summary["per_queue"]
    delivered = [_number(row["delivered"]) for row in rows]
    drops = [_typed(row.get("drops", {}), dict) for row in rows]
    lost = [sum(_number(of.get(name, 0)) for name in OVERLOADED) for of in drops]
    overloaded = [done for done, late in zip(delivered, lost, strict=True) if late]
    if not overloaded or not duration_s:
        return None
    done = sum(delivered) / len(rows) if summary.get("mode") == "advanced" else max(overloaded)
    return done / duration_s


def _number(value: Any, least: float = 0) -> float:
    """Check that this is a number that a counter or a clock can have."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1 << 63:
        raise ValueError
    return value


def _typed(value: Any, kind: type[Kind]) -> Kind:
    if not isinstance(value, kind):
        raise TypeError
    return value


UNSURE_CHUNKS = 3
"""Chunks not to rely on: handlers give back whole chunks, and at low rates one or two are handed over partly filled."""
MEASURED_PPS = 4e6
"""What one queue took without loss in bench/count.py, on a veth and one CPU for the capture and handler threads."""
FOOTPRINT_BYTES = 2 << 30
"""Pools above this cost throughput when memory is the bottleneck (figure 14 [fitted])."""


def notes(demand: Demand, advanced: bool, pool: PoolConfig, T: int) -> tuple[str, ...]:
    """What the user of a plan should know, one note per line."""
    found = [
        *_load(demand, advanced),
        *(_threshold(demand, advanced, T) if demand.queues > 1 else []),
        *(_helped(demand, pool, T) if advanced else []),
        *_memory(demand, pool),
        "for a burst only R x M matters: a smaller M hands packets over sooner, a larger M costs less per packet",
    ]
    if demand.worst_pps > MEASURED_PPS:
        found.append(
            f"{format_packet_rate(demand.worst_pps)} on one queue has never been measured: run bench/count.py on the"
            f" machine in question (a veth in copy mode does some {format_packet_rate(MEASURED_PPS)})"
        )
    if not hands_over(demand, pool.M):
        found.append(
            f"chunks of {pool.M} fill faster than a capture thread hands them over: use a larger M, or more queues"
        )
    found.append(f"every queue has a capture thread and a handler thread: use {2 * demand.queues} cores (--cpus)")
    return tuple(found)


def _load(demand: Demand, advanced: bool) -> list[str]:
    if demand.mean_pps > demand.queues * demand.handler_pps:
        queues = math.ceil(demand.mean_pps / demand.handler_pps)
        return [f"all handlers together are slower than the mean traffic: use {queues:,} queues or a faster handler"]
    if not advanced and demand.mean_pps * demand.worst_share > demand.handler_pps:
        return ["no pool can absorb the lasting overload of one queue: use --mode advanced, so that idle queues help"]
    return []


def _threshold(demand: Demand, advanced: bool, T: int) -> list[str]:
    why = (
        "because drops are critical (80 % with --drops-ok)" if demand.drops_critical else "because drops are acceptable"
    )
    mode = "T is" if advanced else "with --mode advanced, T is"
    return [f"{mode} {T} % {why}. A lower T drops less, a higher T keeps packets on their core (affinity)"]


def _helped(demand: Demand, pool: PoolConfig, T: int) -> list[str]:
    order = "the packets of one flow go to several threads, so they may be handled out of order"
    if helpers(demand.queues, pool.R, T) >= demand.queues - 1:
        return [order]
    return [order, f"{pool.R} chunks cannot keep all buddies of a queue busy: use -R {spread(demand.queues, T)}"]


def _memory(demand: Demand, pool: PoolConfig) -> list[str]:
    found = []
    size = pool.bytes(demand.queues)
    if size > FOOTPRINT_BYTES:
        found.append(
            f"pools above some {format_size(FOOTPRINT_BYTES)} cost throughput when memory is the bottleneck:"
            f" reserve huge pages (sysctl vm.nr_hugepages={-(-size // (2 << 20))}), or use fewer queues"
        )
    captured = demand.frame_bytes - FCS_BYTES
    if captured > pool.cell - HEADROOM_BYTES:
        larger = [cell for cell in CELLS if captured <= cell - HEADROOM_BYTES]
        room = pool.cell - HEADROOM_BYTES
        several = f"each takes {-(-captured // room)} until it is joined (Linux 6.6; before that: --engine packet)"
        helps = f"use --cell {larger[0]}" if larger else several
        found.append(f"frames of {demand.frame_bytes} bytes do not fit a cell of {pool.cell} bytes: {helps}")
    return found


def hands_over(demand: Demand, M: int) -> bool:
    """Whether the worst queue's capture thread is done with a chunk before the next one is full."""
    return demand.worst_pps * CAPTURE_PS / PS <= M


def spread(queues: int, T: int) -> int:
    """How many chunks a queue needs to keep all its buddies busy, rounded up to tens.

    T percent of R wait in its own capture queue before the first one is handed over, and a buddy gets two, one being
    handled and one waiting, before the next buddy gets one: among equally short capture queues the first is chosen.
    """
    return -(-(2 * (queues - 1) + UNSURE_CHUNKS) * 100 // (100 - T) // 10) * 10


def helpers(queues: int, R: int, T: int) -> float:
    """How many buddies a queue keeps busy with R chunks: one is being handled, one being filled, T percent waiting."""
    return max(0.0, min(queues - 1, (R - R * T // 100 - 2) / 2))


FILL_NS = 20_000
"""A chunk should fill within some 20 us at link rate, as 256 packets do at 14.88 Mp/s: the capture thread's work is per
chunk, and the first packet of a chunk waits for the last."""
M_RANGE = (64, 1024)
ATTACHED_MOST = 16_384
"""The most cells that the live engine keeps attached (docs/architecture.md)."""
R_LEAST = 20
T_CRITICAL, T_OTHERWISE = 50, 80
"""The paper's guideline: 50 % if drops are critical, 80 % otherwise [text]."""
CHUNKS_MOST = 2_000_000
"""The most chunks to simulate, which takes some seconds.  Any real host's pools are full long before."""


@dataclass(frozen=True)
class PoolPlan:
    """M, R and T for a demand, and what follows from them; packets of the whole link unless stated otherwise.

    Bursts are computed as if no buddy helped: in advanced mode longer bursts survive, and less is lost.
    """

    demand: Demand
    advanced: bool
    M: int
    R: int
    T: int
    memory_bytes: int
    burst_survived: float
    """The longest burst, in packets, that certainly has no loss; infinite if the handlers keep up."""
    burst_loss: float
    """The largest share of the demanded burst that this M and R can lose."""
    mean_loss: float
    """The share of the mean traffic that is lost in the long run, however deep the pools."""
    notes: tuple[str, ...]

    @property
    def survives(self) -> bool:
        """Whether the demanded burst certainly has no loss."""
        return self.burst_survived >= self.demand.burst_packets

    def loss_of(self, packets: int) -> float:
        """``burst_loss`` for a burst of another length."""
        return _loss(self.demand, self.M, self.R, packets)


def plan(demand: Demand, *, advanced: bool | None = None, M: int | None = None, R: int | None = None) -> PoolPlan:
    """The smallest pools that survive the demanded burst.

    If M or R is given, the plan follows from it.  advanced: None chooses advanced mode if the worst queue's handler
    cannot keep up with its mean traffic.
    """
    if advanced is None:
        overloaded = demand.mean_pps * demand.worst_share > demand.handler_pps
        advanced = demand.queues > 1 and overloaded
    T = T_CRITICAL if demand.drops_critical else T_OTHERWISE
    pool = PoolConfig(M=_chunk(demand) if M is None else M, cell=demand.cell_bytes)
    if R is None:
        R = max(_chunks(demand, pool.M), spread(demand.queues, T) if advanced else 0)
    pool = replace(pool, R=R)
    return PoolPlan(
        demand, advanced, pool.M, pool.R, T, pool.bytes(demand.queues),
        burst_survived=_survived(demand, pool.M, pool.R),
        burst_loss=_loss(demand, pool.M, pool.R, demand.burst_packets),
        mean_loss=_mean_loss(demand, advanced, pool.R, T),
        notes=notes(demand, advanced, pool, T),
    )  # fmt: skip


def check(found: PoolPlan, tell: Tell | None = None) -> Result | None:
    """Simulate the demanded burst with the plan's M, R and T; None if the pools are too large.

    Of a long burst only the beginning is simulated, at most CHUNKS_MOST chunks: ``received`` says how much.
    """
    demand = found.demand
    if demand.queues * found.R > CHUNKS_MOST:
        return None
    ring = max(RING, min(found.M * found.R, max(ATTACHED_MOST, 2 * found.M)))
    model = WireCap(found.M, found.R, found.T, found.advanced, ring)
    length = min(demand.burst_packets, _simulated_most(demand, found.M))
    packets = workload.burst(length, demand.rate_pps, demand.shares)
    return simulate(model, packets, handler_cost.rate(demand.handler_pps), tell=tell)


def _simulated_most(demand: Demand, M: int) -> int:
    """Packets in CHUNKS_MOST chunks (at low rates these are not full), limited by the range of the simulated clock."""
    in_time = demand.rate_pps * TIMEOUT_PS / PS
    chunks = sum(share / min(M, max(1.0, share * in_time)) for share in demand.shares)
    return int(min(CHUNKS_MOST / chunks, demand.rate_pps * LATEST_PS / PS / 2))


def _certain(M: int, R: int) -> int:
    """Packets that a queue's pool is sure to hold."""
    return M * max(1, R - UNSURE_CHUNKS)


def _survived(demand: Demand, M: int, R: int) -> float:
    """The longest burst that certainly has no loss, set by the worst queue; 0 if chunks fill too fast."""
    if not hands_over(demand, M):
        return 0.0
    return closed_form.burst_survived(_certain(M, R), demand.handler_pps, demand.worst_pps) / demand.worst_share


def _loss(demand: Demand, M: int, R: int, packets: float) -> float:
    """The largest share of a burst that can be lost, with each queue on its own with its share of the packets."""
    if not hands_over(demand, M):
        return 1.0
    buffered = _certain(M, R)
    return sum(
        share * closed_form.burst_drop(packets * share, buffered, demand.handler_pps, demand.rate_pps * share)
        for share in demand.shares
        if share
    )


def _chunk(demand: Demand) -> int:
    """The largest power of two of packets that arrive within FILL_NS at the worst queue's rate."""
    wanted = demand.worst_pps * FILL_NS / 1e9
    M = M_RANGE[0]
    while min(wanted, M_RANGE[1]) >= 2 * M:
        M *= 2
    return M


def _chunks(demand: Demand, M: int) -> int:
    """Enough chunks for the worst queue's share of the burst, plus UNSURE_CHUNKS, rounded up to tens."""
    part = demand.burst_packets * demand.worst_share
    kept_up = min(1.0, demand.handler_pps / demand.worst_pps)
    chunks = int(-(-(part * (1 - kept_up)) // M)) + UNSURE_CHUNKS
    R = max(R_LEAST, -(-chunks // 10) * 10)
    if R > MAX_R:
        raise UsageError(f"the burst needs {R:,} chunks of {M} packets on one queue", "spread it over more queues")
    return R


def _mean_loss(demand: Demand, advanced: bool, R: int, T: int) -> float:
    """Long-run loss: what exceeds one handler on the worst queue, or in advanced mode all handlers that help it."""
    if not demand.mean_pps:
        return 0.0
    worst = demand.mean_pps * demand.worst_share
    if advanced:
        helped = worst - demand.handler_pps * (1 + helpers(demand.queues, R, T))
        return max(0.0, 1 - demand.queues * demand.handler_pps / demand.mean_pps, helped / demand.mean_pps)
    lost = sum(max(0.0, demand.mean_pps * share - demand.handler_pps) for share in demand.shares)
    return lost / demand.mean_pps
