"""Uneven load, live: advanced mode loses nothing where basic mode loses half of a hot queue's packets.

Handlers are paced at 38,844 packets per second, like the paper's at x = 300; a hot queue gets 80,000, which is twice
that, and the others little.  Three set-ups: one hot queue of four, two of six, and two NICs in one buddy group.  Each
runs in advanced and in basic mode, with the real command on a testbed.

    sudo .venv/bin/python bench/skew.py --duration 30
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

import common
from wirecap.errors import WirecapError
from wirecap.lab import testbed
from wirecap.traffic import synthetic
from wirecap.traffic.transmitter import Transmitter

HOT_SHARE = 0.8
BASIC_LEAST = 0.45
"""In basic mode a hot queue drops at least this share: its handler keeps up with 38,844 of 80,000."""


@dataclass(frozen=True)
class Setup:
    """NICs with ``queues`` queues each; ``hot``: the (NIC, queue) pairs that share 80 % of ``total_pps``."""

    name: str
    nics: int
    queues: int
    hot: tuple[tuple[int, int], ...]
    total_pps: float

    def rates(self) -> list[dict[int, float]]:
        """Packets per second for each NIC, by queue."""
        hot = HOT_SHARE * self.total_pps / len(self.hot)
        cold = (1 - HOT_SHARE) * self.total_pps / (self.nics * self.queues - len(self.hot))
        return [
            {queue: hot if (nic, queue) in self.hot else cold for queue in range(self.queues)}
            for nic in range(self.nics)
        ]


SETUPS = (
    Setup("one hot of 4", 1, 4, ((0, 0),), 100_000),
    Setup("two hot of 6", 1, 6, ((0, 1), (0, 4)), 200_000),
    Setup("two NICs", 2, 2, ((1, 0),), 100_000),
)
MODES = ("advanced", "basic")


@contextmanager
def senders(setup: Setup, nics: tuple[testbed.VethPair, ...], size: int) -> Iterator[list[Transmitter]]:
    """A sender per NIC, with all its queues open."""
    frame, queues = synthetic.udp(size), range(setup.queues)
    with ExitStack() as stack:
        opened = [Transmitter(nic.outside, frame, queues, sequence_at=42, preferred=True) for nic in nics]
        for sender in opened:
            stack.enter_context(sender)
        yield opened


def send(sending: list[Transmitter], rates: list[dict[int, float]], duration_s: float) -> list[dict[int, int]]:
    """Send into all NICs at once; returns the frames that arrived, for each NIC, by queue."""
    sent: list[dict[int, int]] = [{} for _ in sending]

    def one(number: int) -> None:
        sent[number] = sending[number].send(rates[number], duration_s)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(sending))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = sum(sender.refused for sender in sending)
    if refused or not all(sent):
        raise WirecapError(f"the testbed lost {refused} frames on the way", "the machine is too busy: try again")
    return sent


def measure(setup: Setup, mode: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run the command once in one mode; returns the numbers, and what is wrong with them."""
    nics = testbed.up(common.NAME, queues=setup.queues, nics=setup.nics).nics
    options = [word for nic in nics[1:] for word in ("-i", nic.inside)]
    options += ["--mode", mode, "-M", str(args.M), "-R", str(args.R), "-T", str(args.T)]
    options += ["--handler", f"pkt_handler:rate={args.rate:g}", *args.options.split()]
    with common.Ours(nics[0].inside, common.NAME, options) as capture, senders(setup, nics, args.size) as sending:
        sent = send(sending, setup.rates(), args.duration)
        summary, cpu_s = capture.stop()
    packets = summary["packets"]
    queues = [
        {**found, "sent": sent[nic][queue], "hot": (nic, queue) in setup.hot}
        for nic, own in enumerate(nics)
        for queue in range(setup.queues)
        for found in summary["per_queue"]
        if (found["interface"], found["queue"]) == (own.inside, queue)
    ]
    hot_drop = [queue["dropped"] / queue["sent"] for queue in queues if queue["hot"]]
    return {
        "setup": setup.name, "mode": mode, "sent": sum(queue["sent"] for queue in queues),
        "delivered": packets["delivered"], "offloaded": packets["offloaded"], "dropped": packets["dropped"],
        "drops": packets["drops"], "hot_drop": hot_drop, "cpu_s": cpu_s, "per_queue": queues,
        "failed": [f"{setup.name}, {mode}: {fault}" for fault in faults(summary, queues, mode, hot_drop)],
    }  # fmt: skip


def faults(summary: dict[str, Any], queues: list[dict[str, Any]], mode: str, hot_drop: list[float]) -> list[str]:
    """Where a run is not as it must be."""
    packets = summary["packets"]
    wrong = common.contradictions(summary, sum(queue["sent"] for queue in queues))
    wrong += [
        f"queue {queue['queue']} of {queue['interface']}: {queue['sent']} sent, {queue['received']} received"
        for queue in queues
        if queue["sent"] != queue["received"]
    ]
    if "unaccounted" in packets["drops"]:
        wrong.append(f"{packets['drops']['unaccounted']} packets unaccounted for")
    if mode == "advanced":
        if packets["dropped"]:
            wrong.append(f"{packets['dropped']} packets dropped: {packets['drops']}")
        if not packets["offloaded"]:
            wrong.append("nothing was offloaded")
    else:
        if min(hot_drop) < BASIC_LEAST:
            wrong.append(f"a hot queue drops {min(hot_drop):.1%}, less than {BASIC_LEAST:.0%}: that is no overload")
        if packets["offloaded"]:
            wrong.append(f"{packets['offloaded']} packets offloaded")
    return wrong


def body(args: argparse.Namespace) -> dict[str, Any]:
    setups = [setup for setup in SETUPS if args.setup in (setup.name, None)]
    runs = [measure(setup, mode, args) for setup in setups for mode in MODES for _ in range(args.rounds)]
    title = f"80 % on the hot queues, handlers of {args.rate:,.0f} packets per second, {args.duration:g} s"
    table = Table(title=title, title_justify="left")
    for heading in ("set-up", "mode", "sent", "delivered", "offloaded", "hot queue drops %", "drops", "CPU s"):
        table.add_column(heading, justify="left" if heading in ("set-up", "mode", "drops") else "right")
    for run in runs:
        lost = ", ".join(f"{100 * share:.2f}" for share in run["hot_drop"])
        named = ", ".join(f"{name} {count:,}" for name, count in run["drops"].items()) or "none"
        table.add_row(
            run["setup"], run["mode"], f"{run['sent']:,}", f"{run['delivered']:,}", f"{run['offloaded']:,}", lost,
            named, f"{run['cpu_s']:.1f}",
        )  # fmt: skip
    common.console.print(table)
    return {"runs": runs, "failed": [fault for run in runs for fault in run["failed"]]}


parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
)
parser.add_argument("--duration", type=float, default=30, help="seconds of traffic")
parser.add_argument("--rounds", type=int, default=1)
parser.add_argument("--setup", choices=[setup.name for setup in SETUPS], help="run only this one")
parser.add_argument("--size", type=int, default=synthetic.MINIMUM_BYTES, help="bytes per frame")
parser.add_argument("--rate", type=float, default=38_844, help="packets per second of a handler")
parser.add_argument("-M", type=int, default=256, help="packets per chunk")
parser.add_argument("-R", type=int, default=100, help="chunks per queue")
parser.add_argument("-T", type=int, default=60, help="offloading threshold, in percent of R")
parser.add_argument("--options", default="", help="more options for wirecap capture")
parser.add_argument("--json", metavar="FILE", type=Path, help="write everything measured as JSON")
common.main(body, parser)
