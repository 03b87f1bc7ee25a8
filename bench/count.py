"""Count packets at the generator's full speed: this project, DPDK, tcpdump, dumpcap, in one run.

sudo .venv/bin/python bench/count.py --packets 20000000 --rounds 3
"""

from __future__ import annotations

import argparse
from typing import Any

import common


def body(args: argparse.Namespace) -> dict[str, Any]:
    tools = ["wirecap", *common.present(args.peers)]
    runs = []
    for number in range(args.rounds):
        for tool in common.turned(tools, number):
            runs.append(
                common.measure(tool, number, lambda sender: sender.send(args.packets), args, args.options.split())
            )
            last = runs[-1]
            common.console.print(f"round {number + 1}: {tool}: {last.rate_pps / 1e6:.2f} Mp/s, {last.dropped} dropped")
    runs.sort(key=lambda run: tools.index(run.tool))
    title = f"count: {args.packets:,} frames of {args.size} bytes at full speed, {args.rounds} rounds"
    against = common.show(title, runs)
    return {"runs": common.as_dicts(runs), "ratios": against, "failed": common.faults(runs)}


parser = common.options(__doc__.splitlines()[0], 20_000_000, 3, "dpdk,dpdk-nobusy,tcpdump,dumpcap")
parser.add_argument("--options", default="", help="more options for wirecap capture")
common.main(body, parser)
