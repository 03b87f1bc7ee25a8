"""Run engines on a workload: compile, simulate, and say how fast that went."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from wirecap.kernels import jit
from wirecap.sim import bus as several
from wirecap.sim.engines import Engine
from wirecap.sim.forwarding import FORWARD_PS, TRANSMIT_PS
from wirecap.sim.load import Load
from wirecap.sim.result import Result
from wirecap.sim.workload import Workload

Tell = Callable[[str], None]


def simulate(
    engine: Engine,
    workload: Workload,
    load: Load,
    *,
    seed: int = 1,
    transmit_ps: int = 0,
    nics: int = 1,
    bus: several.Bus | None = None,
    tell: Tell | None = None,
) -> Result:
    """One engine on one workload; ``tell`` hears of kernels that have to be compiled first.

    nics: so many with this workload each, on one ``bus``.
    """
    _prepare(engine, nics, tell)
    if nics == 1:
        return engine.simulate(workload, load, seed=seed, transmit_ps=transmit_ps)
    return several.simulate(
        engine, workload, load, nics=nics, bus=bus or several.Bus(), seed=seed, transmit_ps=transmit_ps
    )


def _prepare(engine: Engine, nics: int, tell: Tell | None) -> None:
    jit.prepare([*engine.kernels, *(several.KERNELS if nics > 1 else ())], tell)


def compare(
    engines: Sequence[Engine],
    workload: Workload,
    load: Load,
    *,
    seed: int = 1,
    forward: bool = False,
    nics: int = 1,
    bus: several.Bus | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Several engines on the same packets with the same costs: one object, with a summary of each in ``results``.

    forward: every packet is sent on as 64 bytes at 10 Gbit/s, and costs FORWARD_PS more.
    """
    forward_ps, transmit_ps = (FORWARD_PS, TRANSMIT_PS) if forward else (0, 0)
    cost = load.plus(forward_ps)
    results = []
    for engine in engines:
        _prepare(engine, nics, tell)
        begin = time.perf_counter()
        result = simulate(engine, workload, cost, seed=seed, transmit_ps=transmit_ps, nics=nics, bus=bus)
        spent_s = time.perf_counter() - begin
        results.append({**result.as_dict(), "simulated_in_s": round(spent_s, 6)})
    return {
        "workload": workload.name,
        "nics": nics,
        "packets": workload.packets * nics,
        "workload_s": round(workload.duration_s, 9),
        "handler": load.name,
        "handler_pps": round(cost.rate_pps, 3),
        "forward": forward,
        "forward_ns": forward_ps / 1000,
        "transmit_ns": transmit_ps / 1000,
        "seed": seed,
        "results": results,
    }
