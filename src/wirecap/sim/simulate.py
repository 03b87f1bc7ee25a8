"""Run engines on a workload: compile, simulate, and say how fast that went."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from wirecap.kernels import jit
from wirecap.sim.engines import Engine
from wirecap.sim.load import Load
from wirecap.sim.result import Result
from wirecap.sim.workload import Workload

Tell = Callable[[str], None]


def simulate(
    engine: Engine, workload: Workload, load: Load, *, seed: int = 1, transmit_ps: int = 0, tell: Tell | None = None
) -> Result:
    """One engine on one workload; ``tell`` hears of kernels that have to be compiled first."""
    jit.prepare(engine.kernels, tell)
    return engine.simulate(workload, load, seed=seed, transmit_ps=transmit_ps)


def compare(
    engines: Sequence[Engine],
    workload: Workload,
    load: Load,
    *,
    seed: int = 1,
    transmit_ps: int = 0,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Several engines on the same packets with the same costs: one object, with a summary of each in ``results``."""
    results = []
    for engine in engines:
        jit.prepare(engine.kernels, tell)
        begin = time.perf_counter()
        found = engine.simulate(workload, load, seed=seed, transmit_ps=transmit_ps).as_dict()
        found["simulated_in_s"] = round(time.perf_counter() - begin, 6)
        results.append(found)
    return {
        "workload": workload.name,
        "packets": workload.packets,
        "workload_s": round(workload.duration_s, 9),
        "handler": load.name,
        "handler_pps": round(load.rate_pps, 3),
        "seed": seed,
        "results": results,
    }
