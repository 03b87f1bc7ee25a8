"""Measured points that are far from the simulated ones, and what a measurement rests on, in words."""

from __future__ import annotations

import os
from collections.abc import Sequence

from wirecap.sim.figures.base import Point, Series
from wirecap.sim.load import PAPER_PPS

TOLERANCE_POINTS = 3.0


def is_off(point: Point) -> bool:
    """Whether a measured point is further from its simulation than TOLERANCE_POINTS."""
    return "simulated" in point.facts and abs(100 * (point.drop - point.facts["simulated"])) > TOLERANCE_POINTS


def line(label: str, point: Point) -> str:
    """A measured point, as it is told when it is there."""
    simulated = point.facts.get("simulated")
    beside = "" if simulated is None else f", {100 * simulated:.2f} % simulated"
    return f"{label} at {point.x:,g}: {100 * point.drop:.2f} % lost{beside}"


def beyond_tolerance(series: Series) -> list[str]:
    """A sentence for each point that is off: how far, what it dropped, and what explains it."""
    return [_explained(series.label, point) for point in series.points if is_off(point)]


def _explained(label: str, point: Point) -> str:
    facts = point.facts
    drops = ", ".join(f"{count:,} {name}" for name, count in facts["packets"]["drops"].items())
    apart = 100 * (point.drop - facts["simulated"])
    text = f"{label} at {point.x:,g}: {apart:+.1f} points (its drops: {drops or 'none'})"
    if "equivalent_slots" in facts:
        text += (
            f"; as a ring of {facts['equivalent_slots']:,} slots would lose: the kernel passes a block of its ring on"
            " after 1 ms, however full, so that its room depends on the rate, and on how a burst meets its ticks"
        )
    if "handler_pps" in facts:
        text += (
            f"; an overloaded handler did some {facts['handler_pps']:,.0f} p/s, not {PAPER_PPS:,}, with which"
            f" {100 * facts['simulated_at_it']:.1f} % are simulated, and packets were sent up to"
            f" {facts['latest_ms']:.0f} ms late"
        )
    return text


def notes(number: int, measured: Sequence[Series]) -> list[str]:
    """What the measured series of a figure are, where the simulated ones are something else."""
    rates = [point.facts["rate_pps"] / 1e6 for series in measured for point in series.points]
    if not rates:
        return []
    speed = f"{min(rates):.2f} to {max(rates):.2f} Mp/s"
    if number in (8, 9, 10):
        text = (
            f"measured at the speed of this machine's generator, {speed}, and compared with a simulation at the same"
            " rate; the simulated curves drawn are at 14.88 Mp/s"
        )
    elif number == 13:
        text = "AF_PACKET does not forward: a pool of 4,096 cells stands for PF_RING's slots"
    elif number == 14:
        text = (
            f"measured at the speed that this machine reaches: {speed} sent in both directions together, on"
            f" {len(os.sched_getaffinity(0))} cores that send, capture and forward; it is they that are full, not a"
            " bus, so that the points are drawn, but not compared one by one"
        )
    else:
        return []
    return [text]
