"""The trade-offs that the paper discusses, as they come up in a plan."""

from __future__ import annotations

import math

from wirecap.config import CELLS, PoolConfig
from wirecap.kernels.rings import HEADROOM_BYTES
from wirecap.sim.demand import FCS_BYTES, Demand
from wirecap.sim.engines.wirecap import CAPTURE_PS
from wirecap.sim.workload import PS
from wirecap.units import format_packet_rate, format_size

UNSURE_CHUNKS = 3
"""A handler gives a chunk back whole, and at low rates one or two are handed over before they are full."""
MEASURED_PPS = 4e6
"""What one queue took in without loss in bench/count.py on a veth, on a CPU shared by capture and handler threads."""
FOOTPRINT_BYTES = 2 << 30
"""Above it pools cost throughput when memory is the bottleneck (figure 14 [fitted])."""


def notes(demand: Demand, advanced: bool, pool: PoolConfig, T: int) -> tuple[str, ...]:
    """What a plan's user should know, a line each."""
    found = [
        *_load(demand, advanced),
        *(_threshold(demand, advanced, T) if demand.queues > 1 else []),
        *(_helped(demand, pool, T) if advanced else []),
        *_memory(demand, pool),
        "for a burst only R x M counts: a smaller M hands packets over sooner, a larger one costs less per packet",
    ]
    if demand.worst_pps > MEASURED_PPS:
        found.append(
            f"a queue at {format_packet_rate(demand.worst_pps)} was never measured: try bench/count.py on the machine"
            f" that is to do it (some {format_packet_rate(MEASURED_PPS)} on a veth, copying)"
        )
    if not hands_over(demand, pool.M):
        found.append(f"{pool.M} packets come faster than a capture thread hands over chunks: a larger M, more queues")
    found.append(f"every queue has a capture thread and a handler: best with {2 * demand.queues} cores (--cpus)")
    return tuple(found)


def _load(demand: Demand, advanced: bool) -> list[str]:
    if demand.mean_pps > demand.queues * demand.handler_pps:
        queues = math.ceil(demand.mean_pps / demand.handler_pps)
        return [f"all handlers together are slower than the mean traffic: {queues:,} queues, or a faster handler"]
    if not advanced and demand.mean_pps * demand.worst_share > demand.handler_pps:
        return ["no pool helps against lasting overload of one queue: --mode advanced lets idle queues help"]
    return []


def _threshold(demand: Demand, advanced: bool, T: int) -> list[str]:
    why = "as drops are critical; --drops-ok: 80 %" if demand.drops_critical else "as drops are no harm"
    mode = "T is" if advanced else "with --mode advanced T is"
    return [f"{mode} {T} % {why}. A lower T drops less, a higher T keeps packets on their core (affinity)"]


def _helped(demand: Demand, pool: PoolConfig, T: int) -> list[str]:
    order = "handlers of one flow run on several threads: its packets may be handled out of order"
    if helpers(demand.queues, pool.R, T) >= demand.queues - 1:
        return [order]
    return [order, f"with {pool.R} chunks a queue cannot keep all its buddies busy: -R {spread(demand.queues, T)}"]


def _memory(demand: Demand, pool: PoolConfig) -> list[str]:
    found = []
    size = pool.bytes(demand.queues)
    if size > FOOTPRINT_BYTES:
        found.append(
            f"pools above some {format_size(FOOTPRINT_BYTES)} cost throughput when memory is the bottleneck:"
            f" reserve huge pages (sysctl vm.nr_hugepages={-(-size // (2 << 20))}), or take fewer queues"
        )
    captured = demand.frame_bytes - FCS_BYTES
    if captured > pool.cell - HEADROOM_BYTES:
        larger = [cell for cell in CELLS if captured <= cell - HEADROOM_BYTES]
        helps = f"--cell {larger[0]}" if larger else "no cell of AF_XDP does, --engine packet takes them"
        found.append(f"frames of {demand.frame_bytes} bytes do not fit a cell of {pool.cell}: {helps}")
    return found


def hands_over(demand: Demand, M: int) -> bool:
    """Whether the worst queue's capture thread is through with a chunk before the next one is full."""
    return demand.worst_pps * CAPTURE_PS / PS <= M


def spread(queues: int, T: int) -> int:
    """Chunks of a queue, in tens, with which it keeps all its buddies busy.

    T percent of R wait in its own capture queue before the first one is handed over, and a buddy takes two, one at
    work and one waiting, before the next buddy gets one: of equally short capture queues the first is chosen.
    """
    return -(-(2 * (queues - 1) + UNSURE_CHUNKS) * 100 // (100 - T) // 10) * 10


def helpers(queues: int, R: int, T: int) -> float:
    """How many buddies one queue keeps busy with R chunks: one is at work, one is being filled, T percent wait."""
    return max(0.0, min(queues - 1, (R - R * T // 100 - 2) / 2))
