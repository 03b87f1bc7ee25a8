"""What --keep costs a capture that counts: at full speed and at a fixed rate, with and without a filter that watches.

sudo .venv/bin/python bench/keep.py --packets 5000000 --rounds 3
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import common

COUNT = ["--handler", "count"]


def ways(file: Path, memory: str) -> dict[str, list[str]]:
    """The options of each way, by what it is called; nothing is saved."""
    keep = [*COUNT, "-w", str(file), "--keep", memory]
    return {"count": COUNT, "keep": keep, "keep, save-on": [*keep, "--save-on", "tcp port 443"]}


def body(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"failed": []}
    with tempfile.TemporaryDirectory() as folder:
        tools = ways(Path(folder) / "out.pcapng", args.memory)
        for title, pps in (("at full speed", None), (f"at {args.pps:,} a second", args.pps)):
            runs = rounds(args, tools, pps)
            common.show(f"{args.packets:,} frames of {args.size} bytes {title}", runs, "count")
            for tool in tools:
                per_packet = [run.cpu_s / run.sent * 1e9 for run in runs if run.tool == tool]
                common.console.print(f"{tool}: {common.spread(per_packet, '{:.0f}')} ns of CPU a packet")
            found[title] = common.as_dicts(runs)
            found["failed"] += common.faults(runs)
    return found


def rounds(args: argparse.Namespace, tools: dict[str, list[str]], pps: int | None) -> list[common.Run]:
    """Each way in each round, in turns."""

    def send(sender: Any) -> int:
        return sender.send_paced(args.packets, pps) if pps else sender.send(args.packets)

    order = [(number, tool) for number in range(args.rounds) for tool in common.turned(list(tools), number)]
    runs = [common.measure(tool, number, send, args, tools[tool]) for number, tool in order]
    return sorted(runs, key=lambda run: list(tools).index(run.tool))


parser = common.options(__doc__.splitlines()[0], 5_000_000, 3)
parser.add_argument("--pps", type=int, default=500_000, help="the fixed rate")
parser.add_argument("--memory", default="256MiB", help="what --keep takes")
common.main(body, parser)
