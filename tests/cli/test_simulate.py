"""``wirecap simulate`` and ``wirecap plan`` as commands."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rig import Rig, cpu_seconds, read_pcap, until
from wirecap.cli.main import run
from wirecap.kernels.base import jit
from wirecap.kernels.base.jit import PURE
from wirecap.run.summary import as_dict
from wirecap.sim.models import TABLE, Model
from wirecap.sim.result import QueueResult, Result
from wirecap.traffic.steering import Rss

pytestmark = pytest.mark.skipif(PURE, reason="simulations are compiled")

TINY = "burst:packets=10,rate=10"


def simulated(capsys, *arguments):
    assert run(["simulate", "--json", "-", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_all_engines_see_the_same_packets(capsys):
    """The same received packets for each engine, and counters that add up, as in a capture's summary."""
    found = simulated(capsys, "--engine", "all", "--queues", "4")
    assert [result["engine"] for result in found["results"]] == [*TABLE, "wirecap"]
    for result in found["results"]:
        packets = result["packets"]
        assert packets["received"] == found["packets"] == sum(row["received"] for row in result["per_queue"])
        assert packets["received"] == packets["delivered"] + packets["filtered_out"] + packets["dropped"]
        assert packets["dropped"] == sum(packets["drops"].values()) > 0
        for row in result["per_queue"]:
            assert row["received"] == row["delivered"] + row["dropped"]


def test_all_compares_both_modes_of_wirecap(capsys):
    """'all' runs WireCAP on its own queues and with buddies, whatever --mode says, in the table and in the JSON; on one
    overloaded queue of four the buddies' share is what makes the difference."""
    uneven = ("--engine", "all", "--workload", "burst:packets=200k,rate=200kpps", "--share", "7,1,1,1")
    for mode in ("basic", "advanced"):
        basic, advanced = simulated(capsys, *uneven, "--mode", mode)["results"][-2:]
        assert [result["label"] for result in (basic, advanced)] == ["WireCAP-B-(256,100)", "WireCAP-A-(256,100,60%)"]
        assert [result["mode"] for result in (basic, advanced)] == ["basic", "advanced"]
        assert basic["packets"]["offloaded"] == 0 < advanced["packets"]["offloaded"]
        assert advanced["packets"]["dropped"] < basic["packets"]["dropped"]
    assert run(["simulate", *uneven]) == 0
    shown = capsys.readouterr().out
    assert shown.index("WireCAP-B-(256,100)") < shown.index("WireCAP-A-(256,100,60%)")
    assert "handed to a buddy" in shown


def test_counters_have_the_live_names(capsys):
    """WireCAP's summary has every field of a live one but for XDP and bytes, which simulated packets have not; every
    engine's drops are documented."""
    found = simulated(capsys, "--mode", "advanced", "-T", "60", "--queues", "5")["results"][0]
    with Rig(queues=5) as rig:
        rig.inject_copies(0, 3)
        rig.done(3)
        rig.stop()
        live = as_dict(rig.engine)
    assert set(live) - set(found) == {"xdp_mode", "zero_copy", "time_stamps", "bytes", "notes"}
    assert set(found["packets"]) == set(live["packets"])
    assert set(live["per_queue"][0]) <= set(found["per_queue"][0])
    assert found["pool_bytes"] == 5 * 100 * 256 * 2048
    documented = (Path(__file__).parents[2] / "docs" / "drops.md").read_text()
    everything = simulated(capsys, "--engine", "all", "--workload", "burst:packets=100k,rate=14.88M")
    for result in everything["results"]:
        assert all(f"`{name}`" in documented for name in result["packets"]["drops"])
        assert result["packets"]["drops"]


def hashed(path, queues):
    """How many packets of a pcap file RSS has for each queue, read by its record headers alone."""
    data, at, starts, lengths = path.read_bytes(), 24, [], []
    while at < len(data):
        starts.append(at + 16)
        lengths.append(struct.unpack_from("<I", data, at + 8)[0])
        at += 16 + lengths[-1]
    chosen = Rss(queues).choose(
        np.frombuffer(data, np.uint8).copy(), np.array(starts, np.int64), np.array(lengths, np.uint32), len(starts)
    )
    return np.bincount(chosen, minlength=queues).tolist()


def test_a_trace_through_rss(capsys, mixed_trace):
    """A file's packets all arrive, each on the queue of its Toeplitz hash, at the recorded times or faster."""
    found = simulated(capsys, "-r", str(mixed_trace), "--queues", "4")
    rows = found["results"][0]["per_queue"]
    expected = hashed(mixed_trace, 4)
    assert [row["received"] for row in rows] == expected
    assert found["packets"] == sum(expected) == len(read_pcap(mixed_trace))
    assert min(expected) > found["packets"] / 20
    faster = simulated(capsys, "-r", str(mixed_trace), "--queues", "4", "--speed", "10")
    assert faster["workload_s"] == pytest.approx(found["workload_s"] / 10, rel=1e-6)
    assert [row["received"] for row in faster["results"][0]["per_queue"]] == [row["received"] for row in rows]


def test_forwarding(capsys):
    """What is delivered leaves; NETMAP is left out of 'all', and refused by name."""
    found = simulated(capsys, "--engine", "all", "--forward", "--queues", "4")
    assert [result["engine"] for result in found["results"]] == ["pf_ring", "dna", "wirecap", "wirecap"]
    for result in found["results"]:
        assert result["packets"]["forwarded"] == result["packets"]["delivered"] > 0
    assert (found["forward"], found["transmit_ns"]) == (True, 67.2)
    assert run(["simulate", "--engine", "netmap", "--forward"]) == 2
    assert "sync calls" in capsys.readouterr().err


def test_every_engine_forwards_through_one_wire(capsys):
    """Six handlers keep up with 20 Mp/s, the outgoing NIC sends 14.88: no engine sends more, and each loses what its
    buffers cannot hold."""
    burst = ("--engine", "dna", "--engine", "wirecap", "--engine", "pf_ring:kernel=1ns", "--queues", "6", "--handler",
             "pkt_handler:rate=1G", "--workload", "burst:packets=2M,rate=20Mpps")  # fmt: skip
    for result in simulated(capsys, "--forward", *burst)["results"]:
        packets = result["packets"]
        assert packets["forwarded"] == packets["delivered"] < packets["received"]
        assert packets["forwarded"] / result["duration_s"] <= 1e12 / 67_200 + 1
    for result in simulated(capsys, *burst)["results"]:
        assert result["packets"]["dropped"] == 0


def test_figure_13_can_be_had_from_the_command(capsys):
    """simulate --forward is what figure 13 draws."""
    from wirecap.sim.figures import TABLE as FIGURES

    found = simulated(capsys, "--engine", "all", "--forward", "--queues", "5")
    drawn = FIGURES[13](lambda name: None)
    for result in found["results"]:
        assert 100 * result["drop_rate"] == drawn.get(result["label"]).at(5)


def test_results_say_what_made_them(capsys):
    """Every setting of an engine, the shares and the NIC that packets leave through: two results that differ by one of
    them are told apart."""
    found = simulated(capsys, "--timeout", "2ms", "--engine", "wirecap:capture=3us,chunk=5ns,away_percent=7,groups=0+1",
                      "--workload", TINY, "--share", "3,1")  # fmt: skip
    made = found["results"][0]
    assert {name: made[name] for name in ("timeout_ns", "capture_ns", "chunk_ns", "away_percent", "groups")} == {
        "timeout_ns": 2e6, "capture_ns": 3000, "chunk_ns": 5, "away_percent": 7, "groups": [[0], [1]],
    }  # fmt: skip
    assert "75/25 %" in found["workload"]
    assert not found["forward"]


def test_a_run_can_be_interrupted():
    """Ctrl-C ends a simulation of 10^12 packets at once, with any engine."""
    jit.prepare([kernel for model in TABLE.values() for kernel in model.kernels])
    command = [sys.executable, "-m", "wirecap", "simulate", "--handler", "count", "--workload",
               "burst:packets=1T,rate=14.88Mpps", "--engine"]  # fmt: skip
    running = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in TABLE]
    try:
        for process in running:
            until(lambda process=process: process.poll() is not None or cpu_seconds(process.pid) > 2.5, 60)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
            assert (process.returncode, errors) == (1, "wirecap: interrupted\n")
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_an_engine_has_settings_of_its_own(capsys):
    """What stands behind an engine's name holds for it alone; several of one kind are told apart."""
    engines = ("--engine", "wirecap", "--engine", "wirecap:R=500,mode=advanced", "--engine", "dna:ring=64")
    found = simulated(capsys, *engines, "-M", "128", "--workload", "burst:packets=100k,rate=10M")
    assert [result["label"] for result in found["results"]][:2] == ["WireCAP-B-(128,100)", "WireCAP-A-(128,500,60%)"]
    assert found["results"][2]["ring"] == 64
    assert run(["simulate", "--engine", "dna", "--engine", "dna:ring=4096", "--workload", TINY]) == 0
    shown = capsys.readouterr().out
    assert "DNA (dna)" in shown
    assert "DNA (dna:ring=4096)" in shown


def test_a_slower_kernel_loses_more(capsys):
    """PF_RING's kernel time and NETMAP's sync time are the options that they seem to be."""
    for name, option, long in (("pf_ring", "kernel", "5us"), ("netmap", "sync", "5ms")):
        both = simulated(
            capsys, "--engine", f"{name}:{option}=10ns", "--engine", f"{name}:{option}={long}", "--handler",
            "pkt_handler:rate=2M", "--workload", "burst:packets=100k,rate=1Mpps",
        )  # fmt: skip
        quick, slow = (result["drop_rate"] for result in both["results"])
        assert quick == 0 < slow


def test_two_nics_on_a_bus(capsys):
    """Two NICs at 14.88 Mp/s on a bus of 20 Mp/s: a third of what DNA gets is lost by that name, for each alike, and
    WireCAP, whose packets cost more there, loses a little more; a bus that moves everything changes nothing."""
    lost = simulated(capsys, "--nics", "2", "--workload", "burst:packets=1002,rate=1kpps", "--handler", "count")
    assert lost["results"][0]["packets"]["received"] == 2004 == lost["results"][0]["packets"]["delivered"]
    narrow = ("--nics", "2", "--workload", "burst:packets=1M,rate=14.88Mpps", "--handler", "count")
    found = simulated(capsys, "--engine", "dna", "--engine", "wirecap", "--bus", "20M", *narrow)
    dna, wirecap = found["results"]
    assert found["packets"] == dna["packets"]["received"] == 2_000_000
    assert [row["interface"] for row in dna["per_queue"]] == ["nic0", "nic1"]
    for row in dna["per_queue"]:
        assert row["drops"] == {"bus_saturated": pytest.approx(1e6 * (1 - 20 / 29.76), rel=0.05)}
    assert wirecap["packets"]["drops"]["bus_saturated"] > dna["packets"]["drops"]["bus_saturated"]
    assert simulated(capsys, "--engine", "dna", "--bus", "40M", *narrow)["results"][0]["packets"]["dropped"] == 0


def test_an_engine_is_a_class_and_a_line_of_the_table(capsys, monkeypatch):
    """What stands in the table can be run by its name with options of its own, is one of all, and is in the help."""

    @dataclass(frozen=True)
    class Half(Model):
        every: int = 2
        name, label, kernels = "half", "Half", ()

        def simulate(self, workload, load, *, seed=1, transmit_ps=0):
            queues = [
                QueueResult(runs.packets, runs.packets // self.every, 0, 0,
                            {"every_other": runs.packets - runs.packets // self.every})
                for runs in workload.queues
            ]  # fmt: skip
            return Result(self.name, self.label, self.settings, queues, workload.duration_s)

    monkeypatch.setitem(TABLE, "half", Half)
    (found,) = simulated(capsys, "--engine", "half:every=5", "--workload", TINY)["results"]
    assert (found["every"], found["packets"]["drops"]) == (5, {"every_other": 8})
    narrow = simulated(capsys, "--engine", "all", "--forward", "--nics", "2", "--workload", TINY)["results"]
    assert [result["engine"] for result in narrow] == ["pf_ring", "dna", "wirecap", "wirecap", "half"]
    assert run(["simulate", "--help"]) == 0
    assert "wirecap, half, or all" in capsys.readouterr().out


def test_the_help_names_every_engine(capsys):
    """An engine of the table stands in the help text."""
    assert run(["simulate", "--help"]) == 0
    assert ", ".join(TABLE) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate", "--engine", "pcap"], "unknown engine: 'pcap'"),
        (["simulate", "--engine", "dna:slots=3"], "unknown option 'slots=3'"),
        (["simulate", "--engine", "wirecap:mode=x"], "unknown mode: 'x'"),
        (["simulate", "--engine", "wirecap:groups=0-1+1-2"], "in two buddy groups"),
        (["simulate", "--engine", "wirecap:groups=0-9"], "a queue that does not exist: there are 6"),
        (["simulate", "--engine", "pf_ring:kernel=3h"], "kernel is too long: 10,800 s"),
        (["simulate", "--engine", "pf_ring:kernel=1h", "--ring", "4096", "--workload",
          "burst:packets=1M,rate=1M"], "days"),
        (["simulate", "--timeout", "200d"], "at most an hour"),
        (["simulate", "--speed", "2"], "--speed"),
        (["simulate", "--workload", "onoff:rate=1k,on=1us,off=1us,duration=1d"], "periods"),
        (["simulate", "--workload", "poisson:packets=50M,rate=1pps"], "26 days"),
        (["simulate", "--handler", "costs:file=/dev/null"], "/dev/null"),
        (["simulate", "--nics", "0"], "--nics 0 is too small"),
        (["simulate", "--bus", "1M"], "--bus makes no difference to a single NIC"),
        (["simulate", "--handler", "pkt_handler:rate=1", "-M", "60k", "-R", "1M", "--workload",
          "burst:packets=1T,rate=14M"], "26 days"),
        (["simulate", "--queues", "0"], "number of queues: 0"),
        (["simulate", "--workload", "flood"], "unknown workload: 'flood'"),
        (["simulate", "--workload", TINY, "--share", "1,1", "--queues", "3"], "--queues 3 does not match the 2 shares"),
        (["simulate", "-r", "/nonexistent.pcap"], "/nonexistent.pcap"),
        (["simulate", "--ring", "1"], "unsupported ring size: 1 descriptors"),
        (["simulate", "-M", "0"], "M must be 1 to 65536, not 0"),
        (["simulate", "--handler", "write"], "cannot be simulated"),
        (["simulate", "--seed", "4G"], "--seed 4000000000 is too large"),
        (["simulate", "--json", "/nonexistent/x.json", "--workload", TINY], "/nonexistent/x.json"),
        (["plan"], "the speed of the handler is unknown"),
        (["plan", "--handler-rate", "1k", "--queues", "65"], "unsupported number of queues: 65"),
        (["plan", "--handler-rate", "1k", "--worst", "half"], "not a share"),
        (["plan", "--from-summary", "/nonexistent.json"], "/nonexistent.json"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line(arguments, message, capsys, monkeypatch):
    """Bad usage is status 2 and one line that says what, with a hint; nothing is compiled before."""
    monkeypatch.setattr(jit, "prepare", lambda *_: pytest.fail("kernels are compiled first"))
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
