"""``wirecap plan`` as a command."""

from __future__ import annotations

import json
import re

import pytest

from wirecap.cli.main import run
from wirecap.kernels.base.jit import PURE

pytestmark = pytest.mark.skipif(PURE, reason="plans are checked by compiled kernels")

PAPER = ("--handler-rate", "38844", "-M", "256", "-R", "100")


def planned(capsys, *arguments):
    """What it prints, and what it writes."""
    assert run(["plan", *arguments]) == 0
    text = capsys.readouterr().out
    assert run(["plan", "--json", "-", *arguments]) == 0
    return text, json.loads(capsys.readouterr().out)


def test_the_loss_is_that_of_all_queues(capsys):
    """Four queues that lose alike lose as much of the whole burst as each of its part, reckoned as simulated."""
    text, found = planned(capsys, "--queues", "4", "--burst", "1M", *PAPER)
    assert found["burst_loss_simulated"] == pytest.approx(0.887, abs=0.001)
    assert found["burst_loss"] == pytest.approx(found["burst_loss_simulated"], abs=0.005)
    assert "at most 89.02 % lost by the closed form, 88.74 % when simulated (pool exhausted)" in text


def test_what_is_survived_is_lost_by_neither(capsys):
    """Near the pool's end a burst that is not certain to survive is one that may lose something."""
    text, found = planned(capsys, "--burst", "25k", *PAPER)
    assert not found["survives"]
    assert found["burst_loss"] > 0 == found["burst_loss_simulated"]
    assert "burst survived  at least 24,896 packets, 1.67 ms" in text
    assert found["burst_survived_s"] == pytest.approx(24_896 / 14.88e6, rel=1e-3)
    text, found = planned(capsys, "--burst", "24k", *PAPER)
    assert found["survives"]
    assert "0 % lost by the closed form, 0 % when simulated" in text


@pytest.mark.parametrize(
    ("demand", "chosen"), [((), ()), ((), ("--cell", "4096")), (("--queues", "4"), ("--mode", "advanced"))]
)
def test_the_first_line_reproduces_the_plan(capsys, demand, chosen):
    """The options in the first line, given to the planner, give the same pools; T follows from --drops-ok."""
    demand = ("--handler-rate", "1M", "--burst", "1M", *demand)
    text, found = planned(capsys, *demand, *chosen)
    line = re.sub(r" -T \d+", "", text.splitlines()[0])
    again = planned(capsys, *demand, *line.split())[1]
    pools = ("mode", "M", "R", "T", "memory_bytes")
    assert [again[name] for name in pools] == [found[name] for name in pools]


def test_frames_that_no_cell_holds(capsys):
    """What a larger cell holds is told to take one; what none holds takes several."""
    assert "do not fit a cell of 2048 bytes: use --cell 4096" in planned(capsys, *PAPER, "--frame", "3000")[0]
    assert "do not fit" not in planned(capsys, *PAPER, "--frame", "3000", "--cell", "4096")[0]
    text = planned(capsys, *PAPER, "--frame", "9000", "--cell", "4096")[0]
    assert "do not fit a cell of 4096 bytes: each takes 3 until it is joined (Linux 6.6" in text


def test_an_endless_burst(capsys):
    """Of a burst of days the plan says what was simulated, and both losses of that part."""
    text, found = planned(capsys, "--handler-rate", "15M", "--burst", "1T")
    assert "burst survived  any length" in text
    assert f"0 % of the first {found['burst_packets_simulated']:,} when simulated, by the closed form 0 %" in text
    assert found["burst_survived"] is None


def test_queues_that_are_missing_are_counted(capsys):
    """Where all handlers together are too slow the plan says how many it takes; one queue is offered no buddies."""
    text, _ = planned(capsys, "--handler-rate", "1M", "--mean-rate", "2.5M")
    assert "use 3 queues or a faster handler" in text
    assert "advanced" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-M", "0"], "M must be 1 to 65536, not 0"),
        (["-R", "0"], "R must be 2 to 1000000, not 0"),
        (["--burst-rate", "0"], "must be 1 or more"),
        (["--burst", "0"], "must be 1 or more"),
        (["--worst", "0"], "cannot get 0 % of the packets: the only one gets all of them (leave --worst out, or add"),
        (["--worst", "30%"], "cannot get 30 % of the packets: the only one gets all of them"),
        (["--worst", "0", "--queues", "6"], "cannot get 0 % of the packets (with 6 queues, use --worst 16.7% (an even"),
        (["--worst", "-1"], "--worst: '-1' is not a share (write it as 30% or 0.3)"),
        (["--worst", "30"], "--worst: '30' is not a share (write it as 30% or 0.3)"),
        (["--cell", "1000"], "unsupported cell size: 1000 bytes (use 2048 or 4096)"),
        (["--json", "/nonexistent/x.json"], "--json: /nonexistent/x.json: no such folder"),
        (["--json", "x.json.gz"], "--json: x.json.gz: it is written as it is, not compressed (name it x.json)"),
    ],
)
def test_wrong_usage_is_one_line(arguments, message, capsys):
    """Bad usage is status 2 and one line that says what, with a hint; nothing was planned before."""
    assert run(["plan", "--handler-rate", "1k", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert message in error
    assert error.count("\n") == 1
    assert "(" in error


def test_from_a_summary(capsys, tmp_path):
    """What a summary says is shown with the plan, and what is given besides goes before it."""
    file = tmp_path / "summary.json"
    rows = [{"received": 900, "delivered": 500, "drops": {"ring_full": 400}}, {"received": 100, "delivered": 100}]
    file.write_text(json.dumps({"duration_s": 2.0, "bytes": {"received": 160_000}, "per_queue": rows}))
    text, found = planned(capsys, "--from-summary", str(file), "--burst", "10k", "--frame", "64", "--mean-rate", "0")
    seen = f"{file}: 2 queues, the busiest with 90 %, 500 p/s, frames of 164 bytes, a handler does at least 250 p/s"
    assert text.splitlines()[0] == seen
    demand = found["demand"]
    assert (demand["queues"], demand["worst_share"], demand["handler_pps"]) == (2, 0.9, 250)
    assert (demand["frame_bytes"], demand["mean_pps"]) == (64, 0)


def test_a_link_by_name_and_a_burst_by_time(capsys):
    """10GbE is 10 Gbit/s; 2 ms at its 14.88 Mp/s are 29,762 packets, and at a burst's own 1 Mp/s 2,000."""
    named = planned(capsys, "--link", "10GbE", "--burst", "2ms", *PAPER)[1]
    assert named == planned(capsys, "--link", "10Gbps", "--burst", "29762", *PAPER)[1]
    assert planned(capsys, "--burst", "2ms", "--burst-rate", "1M", *PAPER)[1]["demand"]["burst_packets"] == 2000


@pytest.mark.parametrize(
    ("burst", "says"), [("0ms", "must be 1 or more"), ("5 parsecs", "500ms (a time)"), ("-1", "500ms (a time)")]
)
def test_bursts_that_are_none(capsys, burst, says):
    """A burst of no length is refused, and with both forms one that is neither packets nor a time."""
    assert run(["plan", "--burst", burst, *PAPER]) == 2
    assert says in capsys.readouterr().err


def test_one_slowest_link(capsys):
    """Help and error agree on which links can be planned."""
    assert run(["plan", "--help"]) == 0
    assert "1Mbps to 400Gbps" in " ".join(capsys.readouterr().out.split())
    assert run(["plan", "--link", "1Mbps", *PAPER]) == 0
    assert run(["plan", "--link", "999kbps", *PAPER]) == 2
    assert "use 1Mbps to 400Gbps" in capsys.readouterr().err
