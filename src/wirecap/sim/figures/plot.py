"""Draws a figure with Matplotlib so that it is readable without colours, by hatches, dashes and markers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wirecap.errors import WirecapError
from wirecap.sim.figures.figure import AS_MEASURED, CLOSED_FORM, MEASURED, SIMULATED, Figure, Series

GREYS = ("0.15", "0.85", "0.45", "1.0", "0.65", "0.3", "0.95")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "--")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "h", "<", ">")
DASHES = ("-", "--", "-.", ":")
LINE_GREYS = ("0.0", "0.3", "0.6")
"""Its length has no factor in common with that of DASHES, so twelve curves all look different."""
BESIDE = {"color": "black", "linestyle": "none", "marker": "_", "markersize": 13, "markeredgewidth": 1.4}
"""The look of what a measured point is compared with."""
MEASURED_BAR = {"color": "black", "linestyle": "none", "marker": "D", "markersize": 6, "markerfacecolor": "white",
                "markeredgewidth": 1.4}  # fmt: skip
USUAL = (
    "PF_RING", "DNA", "NETMAP", "WireCAP-B-(256,100)", "WireCAP-B-(256,500)", "WireCAP-A-(256,100,60%)",
    "WireCAP-A-(256,500,60%)",
)  # fmt: skip
SIZE_INCHES, DPI = (8.0, 5.0), 120


def available() -> bool:
    """Whether Matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def draw(figure: Figure, paths: list[Path]) -> list[Path]:
    """Write the plot to each of the paths; the file extension chooses the format."""
    if not available():
        raise WirecapError("plots need Matplotlib", "pip install 'wirecap[plot]', or skip them with --no-plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    (_bars if figure.bars else _lines)(axes, figure)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel("packets dropped (%)")
    axes.set_ylim(bottom=0)
    axes.set_title(f"Figure {figure.number}: {figure.title}", fontsize=11)
    axes.grid(axis="y", color="0.8", linewidth=0.6)
    axes.set_axisbelow(True)
    canvas.legend(fontsize=8, loc="outside lower center", ncols=3)
    for path in paths:
        canvas.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def look_of(figure: Figure) -> dict[str, int]:
    """The number of each label's look: an engine looks the same in every figure."""
    labels = dict.fromkeys(series.label for series in figure.series)
    others = (label for label in labels if label not in USUAL)
    return {label: USUAL.index(label) for label in labels if label in USUAL} | {
        label: len(USUAL) + number for number, label in enumerate(others)
    }


def _lines(axes: Any, figure: Figure) -> None:
    looks = look_of(figure)
    named: set[str] = set()
    for series in figure.series:
        style = _line_style(series, looks[series.label])
        label = series.label if series.kind == SIMULATED else series.kind
        shown = None if label in named else label
        named.add(label)
        axes.plot([point.x for point in series.points], series.percents, label=shown, **style)
    if figure.log_x:
        axes.set_xscale("log")


def _line_style(series: Series, which: int) -> Mapping[str, Any]:
    grey = LINE_GREYS[which % len(LINE_GREYS)]
    if series.kind == AS_MEASURED:
        return BESIDE
    if series.kind == CLOSED_FORM:
        return {"color": grey, "linestyle": "none", "marker": "|", "markersize": 11}
    if series.kind == MEASURED:
        return {"color": grey, "linestyle": "none", "marker": MARKERS[which % len(MARKERS)], "markersize": 9,
                "markerfacecolor": "white", "markeredgewidth": 1.6}  # fmt: skip
    return {"color": grey, "linestyle": DASHES[which % len(DASHES)], "marker": MARKERS[which % len(MARKERS)],
            "markersize": 4, "linewidth": 1.2}  # fmt: skip


def _bars(axes: Any, figure: Figure) -> None:
    simulated = [series for series in figure.series if series.kind == SIMULATED]
    places = sorted({point.x for series in simulated for point in series.points})
    width = 0.85 / len(simulated)
    above = 6 if any(series.kind == MEASURED for series in figure.series) else 1  # points
    middles = {}
    looks = look_of(figure)
    for which, series in enumerate(simulated):
        look = looks[series.label]
        offset = (which - (len(simulated) - 1) / 2) * width
        middles[series.label] = {point.x: places.index(point.x) + offset for point in series.points}
        drawn = axes.bar(
            list(middles[series.label].values()), series.percents, width, label=series.label, edgecolor="black",
            linewidth=0.7, color=GREYS[look % len(GREYS)], hatch=HATCHES[look % len(HATCHES)],
        )  # fmt: skip
        axes.bar_label(drawn, fmt="%.1f", fontsize=6, padding=above)  # an empty bar differs from a missing one
    styles = {MEASURED: MEASURED_BAR, AS_MEASURED: BESIDE}
    for kind, style in styles.items():
        found = [series for series in figure.series if series.kind == kind and series.label in middles]
        for series in found:
            at = [middles[series.label][point.x] for point in series.points]
            axes.plot(at, series.percents, label=kind if series is found[0] else None, **style)
    axes.set_xticks(range(len(places)), [figure.x_names.get(x, f"{x:g}") for x in places])
