"""Figures on disk, as plots, and as one page that a real browser opens."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from wirecap.cli.main import run
from wirecap.kernels.base.jit import PURE
from wirecap.sim import figures
from wirecap.sim.figures import TABLE, plot, report
from wirecap.sim.figures.figure import SIMULATED, Claim, Figure, Point, Series

pytestmark = pytest.mark.skipif(PURE, reason="figures are simulated by compiled kernels")
needs_plots = pytest.mark.skipif(not plot.available(), reason="Matplotlib is not installed (extra 'plot')")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BARS = (8, 11, 12, 13)
"""The figures that the paper draws with bars."""
FILES = {"csv", "json", "png", "svg", "txt"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Everything, made once by the command."""
    if not plot.available():
        pytest.skip("Matplotlib is not installed (extra 'plot')")
    made = tmp_path_factory.mktemp("figures")
    assert run(["figure", "all", "-o", str(made)]) == 0
    return made


def test_each_figure_has_its_files(folder):
    """Every figure leaves data, configuration, plots and text side by side; the page is there."""
    for number in TABLE:
        names = {path.name for path in folder.glob(f"figure-{number:02}*")}
        assert names == {f"figure-{number:02}.{kind}" for kind in FILES} | {f"figure-{number:02}-configuration.json"}
    assert (folder / report.NAME).stat().st_size > 100_000


@pytest.mark.parametrize("number", TABLE)
def test_data_agree_with_each_other(folder, number):
    """CSV and JSON have the same points, and the packets behind a point give its drop rate."""
    found = json.loads((folder / f"figure-{number:02}.json").read_text())
    rows = list(csv.DictReader((folder / f"figure-{number:02}.csv").read_text().splitlines()))
    points = [(series["label"], series["kind"], point) for series in found["series"] for point in series["points"]]
    assert len(rows) == len(points) > 0
    for row, (label, kind, point) in zip(rows, points, strict=True):
        assert (row["series"], row["kind"], float(row["x"])) == (label, kind, point["x"])
        assert float(row["drop_percent"]) == pytest.approx(100 * point["drop_rate"], abs=1e-4)
        if kind == SIMULATED:
            assert int(row["dropped"]) / int(row["received"]) == pytest.approx(point["drop_rate"])
            assert int(row["received"]) == int(row["delivered"]) + int(row["dropped"])
    text = (folder / f"figure-{number:02}.txt").read_text()
    assert "Expected:" in text
    assert "Agreement:" in text
    assert "not known" in text
    assert found["configuration"] == json.loads((folder / f"figure-{number:02}-configuration.json").read_text())


@needs_plots
def test_plots_use_no_colour(folder):
    """Every pixel of a plot is grey: what cannot be told apart in print is not told apart by colour."""
    from matplotlib import image

    for number in TABLE:
        pixels = np.asarray(image.imread(folder / f"figure-{number:02}.png"))[:, :, :3]
        assert np.ptp(pixels, axis=2).max() <= 0.02
        assert pixels.min() < 0.2 < 0.8 < pixels.max()


def test_no_two_curves_look_alike(folder):
    """Of a figure's series no two have the same grey and dashes, of its bars no two the same grey and hatch."""
    curves = [Series(str(number), [Point(1, 0.1)]) for number in range(12)]
    styles = [plot._line_style(one, which) for which, one in enumerate(curves)]
    assert len({(style["color"], style["linestyle"]) for style in styles}) == len(curves)
    series = max(len(json.loads((folder / f"figure-{number:02}.json").read_text())["series"]) for number in BARS)
    assert len(set(zip(plot.GREYS, plot.HATCHES, strict=True))) >= series > 1


@pytest.mark.skipif(BROWSER is None, reason="no browser: chromium is not installed")
def test_a_browser_shows_the_page(folder, tmp_path):
    """Chromium opens the report by itself, without a network: seven plots with marks on them, no missing part, no
    text outside the window, identifiers that are unique, and a picture of it that is not empty."""
    probe = """<script>addEventListener('load', () => { const all = [...document.querySelectorAll('svg')];
      const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
      const missing = [...document.querySelectorAll('use')].filter(
        e => !document.getElementById((e.href.baseVal || '').slice(1))).length;
      const heights = all.map(e => e.getBoundingClientRect().height);
      document.title = JSON.stringify({plots: all.length, low: Math.min(...heights),
      marks: Math.min(...all.map(e => e.querySelectorAll('path').length)), double: ids.length - new Set(ids).size,
      missing: missing, wide: document.documentElement.scrollWidth - innerWidth,
      sections: document.querySelectorAll('section').length,
      no: document.querySelectorAll('.no').length}); });</script>"""
    page = tmp_path / "report.html"
    page.write_text((folder / report.NAME).read_text().replace("</head>", probe + "</head>"))
    text = _chromium(tmp_path, "--dump-dom", page)
    seen = json.loads(re.search(r"<title>(\{.*?\})</title>", text)[1].replace("&quot;", '"'))
    assert seen["plots"] == seen["sections"] == len(TABLE)
    assert seen["low"] > 200
    assert seen["marks"] > 10
    assert (seen["double"], seen["missing"], seen["no"]) == (0, 0, 0)
    assert seen["wide"] <= 0
    _chromium(tmp_path, f"--screenshot={tmp_path / 'page.png'}", page)
    if plot.available():
        from matplotlib import image

        assert 0.02 < (np.asarray(image.imread(tmp_path / "page.png"))[:, :, 0] < 0.5).mean() < 0.6


def _chromium(folder: Path, what: str, page: Path) -> str:
    """Run the browser on a page, with a profile of its own; what it prints."""
    environment = {**os.environ, "HOME": str(folder)}
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}", "--window-size=1200,1600",
        "--virtual-time-budget=5000", what, page.as_uri(),
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


def _small(holds: bool) -> Figure:
    points = [Point(4, 0.25, {}), Point(5, 0.125, {})]
    claims = [Claim("a < b & c", "text", holds, "<found>")]
    return Figure(11, "A <title>", "queues", [Series("one & two", points)], {"n": 1}, claims, bars=True)


def test_page_escapes_and_marks_what_fails():
    """Text is text, whatever its characters; a statement that does not hold stands out, in the page and in the text."""
    good, bad = (report.page([_small(holds)], {11: "<svg/>"}) for holds in (True, False))
    assert "A &lt;title&gt;" in good
    assert "one &amp; two" in good
    assert "<strong>1 of 1</strong>" in good
    assert "class=no" not in good
    assert "<td class=no>NO</td>" in bad
    assert "NOT as expected" in bad


def test_without_matplotlib(monkeypatch, tmp_path, capsys):
    """Without Matplotlib plots are refused with a hint before anything runs, and --no-plot writes the data."""
    monkeypatch.setattr(plot, "available", lambda: False)
    assert run(["figure", "10", "-o", str(tmp_path)]) == 1
    assert "wirecap[plot]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert run(["figure", "10", "--no-plot", "-o", str(tmp_path)]) == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".json", ".txt"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["7"], "unknown figure: '7' (choose 8 to 14, or all)"),
        (["eleven"], "unknown figure: 'eleven'"),
        (["10", "--engine", "xdp"], "add --live"),
        (["10", "--live", "--points", "a,b"], "not a list of numbers"),
        (["11", "--live", "--points", "4,7"], "nothing is measured at 7"),
        (["10", "--live", "--engine", "direct"], "nothing is measured with this engine"),
        (["10", "--json", "/"], "is a directory"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    """What cannot be is one line with a hint and status 2."""
    assert run(["figure", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_page_without_plots(tmp_path, monkeypatch):
    """--no-plot leaves the plots out of the page too, and nothing else."""
    monkeypatch.setattr(figures, "TABLE", {number: TABLE[number] for number in (8, 10)})
    assert run(["figure", "all", "--no-plot", "-o", str(tmp_path)]) == 0
    text = (tmp_path / report.NAME).read_text()
    assert "<svg" not in text
    assert text.count("<section") == 2


def test_json_on_stdout(tmp_path, capsys):
    """--json - prints one object and nothing else."""
    assert run(["figure", "10", "--no-plot", "-o", str(tmp_path), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["figure"] == 10


@pytest.mark.parametrize("what", [["10"], ["11", "--live"]])
def test_a_folder_that_cannot_be_written(tmp_path, capsys, what, monkeypatch):
    """A file in the place of the folder: one line, status 2, before anything is simulated or measured."""
    monkeypatch.setitem(TABLE, int(what[0]), None)
    (tmp_path / "file").write_text("")
    assert run(["figure", *what, "--no-plot", "-o", str(tmp_path / "file")]) == 2
    assert "-o" in capsys.readouterr().err


def test_store_without_runs(tmp_path):
    """A point without a run behind it, as the closed form's, has no packet counts in the CSV."""
    assert report.as_csv(_small(True)).splitlines()[1] == "11,one & two,simulated,4,25.0000,,,,,,"
