"""A figure's files, side by side: data (CSV, JSON), configuration, plot (PNG, SVG), and what it says."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wirecap import __version__
from wirecap.errors import UsageError
from wirecap.sim.figures.base import Figure
from wirecap.sim.figures.story import paragraph

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
    """Everything, as JSON has it."""
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
    """A row for each point; packets are empty where there was no run behind it."""
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
    """What cannot be written is one line."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{path}: {reason}", "choose a folder that can be written with -o") from None


def prepare(folder: Path) -> None:
    """Make the folder; UsageError where nothing can be written, before anything runs."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def write(figure: Figure, folder: Path, plots: bool = True) -> list[Path]:
    """Everything into ``folder``, which is there; the files, the plots last."""
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
