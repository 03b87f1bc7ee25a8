"""Run engines on a workload: compile, simulate, and say how fast that went."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from wirecap.kernels import jit
from wirecap.sim.bus import Bus
from wirecap.sim.bus import simulate as simulate_on_bus
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
    nics: int = 1,
    bus: Bus | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Several engines on the same packets with the same costs: one object, with a summary of each in ``results``.

    nics: so many with this workload each, on one ``bus``.
    """
    shared = {"seed": seed, "transmit_ps": transmit_ps}
    results = []
    for engine in engines:
        jit.prepare(engine.kernels, tell)
        begin = time.perf_counter()
        if nics == 1:
            found = engine.simulate(workload, load, **shared).as_dict()
        else:
            found = simulate_on_bus(engine, workload, load, nics=nics, bus=bus or Bus(), **shared).as_dict()
        found["simulated_in_s"] = round(time.perf_counter() - begin, 6)
        results.append(found)
    return {
        "workload": workload.name,
        "nics": nics,
        "packets": workload.packets * nics,
        "workload_s": round(workload.duration_s, 9),
        "handler": load.name,
        "handler_pps": round(load.rate_pps, 3),
        "seed": seed,
        "results": results,
    }
