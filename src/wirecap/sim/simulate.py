"""Runs models on a workload: compiles, simulates, and measures how long that took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from wirecap.kernels.base import jit
from wirecap.sim import bus as several
from wirecap.sim.handler_cost import FORWARD_PS, TRANSMIT_PS, HandlerCost
from wirecap.sim.models import Model
from wirecap.sim.result import Result
from wirecap.sim.workload import Workload

Tell = Callable[[str], None]


def simulate(
    model: Model,
    workload: Workload,
    cost: HandlerCost,
    *,
    seed: int = 1,
    transmit_ps: int = 0,
    nics: int = 1,
    bus: several.Bus | None = None,
    tell: Tell | None = None,
) -> Result:
    """Run one model on one workload; ``tell`` is called for each kernel that has to be compiled first.

    nics: how many NICs, each with this workload, share one ``bus``.
    """
    _prepare([model], workload, cost, transmit_ps, nics, tell)
    if nics == 1:
        return model.simulate(workload, cost, seed=seed, transmit_ps=transmit_ps)
    return several.simulate(
        model, workload, cost, nics=nics, bus=bus or several.Bus(), seed=seed, transmit_ps=transmit_ps
    )


def _prepare(
    models: Sequence[Model], workload: Workload, cost: HandlerCost, transmit_ps: int, nics: int, tell: Tell | None
) -> None:
    """Compile what will run, once nothing can be refused any more."""
    if nics > 1:
        several.check(nics)
    for model in models:
        model.check(workload, cost, transmit_ps)
    kernels = [kernel for model in models for kernel in model.kernels]
    jit.prepare([*kernels, *(several.KERNELS if nics > 1 else ())], tell)


def compare(
    models: Sequence[Model],
    workload: Workload,
    cost: HandlerCost,
    *,
    seed: int = 1,
    forward: bool = False,
    nics: int = 1,
    bus: several.Bus | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Run several models on the same packets at the same costs: one object, with a summary of each in ``results``.

    forward: every packet is forwarded as 64 bytes at 10 Gbit/s, and costs FORWARD_PS more.
    """
    forward_ps, transmit_ps = (FORWARD_PS, TRANSMIT_PS) if forward else (0, 0)
    total = cost.plus(forward_ps)
    results = []
    _prepare(models, workload, total, transmit_ps, nics, tell)
    for model in models:
        begin = time.perf_counter()
        result = simulate(model, workload, total, seed=seed, transmit_ps=transmit_ps, nics=nics, bus=bus)
        spent_s = time.perf_counter() - begin
        results.append({**result.as_dict(), "simulated_in_s": round(spent_s, 6)})
    return {
        "workload": workload.name,
        "nics": nics,
        "packets": workload.packets * nics,
        "workload_s": round(workload.duration_s, 9),
        "handler": cost.name,
        "handler_pps": round(total.rate_pps, 3),
        "forward": forward,
        "forward_ns": forward_ps / 1000,
        "transmit_ns": transmit_ps / 1000,
        "seed": seed,
        "results": results,
    }
