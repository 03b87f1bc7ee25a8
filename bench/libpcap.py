"""tcpdump alone and tcpdump on a running capture (``LD_PRELOAD=$(wirecap libpcap)``): what is lost, and the CPU time.

    sudo .venv/bin/python bench/libpcap.py
    sudo .venv/bin/python bench/libpcap.py --rates 200k,400k --rounds 3

First packets that come while tcpdump does not run (stopped, as by a slow disk), then steady rates.  tcpdump writes to
/dev/null.  Alone it has libpcap's default buffer, and then as much as the capture's pool; on the capture, both share
one CPU.  CPU time counts from the first packet on.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import common
from wirecap.compat.libpcap import build
from wirecap.errors import WirecapError
from wirecap.lab import process, testbed
from wirecap.lab.peers import Tcpdump
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames
from wirecap.units import parse_mean_rate

ALONE, LARGE, OURS = "tcpdump", "tcpdump -B", "tcpdump on wirecap"
M, CELL = 256, 2048


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def numbers(output: str) -> tuple[int, int]:
    """What tcpdump says at its end: packets captured, and dropped by the kernel."""
    found = [re.search(rf"(\d+) packets? {what}", output) for what in ("captured", "dropped by kernel")]
    if not all(found):
        raise WirecapError(f"tcpdump says {output.strip()!r}")
    captured, dropped = (int(one[1]) for one in found if one)
    return captured, dropped


def once(tool: str, number: int, rate: str, library: Path, args: argparse.Namespace) -> common.Run:
    """One run: while tcpdump is stopped if ``rate`` is empty, else at so many packets a second."""
    nic = testbed.up(common.NAME, queues=1, gro=tool != OURS).nics[0]
    command = ["tcpdump", "-ni", nic.inside, "-Z", "root", "-w", "/dev/null"]
    if tool == LARGE:
        command += ["-B", str(args.pool * M * CELL >> 10)]
    with ExitStack() as stack:
        sender = stack.enter_context(LiveFrames(nic.outside, synthetic.udp(args.size), cpu=args.sender_cpu))
        capture, pids = None, []
        if tool == OURS:
            pool = ["-M", str(M), "-R", str(args.pool)]
            capture = common.Ours(nic.inside, common.NAME, ["--handler", "share", *pool], args.peer_cpu)
            stack.enter_context(capture)
            pids.append(capture.child.pid)
            command = ["env", f"LD_PRELOAD={library}", *command]
        tcpdump = stack.enter_context(process.Child(command, common.NAME, {args.peer_cpu}))
        tcpdump.wait_for("listening on")
        pids.append(tcpdump.pid)
        before, begin = sum(map(cpu_s, pids)), time.monotonic()
        if rate:
            pps = parse_mean_rate(rate)
            sent = sender.send_paced(round(pps * args.seconds), pps)
        else:
            os.kill(tcpdump.pid, signal.SIGSTOP)
            sent = sender.send(args.packets)
            os.kill(tcpdump.pid, signal.SIGCONT)
        duration_s = time.monotonic() - begin
        time.sleep(Tcpdump.settle_s)
        used_s = sum(map(cpu_s, pids)) - before
        delivered, dropped = numbers(tcpdump.end(signal.SIGINT).output)
        faults = common.contradictions(capture.stop()[0], sent) if capture else []
    drops = {"own count": dropped}
    return common.Run(tool, number, sent, duration_s, delivered, sent - delivered, drops, used_s, 0.0, faults)


def body(args: argparse.Namespace) -> dict[str, Any]:
    library = build.shared_object(common.console.print)
    tools, found = [ALONE, LARGE, OURS], {}
    for rate in ["", *args.rates.split(",")]:
        title = f"{rate}p/s for {args.seconds:g} s" if rate else f"{args.packets} packets while tcpdump is stopped"
        turns = [(number, tool) for number in range(args.rounds) for tool in common.turned(tools, number)]
        runs = [once(tool, number, rate, library, args) for number, tool in turns]
        common.show(title, sorted(runs, key=lambda run: tools.index(run.tool)), OURS)
        found[title] = runs
    return {
        "runs": {title: common.as_dicts(runs) for title, runs in found.items()},
        "failed": [fault for runs in found.values() for fault in common.faults(runs)],
    }


if __name__ == "__main__":
    parser = common.options(__doc__ or "", packets=100_000, rounds=5)
    parser.add_argument("--rates", default="100k,200k,400k", help="steady rates, packets a second")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a steady rate is sent")
    parser.add_argument("--pool", type=int, default=400, metavar="R", help="chunks of 256 packets in the pool")
    common.main(body, parser)
