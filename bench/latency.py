"""How long packets take: to a handler, through a forwarder beside others, and between two hosts.

``--part delivery``: from the kernel's timestamp to the loop of ``wirecap.open``, which is an idle or a busy consumer.
``--part forward``: from one far end to the other, each frame stamped and timed inside the kernel; wirecap, a bridge,
DPDK's testpmd and an XDP redirect, at rates from 1 kp/s to the generator's full speed.
``--part hosts``: ping and iperf3 between two hosts with the offloads that the kernel sets, beside a bridge.

    sudo .venv/bin/python bench/latency.py
    sudo .venv/bin/python bench/latency.py --part hosts --options '--timeout 100us'
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from rich.table import Table

import common
import wirecap
from forward import Ours
from wirecap.errors import WirecapError
from wirecap.lab import hosts, process, testbed
from wirecap.lab.far_end import Stopwatch
from wirecap.lab.forwarders import FORWARDERS
from wirecap.lab.process import Child
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames
from wirecap.units import parse_mean_rate

OURS = "wirecap"
STAMP_AT = 42
FULL = "full"
BURST_S = 1e-4
"""A sender that sleeps between frames keeps up to some 10 kp/s; above that it sends what this time's worth is."""
SETTLE_S, LAST_S = 0.3, 8.0
"""How often to look for the last frames, and for how long, as a forwarder may stand still."""


def send(sender: LiveFrames, rate: str, duration_s: float) -> tuple[float, int]:
    """Send at a rate for a time; the rate that was reached, in packets per second, and how many were sent."""
    begin = time.monotonic()
    if rate == FULL:
        sent = 0
        while time.monotonic() - begin < duration_s:
            sent += sender.send(50_000)
    else:
        pps = parse_mean_rate(rate)
        sent = sender.send_paced(round(pps * duration_s), pps, max(1, round(pps * BURST_S)))
    return sent / (time.monotonic() - begin), sent


def receive(interface: str, namespace: str) -> None:
    """Another process: take chunks until SIGINT, then print how long their packets took, in ns."""
    with wirecap.open(interface, netns=namespace) as capture:
        signal.signal(signal.SIGINT, lambda *_: capture.stop())
        print("ready", flush=True)
        found = [time.time_ns() - chunk.timestamps.astype(np.int64) for chunk in capture]
    print(json.dumps({"chunks": len(found), **of(np.concatenate(found))}))


def of(took_ns: Any) -> dict[str, float]:
    """Percentiles in ms."""
    p50, p99 = np.percentile(took_ns, [50, 99])
    return {"packets": len(took_ns), "p50_ms": p50 * 1e-6, "p99_ms": p99 * 1e-6}


def deliver(rate: str, args: argparse.Namespace) -> dict[str, Any]:
    nic = testbed.up(common.NAME, queues=1).nics[0]
    command = [sys.executable, __file__, "--receive", nic.inside, common.NAME]
    with Child(command) as child, LiveFrames(nic.outside, synthetic.udp(args.size)) as sender:
        child.wait_for("^ready", 180)
        reached, _ = send(sender, rate, args.duration)
        time.sleep(SETTLE_S)
        found = json.loads(child.end(signal.SIGINT).output.strip().splitlines()[-1])
    testbed.down(common.NAME)
    return {"tool": "wirecap.open", "rate": rate, "reached_pps": reached, **found}


def forwarded(tool: str, rate: str, args: argparse.Namespace) -> dict[str, Any]:
    kind = FORWARDERS.get(tool)
    bed = testbed.up(common.NAME, queues=1, nics=2, gro=bool(kind and kind.needs_gro))
    near, far = bed.nics
    ends = (near.inside, far.inside, bed.name, None, False)
    with ExitStack() as stack:
        stack.enter_context(kind(*ends) if kind else Ours(*ends, *args.options.split()))
        stopwatch = stack.enter_context(Stopwatch(far.outside, STAMP_AT))
        sender = stack.enter_context(LiveFrames(near.outside, synthetic.udp(args.size), stamp_at=STAMP_AT))
        time.sleep(0.5)
        reached, sent = send(sender, rate, args.duration)
        end = time.monotonic() + LAST_S
        while (counts := np.array(stopwatch.counts())).sum() < sent and time.monotonic() < end:
            time.sleep(SETTLE_S)
    testbed.down(common.NAME)
    took = np.repeat((np.arange(counts.size) + 0.5) * Stopwatch.STEP_NS, counts)
    if not took.size:
        raise WirecapError(f"{tool}: nothing arrived at {rate}")
    return {"tool": tool, "rate": rate, "reached_pps": reached, **of(took)}


def show(title: str, runs: Sequence[dict[str, Any]]) -> None:
    rates = list(dict.fromkeys(run["rate"] for run in runs))
    table = Table(title=title, title_justify="left")
    for heading in ("program", *("full speed" if rate == FULL else f"{rate} p/s" for rate in rates)):
        table.add_column(heading, justify="left" if heading == "program" else "right", no_wrap=True)
    for tool in dict.fromkeys(run["tool"] for run in runs):
        cells = []
        for rate in rates:
            own = [run for run in runs if (run["tool"], run["rate"]) == (tool, rate)]
            p50, p99 = (statistics.median(run[name] for run in own) for name in ("p50_ms", "p99_ms"))
            cells.append(f"{p50:.3f} {p99:.3f}")
        table.add_row(tool, *cells)
    common.console.print(table)
    common.console.print("p50 and p99 in ms, the median of the rounds")


def delivery(args: argparse.Namespace) -> dict[str, Any]:
    runs = [deliver(rate, args) for _ in range(args.rounds) for rate in args.rates.split(",")]
    show("delivery: from the timestamp to the loop", runs)
    return {"delivery": runs}


def compare(args: argparse.Namespace) -> dict[str, Any]:
    tools = [OURS, *common.present(args.peers, FORWARDERS)]
    rates = args.rates.split(",")
    turns = [(tool, rate) for n in range(args.rounds) for rate in rates for tool in common.turned(tools, n)]
    runs = [forwarded(tool, rate, args) for tool, rate in turns]
    show("forwarding: from one far end to the other", runs)
    return {"forward": runs}


def between_hosts(tool: str, args: argparse.Namespace) -> dict[str, Any]:
    """Ping, TCP and UDP through one forwarder, both ways."""
    made = hosts.up(common.NAME)
    one, other = made.namespaces
    ends = (*made.ends, made.name, None, True)
    target = made.addresses[1]
    try:
        with FORWARDERS[tool](*ends) if tool in FORWARDERS else Ours(*ends, *args.options.split()):
            process.run(["ping", "-c", "3", "-i", "0.2", target], one)
            ping = process.run(["ping", "-c", str(args.pings), "-i", "0.01", target], one).output
            times = [float(text) for text in re.findall(r"time=([0-9.]+)", ping)]
            rates = {}
            for name, options in (("tcp", ()), ("udp", ("-u", "-b", args.udp_rate))):
                with Child(["iperf3", "-s", "-1", "--forceflush"], other) as server:
                    server.wait_for("Server listening")
                    client = ["iperf3", "-c", target, "-J", "-t", f"{args.duration:g}", *options]
                    end = json.loads(process.run(client, one).output)["end"]
                rates[f"{name}_bps"] = (end.get("sum_received") or end["sum"])["bits_per_second"]
                rates[f"{name}_lost"] = end.get("sum", {}).get("lost_percent", 0.0)
    finally:
        hosts.down(made.name)
    if len(times) < args.pings:
        raise WirecapError(f"{tool}: {args.pings - len(times)} of {args.pings} pings were lost")
    return {"tool": tool, **of(np.array(times) * 1e6), **rates}


def talk(args: argparse.Namespace) -> dict[str, Any]:
    tools = [OURS, "bridge"]
    runs = [between_hosts(tool, args) for n in range(args.rounds) for tool in common.turned(tools, n)]
    table = Table(title="two hosts, the offloads that the kernel sets", title_justify="left")
    for heading in ("program", "ping p50 ms", "ping p99 ms", "TCP Gbit/s", "UDP Gbit/s", "UDP lost %"):
        table.add_column(heading, justify="left" if heading == "program" else "right")
    for tool in tools:
        own = [run for run in runs if run["tool"] == tool]
        table.add_row(
            tool, common.spread((run["p50_ms"] for run in own), "{:.3f}"),
            common.spread((run["p99_ms"] for run in own), "{:.3f}"),
            common.spread(run["tcp_bps"] * 1e-9 for run in own), common.spread(run["udp_bps"] * 1e-9 for run in own),
            common.spread(run["udp_lost"] for run in own),
        )  # fmt: skip
    common.console.print(table)
    return {"hosts": runs}


PARTS = {"delivery": delivery, "forward": compare, "hosts": talk}


def main() -> None:
    if sys.argv[1:2] == ["--receive"]:
        receive(*sys.argv[2:4])
        return
    parser = common.options(__doc__.splitlines()[0], 0, 1, "bridge,testpmd,xdp-redirect")
    parser.add_argument("--part", choices=PARTS, help="which measurement to run; all of them if not given")
    parser.add_argument("--duration", type=float, default=2, help="seconds per run")
    parser.add_argument("--rates", default=f"1k,10k,100k,300k,{FULL}", help="packets per second")
    parser.add_argument("--pings", type=int, default=200, help="echo requests per run of hosts")
    parser.add_argument("--udp-rate", default="1G", help="bits per second that iperf3 sends by UDP")
    parser.add_argument("--options", default="", help="more options for wirecap forward")
    parts = lambda args: [args.part] if args.part else PARTS  # noqa: E731
    common.main(lambda args: {k: v for name in parts(args) for k, v in PARTS[name](args).items()}, parser)


if __name__ == "__main__":
    main()
