"""The packet engine compared with tcpdump, dumpcap and netsniff-ng: count packets, and write them to disk.

    sudo .venv/bin/python bench/packet.py --folder /var/tmp

All of them read through AF_PACKET on the same veth, with kernel buffers of the same size.  What the kernel loses and
costs on the way to the socket affects all alike: the smallest frames, which it delivers at about a million per second,
show whether a program keeps up; writing uses long frames, which keep the disk busy.  If capinfos is installed, it
counts the packets in each file.
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
from wirecap.lab import peers

ENGINE = ["--engine", "packet", "-B", f"{peers.BUFFER_MIB}MiB"]


def rounds(args: argparse.Namespace, tools: list[str], folder: Path | None) -> list[common.Run]:
    """Run each program once in each round, writing to a file if there is a folder."""
    runs = []
    for number in range(args.rounds):
        for tool in common.turned(tools, number):
            file = folder / f"{tool}.{'pcapng' if tool in ('wirecap', 'dumpcap') else 'pcap'}" if folder else None
            one = common.measure(
                tool, number, lambda sender: sender.send(args.packets), args, options(args), file, True
            )
            # Not every frame that was sent reaches a socket, because the veth has a limit of its own.
            one.faults = [fault for fault in one.faults if not fault.startswith("received = sent")]
            if file:
                counted = in_file(file)
                if counted is not None and counted != one.delivered:
                    one.faults.append(f"{one.delivered} packets reported, {counted} in the file")
                file.unlink()
            runs.append(one)
            doing = "written" if file else "counted"
            common.console.print(f"round {number + 1}: {tool}: {one.delivered} {doing}, {one.rate_pps / 1e6:.2f} Mp/s")
    return sorted(runs, key=lambda one: tools.index(one.tool))


def options(args: argparse.Namespace) -> list[str]:
    return [*ENGINE, *args.options.split()]


def best(runs: list[common.Run]) -> list[float]:
    """Our packets divided by those of the best other program, round by round; undisturbed rounds if there are any."""
    by_round = [[run for run in runs if run.round == number] for number in sorted({run.round for run in runs})]
    calm = [each for each in by_round if all(run.waited <= common.DISTURBED for run in each)]
    found = []
    for each in calm or by_round:
        ours = next(run.delivered for run in each if run.tool == "wirecap")
        found.append(ours / max(run.delivered for run in each if run.tool != "wirecap"))
    return found


def body(args: argparse.Namespace) -> dict[str, Any]:
    tools = ["wirecap", *common.present(args.peers)]
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="wcbench-") as name:
        long = argparse.Namespace(**{**vars(args), "size": args.write_size, "packets": args.write_packets})
        need = long.packets * (long.size + RECORD_BYTES)
        if shutil.disk_usage(name).free < 1.2 * need:
            room = f"{args.folder} has no room for {need / 1e9:.1f} GB"
            raise WirecapError(room, "use fewer --packets or another --folder")
        count = rounds(args, tools, None)
        write = rounds(long, tools, Path(name))
    result: dict[str, Any] = {"runs": {}, "ratios": {}, "best": {}}
    for what, runs, asked in (("count", count, args), ("write", write, long)):
        result["ratios"][what] = common.show(f"{what}: {asked.packets:,} frames of {asked.size} bytes", runs)
        result["runs"][what] = common.as_dicts(runs)
        if len(tools) > 1:
            result["best"][what] = best(runs)
            common.console.print(
                f"{what}: packets divided by those of the best other: {common.spread(result['best'][what])}"
            )
    return {**result, "failed": common.faults(count) + common.faults(write)}


parser = common.options(__doc__.splitlines()[0], 5_000_000, 3, "tcpdump,dumpcap,netsniff-ng")
parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where to put the temporary files")
parser.add_argument("--write-packets", type=int, default=2_000_000, help="packets per run that writes")
parser.add_argument("--write-size", type=int, default=1514, help="bytes per frame to write")
parser.add_argument("--options", default="", help="more options for wirecap capture")
common.main(body, parser)
