"""Count the packets of a large capture file that match a filter: this project and tcpdump, start-up included.

    python bench/file_count.py --folder /var/tmp

The file repeats the trace, ten million packets in all (3 GB), and is in the page cache.  tcpdump runs three times:
plain, printing packets; writing what matches to /dev/null; and with --count.  All must find the same number.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

import common
from wirecap.errors import WirecapError
from wirecap.lab.process import find, run

HEADER_BYTES = 24  # a pcap file's
LEAST_RATIO = 2.0


@dataclass
class Timed:
    tool: str
    round: int
    seconds: float
    cpu_s: float
    counted: int | None


def repeat(trace: Path, times: int, target: Path) -> None:
    """Write a pcap file with the packets of another, repeated ``times``; its pages are in the cache afterwards."""
    data = trace.read_bytes()
    with target.open("wb") as file:
        file.write(data[:HEADER_BYTES])
        for _ in range(times):
            file.write(data[HEADER_BYTES:])


def packets_of(trace: Path) -> int:
    """The number of packets in a trace, by our own count."""
    return wirecap(trace, "")[0]


def wirecap(file: Path, expression: str) -> tuple[int, float, float]:
    """(packets delivered, seconds, CPU seconds) of one run of the command."""
    with tempfile.NamedTemporaryFile(suffix=".json") as summary:
        words = ["capture", "-r", str(file), "--handler", "count", "--summary-json", summary.name]
        ended = run([*common.WIRECAP, *words, *([expression] if expression else [])], timeout_s=300)
        if ended.status:
            raise WirecapError(f"wirecap exited with status {ended.status}: {ended.output.strip()[-400:]}")
        found = json.loads(Path(summary.name).read_text())
    return found["packets"]["delivered"], ended.duration_s, ended.cpu_s


def tcpdump(file: Path, expression: str, options: list[str]) -> tuple[int | None, float, float]:
    """The same for tcpdump, discarding what it prints; the count is known only with --count."""
    words = ["tcpdump", "-n", "-r", str(file), *options, expression]
    silent = ["sh", "-c", 'exec "$@" > /dev/null', "sh"]
    ended = run([*([] if options else silent), *words], timeout_s=300)
    if ended.status:
        raise WirecapError(f"tcpdump exited with status {ended.status}: {ended.output.strip()[-400:]}")
    told = re.search(r"^(\d+) packets?$", ended.output, re.MULTILINE)
    return int(told[1]) if told else None, ended.duration_s, ended.cpu_s


TOOLS = {
    "wirecap": wirecap,
    "tcpdump > /dev/null": lambda file, expression: tcpdump(file, expression, []),
    "tcpdump -w /dev/null": lambda file, expression: tcpdump(file, expression, ["-w", "/dev/null"]),
    "tcpdump --count": lambda file, expression: tcpdump(file, expression, ["--count"]),
}


def body(args: argparse.Namespace) -> dict[str, Any]:
    args.trace = args.trace or common.mixed_trace()
    if not args.trace.exists():
        raise WirecapError(f"no trace at {args.trace}", "leave --trace out to use the mixed trace")
    tools = list(TOOLS)
    if not find("tcpdump"):
        common.console.print("left out: tcpdump is not installed")
        tools = ["wirecap"]
    in_trace = packets_of(args.trace)
    times = -(-args.packets // in_trace)
    need = times * args.trace.stat().st_size
    if shutil.disk_usage(args.folder).free < 1.2 * need:
        raise WirecapError(
            f"{args.folder} has no room for {need / 1e9:.1f} GB", "use fewer --packets or another --folder"
        )
    runs = []
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="wcbench-") as folder:
        file = Path(folder) / "big.pcap"
        repeat(args.trace, times, file)
        time.sleep(args.settle)
        for tool in tools:  # once untimed, to bring programs and file into the cache
            TOOLS[tool](file, args.filter)
        for number in range(args.rounds):
            for tool in common.turned(tools, number):
                counted, seconds, cpu_s = TOOLS[tool](file, args.filter)
                runs.append(Timed(tool, number, seconds, cpu_s, counted))
    return report(runs, tools, times * in_trace, args)


def report(runs: list[Timed], tools: list[str], packets: int, args: argparse.Namespace) -> dict[str, Any]:
    title = f"{packets:,} packets through {args.filter!r}, {args.rounds} rounds, start-up included"
    table = Table(title=title, title_justify="left")
    for heading in ("program", "seconds", "CPU s", "Mp/s", "matching", "ours / it"):
        table.add_column(heading, justify="left" if heading == "program" else "right", no_wrap=True)
    ours = {one.round: one.seconds for one in runs if one.tool == "wirecap"}
    failed, against = [], {}
    for tool in tools:
        own = [one for one in runs if one.tool == tool]
        ratio = [one.seconds / ours[one.round] for one in own]
        counted = {one.counted for one in own}
        if tool != "wirecap":
            against[tool] = ratio
            if sorted(ratio)[len(ratio) // 2] < LEAST_RATIO:
                failed.append(f"less than {LEAST_RATIO:g} times {tool}: {common.spread(ratio)}")
        table.add_row(
            tool, common.spread(one.seconds for one in own), common.spread(one.cpu_s for one in own),
            common.spread(packets / one.seconds / 1e6 for one in own), ", ".join(map(str, sorted(map(str, counted)))),
            "" if tool == "wirecap" else common.spread(ratio),
        )  # fmt: skip
    common.console.print(table)
    common.console.print("median (minimum-maximum) over the rounds; ratios are within a round")
    told = {one.counted for one in runs if one.counted is not None}
    if len(told) != 1:
        failed.append(f"the programs count differently: {sorted(told)}")
    return {"packets": packets, "runs": [vars(one) for one in runs], "ratios": against, "failed": failed}


parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
)
parser.add_argument("--packets", type=int, default=10_000_000, help="at least this many packets in the file")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--filter", default="tcp port 443")
parser.add_argument("--trace", type=Path, default=None, help="a pcap file")
parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where to put the temporary file")
parser.add_argument("--settle", type=float, default=5, help="seconds for the disk to write the file out")
parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured as JSON")
common.main(body, parser)
