"""Writes a figure's files side by side: data (CSV, JSON), configuration, plot (PNG, SVG) and text; and one
self-contained HTML page with all the figures."""

from __future__ import annotations

import csv
import html
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wirecap.errors import UsageError
from wirecap.sim.figures.figure import Figure, Series
from wirecap.sim.figures.story import paragraph
from wirecap.version import __version__

COLUMNS = (
    "figure",
    "series",
    "kind",
    "x",
    "drop_percent",
    "received",
    "delivered",
    "dropped",
    "offloaded",
    "forwarded",
    "rate_pps",
)


def as_dict(figure: Figure) -> dict[str, Any]:
    """Everything about the figure, for JSON."""
    return {
        "figure": figure.number,
        "title": figure.title,
        "x": figure.x_label,
        "wirecap": __version__,
        "configuration": figure.configuration,
        "text": paragraph(figure),
        "claims": [
            {"text": claim.text, "source": claim.source, "holds": claim.holds, "found": claim.found}
            for claim in figure.claims
        ],
        "differences": figure.differences,
        "notes": figure.notes,
        "series": [
            {
                "label": series.label,
                "kind": series.kind,
                "points": [
                    {"x": point.x, "drop_rate": point.drop, "facts": dict(point.facts)} for point in series.points
                ],
            }
            for series in figure.series
        ],
    }


def as_csv(figure: Figure) -> str:
    """One row per point; packet counts are empty if the point did not come from a run."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for series in figure.series:
        for point in series.points:
            packets = point.facts.get("packets", {})
            counts = [packets.get(name, "") for name in COLUMNS[5:-1]]
            rate = f"{point.facts['rate_pps']:.0f}" if "rate_pps" in point.facts else ""
            rows.writerow(
                [figure.number, series.label, series.kind, f"{point.x:g}", f"{100 * point.drop:.4f}", *counts, rate]
            )
    return text.getvalue()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a file that cannot be written into a one-line error."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{path}: {reason}", "use -o to name a folder that you can write to") from None


def prepare(folder: Path) -> None:
    """Create the folder; UsageError, before anything runs, if it cannot be written to."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def write_figure(figure: Figure, folder: Path, plots: bool = True) -> list[Path]:
    """Write everything into ``folder``, which exists; returns the files, plots last."""
    stem = f"figure-{figure.number:02}"
    texts = {
        f"{stem}.csv": as_csv(figure),
        f"{stem}.json": json.dumps(as_dict(figure), indent=1) + "\n",
        f"{stem}-configuration.json": json.dumps(figure.configuration, indent=1) + "\n",
        f"{stem}.txt": paragraph(figure) + "\n",
    }
    with writing(folder):
        for name, text in texts.items():
            (folder / name).write_text(text)
        paths = [folder / name for name in texts]
        if plots:
            from wirecap.sim.figures import plot

            paths += plot.draw(figure, [folder / f"{stem}.png", folder / f"{stem}.svg"])
    return paths


NAME = "report.html"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #111; }
figure { margin: 0; } svg { width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 0.85rem; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border: 1px solid #bbb; padding: 0.2rem 0.6rem; text-align: right; } th:first-child, td:first-child
{ text-align: left; } td.text { text-align: left; } pre { background: #f4f4f4; padding: 0.6rem; overflow-x: auto; }
nav a { margin-right: 1rem; } .no { font-weight: bold; text-decoration: underline; }
@media print { details { display: none; } }
"""


def write_page(figures: Sequence[Figure], folder: Path, plots: bool = True) -> Path:
    """Write the page for figures whose plots are in ``folder``; returns its path."""
    path = folder / NAME
    with writing(path):
        path.write_text(page(figures, {one.number: _plot(folder, one.number) for one in figures} if plots else {}))
    return path


def _plot(folder: Path, number: int) -> str:
    """The SVG element of a plot, with identifiers made unique within the page."""
    text = (folder / f"figure-{number:02}.svg").read_text()
    text = text[text.index("<svg") :]
    for mark in ('id="', 'href="#', "url(#"):
        text = text.replace(mark, f"{mark}f{number}-")
    return text


def page(figures: Sequence[Figure], plots: Mapping[int, str]) -> str:
    """The text of the page; plots: SVG elements by figure number, for figures that have one."""
    held = sum(claim.holds for figure in figures for claim in figure.claims)
    total = sum(len(figure.claims) for figure in figures)
    links = "".join(f'<a href="#figure-{one.number}">Figure {one.number}</a>' for one in figures)
    sections = "".join(_section(figure, plots.get(figure.number, "")) for figure in figures)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>WireCAP: figures 8 to 14</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>WireCAP: figures 8 to 14</h1><p>Made with wirecap {html.escape(__version__)}. Of the statements known"
        f" about the paper's figures, <strong>{held} of {total}</strong> hold in the simulation. The test machine, the"
        f" plotted values and the trace were not published, so agreement means shape, order and ceiling.</p>"
        f"<nav>{links}</nav>{sections}</body></html>\n"
    )


def _section(figure: Figure, plot: str) -> str:
    rows = "".join(
        f'<tr><td class="text">{html.escape(claim.text)}</td><td>{claim.source}</td>'
        f'<td class="text">{html.escape(claim.found)}</td>'
        f"<td{'' if claim.holds else ' class=no'}>{'yes' if claim.holds else 'NO'}</td></tr>"
        for claim in figure.claims
    )
    configuration = html.escape(json.dumps(figure.configuration, indent=1))
    return (
        f'<section id="figure-{figure.number}"><h2>Figure {figure.number}: {html.escape(figure.title)}</h2>'
        f"<figure>{plot}</figure><p>{html.escape(paragraph(figure))}</p>"
        f"<table><tr><th>expected</th><th>known</th><th>result</th><th>holds</th></tr>{rows}</table>"
        f"<details><summary>Data: packets dropped, in percent</summary>{_data(figure)}</details>"
        f"<details><summary>Configuration</summary><pre>{configuration}</pre></details></section>"
    )


def _data(figure: Figure) -> str:
    places = sorted({point.x for series in figure.series for point in series.points})
    head = "".join(f"<th>{html.escape(figure.x_names.get(x, f'{x:,g}'))}</th>" for x in places)
    rows = "".join(_row(series, places) for series in figure.series)
    return f"<table><tr><th>{html.escape(figure.x_label)}</th>{head}</tr>{rows}</table>"


def _row(series: Series, places: list[float]) -> str:
    found = {point.x: f"{100 * point.drop:.2f}" for point in series.points}
    cells = "".join(f"<td>{found.get(x, '')}</td>" for x in places)
    return f"<tr><td>{html.escape(f'{series.label}, {series.kind}')}</td>{cells}</tr>"
