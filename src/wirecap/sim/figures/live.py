"""The figures' experiments measured: which engines at which places, and each point beside its simulation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from wirecap.sim import border_router, load, workload
from wirecap.sim.engines import Dna, Engine, Netmap, PfRing, WireCap
from wirecap.sim.figures import bursts, differences, router, scaling
from wirecap.sim.figures.base import MEASURED, Figure, Point, Progress, Series
from wirecap.sim.live import Bench, RefusedError, Trial, as_live, live_engine, options
from wirecap.sim.live_traffic import Sent, send_both, send_burst, send_workload
from wirecap.sim.load import PAPER_PPS, Load
from wirecap.sim.measured import handler_pps
from wirecap.sim.simulate import simulate

HANDLER = ["--handler", f"pkt_handler:rate={PAPER_PPS}"]
HEAVY = load.filters(300)
BURSTS = (10_000, 20_000, 30_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 5_000_000, 10_000_000)
"""The shortest is ten times the largest ring; the generator needs some ms to reach its speed."""
BARE, BURSTING, FORWARDING = {8}, {9, 10}, {13, 14}
"""Figures without a load, of bursts, with a second NIC."""
SCALING_PACKETS = 1_000_000
"""Of each direction in figure 14: some seconds here."""


@dataclass(frozen=True)
class Experiment:
    """A series to measure: ``run`` makes the point at a place on the x axis."""

    label: str
    engine: Engine
    grid: Sequence[float]
    run: Callable[[Bench, float], Point]


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
    if number in BARE | BURSTING:
        grid = (bursts.FIGURE_8_PACKETS,) if number in BARE else BURSTS
        return [Experiment(one.label, one, grid, partial(_burst, one, number in BARE)) for one in engines[number]]
    if number in engines:
        forward = number in FORWARDING
        return [Experiment(one.label, one, router.QUEUES, partial(_router, one, forward)) for one in engines[number]]
    return [
        Experiment(scaling.label(one, frame), one, scaling.QUEUES, partial(_scaling, one, frame))
        for frame in scaling.FRAMES
        for one in scaling.ENGINES
    ]


def measure(figure: Figure, tell: Progress, engines: Iterable[str] = (), points: Iterable[float] = ()) -> None:
    """Add measured series to a simulated figure, and say where they differ.

    engines: live engines to run (none: all); points: places on the x axis (none: all).
    """
    wanted, places = set(engines), set(points)
    measured: list[Series] = []
    try:
        with Bench() as bench:
            for one in experiments(figure.number):
                if not wanted or live_engine(one.engine, figure.number in FORWARDING) in wanted:
                    grid = [place for place in one.grid if not places or place in places]
                    measured.append(Series(one.label, [], MEASURED))
                    _series(bench, one, grid, measured[-1], figure.notes, tell)
    finally:  # also what was measured until an interrupt
        measured = [series for series in measured if series.points]
        figure.series += measured
        figure.differences += [text for series in measured for text in differences.beyond_tolerance(series)]
        figure.notes += differences.notes(figure.number, measured)


def _series(
    bench: Bench, one: Experiment, grid: Sequence[float], series: Series, notes: list[str], tell: Progress
) -> None:
    """Every point of a series; an engine that is refused is a note."""
    try:
        for x in grid:
            series.points.append(one.run(bench, x))
            tell(differences.line(one.label, series.points[-1]))
    except RefusedError as error:
        notes.append(f"{one.label} was not measured: {error}")
        tell(f"{one.label}: {error}")


def _burst(engine: Engine, bare: bool, bench: Bench, x: float) -> Point:
    """A burst at the generator's full speed; simulated again at the rate that it had."""
    packets, cpu = int(x), min(os.sched_getaffinity(0))
    cost = load.filters(0) if bare else HEAVY
    handler = ["--handler", "count"] if bare else HANDLER
    trial = bench.trial(
        [*options(engine), *handler], lambda ends: send_burst(ends[0], packets, cpu), queues=1,
        gro=live_engine(engine) == "packet",
    )  # fmt: skip
    burst = workload.burst(trial.sent.packets, trial.sent.rate_pps)

    def simulated(model: Engine) -> float:
        return simulate(as_live(model), burst, cost).drop_rate

    point = _point(packets, trial, simulated(engine))
    _explain_ring(point, engine, simulated)
    return point


def _router(engine: Engine, forward: bool, bench: Bench, x: float) -> Point:
    """The border router's 32 s, packet for packet as simulated."""
    queues = int(x)
    packets = border_router.workload(queues)
    trial = bench.trial(
        [*options(engine, forward), *HANDLER], lambda ends: send_workload(ends[0], None, packets), queues=queues,
        forward=forward, gro=not forward and live_engine(engine) == "packet",
    )  # fmt: skip
    transmit_ps, extra_ps = (router.TRANSMIT_PS, router.FORWARD_PS) if forward else (0, 0)

    def simulated(model: Engine, cost: Load = HEAVY) -> float:
        return simulate(as_live(model), packets, cost.plus(extra_ps), transmit_ps=transmit_ps).drop_rate

    point = _point(queues, trial, simulated(engine))
    _explain_ring(point, engine, simulated)
    seen = handler_pps(trial.summary, trial.duration_s)
    if seen and differences.is_off(point):
        point.facts |= {"handler_pps": seen, "simulated_at_it": simulated(engine, load.rate(seen))}
    return point


def _explain_ring(point: Point, engine: Engine, simulated: Callable[[Engine], float]) -> None:
    """Where PF_RING's point is off: with how many slots its model would lose as much, to the nearest 64."""
    if not isinstance(engine, PfRing) or not differences.is_off(point):
        return
    low, high = 1, 64 * engine.slots
    while high - low > 64:
        middle = (low + high) // 2
        found = simulated(PfRing(engine.ring, middle, engine.kernel_ps))
        low, high = (middle, high) if found > point.drop else (low, middle)
    point.facts |= {"equivalent_slots": high}


def _scaling(engine: Engine, frame_bytes: int, bench: Bench, x: float) -> Point:
    """Both directions at the senders' full speed; nothing is simulated for it: the bus is this machine's cores."""
    queues = int(x)

    def send(ends: list[str]) -> Sent:
        return send_both(ends, queues, SCALING_PACKETS, frame_bytes)

    trial = bench.trial(options(engine, forward=True), send, queues=queues, forward=True, both=True)
    return _point(queues, trial, None)


def _point(x: float, trial: Trial, simulated: float | None) -> Point:
    facts: dict[str, Any] = {
        **trial.summary,
        "sent": trial.sent.packets,
        "rate_pps": trial.sent.rate_pps,
        "latest_ms": trial.sent.latest_ms,
        "duration_s": trial.duration_s,
    }
    if trial.arrived is not None:
        facts["arrived"] = trial.arrived
    if simulated is not None:
        facts["simulated"] = simulated
    return Point(x, trial.lost, facts)
