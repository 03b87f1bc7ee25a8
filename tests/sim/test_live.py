"""Measured over simulated: a short experiment on a testbed of its own, and what is said where an engine is refused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from rig import until
from wirecap.cli.main import run
from wirecap.errors import WirecapError
from wirecap.kernels.base.jit import PURE
from wirecap.lab import testbed
from wirecap.lab.process import Child
from wirecap.linux import netns
from wirecap.sim import handler_cost, live, workload
from wirecap.sim.figures import TABLE, bursts, scaling
from wirecap.sim.figures import figure as base
from wirecap.sim.figures import live as figures_live
from wirecap.sim.figures.story import paragraph
from wirecap.sim.live import Sent, WorkloadPlan
from wirecap.sim.models import Dna, Netmap, PfRing, WireCap


@pytest.mark.live
def test_bursts_measured_and_simulated(monkeypatch, tmp_path, capsys):
    """(256,100) of figure 9 at P = 20,000 and 100,000 on real packets: below R*M only a late capture thread loses some;
    above it the pool's cells and what the handler did meanwhile are kept, however busy the machine is; what is off is
    listed."""
    monkeypatch.setattr(bursts, "FIGURE_9", ((256, 100),))
    arguments = ["figure", "9", "--live", "--engine", "xdp", "--points", "20k,100k", "--no-plot", "-o", str(tmp_path)]
    assert run([*arguments, "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    measured = [series for series in found["series"] if series["kind"] == base.MEASURED]
    assert [series["label"] for series in measured] == ["WireCAP-B-(256,100)"]
    for series in measured:
        below, above = series["points"]
        late = [point["facts"]["packets"]["drops"].get("capture_late", 0) for point in (below, above)]
        assert below["facts"]["packets"]["dropped"] == late[0]
        facts = above["facts"]
        assert facts["sent"] == facts["packets"]["received"] == 100_000
        assert facts["packets"]["drops"].keys() <= {"pool_exhausted", "capture_late"}
        handled = 38_844 * facts["sent"] / facts["rate_pps"]
        kept = facts["packets"]["delivered"]
        assert 25_600 - late[1] <= kept <= 25_600 + handled * 1.1 + 1024
        off = abs(above["drop_rate"] - facts["simulated"]) > 0.03
        assert off == any(text.startswith(f"{series['label']} at 100,000") for text in found["differences"])
    assert any("this machine's generator" in note for note in found["notes"])
    assert f"wf{os.getpid() % 100_000}" not in netns.names()


def test_each_engine_has_a_live_one():
    """WireCAP runs as xdp with its own M, R and T, Type II as direct with its ring, Type I as packet."""
    assert live.options(WireCap(64, 400, 70, True)) == "--engine xdp --mode advanced -T 70 -M 64 -R 400".split()
    assert live.options(WireCap(64, 400)) == "--engine xdp --mode basic -M 64 -R 400".split()
    assert live.options(Dna(512)) == "--engine direct --ring 512 -M 32".split()
    assert live.options(Netmap()) == "--engine direct --ring 1024 -M 1024".split()
    assert live.options(PfRing()) == "--engine packet --fanout qm --ring 4096 -s 60 -M 16 -R 256".split()


def test_each_engine_has_one_that_forwards():
    """Forwarding, the same; only PF_RING's slots are a pool of as many cells: AF_PACKET does not forward."""
    for engine in (WireCap(64, 400, 70, True), Dna(512)):
        assert live.options(engine, forward=True) == live.options(engine)
    found = live.options(PfRing(1024, 4096), forward=True)
    assert found == "--engine xdp --mode basic -M 64 -R 64".split()


@pytest.mark.parametrize("number", TABLE)
def test_every_figure_has_a_live_form(number):
    """What is measured for a figure are its simulated curves, by the same labels, the closed form aside."""
    if PURE:
        pytest.skip("figures are simulated by compiled kernels")
    simulated = TABLE[number](lambda name: None)
    labels = {series.label for series in simulated.series if series.kind == base.SIMULATED}
    assert {one.label for one in figures_live.experiments(number)} == labels


@pytest.mark.live
@pytest.mark.skipif(PURE, reason="packets in real time take compiled kernels")
def test_two_nics_both_directions(monkeypatch, tmp_path, capsys):
    """Figure 14 with two queues per NIC: what was sent into both directions arrives at the far ends or has a name; how
    fast this machine was is said, and no point is judged by a simulation of another machine's bus."""
    monkeypatch.setattr(figures_live, "SCALING_PACKETS", 20_000)
    monkeypatch.setattr(scaling, "FRAMES", (100,))
    monkeypatch.setattr(scaling, "ENGINES", scaling.ENGINES[:2])
    figure = base.Figure(14, "t", "queues", [], {}, [])
    figures_live.measure(figure, lambda line: None, ["xdp"], [2.0])
    assert [series.label for series in figure.series] == ["WireCAP-A-(256,100,60%)@100B"]
    facts = figure.series[0].points[0].facts
    assert facts["sent"] == facts["packets"]["received"] == 40_000
    assert facts["arrived"] == facts["packets"]["forwarded"] == 40_000 - facts["packets"]["dropped"]
    assert [row["received"] for row in facts["per_queue"]] == [10_000] * 4
    assert figure.differences == []
    assert "Measured against simulated" not in paragraph(figure)
    assert any("speed that this machine reaches" in note for note in figure.notes)


def _figure(number: int) -> base.Figure:
    return base.Figure(number, "t", "x", [], {}, [])


class _Bench:
    """Stands in for the testbed: refuses one engine, and loses a fixed share with the others."""

    def __init__(self, lost: float) -> None:
        self.lost = lost

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def trial(self, arguments, send, **_):
        if "packet" in arguments:
            raise live.RefusedError("there is no engine 'packet' here")
        return _trial(self.lost)


def _trial(lost: float) -> live.Trial:
    packets = {"delivered": round(100_000 * (1 - lost)), "drops": {"capture_late": 7}}
    return live.Trial(Sent(100_000, 0.05), {"packets": packets, "per_queue": []})


def test_a_refused_engine_is_named_and_the_others_go_on(monkeypatch):
    """An engine that does not run here becomes a note with its reason; the rest is measured."""
    monkeypatch.setattr(figures_live, "Bench", lambda: _Bench(0.5))
    figure, heard = _figure(9), []
    figures_live.measure(figure, heard.append, points=[100_000.0])
    assert any("PF_RING was not measured: there is no engine 'packet' here" in note for note in figure.notes)
    assert [series.label for series in figure.series][:2] == ["DNA", "NETMAP"]


def test_a_point_that_is_off_is_listed(monkeypatch):
    """More than three points from the simulation at the same rate: listed, with its drops; otherwise not."""
    engines = [{"direct"}, {"xdp"}]
    for chosen, lost, off in ((engines[0], 0.5, True), (engines[1], 0.736, False)):
        monkeypatch.setattr(figures_live, "Bench", lambda lost=lost: _Bench(lost))
        figure = _figure(9)
        figures_live.measure(figure, lambda line: None, chosen, [100_000.0])
        listed = [text for text in figure.differences if text.startswith(("DNA", "WireCAP-B-(256,100)"))]
        assert bool(listed) == off
        assert all("capture_late" in text for text in listed)


def test_what_a_point_is_held_against_is_shown(monkeypatch):
    """Beside each measured series stands the simulation at the rate that its runs had, and the text says how many
    points were compared, the largest difference and what is allowed."""
    monkeypatch.setattr(figures_live, "Bench", lambda: _Bench(0.98))
    figure = _figure(9)
    figures_live.measure(figure, lambda line: None, {"direct"}, [100_000.0])
    assert [(one.label, one.kind) for one in figure.series] == [
        ("DNA", base.MEASURED), ("NETMAP", base.MEASURED), ("DNA", base.AS_MEASURED), ("NETMAP", base.AS_MEASURED),
    ]  # fmt: skip
    burst = workload.burst(100_000, 2_000_000)
    expected = [100 * engine.simulate(burst, handler_cost.filters(300)).drop_rate for engine in (Dna(), Netmap())]
    assert [one.at(100_000) for one in figure.series[2:]] == pytest.approx(expected)
    largest = max(abs(98 - value) for value in expected)
    expected_text = f"2 points, with a largest difference of {largest:.1f} percentage points (3 allowed)."
    assert expected_text in paragraph(figure)


def test_the_configuration_has_the_commands(monkeypatch):
    """What was run, option by option, stands in the configuration of what was measured."""
    monkeypatch.setattr(figures_live, "Bench", lambda: _Bench(0.98))
    figure = _figure(9)
    figures_live.measure(figure, lambda line: None, {"direct"}, [100_000.0])
    ran = figure.configuration["live"]
    assert ran["command"] == "wirecap capture"
    assert ran["options"]["DNA"] == "--engine direct --ring 1024 -M 32 --handler pkt_handler:rate=38844"


def test_slow_handlers_explain_a_difference(monkeypatch):
    """Where handlers were slower than asked for, the simulation is repeated with what they did, and that is said."""
    row = {"received": 1_480_000, "delivered": 500_000, "drops": {"pool_exhausted": 980_000}}

    class Busy(_Bench):
        def trial(self, arguments, send, **_):
            packets = {"delivered": 3_000_000, "drops": {"pool_exhausted": 2_920_000}}
            summary = {"mode": "advanced", "packets": packets, "per_queue": [row] * 4}
            return live.Trial(Sent(5_920_000, 32.0), summary, 32.0)

    monkeypatch.setattr(figures_live, "Bench", lambda: Busy(0))
    figure = _figure(12)
    figures_live.measure(figure, lambda line: None, (), [4.0])
    assert len(figure.differences) == 4
    assert all("an overloaded handler did some 15,625 p/s instead of 38,844" in text for text in figure.differences)


def test_an_interrupt_keeps_what_was_measured(monkeypatch, tmp_path, capsys):
    """Ctrl-C during the third engine: the two before it are in the files, the note says so, and the status is 1."""
    count = iter(range(100))

    class Long(_Bench):
        def trial(self, arguments, send, **_):
            if next(count) == 2:
                raise KeyboardInterrupt
            return live.Trial(Sent(100_000, 0.05), {"packets": {"delivered": 1000, "drops": {}}, "per_queue": []})

    monkeypatch.setattr(figures_live, "Bench", lambda: Long(0))
    assert run(["figure", "9", "--live", "--points", "100k", "-o", str(tmp_path)]) == 1
    assert "written so far" in capsys.readouterr().err
    found = json.loads((tmp_path / "figure-09.json").read_text())
    assert [series["label"] for series in found["series"] if series["kind"] == base.MEASURED] == ["PF_RING", "DNA"]
    assert any("interrupted" in note for note in found["notes"])


@pytest.mark.live
@pytest.mark.skipif(PURE, reason="packets in real time take compiled kernels")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_middle_of_a_point(tmp_path, number):
    """A signal while a point is measured, which takes half a minute: the figure is written and says so, the status is
    1, and neither the testbed nor the measured command stays behind."""
    command = ["figure", "11", "--live", "--engine", "xdp", "--points", "4", "--no-plot", "-o", str(tmp_path)]
    with Child([sys.executable, "-m", "wirecap", *command]) as child:
        name = f"wf{child.pid % 100_000}"
        until(lambda: name in netns.names(), 120)
        until(lambda: _captures_in(name), 60)
        ended = child.end(number, 100)
    assert ended.status == 1
    assert "written so far" in ended.output
    found = json.loads((tmp_path / "figure-11.json").read_text())
    assert any("interrupted" in note for note in found["notes"])
    assert name not in netns.names()
    assert not _captures_in(name)


def _captures_in(name: str) -> list[Path]:
    """Processes that were told to capture in a namespace."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if name.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(process)
    return found


def test_the_plan_sends_every_packet_in_order():
    """What goes to the testbed is the workload: every packet once, at its time, on its queue."""
    packets = workload.burst(20_000, 100_000, (0.7, 0.3))
    batches = list(WorkloadPlan(packets, b"\0" * 60).batches())
    due = [int(value) for batch in batches for value in batch.due]
    queue = [int(value) for batch in batches for value in batch.queue]
    assert due == sorted(due)
    assert [queue.count(number) for number in (0, 1)] == [14_000, 6_000]
    assert due[-1] == pytest.approx(200_000_000, rel=0.01)


@pytest.mark.live
def test_a_command_that_fails_leaves_nothing(monkeypatch):
    """When the measured command is refused, the testbed goes and the reason is one line."""
    with live.Bench() as bench, pytest.raises(live.RefusedError, match="M must be 1 to 65536, not 0"):
        bench.trial(["-M", "0"], lambda ends: Sent(0, 0), queues=1)
    assert not testbed.status(bench.name).namespace


def test_no_privileges(monkeypatch, capsys, tmp_path):
    """What the testbed refuses reaches the user as one line, and the simulated figure is not half written."""

    def refuse(*_, **__):
        raise WirecapError("testbed: operation not permitted", "run as root")

    monkeypatch.setattr(testbed, "up", refuse)
    monkeypatch.setattr(testbed, "down", lambda name: False)
    assert run(["figure", "10", "--live", "--no-plot", "-o", str(tmp_path)]) == 1
    assert "run as root" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
