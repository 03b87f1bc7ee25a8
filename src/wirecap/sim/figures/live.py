"""The figures' experiments measured: which engines at which places, and each point beside its simulation."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from wirecap.sim import border_router, load, workload
from wirecap.sim.engines import Dna, Engine, Netmap, PfRing, WireCap
from wirecap.sim.figures import bursts, differences, router, scaling
from wirecap.sim.figures.base import MEASURED, Figure, Point, Progress, Series
from wirecap.sim.forwarding import FORWARD_PS, TRANSMIT_PS
from wirecap.sim.live import Bench, RefusedError, Trial, as_live, live_engine, options
from wirecap.sim.live_traffic import Sent, send_both, send_burst, send_workload
from wirecap.sim.load import PAPER_PPS, Load
from wirecap.sim.measured import handler_pps
from wirecap.sim.simulate import simulate
from wirecap.sim.workload import Workload

HANDLER, COUNT = ("--handler", f"pkt_handler:rate={PAPER_PPS}"), ("--handler", "count")
HEAVY, BARE_LOAD = load.filters(300), load.filters(0)
BURSTS = (10_000, 20_000, 30_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 5_000_000, 10_000_000)
"""The shortest is ten times the largest ring; the generator needs some ms to reach its speed."""
BARE, BURSTING, FORWARDING = {8}, {9, 10}, {13, 14}
"""Figures without a load, of bursts, with a second NIC."""
SCALING_PACKETS = 1_000_000
"""Of each direction in figure 14: some seconds here."""


@dataclass(frozen=True)
class Experiment:
    """A series to measure: ``run`` makes the point at a place on the x axis with a command's ``arguments``."""

    label: str
    engine: Engine
    grid: Sequence[float]
    arguments: Sequence[str]
    run: Callable[[Bench, Sequence[str], float], Point]


def experiments(number: int) -> list[Experiment]:
    """What is measured for a figure, in the order of its series."""
    both = (*router.POOLS, *router.SHARING)
    engines: dict[int, tuple[Engine, ...]] = {
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
        return [_one(engine, grid, partial(_burst, engine, BARE_LOAD), COUNT) for engine in engines[number]]
    if number in BURSTING:
        return [_one(engine, BURSTS, partial(_burst, engine, HEAVY), HANDLER) for engine in engines[number]]
    if number in engines:
        return [
            _one(engine, router.QUEUES, partial(_router, engine, forward), HANDLER, forward)
            for engine in engines[number]
        ]
    return [
        _one(engine, scaling.QUEUES, partial(_scaling, frame), (), True, scaling.label(engine, frame))
        for frame in scaling.FRAMES
        for engine in scaling.ENGINES
    ]


def _one(
    engine: Engine, grid: Sequence[float], run: Callable[[Bench, Sequence[str], float], Point], handler: Sequence[str],
    forward: bool = False, label: str = "",
) -> Experiment:  # fmt: skip
    return Experiment(label or engine.label, engine, grid, (*options(engine, forward), *handler), run)


def live_engines(number: int) -> set[str]:
    """This project's engines that a figure is measured with."""
    return {live_engine(one.engine, number in FORWARDING) for one in experiments(number)}


def measure(figure: Figure, tell: Progress, engines: Iterable[str] = (), points: Iterable[float] = ()) -> None:
    """Add measured series to a simulated figure, and say where they differ.

    engines: live engines to run (none: all); points: places on the x axis (none: all).
    """
    wanted, places = set(engines), set(points)
    measured: list[Series] = []
    commands: dict[str, str] = {}
    try:
        with Bench() as bench:
            chosen = [
                (one, [place for place in one.grid if not places or place in places])
                for one in experiments(figure.number)
                if not wanted or live_engine(one.engine, figure.number in FORWARDING) in wanted
            ]
            tell(f"figure {figure.number}: {sum(len(grid) for _, grid in chosen)} points to measure")
            for one, grid in chosen:
                commands[one.label] = " ".join(one.arguments)
                measured.append(Series(one.label, [], MEASURED))
                _series(bench, one, grid, measured[-1], figure.notes, tell)
    finally:  # also what was measured until an interrupt
        measured = [series for series in measured if series.points]
        compared = [differences.as_measured(series) for series in measured]
        figure.series += [*measured, *(series for series in compared if series.points)]
        figure.differences += [text for series in measured for text in differences.beyond_tolerance(series)]
        figure.notes += differences.notes(figure.number, measured)
        figure.configuration["live"] = {
            "command": "wirecap forward" if figure.number in FORWARDING else "wirecap capture",
            "options": commands, "cores": len(os.sched_getaffinity(0)), "kernel": platform.release(),
            "machine": platform.machine(),
        }  # fmt: skip


def _series(
    bench: Bench, one: Experiment, grid: Sequence[float], series: Series, notes: list[str], tell: Progress
) -> None:
    """Every point of a series; an engine that is refused is a note."""
    try:
        for x in grid:
            series.points.append(one.run(bench, one.arguments, x))
            tell(differences.line(one.label, series.points[-1]))
    except RefusedError as error:
        notes.append(f"{one.label} was not measured: {error}")
        tell(f"{one.label}: {error}")


def _burst(engine: Engine, cost: Load, bench: Bench, arguments: Sequence[str], x: float) -> Point:
    """A burst at the generator's full speed; simulated again at the rate that it had."""
    packets, cpu = int(x), min(os.sched_getaffinity(0))
    trial = bench.trial(
        arguments, lambda ends: send_burst(ends[0], packets, cpu), queues=1, gro=live_engine(engine) == "packet"
    )
    return _compared(x, engine, trial, workload.burst(trial.sent.packets, trial.sent.rate_pps), cost)


def _router(engine: Engine, forward: bool, bench: Bench, arguments: Sequence[str], x: float) -> Point:
    """The border router's 32 s, packet for packet as simulated."""
    packets = border_router.workload(int(x))
    trial = bench.trial(
        arguments, lambda ends: send_workload(ends[0], None, packets), queues=int(x),
        forward=forward, gro=not forward and live_engine(engine) == "packet",
    )  # fmt: skip
    cost = HEAVY.plus(FORWARD_PS) if forward else HEAVY
    return _compared(x, engine, trial, packets, cost, TRANSMIT_PS if forward else 0)


def _compared(x: float, engine: Engine, trial: Trial, packets: Workload, cost: Load, transmit_ps: int = 0) -> Point:
    """A measured point beside its simulation, and where they differ, with what the handlers did."""

    def lost(cost: Load) -> float:
        return simulate(as_live(engine), packets, cost, transmit_ps=transmit_ps).drop_rate

    point = _point(x, trial)
    point.facts[differences.COMPARED] = lost(cost)
    seen = handler_pps(trial.summary, trial.duration_s) if differences.is_off(point) else None
    if seen:
        point.facts |= {"handler_pps": seen, "simulated_at_it": lost(load.rate(seen))}
    return point


def _scaling(frame_bytes: int, bench: Bench, arguments: Sequence[str], x: float) -> Point:
    """Both directions at the senders' full speed; nothing is simulated for it: the bus is this machine's cores."""
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
