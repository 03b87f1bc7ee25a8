"""One connection out of an archive: how long ``wirecap find`` takes and how much it reads; what its index costs.

    python bench/find.py [--size 2GB] [--file 250MB] [--folder FOLDER] [--rounds 5] [--check]

The archive is the mixed trace over and over, each time later and with other addresses.  Connections are taken from
places all over it.  Every answer is compared with a full scan, if the archive is small (--check).  The index's cost is
measured three ways: CPU time of its kernel, bytes beside the archive's, and whole commands that write a file with and
without it, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common import WIRECAP, console, mixed_trace, spread
from wirecap.files.live_index import KERNELS
from wirecap.files.reader import open_capture
from wirecap.kernels.base import jit
from wirecap.kernels.file import index as k
from wirecap.kernels.file import read as at
from wirecap.kernels.transmit.unique import make_unique
from wirecap.units import format_size, parse_size

LASTS_S = 30
WRITTEN_BYTES = 4 << 20
SAMPLE = 50_000
"""Packets for what one buffer holds, in either format."""


class Trace:
    """The mixed trace as an array, and where its packets are."""

    def __init__(self) -> None:
        self.data = np.fromfile(mixed_trace(), np.uint8)
        places, sizes, place = [], [], 24
        while place + 16 <= len(self.data):
            size = int(self.data[place + 8 : place + 12].view("<u4")[0])
            places.append(place + 16)
            sizes.append(size)
            place += 16 + size
        self.places, self.sizes = np.array(places, np.int64), np.array(sizes, np.uint32)
        ends = np.cumsum(self.sizes, dtype=np.int64)
        starts = np.repeat(self.places - (ends - self.sizes), self.sizes)
        self._bytes_at = starts + np.arange(int(ends[-1]))
        self._seconds = (self.places - 16)[:, None] + np.arange(4)
        self._began = self.data[self._seconds].copy().view("<u4")[:, 0]
        self._out, self._place = np.zeros(int(ends[-1]) + 64, np.uint8), np.zeros(len(places), np.int64)

    def passes(self) -> Iterator[np.ndarray]:
        """The records, each time later and with other addresses."""
        n, number, records = len(self.places), 0, self.data.copy()
        while True:
            make_unique(self.data, self.places, self.sizes, n, 14, n, number * n, 1, self._out, self._place)
            records[self._bytes_at] = self._out[: len(self._bytes_at)]
            later = (self._began + LASTS_S * number).astype("<u4")
            records[self._seconds] = later.view(np.uint8).reshape(-1, 4)
            yield records[24:]
            number += 1


def make_archive(folder: Path, size: int, file_bytes: int) -> list[Path]:
    """Files of about ``file_bytes``, as many as come to ``size``."""
    trace, files, left = Trace(), [], size
    records = trace.passes()
    while left > 0:
        files.append(folder / f"{len(files):04}.pcap")
        with files[-1].open("wb") as file:
            file.write(trace.data[:24])
            while file.tell() < min(file_bytes, left):
                file.write(next(records))
            left -= file.tell()
    return files


def connections(files: list[Path], count: int, dice: random.Random) -> list[tuple[str, int]]:
    """Filters for TCP connections in files all over the archive, and the packets of each in the piece looked at."""
    found = []
    while len(found) < count:
        path = dice.choice(files)
        flows: dict[tuple[bytes, bytes], int] = {}
        with path.open("rb") as file:
            data = file.read(24 + (25 << 20))
        place = 24
        while place + 16 <= len(data):
            size = struct.unpack_from("<I", data, place + 8)[0]
            packet, place = data[place + 16 : place + 16 + size], place + 16 + size
            if packet[12:15] == b"\x08\0\x45" and packet[23:24] == b"\6" and len(packet) >= 54:
                ends = sorted((packet[26:30] + packet[34:36], packet[30:34] + packet[36:38]))
                flows[ends[0], ends[1]] = flows.get((ends[0], ends[1]), 0) + 1
        (one, other), packets = dice.choice(sorted(flow for flow in flows.items() if flow[1] >= 5))
        hosts = [".".join(str(byte) for byte in end[:4]) for end in (one, other)]
        ports = [int.from_bytes(end[4:], "big") for end in (one, other)]
        found.append((f"host {hosts[0]} and host {hosts[1]} and tcp port {ports[0]} and port {ports[1]}", packets))
    return found


def timed(command: list[str]) -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    before, start = os.times(), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wall, after = time.monotonic() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu


def search(folder: Path, expression: str, rounds: int, check: bool) -> dict[str, Any]:
    """Whole commands, the first of which warms the caches."""
    report, out = folder.parent / "found.json", folder.parent / "out.pcap"
    command = [*WIRECAP, "find", expression, str(folder), "-w", str(out), "--json", str(report)]
    timed(command)
    times = [timed(command) for _ in range(rounds)]
    counts = json.loads(report.read_text())
    read = counts["bytes"]["read"] + counts["bytes"]["index_read"]
    result: dict[str, Any] = {"filter": expression, "packets": counts["packets"], "blocks": counts["blocks"]}
    result["times_s"], result["cpu_s"] = ([one[which] for one in times] for which in (0, 1))
    result["share_read"] = read / counts["bytes"]["archive"]
    if check:
        mine = out.read_bytes()
        full, _ = timed([*command[:-2], "--no-index"])
        result |= {"full_scan_s": full, "same": out.read_bytes() == mine}
    return result


def kernel_ns(path: Path, rounds: int) -> dict[str, list[float]]:
    """CPU ns a packet of the index's kernel, and of the scan that is part of it, over buffers as a writer has them."""
    jit.prepare([*KERNELS, at.scan])
    kinds, n = (np.int64, np.uint32, np.uint32, np.int64), 16 * k.ROW
    short, row = [np.zeros(k.ROW, kind) for kind in kinds], [np.zeros(n, kind) for kind in kinds]
    found: dict[str, list[float]] = {"index": [], "scan": []}
    with open_capture(str(path)) as file:
        arena, before = file.arena[:WRITTEN_BYTES].copy(), file.state.copy()
        before[at.END], before[at.FINAL], before[at.MIXED] = len(arena), 0, 1
        blocks, packets = k.new_blocks(64, 24), 0
        for _ in range(20 * rounds):
            state = before.copy()
            blocks.counts[k.CURRENT], blocks.counts[k.FULL_AT], blocks.packets[:] = 0, 24 + k.BLOCK_BYTES, 0
            start = time.thread_time_ns()
            k.index_records(arena, state, file.table, *short, blocks)
            took, packets = time.thread_time_ns() - start, int(blocks.packets.sum())
            found["index"].append(took / packets)
        for _ in range(20 * rounds):  # apart: each has the caches as its own last round left them
            state, start = before.copy(), time.thread_time_ns()
            while at.scan(arena, state, file.table, *row, n):
                pass
            found["scan"].append((time.thread_time_ns() - start) / packets)
    return found


def quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4)
    return low, high


def writing(folder: Path, size: int, rounds: int) -> dict[str, list[float]]:
    """Time of a copy with an index over that of one without, wall-clock and CPU, whole commands, for each round."""
    place, out = folder / "copied", folder / "copy.pcapng"
    place.mkdir()
    [source] = make_archive(place, size, size)
    commands = {
        way: [*WIRECAP, "capture", "-r", str(source), "-w", str(out), *options]
        for way, options in (("without", []), ("with", ["--index"]))
    }
    timed(commands["with"])
    ratios: dict[str, list[float]] = {"wall": [], "cpu": []}
    for number in range(rounds):
        times = {way: timed(commands[way]) for way in sorted(commands, reverse=bool(number % 2))}
        for kind, mine, plain in zip(ratios, times["with"], times["without"], strict=True):
            ratios[kind].append(mine / plain)
    source.unlink()
    out.unlink()
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=parse_size("2GB"), help="of the archive")
    parser.add_argument("--file", type=parse_size, default=parse_size("250MB"), help="of each of its files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--copy", type=parse_size, default=parse_size("1GB"), help="of the file written both ways")
    parser.add_argument("--copies", type=int, default=15, help="rounds of that")
    parser.add_argument("--connections", type=int, default=5, help="how many are looked for, one after the other")
    parser.add_argument("--check", action="store_true", help="compare every answer with a full scan")
    parser.add_argument("--folder", help="where the archive goes; the default is the temporary folder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="wcbench-") as made:
        folder = Path(made) / "archive"
        folder.mkdir()
        if shutil.disk_usage(made).free < 1.1 * args.size + args.file + 2.5 * args.copy:
            sys.exit(f"{made} has no room for {format_size(args.size)}: name another folder with --folder")
        files = make_archive(folder, args.size, args.file)
        report = measure(folder, files, args)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if not all(one.get("same", True) for one in report["searches"]):
        sys.exit("an answer is not that of a full scan")


def measure(folder: Path, files: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    archive = sum(file.stat().st_size for file in files)
    took, cpu = timed([*WIRECAP, "index", "-q", str(folder)])
    beside = sum(file.stat().st_size for file in folder.glob("*.wcidx"))
    console.print(
        f"archive of {format_size(archive)} in {len(files)} files; wirecap index takes {took:.1f} s, {cpu:.1f} s of CPU"
    )
    console.print(f"index: {100 * beside / archive:.2f} % of the bytes")
    costs = {}
    for form in ("pcap", "pcapng"):
        sample = folder.parent / f"sample.{form}"
        timed([*WIRECAP, "capture", "-q", "-r", str(files[0]), "-c", str(SAMPLE), "-w", str(sample)])
        costs[form] = kernel_ns(sample, args.rounds)
        for what, text in (("index", "its kernel, with the walk over the records"), ("scan", "that walk alone")):
            low, middle = min(costs[form][what]), statistics.median(costs[form][what])
            console.print(f"{form}: {text}: {low:.1f} ns a packet at best, {middle:.1f} in the median")
    ratios = writing(folder.parent, args.copy, args.copies)
    for kind, what in (("wall", "times as long as without"), ("cpu", "times the CPU")):
        low, high = quartiles(ratios[kind])
        console.print(
            f"writing {format_size(args.copy)} with an index takes {spread(ratios[kind], '{:.3f}')} {what}; half of"
            f" {args.copies} rounds lie in {low:.3f}-{high:.3f}"
        )
    searches = []
    for expression, _ in connections(files, args.connections, random.Random(args.seed)):
        one = search(folder, expression, args.rounds, args.check)
        searches.append(one)
        same = {None: "", True: ", as in a full scan", False: ", NOT as in a full scan"}[one.get("same")]
        times, cpu = spread(one["times_s"], "{:.2f}"), spread(one["cpu_s"], "{:.2f}")
        console.print(
            f"{one['packets']} packets{same}: {times} s, {cpu} s of CPU, {100 * one['share_read']:.3f} % read;"
            f" {expression}"
        )
    return {"archive_bytes": archive, "index_bytes": beside, "index_s": took, "kernel_ns": costs,
            "writing": ratios, "searches": searches}  # fmt: skip


if __name__ == "__main__":
    main()
