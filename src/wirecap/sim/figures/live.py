"""Measured points beside the simulated ones, and where they are apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial

from wirecap.sim import border_router, load, workload
from wirecap.sim.engines import Dna, Engine, Netmap, PfRing, WireCap
from wirecap.sim.figures import bursts, router
from wirecap.sim.figures.base import MEASURED, Figure, Point, Progress, Series
from wirecap.sim.live import Bench, RefusedError, Trial, as_live, live_engine, options
from wirecap.sim.live_traffic import Sent, send_burst, send_workload
from wirecap.sim.load import PAPER_PPS, Load
from wirecap.sim.simulate import simulate

TOLERANCE_POINTS = 3.0
HANDLER = ["--handler", f"pkt_handler:rate={PAPER_PPS}"]
LIVE_BURSTS = (10_000, 20_000, 30_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 5_000_000, 10_000_000)
"""The shortest is ten times the largest ring; the generator needs some ms to reach its speed."""
ENGINES: dict[int, tuple[Engine, ...]] = {
    8: (PfRing(), Dna(), Netmap(), WireCap(256, 100)),
    9: (PfRing(), Dna(), Netmap(), *(WireCap(M, R) for M, R in bursts.FIGURE_9)),
    10: tuple(WireCap(M, R) for M, R in bursts.FIGURE_10),
    11: (PfRing(), Dna(), Netmap(), *router.POOLS, *router.SHARING),
    12: tuple(WireCap(256, 100, T, True) for T in router.THRESHOLDS),
    13: (PfRing(), Dna(), *router.POOLS, *router.SHARING),
}
"""Figure 14 has no live form: its subject is a bus that two NICs fill."""


def measure(figure: Figure, tell: Progress, engines: Iterable[str] = (), points: Iterable[float] = ()) -> None:
    """Add measured series to a simulated figure, and say where they differ.

    engines: live engines to run (none: all); points: places on the x axis (none: all).
    """
    wanted, places = set(engines), set(points)
    with Bench() as bench:
        for engine in ENGINES.get(figure.number, ()):
            if wanted and live_engine(engine) not in wanted:
                continue
            try:
                found = _series(bench, figure.number, engine, places, tell)
            except RefusedError as error:
                figure.notes.append(f"{engine.label} was not measured: {error}")
                tell(f"{engine.label}: {error}")
                continue
            figure.series.append(found)
            figure.differences += _differences(found)
    figure.notes += _notes(figure)


def _series(bench: Bench, number: int, engine: Engine, places: set[float], tell: Progress) -> Series:
    if number in (8, 9, 10):
        grid = [float(bursts.FIGURE_8_PACKETS)] if number == 8 else [float(count) for count in LIVE_BURSTS]
        cost = load.filters(0) if number == 8 else load.filters(300)
        run: Callable[[float], Point] = partial(_burst, bench, engine, cost)
    else:
        grid = [float(queues) for queues in router.QUEUES]
        run = partial(_router, bench, engine, number == 13)
    found = []
    for x in grid:
        if places and x not in places:
            continue
        found.append(run(x))
        tell(f"{engine.label} at {x:,g}: {100 * found[-1].drop:.2f} % lost,"
             f" {100 * found[-1].facts['simulated']:.2f} % simulated")  # fmt: skip
    return Series(engine.label, found, MEASURED)


def _burst(bench: Bench, engine: Engine, cost: Load, x: float) -> Point:
    """A burst at the generator's full speed; simulated again at the rate that it had."""
    packets = int(x)
    cpu = min(os.sched_getaffinity(0))
    handler = HANDLER if cost.name != load.filters(0).name else ["--handler", "count"]

    def send(interface: str) -> Sent:
        return send_burst(interface, packets, cpu)

    gro = live_engine(engine) == "packet"
    trial = bench.trial([*options(engine), *handler], send, queues=1, forward=False, gro=gro)
    again = simulate(as_live(engine), workload.burst(trial.sent.packets, trial.sent.rate_pps), cost)
    return _point(packets, trial, again.drop_rate)


def _router(bench: Bench, engine: Engine, forward: bool, x: float) -> Point:
    """The border router's 32 s, packet for packet as simulated."""
    queues = int(x)
    packets = border_router.workload(queues)

    def send(interface: str) -> Sent:
        return send_workload(interface, None, packets)

    gro = live_engine(engine) == "packet"
    trial = bench.trial([*options(engine), *HANDLER], send, queues=queues, forward=forward, gro=gro)
    transmit_ps = router.TRANSMIT_PS if forward else 0
    cost = load.filters(300).plus(router.FORWARD_PS if forward else 0)
    point = _point(queues, trial, simulate(as_live(engine), packets, cost, transmit_ps=transmit_ps).drop_rate)
    seen = handler_pps(engine, trial)
    if _is_off(point) and seen:
        again = simulate(engine, packets, load.rate(seen), transmit_ps=transmit_ps)
        point.facts = {**point.facts, "handler_pps": seen, "simulated_at_it": again.drop_rate}
    return point


def handler_pps(engine: Engine, trial: Trial) -> float | None:
    """What a handler thread did a second while its queue was overloaded; None where no queue was.

    Until the end of the run: what lay in the pool when the last packet came was handled after it.  In advanced mode
    all threads work for an overloaded queue.
    """
    rows = [row for row in trial.summary.get("per_queue", []) if row.get("drops", {}).get("pool_exhausted")]
    if not rows or not isinstance(engine, WireCap) or not trial.duration_s:
        return None
    if engine.advanced:
        delivered = [int(row["delivered"]) for row in trial.summary["per_queue"]]
        return sum(delivered) / len(delivered) / trial.duration_s
    return max(int(row["delivered"]) for row in rows) / trial.duration_s


def _point(x: float, trial: Trial, simulated: float) -> Point:
    facts = {
        **trial.summary,
        "sent": trial.sent.packets,
        "rate_pps": trial.sent.rate_pps,
        "latest_ms": trial.sent.latest_ms,
        "simulated": simulated,
    }
    return Point(x, trial.lost, facts)


def _is_off(point: Point) -> bool:
    return bool(abs(100 * (point.drop - point.facts["simulated"])) > TOLERANCE_POINTS)


def _differences(series: Series) -> list[str]:
    """Points that are further from the simulation of the same traffic than TOLERANCE_POINTS."""
    found = []
    for point in filter(_is_off, series.points):
        facts = point.facts
        drops = ", ".join(f"{count:,} {name}" for name, count in facts["packets"]["drops"].items())
        apart = 100 * (point.drop - facts["simulated"])
        text = f"{series.label} at {point.x:,g}: {apart:+.1f} points (its drops: {drops or 'none'})"
        if "handler_pps" in facts:
            text += (
                f"; an overloaded handler did some {facts['handler_pps']:,.0f} p/s, not {PAPER_PPS:,}, with which"
                f" {100 * facts['simulated_at_it']:.1f} % are simulated, and packets were sent up to"
                f" {facts['latest_ms']:.0f} ms late"
            )
        found.append(text)
    return found


def _notes(figure: Figure) -> list[str]:
    measured = [series for series in figure.series if series.kind == MEASURED]
    rates = [point.facts["rate_pps"] for series in measured for point in series.points]
    if figure.number == 14:
        return ["figure 14 has no live form here: its subject is a bus that two NICs of 10 Gbit/s fill"]
    if figure.number not in (8, 9, 10) or not rates:
        return []
    slowest, fastest = min(rates) / 1e6, max(rates) / 1e6
    text = f"measured at the speed of this machine's generator, {slowest:.2f} to {fastest:.2f} Mp/s, and compared with"
    return [f"{text} a simulation at the same rate; the simulated curves drawn are at 14.88 Mp/s"]
