"""How far timestamps are from the packets' processing, at rates from quiet to full speed, beside a reading for each.

For the measurement alone the XDP program reads the clock a second time for each packet, right behind its timestamp, and
writes it into the packet.  The difference is the error: 0.04 us, the second reading, where the first one was for this
very packet.  ``after a pause`` are the packets that came 1 ms or more after the one before.

Last comes what a run of the whole program takes in the kernel's test run, without copying the packet.

    sudo .venv/bin/python bench/stamps.py
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import common
import wirecap
from wirecap.errors import WirecapError
from wirecap.lab import testbed
from wirecap.lab.process import Child
from wirecap.linux import bpf, clock, xdp_program
from wirecap.linux.asm import Insn
from wirecap.linux.polls import Polls
from wirecap.linux.xdp_program import OFFERED, Hook, Ledger, best_clock, make_ledger
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames
from wirecap.units import parse_mean_rate

WRITTEN_AT = 42
"""Where in the packet: behind Ethernet, IPv4 and UDP."""
FULL, SOCKET = "full", "socket"
BURST_S = 1e-4
PAUSE_NS = 1_000_000
SETTLE_S = 0.3
BOUND_US = 5.0
RUNS, ENTRIES = 100_000, 16384
_plain = xdp_program._timestamp


def with_proof(kind: str, timestamps: int, polls: int | None, by_nic: int) -> list[Insn]:
    """The program's part that timestamps, and behind it the second reading; 6 has the context."""
    helper = {"tai": "ktime_get_tai_ns", "monotonic": "ktime_get_ns"}[kind]
    return [
        *_plain(kind, timestamps, polls, by_nic),
        ("call", 0, 0, 0, bpf.HELPERS[helper]),
        ("ldxw", 2, 6, 0, 0),
        ("ldxw", 3, 6, 4, 0),
        ("mov_reg", 1, 2, 0, 0),
        ("add_imm", 1, 0, 0, WRITTEN_AT + 8),
        ("jgt_reg", 1, 3, "unproven", 0),
        ("stxdw", 2, 0, WRITTEN_AT, 0),
        ("label", "unproven"),
    ]


def receive(interface: str, namespace: str, kind: str) -> None:
    """Another process: take chunks until SIGINT, then print how far their timestamps were off."""
    xdp_program._timestamp = with_proof
    stamps, proofs = [], []
    with wirecap.open(interface, netns=namespace, time_stamps=kind) as capture:
        signal.signal(signal.SIGINT, lambda *_: capture.stop())
        print("ready", flush=True)
        for chunk in capture:
            long = chunk.lengths >= WRITTEN_AT + 8
            at = chunk.offsets[long, None] + np.arange(WRITTEN_AT, WRITTEN_AT + 8)
            stamps.append(chunk.timestamps[long].astype(np.int64))
            proofs.append(chunk.arena[at].view(np.int64)[:, 0])
        summary = capture.summary()
    none = np.zeros(0, np.int64)
    found = of(np.concatenate([none, *stamps]), np.concatenate([none, *proofs]) + clock.offset_ns(best_clock()))
    print(json.dumps({**found, "summary": summary}))


def of(stamps: NDArray[np.int64], proofs: NDArray[np.int64]) -> dict[str, Any]:
    """Errors in us, of all packets and of those after a pause; steps: from one timestamp to the next, in ns."""
    if len(stamps) < 2:
        raise WirecapError(f"only {len(stamps)} packets arrived")
    late_us = (proofs - stamps) / 1e3
    first = np.append(True, np.diff(proofs) >= PAUSE_NS)
    p50, p99 = np.percentile(late_us, [50, 99])
    return {
        "packets": len(stamps), "least_us": late_us.min(), "p50_us": p50, "p99_us": p99, "most_us": late_us.max(),
        "pauses": int(first.sum()), "after_pause_p50_us": float(np.median(late_us[first])),
        "after_pause_most_us": late_us[first].max(), "least_step_ns": int(np.diff(stamps).min()),
    }  # fmt: skip


def send(outside: str, rate: str, args: argparse.Namespace) -> int:
    """Send for a while; how many packets were sent."""
    frame = synthetic.udp(args.size)
    if rate == SOCKET:  # as hosts send: the kernel copies each packet out of its own buffer, which takes longer
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((outside, 0))
            end, sent = time.monotonic() + args.duration, 0
            while time.monotonic() < end:
                raw.send(frame)
                sent += 1
            return sent
    with LiveFrames(outside, frame, cpu=args.sender_cpu) as sender:
        if rate == FULL:
            return sender.send(args.packets)
        pps = parse_mean_rate(rate)
        return sender.send_paced(round(pps * args.duration), pps, max(1, round(pps * BURST_S)))


def one(kind: str, rate: str, number: int, args: argparse.Namespace) -> dict[str, Any]:
    nic = testbed.up(common.NAME, queues=1, mtu=max(1500, args.size)).nics[0]
    with Child([sys.executable, __file__, "--receive", nic.inside, common.NAME, kind]) as child:
        child.wait_for("^ready", 180)
        sent = send(nic.outside, rate, args)
        time.sleep(SETTLE_S)
        found = json.loads(child.end(signal.SIGINT).output.strip().splitlines()[-1])
    testbed.down(common.NAME)
    return {"kind": kind, "rate": rate, "round": number, "sent": sent, **found}


def faults(runs: Iterable[dict[str, Any]]) -> list[str]:
    """What must hold in each run, however busy the machine is."""
    found = []
    for run in runs:
        where = f"{run['kind']} at {run['rate']}, round {run['round']}"
        if run["least_step_ns"] <= 0:
            found.append(f"{where}: a timestamp is {-run['least_step_ns']} ns before or at the one before it")
        if run["least_us"] < 0:
            found.append(f"{where}: a timestamp is {-run['least_us']:.2f} us after the packet's own")
    return found


def costs(rounds: int) -> dict[str, list[int]]:
    """ns that the program takes, by the value of -j, round by round."""
    polls, ledger = Polls(), make_ledger(1, ENTRIES)
    words = np.frombuffer(ledger.mapped(), np.int64)
    words[OFFERED] = 1 << 62
    kinds = {"host": (best_clock(), polls.map.fd), "host_hiprec": (best_clock(), None), "host_lowprec": ("none", None)}
    hooks = {
        kind: Hook(1, [0], Ledger(ledger, 0, ENTRIES), 1792, which, polls=counted)
        for kind, (which, counted) in kinds.items()
    }
    found: dict[str, list[int]] = {kind: [] for kind in hooks}
    for _ in range(rounds):
        for kind, hook in hooks.items():
            found[kind].append(min(hook.program.cost_ns(synthetic.udp(60), RUNS) for _ in range(5)))
    return found


def body(args: argparse.Namespace) -> dict[str, Any]:
    kinds, rates = args.kinds.split(","), args.rates.split(",")
    turns = [(kind, rate, n) for n in range(args.rounds) for rate in rates for kind in common.turned(kinds, n)]
    runs = [one(kind, rate, n, args) for kind, rate, n in turns]
    title = f"error of timestamps in us, frames of {args.size} bytes, {args.rounds} rounds"
    table = Table(title=title, title_justify="left")
    for heading in ("-j", "rate", "packets", "p50", "p99", "most", "pauses", "after: p50", "most"):
        table.add_column(heading, justify="left" if heading == "-j" else "right", no_wrap=True)
    keys = ("p50_us", "p99_us", "most_us", "pauses", "after_pause_p50_us", "after_pause_most_us")
    for kind in kinds:
        for rate in rates:
            own = [run for run in runs if (run["kind"], run["rate"]) == (kind, rate)]
            cells = [f"{np.median([run[key] for run in own]):.{0 if key == 'pauses' else 2}f}" for key in keys]
            table.add_row(kind, rate, f"{sum(run['packets'] for run in own):,}", *cells)
    common.console.print(table)
    common.console.print(f"the median of the rounds; p99 is to be at most {BOUND_US:g}")
    taken = costs(args.rounds)
    told = ", ".join(f"{kind} {common.spread(ns, '{:.0f}')}" for kind, ns in taken.items())
    common.console.print(f"ns of the program for a packet, the best of 5 times {RUNS:,} runs: {told}")
    return {"runs": runs, "cost_ns": taken, "failed": faults(runs)}


def main() -> None:
    if sys.argv[1:2] == ["--receive"]:
        receive(*sys.argv[2:5])
        return
    parser = common.options(__doc__.splitlines()[0], 1_000_000, 3)
    parser.add_argument("--duration", type=float, default=1, help="seconds per run, but at full speed")
    parser.add_argument("--rates", default=f"100,1k,10k,100k,1M,{SOCKET},{FULL}",
                        help=f"packets a second; {SOCKET}: one by one through a socket; {FULL}: all")  # fmt: skip
    parser.add_argument("--kinds", default="host,host_hiprec", help="values of -j")
    common.main(body, parser)


if __name__ == "__main__":
    main()
