"""Measures the figures' experiments: which engines run at which places, and each point next to its simulation."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from wirecap.sim import handler_cost, workload
from wirecap.sim.figures import bursts, router, scaling, story
from wirecap.sim.figures.figure import MEASURED, Figure, Point, Progress, Series
from wirecap.sim.handler_cost import FORWARD_PS, PAPER_PPS, TRANSMIT_PS, HandlerCost
from wirecap.sim.live import (
    Bench,
    RefusedError,
    Sent,
    Trial,
    as_live,
    live_engine,
    options,
    send_both,
    send_burst,
    send_workload,
)
from wirecap.sim.models import Dna, Model, Netmap, PfRing, WireCap
from wirecap.sim.plan import handler_pps
from wirecap.sim.simulate import simulate
from wirecap.sim.workload import Workload

HANDLER, COUNT = ("--handler", f"pkt_handler:rate={PAPER_PPS}"), ("--handler", "count")
HEAVY, BARE_LOAD = handler_cost.filters(300), handler_cost.filters(0)
BURSTS = (10_000, 20_000, 30_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 5_000_000, 10_000_000)
"""The shortest is ten times the largest ring; the generator needs some ms to get up to speed."""
BARE, BURSTING, FORWARDING = {8}, {9, 10}, {13, 14}
"""Figures without a load, with bursts, and with a second NIC."""
SCALING_PACKETS = 1_000_000
"""Packets in each direction in figure 14, which take some seconds here."""


@dataclass(frozen=True)
class Experiment:
    """A series to measure: ``run`` measures the point at a place on the x axis, with a command's ``arguments``."""

    label: str
    model: Model
    grid: Sequence[float]
    arguments: Sequence[str]
    run: Callable[[Bench, Sequence[str], float], Point]


def experiments(number: int) -> list[Experiment]:
    """What is measured for a figure, in the order of its series."""
    both = (*router.POOLS, *router.SHARING)
    models: dict[int, tuple[Model, ...]] = {
        8: (PfRing(), Dna(), Netmap(), WireCap(256, 100)),
        9: (PfRing(), Dna(), Netmap(), *(WireCap(M, R) for M, R in bursts.FIGURE_9)),
        10: tuple(WireCap(M, R) for M, R in bursts.FIGURE_10),
        11: (PfRing(), Dna(), Netmap(), *both),
        12: tuple(WireCap(256, 100, T, True) for T in router.THRESHOLDS),
        13: (PfRing(), Dna(), *both),
    }
    forward = number in FORWARDING
    if number in BARE:
        grid = (bursts.FIGURE_8_PACKETS,)
        return [_one(model, grid, partial(_burst, model, BARE_LOAD), COUNT) for model in models[number]]
    if number in BURSTING:
        return [_one(model, BURSTS, partial(_burst, model, HEAVY), HANDLER) for model in models[number]]
    if number in models:
        return [
            _one(model, router.QUEUES, partial(_router, model, forward), HANDLER, forward) for model in models[number]
        ]
    return [
        _one(model, scaling.QUEUES, partial(_scaling, frame), (), True, scaling.label(model, frame))
        for frame in scaling.FRAMES
        for model in scaling.ENGINES
    ]


def _one(
    model: Model, grid: Sequence[float], run: Callable[[Bench, Sequence[str], float], Point], handler: Sequence[str],
    forward: bool = False, label: str = "",
) -> Experiment:  # fmt: skip
    return Experiment(label or model.label, model, grid, (*options(model, forward), *handler), run)


def live_engines(number: int) -> set[str]:
    """The engines that a figure is measured with."""
    return {live_engine(one.model, number in FORWARDING) for one in experiments(number)}


def measure(figure: Figure, tell: Progress, models: Iterable[str] = (), points: Iterable[float] = ()) -> None:
    """Add measured series to a simulated figure, and note where they differ.

    models: engines to run (none: all); points: places on the x axis (none: all).
    """
    wanted, places = set(models), set(points)
    measured: list[Series] = []
    commands: dict[str, str] = {}
    try:
        with Bench() as bench:
            chosen = [
                (one, [place for place in one.grid if not places or place in places])
                for one in experiments(figure.number)
                if not wanted or live_engine(one.model, figure.number in FORWARDING) in wanted
            ]
            tell(f"figure {figure.number}: {sum(len(grid) for _, grid in chosen)} points to measure")
            for one, grid in chosen:
                commands[one.label] = " ".join(one.arguments)
                measured.append(Series(one.label, [], MEASURED))
                _series(bench, one, grid, measured[-1], figure.notes, tell)
    finally:  # keep what was measured before an interrupt, too
        measured = [series for series in measured if series.points]
        compared = [story.as_measured(series) for series in measured]
        figure.series += [*measured, *(series for series in compared if series.points)]
        figure.differences += [text for series in measured for text in story.beyond_tolerance(series)]
        figure.notes += story.notes(figure.number, measured)
        figure.configuration["live"] = {
            "command": "wirecap forward" if figure.number in FORWARDING else "wirecap capture",
            "options": commands, "cores": len(os.sched_getaffinity(0)), "kernel": platform.release(),
            "machine": platform.machine(),
        }  # fmt: skip


def _series(
    bench: Bench, one: Experiment, grid: Sequence[float], series: Series, notes: list[str], tell: Progress
) -> None:
    """Measure every point of a series; an engine that cannot run becomes a note."""
    try:
        for x in grid:
            series.points.append(one.run(bench, one.arguments, x))
            tell(story.line(one.label, series.points[-1]))
    except RefusedError as error:
        notes.append(f"{one.label} was not measured: {error}")
        tell(f"{one.label}: {error}")


def _burst(model: Model, cost: HandlerCost, bench: Bench, arguments: Sequence[str], x: float) -> Point:
    """A burst at the generator's full speed, then simulated at the rate that it reached."""
    packets, cpu = int(x), min(os.sched_getaffinity(0))
    trial = bench.trial(
        arguments, lambda ends: send_burst(ends[0], packets, cpu), queues=1, gro=live_engine(model) == "packet"
    )
    return _compared(x, model, trial, workload.burst(trial.sent.packets, trial.sent.rate_pps), cost)


def _router(model: Model, forward: bool, bench: Bench, arguments: Sequence[str], x: float) -> Point:
    """The border router's 32 s, with exactly the packets that are simulated."""
    packets = workload.border_router(int(x))
    trial = bench.trial(
        arguments, lambda ends: send_workload(ends[0], None, packets), queues=int(x),
        forward=forward, gro=not forward and live_engine(model) == "packet",
    )  # fmt: skip
    cost = HEAVY.plus(FORWARD_PS) if forward else HEAVY
    return _compared(x, model, trial, packets, cost, TRANSMIT_PS if forward else 0)


def _compared(
    x: float, model: Model, trial: Trial, packets: Workload, cost: HandlerCost, transmit_ps: int = 0
) -> Point:
    """A measured point with its simulation and, if the two differ, with the speed that the handlers reached."""

    def lost(cost: HandlerCost) -> float:
        return simulate(as_live(model), packets, cost, transmit_ps=transmit_ps).drop_rate

    point = _point(x, trial)
    point.facts[story.COMPARED] = lost(cost)
    seen = handler_pps(trial.summary, trial.duration_s) if story.is_off(point) else None
    if seen:
        point.facts |= {"handler_pps": seen, "simulated_at_it": lost(handler_cost.rate(seen))}
    return point


def _scaling(frame_bytes: int, bench: Bench, arguments: Sequence[str], x: float) -> Point:
    """Both directions at the senders' full speed, without a simulation: the bottleneck here is the cores, not a bus."""
    queues = int(x)

    def send(ends: list[str]) -> Sent:
        return send_both(ends, queues, SCALING_PACKETS, frame_bytes)

    return _point(x, bench.trial(arguments, send, queues=queues, forward=True, both=True))


def _point(x: float, trial: Trial) -> Point:
    facts: dict[str, Any] = {
        **trial.summary,
        "sent": trial.sent.packets,
        "rate_pps": trial.sent.rate_pps,
        "latest_ms": trial.sent.latest_ms,
        "duration_s": trial.duration_s,
    }
    if trial.arrived is not None:
        facts["arrived"] = trial.arrived
    return Point(x, trial.lost, facts)
