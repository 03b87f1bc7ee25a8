"""Count packets at the generator's full speed: this project, DPDK, tcpdump, dumpcap, in one run.

sudo .venv/bin/python bench/count.py --packets 20000000 --rounds 3
"""

from __future__ import annotations

import argparse
from typing import Any

import common

NO_TIMESTAMPS = "wirecap -j host_lowprec"
"""DPDK does not timestamp packets: this is the like-for-like comparison with it."""


def body(args: argparse.Namespace) -> dict[str, Any]:
    tools = ["wirecap", NO_TIMESTAMPS, *common.present(args.peers)]
    runs = []
    for number in range(args.rounds):
        for tool in common.turned(tools, number):
            ours = args.options.split() + (["-j", "host_lowprec"] if tool == NO_TIMESTAMPS else [])
            runs.append(common.measure(tool, number, lambda sender: sender.send(args.packets), args, ours))
            last = runs[-1]
            common.console.print(f"round {number + 1}: {tool}: {last.rate_pps / 1e6:.2f} Mp/s, {last.dropped} dropped")
    runs.sort(key=lambda run: tools.index(run.tool))
    title = f"count: {args.packets:,} frames of {args.size} bytes at full speed, {args.rounds} rounds"
    against = common.show(title, runs)
    unstamped = {tool: common.ratios(runs, NO_TIMESTAMPS, tool) for tool in tools[2:]}
    told = ", ".join(f"{tool} {common.spread(found)}" for tool, found in unstamped.items())
    common.console.print(f"{NO_TIMESTAMPS} / it: {told}")
    ratios = {"ratios": against, "unstamped_ratios": unstamped}
    return {"runs": common.as_dicts(runs), **ratios, "failed": common.faults(runs)}


parser = common.options(__doc__.splitlines()[0], 20_000_000, 3, "dpdk,dpdk-nobusy,tcpdump,dumpcap")
parser.add_argument("--options", default="", help="more options for wirecap capture")
common.main(body, parser)
