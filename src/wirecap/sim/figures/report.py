"""One HTML page with every figure: plot, what it says, data and configuration; it needs no other file."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from wirecap import __version__
from wirecap.sim.figures.base import Figure, Series
from wirecap.sim.figures.store import writing
from wirecap.sim.figures.story import paragraph

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


def write(figures: Sequence[Figure], folder: Path, plots: bool = True) -> Path:
    """The page of figures whose plots lie in ``folder``; its path."""
    path = folder / NAME
    with writing(path):
        path.write_text(page(figures, {one.number: _plot(folder, one.number) for one in figures} if plots else {}))
    return path


def _plot(folder: Path, number: int) -> str:
    """The SVG element of a plot, with its identifiers made unique on the page."""
    text = (folder / f"figure-{number:02}.svg").read_text()
    text = text[text.index("<svg") :]
    for mark in ('id="', 'href="#', "url(#"):
        text = text.replace(mark, f"{mark}f{number}-")
    return text


def page(figures: Sequence[Figure], plots: Mapping[int, str]) -> str:
    """The text of the page; plots: SVG elements by the figures' numbers, of those that have one."""
    held = sum(claim.holds for figure in figures for claim in figure.claims)
    total = sum(len(figure.claims) for figure in figures)
    links = "".join(f'<a href="#figure-{one.number}">Figure {one.number}</a>' for one in figures)
    sections = "".join(_section(figure, plots.get(figure.number, "")) for figure in figures)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>WireCAP: figures 8 to 14</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>WireCAP: figures 8 to 14</h1><p>By wirecap {html.escape(__version__)}. Of what is known about the"
        f" paper's figures, <strong>{held} of {total}</strong> statements hold in the simulation. The test machine,"
        f" the plotted values and the trace were not published: agreement is of shape, order and ceiling.</p>"
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
        f"<table><tr><th>expected</th><th>known</th><th>came out</th><th>holds</th></tr>{rows}</table>"
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
