"""The paper's figures 8 to 14: each is a function and a line in TABLE."""

from __future__ import annotations

from collections.abc import Callable

from wirecap.sim.figures.bursts import figure_8, figure_9, figure_10
from wirecap.sim.figures.figure import Figure, Progress
from wirecap.sim.figures.router import figure_11, figure_12, figure_13
from wirecap.sim.figures.scaling import figure_14

TABLE: dict[int, Callable[[Progress], Figure]] = {
    8: figure_8, 9: figure_9, 10: figure_10, 11: figure_11, 12: figure_12, 13: figure_13, 14: figure_14,
}  # fmt: skip
