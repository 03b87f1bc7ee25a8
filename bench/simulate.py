"""How many packets per second the simulator handles on one core: the paper's 10^9 packets, six queues, WireCAP-A.

It needs no privileges.  The bar is 20 million packets per second, and a minute for a point of 10^9 packets.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

from wirecap.kernels.base import jit
from wirecap.sim import handler_cost, workload
from wirecap.sim.models import TABLE, Dna, Model, Netmap, PfRing, WireCap

BAR_PPS = 20e6
WIRE_PPS = workload.wire_rate_pps(10e9, 64)


def rate(engine: Model, packets: workload.Workload, cost: handler_cost.HandlerCost) -> float:
    """Simulated packets per second of real time."""
    begin = time.perf_counter()
    engine.simulate(packets, cost)
    return packets.packets / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--packets", type=int, default=10**9)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    jit.prepare([kernel for engine in TABLE.values() for kernel in engine.kernels])
    advanced = WireCap(256, 100, 60, advanced=True)
    uneven = (0.5, 0.1, 0.1, 0.1, 0.1, 0.1)
    fast, slow = handler_cost.filters(0), handler_cost.filters(300)
    wire = workload.burst(args.packets, WIRE_PPS, uneven)
    router, scattered = workload.border_router(6), workload.poisson(5_000_000, 200_000, uneven)
    small = workload.burst(min(args.packets, 20_000_000), WIRE_PPS)
    cases: list[tuple[str, Model, workload.Workload, handler_cost.HandlerCost]] = [
        ("A-(256,100,60%), 6 queues, wire rate, x = 0", advanced, wire, fast),
        ("A-(256,100,60%), 6 queues, wire rate, x = 300", advanced, wire, slow),
        ("A-(256,100,60%), 6 queues, border router", advanced, router, slow),
        ("A-(256,100,60%), 6 queues, Poisson", advanced, scattered, slow),
        ("A-(256,100,60%), 6 queues, random costs", advanced, router, handler_cost.exponential(38_844)),
        ("DNA, 1 queue, wire rate", Dna(), small, fast),
        ("NETMAP, 1 queue, wire rate", Netmap(), small, fast),
        ("PF_RING, 1 queue, wire rate", PfRing(), small, fast),
    ]
    found = {}
    for name, engine, packets, cost in cases:
        rates = [rate(engine, packets, cost) / 1e6 for _ in range(args.rounds)]
        found[name] = rates
        middle = statistics.median(rates)
        print(f"{name:<48} {middle:>10,.0f} Mp/s ({min(rates):,.0f}-{max(rates):,.0f}), {packets.packets:,} packets")
    if args.json:
        args.json.write_text(json.dumps({"million_pps": found}, indent=1) + "\n")
    missed = [
        name for name, rates in found.items() if name.startswith("A-") and statistics.median(rates) * 1e6 < BAR_PPS
    ]
    if missed:
        sys.exit(f"below {BAR_PPS / 1e6:.0f} Mp/s: {', '.join(missed)}")


if __name__ == "__main__":
    main()
