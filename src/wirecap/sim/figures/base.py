"""What a figure is: series of points, what they rest on, and what the paper's figure says about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from wirecap.sim.engines import Engine

SIMULATED, MEASURED, CLOSED_FORM = "simulated", "measured", "closed form"
AS_MEASURED = "simulated as measured"
"""What a measured point is held against: the model at the rate that its run had."""


@dataclass
class Point:
    """One experiment: ``x`` as on the axis, the share of packets that were lost, and what stands behind it."""

    x: float
    drop: float
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Series:
    """An engine's points; ``kind`` is SIMULATED, MEASURED, AS_MEASURED or CLOSED_FORM."""

    label: str
    points: list[Point]
    kind: str = SIMULATED

    def at(self, x: float) -> float:
        """Percent lost at x."""
        return 100 * next(point.drop for point in self.points if point.x == x)

    @property
    def percents(self) -> list[float]:
        return [100 * point.drop for point in self.points]

    @property
    def highest(self) -> float:
        return max(self.percents)


@dataclass(frozen=True)
class Claim:
    """One thing that is known of the paper's figure, and whether ours has it."""

    text: str
    source: str
    """text, recalled or derived: where it is known from (docs/simulator.md)."""
    holds: bool
    found: str


@dataclass
class Figure:
    """Data, configuration and judgement of one figure."""

    number: int
    title: str
    x_label: str
    series: list[Series]
    configuration: dict[str, Any]
    claims: list[Claim]
    log_x: bool = False
    bars: bool = False
    """Groups of bars, as the paper draws it, instead of lines."""
    x_names: Mapping[float, str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    """Where measured and simulated points differ by more than they should, and why."""
    notes: list[str] = field(default_factory=list)

    def get(self, label: str, kind: str = SIMULATED) -> Series:
        return next(series for series in self.series if (series.label, series.kind) == (label, kind))


Progress = Callable[[str], None]


def settings_of(engines: Iterable[Engine]) -> dict[str, dict[str, Any]]:
    """Every constant of the engines, by their labels."""
    return {one.label: {"engine": one.name, **one.settings} for one in engines}


def falls(values: Sequence[float], slack: float = 0.0) -> bool:
    """Each value is at most the one before, ``slack`` aside."""
    return all(after <= before + slack for before, after in pairwise(values))


def listed(values: Sequence[float]) -> str:
    """Percents for people: ``43.2, 37.5, 33.1``."""
    return ", ".join(f"{value:.1f}" for value in values)
