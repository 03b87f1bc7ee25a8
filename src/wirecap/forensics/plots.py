"""The page's plots, on one axis of time: what arrived, how full the queues were, what was offloaded, what was lost."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wirecap.forensics.series import UNKNOWN, History, Words

LINES_MOST = 8
"""Queues with a line of their own; of more, the largest have one, and the rest share one."""
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#6f4e9c", "#7a7a3a", "#555555")
"""Okabe and Ito's, which most people can tell apart."""
LOST = {"pool_exhausted": "#c1121f", "capture_late": "#f4a261", "ring_full": "#9d0208", "oversize": "#6d6875"}
FILLED = 0.16
STEPS_MOST = 320
"""Steps of a curve of rates: narrower ones are no longer seen as areas."""


def draw(history: History, names: list[str], threads: list[str], R: int, T: int | None) -> str:
    """An SVG element.

    names: of the queues; threads: of those who take chunks.  R: chunks of a queue's pool.  T: percent of R from which
    chunks are offloaded, None in basic mode.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    depths, held = history.named("depth "), history.named("held ")
    offloaded, lost = history.named("offloaded "), history.named("lost ")
    rows = [
        "arrived",
        "depth",
        *(["held"] if held else []),
        *(["offloaded"] if offloaded else []),
        *(["lost"] if lost else []),
    ]
    look = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "svg.hashsalt": "wirecap",
            "axes.spines.top": False, "axes.spines.right": False, "path.simplify_threshold": 0.5}  # fmt: skip
    with mpl.rc_context(look):
        figure = Figure(figsize=(11, 0.5 + 2.1 * len(rows)), layout="constrained")
        FigureCanvasSVG(figure)
        all_axes = dict(zip(rows, figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0], strict=True))
        seconds = np.arange(history.points) * history.width_ms / 1000
        _rates(all_axes["arrived"], history, history.named("arrived "), names, "arriving,")
        line = None if T is None else (R * T / 100, f"T = {T} %")
        _chunks(all_axes["depth"], seconds, _shown(depths, threads, np.max), "waiting for\na handler, chunks", line)
        if held:
            _chunks(all_axes["held"], seconds, _shown(held, names, np.max), "pool in use,\nchunks", (R, f"R = {R}"))
        if offloaded:
            _rates(all_axes["offloaded"], history, offloaded, names, "handed to buddies,")
        if lost:
            _lost(all_axes["lost"], history, lost)
        last = all_axes[rows[-1]]
        last.set_xlabel("seconds since the capture began")
        last.set_xlim(0, max(history.points * history.width_ms / 1000, 1e-3))
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    found = text.getvalue()
    return found[found.index("<svg") :]


def _rates(axes: Any, history: History, series: Mapping[str, Words], names: list[str], what: str) -> None:
    """Packets per second of each queue, one on top of the other."""
    shown = _shown(series, names, np.sum)
    _stack(axes, history, shown, COLOURS)
    _finish(axes, f"{what}\npackets/s", len(shown) > 1)


def _stack(axes: Any, history: History, series: Mapping[str, Words], colours: Sequence[str]) -> None:
    """Packets per second, one on top of the other, in at most STEPS_MOST steps."""
    together = -(-history.points // STEPS_MOST)
    seconds = np.arange(-(-history.points // together) + 1) * together * history.width_ms / 1000
    rates = []
    for values in series.values():
        steps = np.add.reduceat(values, np.arange(0, len(values), together)) * 1000 / (together * history.width_ms)
        rates.append(np.append(steps, steps[-1]))
    if rates:
        axes.stackplot(seconds, *rates, labels=list(series), colors=colours, step="post", linewidth=0)


def _chunks(axes: Any, seconds: Any, shown: Mapping[str, Words], what: str, line: tuple[float, str] | None) -> None:
    """Chunks of each queue, and a line that means something, with its name."""
    for (label, known), colour in zip(shown.items(), COLOURS, strict=False):
        values = np.interp(seconds, seconds[known != UNKNOWN], known[known != UNKNOWN], left=0)
        axes.plot(seconds, values, linewidth=1.2, color=colour, label=label)
        axes.fill_between(seconds, values, alpha=FILLED, color=colour, linewidth=0)
    if line:
        axes.axhline(line[0], color="#c1121f", linewidth=1, linestyle="--", label=line[1])
    _finish(axes, what, True)


def _lost(axes: Any, history: History, lost: Mapping[str, Words]) -> None:
    """Lost packets per second, by the name of the drop."""
    colours = [LOST.get(name, colour) for name, colour in zip(lost, (*COLOURS, *COLOURS), strict=False)]
    _stack(axes, history, {name.replace("_", " "): values for name, values in lost.items()}, colours)
    _finish(axes, "lost,\npackets/s", True)


def _finish(axes: Any, label: str, legend: bool) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))  # there is no half a chunk
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    if legend:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), frameon=False, fontsize=9)


def _shown(series: Mapping[str, Words], names: list[str], together: Any) -> dict[str, Words]:
    """The series by the names of their queues or threads; of many, the smallest together as one."""
    named = {names[int(number)]: values for number, values in sorted(series.items(), key=lambda item: int(item[0]))}
    if len(named) <= LINES_MOST:
        return named
    order = sorted(named, key=lambda name: -int(named[name].max(initial=0)))
    kept = {name: named[name] for name in named if name in order[:LINES_MOST]}
    rest = together([named[name] for name in order[LINES_MOST:]], axis=0)
    return kept | {f"{len(order) - LINES_MOST} others": rest}
