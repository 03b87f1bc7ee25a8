"""Measured points that are far from the simulated ones, and what a measurement rests on, in words."""

from __future__ import annotations

import os
from collections.abc import Sequence

from wirecap.sim.engines import PfRing
from wirecap.sim.figures.base import AS_MEASURED, Point, Series
from wirecap.sim.load import PAPER_PPS

TOLERANCE_POINTS = 3.0
COMPARED = "simulated"
"""The fact of a measured point that it is held against."""


def apart(point: Point) -> float | None:
    """Percentage points that a measured point lies above its simulation; None where nothing is simulated for it."""
    return 100 * (point.drop - point.facts[COMPARED]) if COMPARED in point.facts else None


def is_off(point: Point) -> bool:
    """Whether a measured point is further from its simulation than TOLERANCE_POINTS."""
    return abs(apart(point) or 0.0) > TOLERANCE_POINTS


def as_measured(series: Series) -> Series:
    """What the points of a measured series are held against, as a series of its own."""
    points = [
        Point(point.x, point.facts[COMPARED], {"rate_pps": point.facts["rate_pps"]})
        for point in series.points
        if COMPARED in point.facts
    ]
    return Series(series.label, points, AS_MEASURED)


def line(label: str, point: Point) -> str:
    """A measured point, as it is told when it is there."""
    simulated = point.facts.get(COMPARED)
    beside = "" if simulated is None else f", {100 * simulated:.2f} % simulated"
    return f"{label} at {point.x:,.0f}: {100 * point.drop:.2f} % lost{beside}"


def verdict(measured: Sequence[Series]) -> str:
    """How far the measured points of a figure are from their simulations; empty where none is compared."""
    far = [abs(found) for series in measured for found in map(apart, series.points) if found is not None]
    if not far:
        return ""
    return (
        f"{len(far)} point{'' if len(far) == 1 else 's'}, the largest difference {max(far):.1f} percentage points,"
        f" {TOLERANCE_POINTS:g} allowed"
    )


def beyond_tolerance(series: Series) -> list[str]:
    """A sentence for each point that is off: how far, what it dropped, and what explains it."""
    return [_explained(series.label, point) for point in series.points if is_off(point)]


def _explained(label: str, point: Point) -> str:
    facts = point.facts
    drops = ", ".join(f"{count:,} {name}" for name, count in facts["packets"]["drops"].items())
    text = f"{label} at {point.x:,.0f}: {apart(point):+.1f} points (its drops: {drops or 'none'})"
    if "handler_pps" in facts:
        text += (
            f"; an overloaded handler did some {facts['handler_pps']:,.0f} p/s, not {PAPER_PPS:,}, with which"
            f" {100 * facts['simulated_at_it']:.1f} % are simulated"
        )
    if facts["latest_ms"]:
        text += f"; packets were sent up to {facts['latest_ms']:.0f} ms late"
    return text


def notes(number: int, measured: Sequence[Series]) -> list[str]:
    """What the measured series of a figure are, where the simulated ones are something else."""
    rates = [point.facts["rate_pps"] / 1e6 for series in measured for point in series.points]
    if not rates:
        return []
    speed = f"{min(rates):.2f} to {max(rates):.2f} Mp/s"
    found = []
    if number in (8, 9, 10):
        found.append(
            f"measured at the speed of this machine's generator, {speed}, and compared with a simulation at the same"
            " rate; the simulated curves drawn are at 14.88 Mp/s"
        )
    if number == 14:
        found.append(
            f"measured at the speed that this machine reaches: {speed} sent in both directions together, on"
            f" {len(os.sched_getaffinity(0))} cores that send, capture and forward; it is they that are full, not a"
            " bus, so that the points are drawn, but not compared one by one"
        )
    if any(series.label == PfRing.label for series in measured):
        pool = "AF_PACKET does not forward: a pool of 4,096 cells stands for PF_RING's slots; " if number == 13 else ""
        found.append(
            f"{pool}on a veth the kernel's work for PF_RING is the sender's, so that it is compared with a model whose"
            " kernel takes no time"
        )
    return found
