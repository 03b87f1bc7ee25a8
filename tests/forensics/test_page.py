"""``--html``: a page of a real capture, opened in a real browser; what it refuses."""

from __future__ import annotations

import faulthandler
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rig import pcap_records
from wirecap.cli.main import run
from wirecap.engine.engine import ThreadLayout
from wirecap.forensics import page as page_module
from wirecap.forensics.plots import draw
from wirecap.forensics.series import History
from wirecap.lab import process
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

plots = pytest.importorskip("matplotlib", reason="Matplotlib is not installed (extra 'plot')")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIRECAP = [sys.executable, "-P", "-m", "wirecap"]
BURST = 9000


TRIES, LONG_S = 5, 400


@pytest.fixture
def burst(testbed, tmp_path) -> tuple[dict[str, Any], str, Path]:
    """A capture of four queues in advanced mode that loses packets of two flows: its summary, lines and page.

    A machine that takes the capture thread's time away makes that the slow one, and is told so: then once more.
    """
    signal.alarm(LONG_S)  # several captures, the simulation of their losses, and a browser
    faulthandler.dump_traceback_later(LONG_S + 60, exit=True, file=sys.__stderr__)
    bed = testbed(queues=4)
    for number in range(TRIES):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = _lose(bed, folder)
        for row in found[0]["losses"]:
            main = max(row["drops"], key=row["drops"].get)
            slow = {"capture thread"} if main == "capture_late" else {"handler", "capture thread"}
            assert row["slow"] in slow, row
        if found[0]["packets"]["dropped"] <= 2 * BURST:  # the sender stood still
            continue
        worst = _worst(found[0])
        if worst["slow"] == "handler" and len(worst["flows"]) == 2 and worst["advice"]:
            return found
    pytest.fail(
        f"in {TRIES} tries the capture thread was late, a second passed between bursts, or something stood still"
    )


def _worst(summary: dict[str, Any]) -> dict[str, Any]:
    return max(summary["losses"], key=lambda row: row["packets"])


def _lose(bed: Any, folder: Path) -> tuple[dict[str, Any], str, Path]:
    nic, page, summary = bed.nics[0], folder / "page.html", folder / "summary.json"
    options = ["-M", "64", "-R", "20", "-T", "20", "--mode", "advanced", "--handler", "pkt_handler:rate=20000"]
    files = ["--html", str(page), "--summary-json", str(summary)]
    child = process.Child([*WIRECAP, "capture", "--netns", bed.name, "-i", nic.inside, *options, *files])
    child.wait_for("capturing on", 60)
    with child:
        for port, count in ((5001, 3 * BURST), (5002, BURST)):
            with LiveFrames(
                nic.outside, synthetic.udp(60, source_port=port), cpu=min(os.sched_getaffinity(0))
            ) as sender:
                assert sender.send(count) > 0.9 * count
        ended = child.end(signal.SIGINT, 60)
    assert ended.status == 0, ended.output
    return json.loads(summary.read_text()), ended.output, page


@pytest.mark.live
def test_a_loss_explained_and_shown(burst, tmp_path):
    """The summary says which flows lost how much, when and why; so do the closing lines and the page."""
    summary, output, page = burst
    lost = sum(row["packets"] for row in summary["losses"])
    assert lost == summary["packets"]["dropped"] > 2 * BURST
    row = _worst(summary)
    assert (row["slow"], row["times_of"]) == ("handler", "packets")
    assert 0 < row["last_ns"] - row["first_ns"] < summary["duration_s"] * 1e9
    shares = {one["flow"].split(" > ")[0][-4:]: one["share"] for one in row["flows"]}
    assert set(shares) == {"5001", "5002"}
    assert shares["5001"] > shares["5002"] > 0.05
    (advice,) = row["advice"]
    assert advice["mode"] == "advanced"
    assert advice["R"] > 20
    assert f"{row['interface']} queue {row['queue']} lost {row['packets']} packets" in output
    assert f"would have held them: --mode advanced -R {advice['R']} -T {advice['T']}" in output
    text = page.read_text()
    assert f"-R {advice['R']} -T {advice['T']}" in text
    assert not re.search(r'(src|href)="?https?:|@import|url\(["\']?http', text)
    if BROWSER:
        _look_at(page, tmp_path, queues=4)


def _look_at(page: Path, folder: Path, queues: int) -> None:
    """In Chromium, without a network: five plots with curves, text that is inside, nothing missing, a picture."""
    probe = """<script>addEventListener('load', () => { const svg = document.querySelector('svg');
      const missing = [...document.querySelectorAll('use')].filter(
        e => !document.getElementById((e.href.baseVal || e.getAttribute('xlink:href') || '').slice(1))).length;
      document.title = JSON.stringify({axes: svg.querySelectorAll('g[id^=axes]').length,
      high: svg.getBoundingClientRect().height, marks: svg.querySelectorAll('path').length, missing: missing,
      wide: document.documentElement.scrollWidth - innerWidth, text: svg.textContent,
      given: document.querySelectorAll('#given tr').length, code: document.querySelectorAll('#losses code').length
      }); });</script>"""
    probed = folder / "probed.html"
    probed.write_text(page.read_text().replace("</head>", probe + "</head>"))
    text = _chromium(folder, "--dump-dom", probed)
    seen = json.loads(
        re.search(r"<title>(\{.*?\})</title>", text, re.DOTALL)[1].replace("&quot;", '"').replace("&gt;", ">")
    )
    assert seen["axes"] == 5
    assert seen["high"] > 400
    assert seen["marks"] > 20
    assert (seen["missing"], seen["given"]) == (0, queues + 1)
    assert seen["wide"] <= 0
    assert seen["code"] >= 1
    for words in ("arriving", "waiting", "pool in use", "T = 20 %", "R = 20", "handed to buddies", "pool exhausted"):
        assert words in seen["text"]
    _chromium(folder, f"--screenshot={folder / 'page.png'}", page)
    from matplotlib import image

    pixels = np.asarray(image.imread(folder / "page.png"))[:, :, :3]
    assert 0.01 < (pixels.min(axis=2) < 0.5).mean() < 0.6
    assert np.ptp(pixels, axis=2).max() > 0.5  # curves have colours


def _chromium(folder: Path, what: str, page: Path) -> str:
    """Run the browser on a page, with a profile of its own; what it prints."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}", "--window-size=1200,1600",
        "--virtual-time-budget=5000", what, page.as_uri(),
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(folder)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


@pytest.mark.parametrize("count", [1, 700])
def test_a_file_has_a_page_too(tmp_path, count):
    """Of a file there is what its packets say: when they arrived, over the time that they took; and no losses."""
    trace, page = tmp_path / "in.pcap", tmp_path / "page.html"
    header = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")
    trace.write_bytes(header + pcap_records(count))
    assert run(["capture", "-r", str(trace), "--html", str(page)]) == 0
    text = page.read_text()
    assert f'title="{count}"' in text
    assert "No packet was lost" in text
    assert "<svg" in text
    assert "2023-11-14" in text


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere/page.html", "no such folder"),
        (".", "is a directory"),
        ("/proc/page.html", "permission denied"),
        ("-", "the page goes to a file"),
    ],
)
@pytest.mark.parametrize("command", [["capture", "-i", "nosuch0"], ["forward", "nosuch0", "nosuch1"]])
def test_where_no_page_can_be_written(tmp_path, monkeypatch, capsys, command, path, message):
    """It is refused at the start, in one line, before an interface is looked for."""
    monkeypatch.chdir(tmp_path)
    if path == "/proc/page.html":
        monkeypatch.setattr(os, "access", lambda *_: False)
    assert run([*command, "--html", path]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "--html" in error
    assert len(error.strip().splitlines()) <= 2


def test_a_page_that_would_replace_what_is_read(tmp_path, capsys):
    """A file with another use is not written over."""
    trace = tmp_path / "in.pcap"
    trace.write_bytes(b"x")
    assert run(["capture", "-r", str(trace), "--html", str(trace)]) == 2
    assert "has another use" in capsys.readouterr().err
    assert trace.read_bytes() == b"x"


def test_without_matplotlib(tmp_path, monkeypatch, capsys):
    """Nothing is captured for a page that could not be drawn."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(["capture", "-i", "lo", "--html", str(tmp_path / "page.html")]) == 1
    assert "wirecap[plot]" in capsys.readouterr().err
    with pytest.raises(Exception, match="Matplotlib"):
        page_module.check()


def test_there_is_no_half_chunk():
    """The axes count whole chunks and packets, also where there were one or two."""
    history = History()
    history.reach(10)
    history.peak("depth 0", np.array([3]), np.array([2]))
    assert not re.search(r">\d+m<", draw(history, ["a 0"], ["a 0"], 2, None))


def test_what_somebody_wanted_dropped_is_not_lost():
    """Packets that a handler dropped, or that were left at the end, are no loss; all others are."""
    packets = {"received": 20, "delivered": 12, "written": 0, "forwarded": 0, "offloaded": 0, "dropped": 8}
    packets["drops"] = {"by_handler": 5, "unread_at_stop": 3}
    assert "No packet was lost." in page_module._losses({"packets": packets})
    assert 'title="0">0</b><span>packets lost' in page_module._tiles({"packets": packets})
    packets["drops"] = {"by_handler": 5, "capture_late": 3}
    assert "nobody saw when" in page_module._losses({"packets": packets})


@pytest.mark.parametrize(
    ("layout", "called"),
    [
        (ThreadLayout([0, 1, 2], 3, 1), ["a 0", "a 1", "b 0", "writer 0"]),
        (ThreadLayout([0, 0, 0], 1), ["3 queues together"]),
        (ThreadLayout([0, 0, 1], 2), ["2 queues together", "b 0"]),
    ],
)
def test_threads_are_called_after_what_they_serve(layout, called):
    """One writer that takes the chunks of all queues is not called after the first."""
    assert page_module._threads(SimpleNamespace(layout=layout), ["a 0", "a 1", "b 0"]) == called
