"""Forward packets at the generator's full speed, beside DPDK's testpmd, netsniff-ng, a bridge and XDP redirect.

One generator, the same veths; what counts is what arrives at the far end, where an XDP program counts and drops it.
Then both directions at once at a share of the own maximum, and uneven load with paced handlers in both modes.

    sudo .venv/bin/python bench/forward.py --packets 5000000 --rounds 3
    sudo .venv/bin/python bench/forward.py --part both --duration 60
    sudo .venv/bin/python bench/forward.py --part skew --duration 30
    sudo .venv/bin/python bench/forward.py --part scale
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.table import Table

import common
from wirecap.errors import WirecapError
from wirecap.lab import process, testbed
from wirecap.lab.far_end import FarEnd
from wirecap.lab.forwarders import FORWARDERS
from wirecap.traffic import frames
from wirecap.traffic.liveframes import LiveFrames
from wirecap.traffic.transmit import Transmitter

OURS = "wirecap"
SETTLE_S = 1.0
HOT_SHARE, HOT_PPS = 0.8, 80_000


class Ours:
    """``wirecap forward`` with its summary; the same verbs as a peer."""

    needs_gro = False

    def __init__(self, inside: str, outside: str, namespace: str, cpu: int | None, both: bool, *more: str) -> None:
        self.file = Path(tempfile.mkstemp(suffix=".json")[1])
        self.command = [*common.WIRECAP, "forward", inside, outside, "--netns", namespace, *more]
        self.command += ["--summary-json", str(self.file), *(["--both"] if both else [])]
        self.cpus = None if cpu is None else {cpu}
        self.summary: dict[str, Any] = {}

    def __enter__(self) -> Ours:
        self.child = process.Child(self.command, cpus=self.cpus)
        self.child.wait_for(r"^wirecap: forwarding", timeout_s=180)
        return self

    def stop(self) -> float:
        ended = self.child.end(signal.SIGINT, timeout_s=60)
        if ended.status:
            raise WirecapError(f"wirecap ended with status {ended.status}: {ended.output.strip()[-400:]}")
        self.summary = json.loads(self.file.read_text())
        return ended.cpu_s

    def __exit__(self, *_: object) -> None:
        self.child.end(signal.SIGKILL)
        self.file.unlink(missing_ok=True)


def faults(summary: dict[str, Any], sent: int, arrived: int) -> list[str]:
    """Where the numbers contradict each other: sent = received - dropped by name, at the far receiver."""
    packets = summary["packets"]
    wrong = common.contradictions(summary, sent)
    if packets["forwarded"] != arrived:
        wrong.append(f"{packets['forwarded']} forwarded, {arrived} arrived")
    if packets["forwarded"] != packets["received"] - packets["filtered_out"] - packets["dropped"]:
        wrong.append("forwarded is not received less filtered out and dropped")
    return wrong


def one_way(tool: str, number: int, args: argparse.Namespace) -> dict[str, Any]:
    """One round of one forwarder at the generator's full speed."""
    kind = FORWARDERS.get(tool)
    bed = testbed.up(common.NAME, queues=1, nics=2, gro=bool(kind and kind.needs_gro))
    near, far = bed.nics
    ends = (near.inside, far.inside, bed.name, args.peer_cpu, False)
    with ExitStack() as stack:
        forwarder: Any = stack.enter_context(kind(*ends) if kind else Ours(*ends, *args.options.split()))
        counter = stack.enter_context(FarEnd(far.outside))
        sender = stack.enter_context(LiveFrames(near.outside, frames.udp(args.size), cpu=args.sender_cpu))
        time.sleep(0.5)
        begin = time.monotonic()
        sent = sender.send(args.packets)
        duration_s = time.monotonic() - begin
        meanwhile = counter.packets
        time.sleep(SETTLE_S)
        cpu_s = forwarder.stop()
        arrived = counter.packets
    testbed.down(common.NAME)
    found = faults(forwarder.summary, sent, arrived) if tool == OURS else []
    return {
        "tool": tool, "round": number, "sent": sent, "duration_s": duration_s, "arrived": arrived, "failed": found,
        "rate_pps": meanwhile / duration_s, "sent_pps": sent / duration_s, "cpu_s": cpu_s,
    }  # fmt: skip


def compare(args: argparse.Namespace) -> dict[str, Any]:
    tools = [OURS]
    for name in filter(None, args.peers.split(",")):
        reason = FORWARDERS[name].available()
        tools += [] if reason else [name]
        if reason:
            common.console.print(f"left out: {name}: {reason}")
    runs = [one_way(tool, n, args) for n in range(args.rounds) for tool in common.turned(tools, n)]
    table = Table(
        title=f"forwarding frames of {args.size} bytes, full speed, {args.rounds} rounds", title_justify="left"
    )
    for heading in ("program", "forwarded Mp/s", "sent Mp/s", "arrived of sent %", "CPU s", "ours / it"):
        table.add_column(heading, justify="left" if heading == "program" else "right")
    ratios: dict[str, list[float]] = {}
    for tool in tools:
        own = sorted((run for run in runs if run["tool"] == tool), key=lambda run: run["round"])
        ours = sorted((run for run in runs if run["tool"] == OURS), key=lambda run: run["round"])
        ratios[tool] = [a["rate_pps"] / max(b["rate_pps"], 1) for a, b in zip(ours, own, strict=True)]
        table.add_row(
            tool, common.spread(run["rate_pps"] / 1e6 for run in own),
            common.spread(run["sent_pps"] / 1e6 for run in own),
            common.spread((100 * run["arrived"] / run["sent"] for run in own), "{:.1f}"),
            common.spread((run["cpu_s"] for run in own), "{:.1f}"), "" if tool == OURS else common.spread(ratios[tool]),
        )  # fmt: skip
    common.console.print(table)
    return {"runs": runs, "ratios": ratios, "failed": [fault for run in runs for fault in run["failed"]]}


def paced(
    number: int, bed: testbed.Testbed, pps: float, duration_s: float, size: int, sent: dict[int, tuple[int, float]]
) -> None:
    """Send into one direction; how many frames, and in how many seconds."""
    with LiveFrames(bed.nics[number].outside, frames.udp(size)) as sender:
        begin = time.monotonic()
        count = sender.send_paced(round(pps * duration_s), pps)
        sent[number] = count, time.monotonic() - begin


def both_ways(pps: float, duration_s: float, args: argparse.Namespace, queues: int = 1, *more: str) -> dict[str, Any]:
    """Both directions at once, ``pps`` packets a second each."""
    bed = testbed.up(common.NAME, queues=queues, nics=2)
    one, other = bed.nics
    done: dict[int, tuple[int, float]] = {}
    with ExitStack() as stack:
        ours = stack.enter_context(Ours(one.inside, other.inside, bed.name, None, True, *args.options.split(), *more))
        counters = [stack.enter_context(FarEnd(nic.outside)) for nic in bed.nics]
        given = (bed, pps, duration_s, args.size, done)
        threads = [threading.Thread(target=paced, args=(number, *given)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(SETTLE_S)
        cpu_s = ours.stop()
        arrived = sum(counter.packets for counter in counters)
    testbed.down(common.NAME)
    sent, took_s = sum(count for count, _ in done.values()), max(seconds for _, seconds in done.values())
    return {
        "queues": queues, "pps": pps, "sent": sent, "arrived": arrived, "cpu_s": cpu_s, "took_s": took_s,
        "drops": ours.summary["packets"]["drops"], "failed": faults(ours.summary, sent, arrived),
    }  # fmt: skip


def both(args: argparse.Namespace) -> dict[str, Any]:
    """The own maximum in both directions at once, by halving; then a share of it for a long time."""
    low, high, best = 0.0, args.most_pps, 0.0
    while high - low > 0.04 * args.most_pps:
        middle = (low + high) / 2
        run = both_ways(middle, 3.0, args)
        kept = run["arrived"] >= 0.9999 * run["sent"]
        low, high = (middle, high) if kept else (low, middle)
        reached = run["sent"] / 2 / run["took_s"]  # on a busy machine the sender is slower than asked
        best = max(best, reached) if kept else best
        how = "kept up" if kept else f"{run['sent'] - run['arrived']} lost"
        common.console.print(f"{middle:,.0f} p/s each way, {reached:,.0f} reached: {how} {run['drops']}")
    run = both_ways(args.share * best, args.duration, args)
    lost = run["sent"] - run["arrived"]
    common.console.print(
        f"maximum {best:,.0f} p/s each way; at {args.share:.0%} of it for {args.duration:g} s: {run['sent']:,} sent,"
        f" {lost} lost {run['drops']}"
    )
    return {"maximum_pps": best, "run": run, "failed": run["failed"] + ([f"{lost} lost"] if lost else [])}


def skew(args: argparse.Namespace) -> dict[str, Any]:
    """Figure 13 live: handlers paced at the paper's rate, one hot queue, each packet forwarded through NIC 2."""
    runs = []
    for queues in (4, 5, 6):
        for mode in ("advanced", "basic"):
            bed = testbed.up(common.NAME, queues=queues, nics=2)
            near, far = bed.nics
            cold = HOT_PPS * (1 - HOT_SHARE) / HOT_SHARE / (queues - 1)
            rates = {queue: HOT_PPS if queue == 0 else cold for queue in range(queues)}
            row = ("--mode", mode, "--handler", f"pkt_handler:rate={args.rate:g}")
            with ExitStack() as stack:
                ends = (near.inside, far.inside, bed.name, None, False)
                ours = stack.enter_context(Ours(*ends, *args.options.split(), *row))
                counter = stack.enter_context(FarEnd(far.outside))
                sender = stack.enter_context(
                    Transmitter(near.outside, frames.udp(args.size), range(queues), sequence_at=42, preferred=True)
                )
                sent = sum(sender.send(rates, args.duration).values()) - sender.refused
                time.sleep(SETTLE_S)
                ours.stop()
                arrived = counter.packets
            testbed.down(common.NAME)
            packets = ours.summary["packets"]
            hot = ours.summary["per_queue"][0]
            run = {
                "queues": queues, "mode": mode, "sent": sent, "arrived": arrived, "drops": packets["drops"],
                "hot_drop": hot["dropped"] / hot["received"], "drop": packets["dropped"] / packets["received"],
                "reordered": packets["reordered"], "offloaded": packets["offloaded"],
                "failed": faults(ours.summary, sent, arrived),
            }  # fmt: skip
            if mode == "advanced" and packets["dropped"]:
                run["failed"].append(f"advanced, {queues} queues: {packets['drops']}")
            if mode == "basic" and run["drop"] < 0.3:
                run["failed"].append(f"basic, {queues} queues: {run['drop']:.1%} dropped only")
            common.console.print({name: value for name, value in run.items() if name != "failed"})
            runs.append(run)
    return {"runs": runs, "failed": [fault for run in runs for fault in run["failed"]]}


def scale(args: argparse.Namespace) -> dict[str, Any]:
    """The paper's scalability experiment: two NICs, both directions, 1 to 6 queues, frames of 64 and 100 bytes."""
    runs = []
    for size in (64, 100):
        for queues in range(1, 7):
            args.size = size - 4  # frames are counted with their check sequence
            rates = [both_ways(args.most_pps, 3.0, args, queues, "--mode", "advanced") for _ in range(args.rounds)]
            forwarded = statistics.median(run["arrived"] / run["took_s"] for run in rates)
            lost = statistics.median(1 - run["arrived"] / run["sent"] for run in rates)
            common.console.print(f"{size} bytes, {queues} queues: {forwarded / 1e6:.2f} Mp/s, {lost:.1%} lost")
            runs.append({"size": size, "queues": queues, "pps": forwarded, "lost": lost, "rounds": rates})
    return {"runs": runs, "failed": [fault for run in runs for one in run["rounds"] for fault in one["failed"]]}


PARTS = {"compare": compare, "both": both, "skew": skew, "scale": scale}
parser = common.options(__doc__.splitlines()[0], 5_000_000, 3, ",".join(FORWARDERS))
parser.add_argument("--part", choices=PARTS, default="compare", help="which of the measurements")
parser.add_argument("--duration", type=float, default=60, help="seconds of the long runs")
parser.add_argument("--share", type=float, default=0.9, help="of the own maximum, both directions")
parser.add_argument(
    "--most-pps", type=float, default=600_000, help="packets a second each way, where the search begins"
)
parser.add_argument("--rate", type=float, default=38_844, help="packets a second of a paced handler")
parser.add_argument("--options", default="", help="more options for wirecap forward")
if __name__ == "__main__":
    common.main(lambda args: PARTS[args.part](args), parser)
