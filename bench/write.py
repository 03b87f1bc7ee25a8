"""Write packets to disk, at full speed and at one million per second, compared with tcpdump and dumpcap.

    sudo .venv/bin/python bench/write.py --folder /var/tmp

If capinfos is installed, it counts the packets in each file, which must be as many as were reported.  For all
programs alike, what the page cache has taken counts as written.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import common
from capture_file import RECORD_BYTES, in_file
from wirecap.errors import WirecapError


def rounds(
    args: argparse.Namespace, tools: list[str], packets: int, rate_pps: float | None, folder: Path
) -> list[common.Run]:
    runs = []
    for number in range(args.rounds):
        for tool in common.turned(tools, number):
            file = folder / f"{tool}.{'pcap' if tool == 'tcpdump' else 'pcapng'}"

            def send(sender: Any) -> int:
                return sender.send_paced(packets, rate_pps) if rate_pps else sender.send(packets)

            one = common.measure(tool, number, send, args, args.options.split(), file)
            counted = in_file(file)
            if counted is not None and counted != one.delivered:
                one.faults.append(f"{one.delivered} packets reported, {counted} in the file")
            size = file.stat().st_size
            file.unlink()
            runs.append(one)
            common.console.print(
                f"round {number + 1}: {tool}: {one.rate_pps / 1e6:.2f} Mp/s, {one.dropped} dropped, {size / 1e6:.0f} MB"
            )
    return sorted(runs, key=lambda one: tools.index(one.tool))


def body(args: argparse.Namespace) -> dict[str, Any]:
    tools = ["wirecap", *common.present(args.peers)]
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="wcbench-") as name:
        folder = Path(name)
        need = max(args.packets, args.paced) * (args.size + RECORD_BYTES)
        if shutil.disk_usage(folder).free < 1.2 * need:
            raise WirecapError(
                f"{args.folder} has no room for {need / 1e9:.1f} GB", "use fewer --packets or another --folder"
            )
        full = rounds(args, tools, args.packets, None, folder)
        paced = rounds(args, tools, args.paced, args.rate, folder)
    against = common.show(f"write: {args.packets:,} frames of {args.size} bytes at full speed", full)
    common.show(f"write: {args.paced:,} frames at {args.rate / 1e6:g} Mp/s", paced)
    failed = common.faults(full) + common.faults(paced)
    runs = {"full_speed": common.as_dicts(full), "paced": common.as_dicts(paced)}
    return {"runs": runs, "ratios": against, "failed": failed}


parser = common.options(__doc__.splitlines()[0], 10_000_000, 3, "tcpdump,dumpcap")
parser.add_argument("--paced", type=int, default=10_000_000, help="packets per paced run")
parser.add_argument("--rate", type=float, default=1e6, help="packets per second of a paced run")
parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where to put the temporary files")
parser.add_argument("--options", default="", help="more options for wirecap capture")
common.main(body, parser)
