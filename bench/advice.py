"""Whether advice holds: bursts that lose packets, again with the R that the capture then advises, and with 5 % less.

With the advised R the median of the rounds must lose nothing, with 5 % less it must lose something.

    sudo .venv/bin/python bench/advice.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from rich.table import Table

import common
from wirecap.lab import testbed
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

SHAPES = ((256, 100, 40_000), (64, 200, 30_000), (256, 40, 25_000))
"""(M, R, packets of the burst): more than R x M."""


TRIES = 4


def burst(args: argparse.Namespace, M: int, R: int, packets: int) -> dict[str, Any]:
    """One burst into a fresh capture: its summary.  One that was sent too slowly, for want of a CPU, was none."""
    for _ in range(TRIES):
        summary, rate_pps = _burst(args, M, R, packets)
        if rate_pps >= args.least:
            break
    return summary


def _burst(args: argparse.Namespace, M: int, R: int, packets: int) -> tuple[dict[str, Any], float]:
    """The summary, and packets per second."""
    nic = testbed.up(common.NAME, queues=1).nics[0]
    options = ["-M", str(M), "-R", str(R), "--handler", f"pkt_handler:rate={args.rate:g}"]
    with (
        common.Ours(nic.inside, common.NAME, options, args.peer_cpu) as capture,
        LiveFrames(nic.outside, synthetic.udp(args.size), sequence_at=42, cpu=args.sender_cpu) as sender,
    ):
        begin = time.monotonic()
        assert sender.send(packets) == packets
        rate_pps = packets / (time.monotonic() - begin)
        time.sleep(packets / args.rate)  # until the handler is done
        summary, _ = capture.stop()
    return summary, rate_pps


def body(args: argparse.Namespace) -> dict[str, Any]:
    table = Table(title=f"advice, {args.rounds} rounds each, medians", title_justify="left")
    for heading in ("M", "R", "burst", "lost", "simulated", "advised R", "lost with it", "5 % less", "lost with that"):
        table.add_column(heading, justify="right")
    points, failed = [], []
    for M, R, packets in SHAPES:
        rounds = [_round(args, M, R, packets) for _ in range(args.rounds)]
        middle = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        names = ("lost", "simulated", "advised", "held", "less", "lost_with_less")
        cells = [f"{value:,}" for value in (M, R, packets)] + [f"{middle[name]:,.0f}" for name in names]
        table.add_row(*cells)
        common.console.print(" ".join(cells))
        points.append({"M": M, "R": R, "packets": packets, "rounds": rounds})
        if middle["held"]:
            failed.append(f"({M}, {R}): the advised R loses {middle['held']:,.0f} packets")
        if not middle["lost_with_less"]:
            failed.append(f"({M}, {R}): 5 % less than the advised R loses nothing")
    common.console.print(table)
    for text in failed:
        common.console.print(f"FAILED: {text}")
    return {"points": points, "failed": failed}


def _round(args: argparse.Namespace, M: int, R: int, packets: int) -> dict[str, float]:
    """A burst that loses packets, then the same with the advised R and with 5 % less."""
    first = burst(args, M, R, packets)
    (advice,) = max(first["losses"], key=lambda row: row["packets"])["advice"]
    less = advice["simulated"]["less_R"]
    return {
        "lost": first["packets"]["dropped"],
        "simulated": advice["simulated"]["lost_as_it_was"],
        "advised": advice["R"],
        "held": burst(args, M, advice["R"], packets)["packets"]["dropped"],
        "less": less,
        "lost_with_less": burst(args, M, less, packets)["packets"]["dropped"],
    }


parser = common.options(__doc__.splitlines()[0], 0, 5)
parser.add_argument("--rate", type=float, default=38844, help="the handler's packets per second (the paper's, x = 300)")
parser.add_argument("--least", type=float, default=1e6, help="repeat a burst slower than this many packets per second")
common.main(body, parser)
