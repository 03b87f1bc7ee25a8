"""Busy polling beside the default on a veth: what is lost of what was sent, also before the hook, and what it costs.

``before the hook`` is what the interface did not take: no capture can count it, and its accounting is whole without it.

    sudo .venv/bin/python bench/busy_poll.py
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

import common
from wirecap.lab import testbed
from wirecap.linux import busy_poll, netns
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames
from wirecap.units import parse_packet_rate

WAYS = {"default": [], "--busy-poll": ["--busy-poll"]}
FULL = "full"
REFUSED = "--busy-poll, not possible here"
"""The driver does not name its polls: the capture says so and goes on as without the option."""


@dataclass
class Result:
    way: str
    rate: str
    round: int
    sent: int
    taken: int
    delivered: int
    duration_s: float
    cpu_s: float
    faults: list[str]

    @property
    def lost(self) -> int:
        return self.sent - self.delivered


def measure(way: str, rate: str, number: int, args: argparse.Namespace) -> Result:
    nic = testbed.up(common.NAME, queues=1).nics[0]
    options = [*WAYS[way], *args.options.split()]
    send: Callable[[LiveFrames], int]
    if rate == FULL:
        send = lambda sender: sender.send(args.packets)  # noqa: E731
    else:
        pps = parse_packet_rate(rate)
        send = lambda sender: sender.send_paced(round(pps * args.duration), pps, args.burst)  # noqa: E731
    with (
        common.Ours(nic.inside, common.NAME, options, args.peer_cpu) as capture,
        LiveFrames(nic.outside, synthetic.udp(args.size), cpu=args.sender_cpu) as sender,
    ):
        asked = netns.call(common.NAME, busy_poll.state, nic.inside).get("napi_defer_hard_irqs", 0)
        taken, duration_s, _ = common._timed(send, sender)
        sent = sender.attempted
        summary, cpu_s = capture.stop()
    faults = common.contradictions(summary, taken)
    if way != "default" and not asked:
        way = REFUSED
    return Result(way, rate, number, sent, taken, summary["packets"]["delivered"], duration_s, cpu_s, faults)


def show(results: list[Result]) -> None:
    table = Table(title="lost of sent, median (least-most)", title_justify="left")
    for heading in ("rate", "way", "sent Mp/s", "lost %", "before the hook %", "CPU s"):
        table.add_column(heading, justify="right")
    for rate in dict.fromkeys(each.rate for each in results):
        for way in dict.fromkeys(each.way for each in results if each.rate == rate):
            own = [each for each in results if (each.rate, each.way) == (rate, way)]
            table.add_row(
                rate, way, f"{statistics.median(each.sent / each.duration_s for each in own) / 1e6:.2f}",
                common.spread((100 * each.lost / each.sent for each in own), "{:.3f}"),
                common.spread((100 * (each.sent - each.taken) / each.sent for each in own), "{:.3f}"),
                common.spread(each.cpu_s for each in own),
            )  # fmt: skip
    common.console.print(table)


def body(args: argparse.Namespace) -> dict[str, Any]:
    results = []
    for rate in args.rates.split(","):
        for number in range(args.rounds):
            for way in common.turned(list(WAYS), number):
                results.append(measure(way, rate, number, args))
                last = results[-1]
                said = f"{rate}, round {number + 1}: {last.way}: {last.sent} sent, {last.sent - last.taken} not taken,"
                common.console.print(f"{said} {last.lost} lost, CPU {last.cpu_s:.2f} s {'; '.join(last.faults)}")
    show(results)
    return {"runs": [asdict(each) for each in results], "failed": [f for each in results for f in each.faults]}


parser = common.options(__doc__.splitlines()[0], 5_000_000, 5, "")
parser.add_argument("--options", default="", help="more options for wirecap capture")
parser.add_argument("--rates", default="100kpps,500kpps,1Mpps,full", help="rates to send at; full: as fast as it goes")
parser.add_argument("--duration", type=float, default=3.0, help="seconds to send at a rate")
parser.add_argument("--burst", type=int, default=64, help="packets sent at once")
common.main(body, parser)
