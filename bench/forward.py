"""Forward packets at the generator's full speed, compared with DPDK's testpmd, netsniff-ng, a bridge and XDP redirect.

One generator and the same veths for all; what matters is what arrives at the far end, where XDP counts and drops it.
``--part skew``: uneven load with paced handlers, in both modes.  Both directions at once: forward_both.py.

    sudo .venv/bin/python bench/forward.py --packets 10000000 --rounds 3
    sudo .venv/bin/python bench/forward.py --part skew --duration 30
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
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
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames
from wirecap.traffic.transmitter import Transmitter

OURS = "wirecap"
SETTLE_S = 1.0
HOT_SHARE, HOT_PPS = 0.8, 80_000


class Ours:
    """``wirecap forward`` with its summary, used like a peer."""

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
            raise WirecapError(f"wirecap exited with status {ended.status}: {ended.output.strip()[-400:]}")
        self.summary = json.loads(self.file.read_text())
        return ended.cpu_s

    def __exit__(self, *_: object) -> None:
        self.child.end(signal.SIGKILL)
        self.file.unlink(missing_ok=True)


def faults(summary: dict[str, Any], sent: int, arrived: int) -> list[str]:
    """Where the numbers contradict each other: at the far end, sent must be received minus the named drops."""
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
        sender = stack.enter_context(LiveFrames(near.outside, synthetic.udp(args.size), cpu=args.sender_cpu))
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
    tools = [OURS, *common.present(args.peers, FORWARDERS)]
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


def skew(args: argparse.Namespace) -> dict[str, Any]:
    """Figure 13, live: handlers paced at the paper's rate, one hot queue, each packet forwarded through NIC 2."""
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
                    Transmitter(near.outside, synthetic.udp(args.size), range(queues), sequence_at=42, preferred=True)
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
                run["failed"].append(f"basic, {queues} queues: only {run['drop']:.1%} dropped")
            common.console.print({name: value for name, value in run.items() if name != "failed"})
            runs.append(run)
    return {"runs": runs, "failed": [fault for run in runs for fault in run["failed"]]}


PARTS = {"compare": compare, "skew": skew}


def main() -> None:
    parser = common.options(__doc__.splitlines()[0], 10_000_000, 3, ",".join(FORWARDERS))
    parser.add_argument("--part", choices=PARTS, default="compare", help="which measurement to run")
    parser.add_argument("--duration", type=float, default=30, help="seconds per run of skew")
    parser.add_argument("--rate", type=float, default=38_844, help="packets per second of a paced handler")
    parser.add_argument("--options", default="", help="more options for wirecap forward")
    common.main(lambda args: PARTS[args.part](args), parser)


if __name__ == "__main__":
    main()
