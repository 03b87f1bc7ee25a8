"""``wirecap simulate`` and ``wirecap plan`` as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wirecap.cli.main import run
from wirecap.kernels.jit import PURE

pytestmark = pytest.mark.skipif(PURE, reason="simulations are compiled")

TINY = "burst:packets=10,rate=10"


def simulated(capsys, *arguments):
    assert run(["simulate", "--json", "-", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_all_engines_see_the_same_packets(capsys):
    """The same received packets for each engine, and counters that add up, as in a capture's summary."""
    found = simulated(capsys, "--engine", "all", "--queues", "4")
    assert [result["engine"] for result in found["results"]] == ["pf_ring", "dna", "netmap", "wirecap"]
    for result in found["results"]:
        packets = result["packets"]
        assert packets["received"] == found["packets"] == sum(row["received"] for row in result["per_queue"])
        assert packets["received"] == packets["delivered"] + packets["filtered_out"] + packets["dropped"]
        assert packets["dropped"] == sum(packets["drops"].values()) > 0
        for row in result["per_queue"]:
            assert row["received"] == row["delivered"] + row["dropped"]


def test_counters_have_the_live_names(capsys):
    """WireCAP's summary has every field of a live one that does not speak of the kernel, and only its drop names."""
    found = simulated(capsys, "--mode", "advanced", "-T", "60", "--queues", "5")["results"][0]
    live = {"engine", "mode", "queues", "M", "R", "T", "pool_bytes", "duration_s", "packets", "per_queue"}
    assert live <= set(found)
    assert found["pool_bytes"] == 5 * 100 * 256 * 2048
    names = {"received", "delivered", "filtered_out", "written", "forwarded", "offloaded", "dropped", "drops"}
    assert set(found["packets"]) == names
    documented = (Path(__file__).parents[2] / "docs" / "drops.md").read_text()
    everything = simulated(capsys, "--engine", "all", "--workload", "burst:packets=100k,rate=14.88M")
    for result in everything["results"]:
        assert all(f"`{name}`" in documented for name in result["packets"]["drops"])
        assert result["packets"]["drops"]


def test_a_trace_through_rss(capsys, mixed_trace):
    """A file's packets all arrive, spread over the queues as RSS spreads them, at the recorded times or faster."""
    found = simulated(capsys, "-r", str(mixed_trace), "--queues", "4")
    rows = found["results"][0]["per_queue"]
    assert sum(row["received"] for row in rows) == found["packets"] == 68_034
    assert all(row["received"] > 0 for row in rows)
    faster = simulated(capsys, "-r", str(mixed_trace), "--queues", "4", "--speed", "10")
    assert faster["workload_s"] == pytest.approx(found["workload_s"] / 10, rel=1e-6)
    assert [row["received"] for row in faster["results"][0]["per_queue"]] == [row["received"] for row in rows]


def test_forwarding(capsys):
    """What is delivered is forwarded; NETMAP is left out of 'all', and refused by name."""
    found = simulated(capsys, "--engine", "all", "--forward", "--queues", "4")
    assert [result["engine"] for result in found["results"]] == ["pf_ring", "dna", "wirecap"]
    for result in found["results"]:
        assert result["packets"]["forwarded"] == result["packets"]["delivered"] > 0
    assert run(["simulate", "--engine", "netmap", "--forward"]) == 2
    assert "sync calls" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate", "--queues", "0"], "0 queues"),
        (["simulate", "--workload", "flood"], "no workload 'flood'"),
        (["simulate", "--workload", TINY, "--share", "1,1", "--queues", "3"], "3 queues and 2 shares"),
        (["simulate", "-r", "/nonexistent.pcap"], "/nonexistent.pcap"),
        (["simulate", "--ring", "1"], "a ring of 1"),
        (["simulate", "-M", "0"], "M is 0"),
        (["simulate", "--handler", "write"], "cannot be simulated"),
        (["simulate", "--seed", "4G"], "a seed of"),
        (["simulate", "--json", "/nonexistent/x.json", "--workload", TINY], "/nonexistent/x.json"),
        (["plan"], "how fast is the handler"),
        (["plan", "--handler-rate", "1k", "--queues", "65"], "65 queues"),
        (["plan", "--handler-rate", "1k", "--worst", "half"], "not a share"),
        (["plan", "--from-summary", "/nonexistent.json"], "/nonexistent.json"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line(arguments, message, capsys):
    """Bad usage is status 2 and one line that says what, with a hint."""
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "(" in error


def test_plan_from_a_simulated_summary(capsys, tmp_path):
    """A run's summary file says enough for a plan: its queues, its worst queue, and how fast its handlers were."""
    found = simulated(capsys, "--queues", "6")
    summary = tmp_path / "summary.json"
    summary.write_text(json.dumps(found["results"][0]))
    assert run(["plan", "--from-summary", str(summary), "--burst", "50k", "--burst-rate", "200k", "--json", "-"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["demand"]["queues"] == 6
    assert made["demand"]["worst_share"] == pytest.approx(0.4358, abs=0.001)
    assert made["demand"]["handler_pps"] == pytest.approx(38_844, rel=0.05)
    assert made["mode"] == "advanced"
    assert made["burst_loss_simulated"] == 0
