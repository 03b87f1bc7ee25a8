"""The text of a figure: what was expected, what came out, how well they agree, and why measured points are off."""

from __future__ import annotations

import os
from collections.abc import Sequence

from wirecap.sim.figures.figure import AS_MEASURED, MEASURED, Claim, Figure, Point, Series
from wirecap.sim.handler_cost import PAPER_PPS
from wirecap.sim.models import PfRing

TAGS = {"text": "read in the paper", "recalled": "recalled from it, unverified", "derived": "derived"}
"""How a statement is known (docs/simulator.md), in words."""
UNKNOWN = (
    "The paper's machine, its plotted values and its trace are not known, so agreement means shape, order and ceiling."
)


def paragraph(figure: Figure) -> str:
    """One paragraph for people: each statement with its result, then how well it all agrees."""
    pairs = " ".join(_pair(claim) for claim in figure.claims)
    text = f"{pairs} Agreement: {_held(figure)}. {UNKNOWN}"
    measured = verdict([series for series in figure.series if series.kind == MEASURED])
    if measured:
        text += f" Measured against simulated: {'; '.join([measured, *figure.differences])}."
    if figure.notes:
        text += " Note: " + "; ".join(figure.notes) + "."
    return text


def _pair(claim: Claim) -> str:
    result = "Result" if claim.holds else "Result, NOT as expected"
    return f"Expected: {claim.text} ({TAGS[claim.source]}). {result}: {claim.found}."


def _held(figure: Figure) -> str:
    failed = [claim.text for claim in figure.claims if not claim.holds]
    total = len(figure.claims)
    if not failed:
        return {1: "the one statement holds", 2: "both statements hold"}.get(total, f"all {total} statements hold")
    return f"{total - len(failed)} of {total} statements hold; these do not: {'; '.join(failed)}"


TOLERANCE_POINTS = 3.0
COMPARED = "simulated"
"""The fact of a measured point that it is compared with."""


def apart(point: Point) -> float | None:
    """How many percentage points a measured point lies above its simulation; None if it has none."""
    return 100 * (point.drop - point.facts[COMPARED]) if COMPARED in point.facts else None


def is_off(point: Point) -> bool:
    """Whether a measured point is more than TOLERANCE_POINTS away from its simulation."""
    return abs(apart(point) or 0.0) > TOLERANCE_POINTS


def as_measured(series: Series) -> Series:
    """What the points of a measured series are compared with, as a series of its own."""
    points = [
        Point(point.x, point.facts[COMPARED], {"rate_pps": point.facts["rate_pps"]})
        for point in series.points
        if COMPARED in point.facts
    ]
    return Series(series.label, points, AS_MEASURED)


def line(label: str, point: Point) -> str:
    """The line to print once a point has been measured."""
    simulated = point.facts.get(COMPARED)
    beside = "" if simulated is None else f", {100 * simulated:.2f} % simulated"
    return f"{label} at {point.x:,.0f}: {100 * point.drop:.2f} % lost{beside}"


def verdict(measured: Sequence[Series]) -> str:
    """How far a figure's measured points are from their simulations; empty if none are compared."""
    far = [abs(found) for series in measured for found in map(apart, series.points) if found is not None]
    if not far:
        return ""
    return (
        f"{len(far)} point{'' if len(far) == 1 else 's'}, with a largest difference of {max(far):.1f} percentage points"
        f" ({TOLERANCE_POINTS:g} allowed)"
    )


def beyond_tolerance(series: Series) -> list[str]:
    """A sentence for each point that is off: by how much, what it dropped, and why."""
    return [_explained(series.label, point) for point in series.points if is_off(point)]


def _explained(label: str, point: Point) -> str:
    facts = point.facts
    drops = ", ".join(f"{count:,} {name}" for name, count in facts["packets"]["drops"].items())
    text = f"{label} at {point.x:,.0f}: {apart(point):+.1f} points (its drops: {drops or 'none'})"
    if "handler_pps" in facts:
        text += (
            f"; an overloaded handler did some {facts['handler_pps']:,.0f} p/s instead of {PAPER_PPS:,}, at which the"
            f" simulation loses {100 * facts['simulated_at_it']:.1f} %"
        )
    if facts["latest_ms"]:
        text += f"; packets were sent up to {facts['latest_ms']:.0f} ms late"
    return text


def notes(number: int, measured: Sequence[Series]) -> list[str]:
    """How a figure's measured series differ from its simulated ones."""
    rates = [point.facts["rate_pps"] / 1e6 for series in measured for point in series.points]
    if not rates:
        return []
    speed = f"{min(rates):.2f} to {max(rates):.2f} Mp/s"
    found = []
    if number in (8, 9, 10):
        found.append(
            f"measured at the speed of this machine's generator, {speed}, and compared with a simulation at the same"
            " rate; the curves drawn are simulated at 14.88 Mp/s"
        )
    if number == 14:
        found.append(
            f"measured at the speed that this machine reaches: {speed} sent in both directions together, on"
            f" {len(os.sched_getaffinity(0))} cores that send, capture and forward; the bottleneck is the cores, not a"
            " bus, so the points are drawn but not compared one by one"
        )
    if any(series.label == PfRing.label for series in measured):
        pool = "AF_PACKET does not forward: a pool of 4,096 cells stands for PF_RING's slots; " if number == 13 else ""
        found.append(
            f"{pool}on a veth the sender does the kernel's work for PF_RING, so it is compared with a model whose"
            " kernel takes no time"
        )
    return found
