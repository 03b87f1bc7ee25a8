from __future__ import annotations

import io
import os
import pty

import pytest

from wirecap.observe.live_line import LiveLine, Quiet, Snapshot, open_display, render


def test_line_has_rates_since_the_line_before():
    """Rates are over the interval, totals over the run, the depth is the worst queue's."""
    before = Snapshot(10.0, 1_000_000, 1_000_000, 60_000_000)
    now = Snapshot(
        10.5, 2_000_000, 1_900_000, 120_000_000, 1_800_000, [0, 40, 10], 100, {"pool_full": 0, "ring_full": 7}
    )
    assert render(now, before).split("  ") == [
        "0:10",
        "2 Mp/s",
        "960 Mbit/s",
        "2,000,000 received",
        "queue 40%",
        "dropped: ring full 7",
        "1,900,000 captured",
        "1,800,000 written",
    ]


def test_first_line_needs_no_interval():
    """The first snapshot, even at time 0, makes a line."""
    assert render(Snapshot(0.0, 0, 0, 0), None).split("  ") == [
        "0:00", "0 p/s", "0 bit/s", "0 received", "none dropped", "0 captured",
    ]  # fmt: skip


def test_drops_fit_a_narrow_terminal():
    """At a line's full numbers, 80 columns still show rate, received, queue and whether something is lost."""
    busy = Snapshot(3599.0, 99_999_999_999, 99_999_999_999, 10**13, 1, [99], 100)
    assert "none dropped" in render(busy, None)[:80]


def test_live_line_is_rewritten_and_cut_to_the_terminal():
    """Each line starts by clearing the last, none is wider than the terminal, and close leaves nothing."""
    stream = io.StringIO()
    line = LiveLine(stream)
    for tick in range(3):
        line.show(Snapshot(float(tick), tick, tick, tick, drops={"a_very_long_reason" * 9: 1}))
    line.say("a word")
    line.close()
    shown = stream.getvalue()
    assert shown.count("\r\x1b[K") == 4
    assert shown.endswith("\r\x1b[Ka word\n")
    assert all(len(part) < 80 for part in shown.split("\r\x1b[K"))


def test_live_line_is_not_drawn_too_often():
    """Snapshots that come faster than half the interval are not shown."""
    stream = io.StringIO()
    line = LiveLine(stream)
    for tick in range(100):
        line.show(Snapshot(tick / 1000, tick, tick, tick))
    assert stream.getvalue().count("\r") == 1


@pytest.mark.parametrize(("term", "live"), [("xterm", True), ("dumb", False)])
def test_live_line_only_on_a_terminal(monkeypatch, term, live):
    """A terminal that can redraw gets the live line; a dumb one, a pipe and --quiet do not."""
    monkeypatch.setenv("TERM", term)
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream:
        assert isinstance(open_display(stream=stream), LiveLine) == live
        assert isinstance(open_display(quiet=True, stream=stream), Quiet)
    os.close(leader)
    assert isinstance(open_display(stream=io.StringIO()), Quiet)


def test_plain_lines_without_a_terminal():
    """Without a terminal, words are printed and snapshots are not; quiet prints nothing."""
    plain, silent = io.StringIO(), io.StringIO()
    for display in (Quiet(plain), Quiet(silent, silent=True)):
        display.say("listening on eth1")
        display.show(Snapshot(1.0, 1, 1, 1))
        display.close()
    assert plain.getvalue() == "listening on eth1\n"
    assert silent.getvalue() == ""
