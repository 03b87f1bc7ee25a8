"""Figures 11, 12 and 13: a border router's traffic onto four, five and six queues, under a heavy load."""

from __future__ import annotations

from collections.abc import Sequence

from wirecap.sim import handler_cost, workload
from wirecap.sim.figures.figure import Claim, Figure, Point, Progress, Series, falls, listed, settings_of
from wirecap.sim.handler_cost import FORWARD_PS, TRANSMIT_PS, HandlerCost
from wirecap.sim.models import Dna, Model, Netmap, PfRing, WireCap
from wirecap.sim.simulate import simulate

QUEUES = (4, 5, 6)
THRESHOLDS = (60, 70, 80, 90)
POOLS = (WireCap(256, 100), WireCap(256, 500))
SHARING = (WireCap(256, 100, 60, True), WireCap(256, 500, 60, True))
FITTED = "the number and length of the profile's trains were chosen to match the ceilings of figures 11 to 13"


def queue_series(model: Model, cost: HandlerCost, tell: Progress, transmit_ps: int = 0) -> Series:
    """An engine's loss with four, five and six queues."""
    points = []
    for queues in QUEUES:
        result = simulate(model, workload.border_router(queues), cost, transmit_ps=transmit_ps, tell=tell)
        points.append(Point(queues, result.drop_rate, result.as_dict()))
    return Series(model.label, points)


def _configuration(cost: HandlerCost, models: Sequence[Model]) -> dict[str, object]:
    work = workload.border_router(QUEUES[-1])
    return {
        "workload": "border-router", "packets": work.packets, "duration_s": work.duration_s, "queues": QUEUES,
        "handler": cost.name, "handler_pps": cost.rate_pps, "engines": settings_of(models),
    }  # fmt: skip


def _common(series: Sequence[Series], low: float, high: float) -> list[Claim]:
    """What figures 11 and 13 share."""
    by = {one.label: one for one in series}
    shallow = [by[label] for label in ("NETMAP", "DNA", "PF_RING") if label in by]
    basic, advanced = [by[one.label] for one in POOLS], [by[one.label] for one in SHARING]
    order = [one.label for one in sorted(series, key=lambda one: -one.at(4))]
    expected = [one.label for one in (*shallow, *basic, *advanced)]
    top = max(one.highest for one in series)
    least = min(one.at(queues) for one in basic for queues in QUEUES)
    better = min(
        b.at(queues) / max(a.at(queues), 1e-9) for a, b in zip(advanced, basic, strict=True) for queues in QUEUES
    )
    return [
        Claim("ring-buffer engines lose most, then basic, then advanced mode; a larger pool loses less",
              "recalled", order == expected, " > ".join(order)),
        Claim("basic mode still loses much", "recalled", least >= 10, f"at least {least:.1f} %"),
        Claim("advanced mode loses far less than basic", "text", better >= 1.5,
              f"at most 1/{better:.1f} of basic mode's"),
        Claim("every curve falls with more queues", "recalled", all(falls(one.percents) for one in series),
              "; ".join(f"{one.label} {listed(one.percents)}" for one in series)),
        Claim(f"the highest value is {low:g}-{high:g} %", "derived", low <= top <= high, f"{top:.1f} %"),
    ]  # fmt: skip


def figure_11(tell: Progress) -> Figure:
    """Advanced mode compared with everything else."""
    cost = handler_cost.filters(300)
    models: list[Model] = [PfRing(), Dna(), Netmap(), *POOLS, *SHARING]
    series = [queue_series(model, cost, tell) for model in models]
    title = "A border router's traffic, captured (x = 300)"
    claims = _common(series, 43, 48)
    config = _configuration(cost, models)
    return Figure(11, title, "receive queues", series, config, claims, bars=True, notes=[FITTED])


def figure_12(tell: Progress) -> Figure:
    """The threshold T: the earlier chunks go to buddies, the less is lost."""
    cost = handler_cost.filters(300)
    models: list[Model] = [WireCap(256, 100, T, True) for T in THRESHOLDS]
    series = [queue_series(model, cost, tell) for model in models]
    ordered = all(falls([one.at(queues) for one in reversed(series)]) for queues in QUEUES)
    top = series[-1].at(4)
    highest = max(one.highest for one in series)
    claims = [
        Claim("a lower T loses no more, at every number of queues", "text", ordered,
              "; ".join(f"{queues} queues: {listed([one.at(queues) for one in series])}" for queues in QUEUES)),
        Claim("the highest value is T = 90 % with four queues, 15-17 %", "derived",
              15 <= top <= 17 and top == highest, f"{top:.1f} %"),
        Claim("every curve falls with more queues", "recalled", all(falls(one.percents) for one in series),
              "; ".join(f"{one.label} {listed(one.percents)}" for one in series)),
    ]  # fmt: skip
    config = _configuration(cost, models)
    title = "The threshold T of WireCAP-A-(256,100,T)"
    return Figure(12, title, "receive queues", series, config, claims, bars=True, notes=[FITTED])


def figure_13(tell: Progress) -> Figure:
    """Like figure 11, with every packet forwarded through a second NIC."""
    cost = handler_cost.filters(300).plus(FORWARD_PS)
    models: list[Model] = [PfRing(), Dna(), *POOLS, *SHARING]
    series = [queue_series(model, cost, tell, TRANSMIT_PS) for model in models]
    claims = [
        *_common(series, 33, 38),
        Claim("NETMAP has no row: its sync calls do not work per queue", "text",
              all(one.label != Netmap.label for one in series),
              f"there are {', '.join(one.label for one in series)}"),
    ]  # fmt: skip
    config = {**_configuration(cost, models), "forward_ns": FORWARD_PS / 1e3, "transmit_ns": TRANSMIT_PS / 1e3}
    title = "A border router's traffic, forwarded (x = 300)"
    return Figure(13, title, "receive queues", series, config, claims, bars=True, notes=[FITTED])
