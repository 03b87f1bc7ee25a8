"""What a figure is: series of points, what they are based on, and how they compare with the paper's figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from wirecap.sim.models import Model

SIMULATED, MEASURED, CLOSED_FORM = "simulated", "measured", "closed form"
AS_MEASURED = "simulated as measured"
"""What a measured point is compared with: the model at the rate of the measured run."""


@dataclass
class Point:
    """One experiment: ``x`` on the axis, the share of packets that were lost, and the facts behind it."""

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
    """One thing that is known about the paper's figure, and whether it holds for ours."""

    text: str
    source: str
    """text, recalled or derived: how it is known (docs/simulator.md)."""
    holds: bool
    found: str


@dataclass
class Figure:
    """The data, configuration and claims of one figure."""

    number: int
    title: str
    x_label: str
    series: list[Series]
    configuration: dict[str, Any]
    claims: list[Claim]
    log_x: bool = False
    bars: bool = False
    """Draw groups of bars, as the paper does, instead of lines."""
    x_names: Mapping[float, str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    """Where measured and simulated points differ by too much, and why."""
    notes: list[str] = field(default_factory=list)

    def get(self, label: str, kind: str = SIMULATED) -> Series:
        return next(series for series in self.series if (series.label, series.kind) == (label, kind))


Progress = Callable[[str], None]


def settings_of(models: Iterable[Model]) -> dict[str, dict[str, Any]]:
    """Every constant of the models, by label."""
    return {one.label: {"engine": one.name, **one.settings} for one in models}


def falls(values: Sequence[float], slack: float = 0.0) -> bool:
    """Whether each value is at most the one before it plus ``slack``."""
    return all(after <= before + slack for before, after in pairwise(values))


def listed(values: Sequence[float]) -> str:
    """Percentages for people: ``43.2, 37.5, 33.1``."""
    return ", ".join(f"{value:.1f}" for value in values)
