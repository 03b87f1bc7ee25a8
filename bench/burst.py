"""The paper's figure 10, live: bursts of P packets at full speed into a handler of 38,844 packets per second.

A pool of R*M cells captures every burst of up to R*M packets whole, whatever M and R are; longer bursts lose
drop = max(0, 1 - (R*M + mu*P/lambda) / P), with mu the handler's rate and lambda the measured one.

    sudo .venv/bin/python bench/burst.py
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from rich.table import Table

import common
from wirecap.lab import testbed
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

SHAPES = ((256, 100), (128, 200), (64, 400), (256, 500))
"""(M, R) of the paper's figures 9 and 10."""
SHARES = (0.5, 0.9, 1.0, 1.25, 2.0)
"""P as a share of R*M."""


def burst(args: argparse.Namespace, M: int, R: int, packets: int) -> dict[str, Any]:
    """One burst into a fresh capture: what was sent, captured and dropped."""
    nic = testbed.up(common.NAME, queues=1).nics[0]
    options = ["-M", str(M), "-R", str(R), "--handler", f"pkt_handler:rate={args.rate:g}", *args.options.split()]
    with (
        common.Ours(nic.inside, common.NAME, options, args.peer_cpu) as capture,
        LiveFrames(nic.outside, synthetic.udp(args.size), sequence_at=42, cpu=args.sender_cpu) as sender,
    ):
        begin = time.monotonic()
        sent = sender.send(packets)
        duration_s = time.monotonic() - begin
        time.sleep(min(packets, R * M) / args.rate)  # until the handler is done
        summary, _ = capture.stop()
    found = summary["packets"]
    rate_pps = sent / duration_s
    expected = max(0.0, 1 - (R * M + args.rate * duration_s) / packets)
    wrong = common.contradictions(summary, sent)
    if packets <= R * M and (found["delivered"] != sent or sent != packets):
        wrong.append(f"({M}, {R}): {found['delivered']} of {packets} captured, though R*M is {R * M}")
    drops = {name: count for name, count in found["drops"].items() if count}
    return {
        "M": M, "R": R, "P": packets, "sent": sent, "rate_pps": rate_pps, "delivered": found["delivered"],
        "drops": drops, "drop": found["dropped"] / sent, "expected_drop": expected, "failed": wrong,
    }  # fmt: skip


def body(args: argparse.Namespace) -> dict[str, Any]:
    table = Table(title=f"bursts into a handler of {args.rate:,.0f} packets per second", title_justify="left")
    for heading in ("M", "R", "R*M", "P", "P / R*M", "sent Mp/s", "delivered", "dropped %", "closed form %", "drops"):
        table.add_column(heading, justify="right")
    points = []
    for _ in range(args.rounds):
        for M, R in SHAPES:
            for share in SHARES:
                point = burst(args, M, R, round(share * R * M))
                for _ in range(2):
                    if point["rate_pps"] < args.least:  # the sender did not get its CPU, so this was not a burst
                        point = burst(args, M, R, round(share * R * M))
                points.append(point)
                named = ", ".join(f"{name} {count}" for name, count in point["drops"].items())
                lost, closed = 100 * point["drop"], 100 * point["expected_drop"]
                cells = (
                    f"{M}", f"{R}", f"{R * M:,}", f"{point['P']:,}", f"{share:g}", f"{point['rate_pps'] / 1e6:.2f}",
                    f"{point['delivered']:,}", f"{lost:.2f}", f"{closed:.2f}", named,
                )  # fmt: skip
                table.add_row(*cells)
                common.console.print(" ".join(cells))
    common.console.print(table)
    failed = [text for point in points for text in point["failed"]]
    for text in failed:
        common.console.print(f"FAILED: {text}")
    whole = sum(point["P"] <= point["R"] * point["M"] and not point["failed"] for point in points)
    of = sum(point["P"] <= point["R"] * point["M"] for point in points)
    common.console.print(f"{whole} of {of} bursts of up to R*M packets were captured whole")
    return {"points": points, "failed": failed}


parser = common.options(__doc__.splitlines()[0], 0, 1)
parser.add_argument("--rate", type=float, default=38844, help="the handler's packets per second (the paper's, x = 300)")
parser.add_argument(
    "--least", type=float, default=500_000, help="repeat a burst slower than this many packets per second"
)
parser.add_argument("--options", default="", help="more options for wirecap capture")
common.main(body, parser)
