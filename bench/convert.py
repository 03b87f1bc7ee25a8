"""``wirecap convert`` beside editcap and mergecap on the same files: packets a second, whole commands.

    python bench/convert.py [--packets 5M] [--rounds 3] [--inputs small,mixed] [--folder /dev/shm]

Two inputs: packets of 64 bytes, and mixed traffic, each repeated until there are enough.  Every round runs both
programs once for every job, in turns; a job that does not give as many packets with both fails the benchmark.  ``cp``
shows what the file system alone costs; in memory (/dev/shm) that is most of it, on disks wirecap writes past the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from capture_file import in_file
from common import WIRECAP, console, mixed_trace, spread
from wirecap.units import parse_count

EDITCAP = ["editcap", "-F", "pcap"]
Command = Callable[[str, str, str], list[str]]
JOBS: dict[str, tuple[list[str], Command]] = {
    "copy": ([], lambda a, b, out: [*EDITCAP, a, out]),
    "to pcapng": (["-F", "pcapng"], lambda a, b, out: ["editcap", a, out]),
    "cut to 64": (["--snap", "64"], lambda a, b, out: [*EDITCAP, "-s", "64", a, out]),
    "shift": (["--shift", "3600"], lambda a, b, out: [*EDITCAP, "-t", "3600", a, out]),
    "-D 5": (["-D", "5"], lambda a, b, out: [*EDITCAP, "-D", "5", a, out]),
    "-D 1000": (["-D", "1000"], lambda a, b, out: [*EDITCAP, "-D", "1000", a, out]),
    "same 20 us": (["--duplicates-within", "20us"], lambda a, b, out: [*EDITCAP, "-w", "0.00002", a, out]),
    "merge": ([], lambda a, b, out: ["mergecap", "-F", "pcap", "-w", out, a, b]),
}
"""Our options, and the other program's command: from the inputs a and b to the output."""


def small_packets(path: Path, count: int) -> None:
    """UDP packets of 64 bytes, a microsecond apart, each with its number."""
    head = bytes.fromhex("02000000000102000000000208004500003200000000401166b90a0000010a00000204d20035001e0000")
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for first in range(0, count, 10_000):
            times = ((n, 1_700_000_000 + n // 10**6, n % 10**6) for n in range(first, min(count, first + 10_000)))
            records = (struct.pack("<IIII", s, us, 64, 64) + head + struct.pack("<Q14x", n) for n, s, us in times)
            file.write(b"".join(records))


def mixed_packets(path: Path, count: int) -> None:
    """The mixed trace, over and over, each time later: mergecap would take the copies' packets in turns else."""
    trace = mixed_trace().read_bytes()
    packets = in_file(mixed_trace()) or 60_000
    with path.open("wb") as file:
        file.write(trace[:24])
        for _ in range(max(1, count // packets)):
            file.write(trace[24:])


INPUTS = {"small": small_packets, "mixed": mixed_packets}


def timed(command: list[str]) -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    before, start = os.times(), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.monotonic() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=parse_count, default=5_000_000, help="in each input")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", default=",".join(JOBS), help="the jobs to run, separated by commas")
    parser.add_argument("--inputs", default=",".join(INPUTS), help="the inputs to use, separated by commas")
    parser.add_argument("--folder", help="where the files go; the default is the temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured as JSON")
    args = parser.parse_args()
    found: list[dict[str, Any]] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="wcbench-") as folder:
        for name in args.inputs.split(","):
            source = Path(folder) / "in.pcap"
            INPUTS[name](source, args.packets)
            found += run_jobs(name, str(source), args, failed)
    if args.json:
        args.json.write_text(json.dumps({"runs": found, "failed": failed}, indent=1) + "\n")
    if failed:
        sys.exit("; ".join(failed))


def start_up(source: str, rounds: int) -> dict[str, tuple[float, float]]:
    """The least wall-clock and CPU seconds of both programs for a file without a packet."""
    empty, out = f"{source}.empty", f"{source}.none"
    with Path(source).open("rb") as file:
        Path(empty).write_bytes(file.read(24))
    commands = {
        "wirecap": [*WIRECAP, "convert", "-q", empty, "-w", out, "-F", "pcap"],
        "peer": [*EDITCAP, empty, out],
    }
    found = {who: [timed(command) for _ in range(max(2, rounds))] for who, command in commands.items()}
    return {who: (min(wall for wall, _ in times), min(cpu for _, cpu in times)) for who, times in found.items()}


def run_jobs(name: str, source: str, args: argparse.Namespace, failed: list[str]) -> list[dict[str, Any]]:
    outs = {"wirecap": f"{source}.ours", "peer": f"{source}.theirs"}
    packets = in_file(Path(source)) or args.packets
    rows, starts = [], start_up(source, args.rounds)
    table = Table(title=f"{name}: {packets} packets, whole commands", title_justify="left")
    for heading in ("job", "peer Mp/s", "wirecap Mp/s", "ratio", "of CPU", "no start-up", "of CPU"):
        table.add_column(heading, justify="left" if heading == "job" else "right", no_wrap=True)
    for job in args.jobs.split(","):
        options, peer = JOBS[job]
        inputs = [source, source] if job == "merge" else [source]
        form = [] if "-F" in options else ["-F", "pcap"]
        commands = {
            "wirecap": [*WIRECAP, "convert", "-q", *inputs, "-w", outs["wirecap"], *form, *options],
            "peer": peer(source, source, outs["peer"]),
        }
        timed(commands["wirecap"])  # compiled, and the input is in memory
        times: dict[str, list[tuple[float, float]]] = {"wirecap": [], "peer": []}
        for number in range(args.rounds):
            for who in sorted(commands, reverse=bool(number % 2)):
                times[who].append(timed(commands[who]))
        counts = {who: in_file(Path(out)) for who, out in outs.items()}
        if counts["wirecap"] != counts["peer"]:
            failed.append(f"{name}, {job}: {counts['wirecap']} packets, {counts['peer']} with the other program")
        done = packets * len(inputs)
        pairs = list(zip(times["peer"], times["wirecap"], strict=True))
        walls, cpus = ([theirs[k] / mine[k] for theirs, mine in pairs] for k in (0, 1))
        rates = {who: [done / wall / 1e6 for wall, _ in times[who]] for who in times}
        steady = [[(theirs[k] - starts["peer"][k]) / max(1e-3, mine[k] - starts["wirecap"][k])
                   for theirs, mine in pairs] for k in (0, 1)]  # fmt: skip
        cells = [rates["peer"], rates["wirecap"], walls, cpus, *steady]
        table.add_row(job, *(spread(cell, "{:.1f}") for cell in cells))
        rows.append({"input": name, "job": job, "packets": done, "ratio": walls, "cpu_ratio": cpus,
                     "steady_ratio": steady[0], "steady_cpu_ratio": steady[1], **rates})  # fmt: skip
    console.print(table)
    copies = [timed(["cp", source, outs["peer"]]) for _ in range(args.rounds)]
    console.print(f"cp of this file: {spread([packets / wall / 1e6 for wall, _ in copies])} Mp/s, "
                  f"{spread([cpu / packets * 1e9 for _, cpu in copies], '{:.0f}')} ns of CPU a packet")  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
