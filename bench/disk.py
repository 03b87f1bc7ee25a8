"""How close writing comes to what the disk takes, and to dumpcap: at full speed, and compressed.

    sudo .venv/bin/python bench/disk.py --folder /var/tmp

Each round runs all programs, in turns.  What the disk takes is the better of fio and dd with direct writes, in that
round.  Live, ours counts what is in the file at the moment when the generator ends: nothing that still waits in memory.
Beside it stand our writing alone, with buffers that are ready as fio's are, and a whole command that copies a file from
memory, its start and end included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import common
from capture_file import RECORD_BYTES
from wirecap.config.capture import MAX_SNAPLEN
from wirecap.errors import WirecapError
from wirecap.files import headers
from wirecap.files.buffers import BUFFER_BYTES, BUFFERS, Buffers
from wirecap.files.writer import Sink
from wirecap.kernels.file.write import PCAP_US
from wirecap.lab import peers
from wirecap.lab.process import find
from wirecap.traffic import synthetic

PIECE = 4 << 20


def fio(file: Path, size: int) -> float:
    """Bytes per second of direct writes of 4 MiB, four in flight."""
    command = ["fio", "--name=write", f"--filename={file}", "--rw=write", f"--bs={PIECE}", f"--size={size}",
               "--direct=1", "--ioengine=libaio", "--iodepth=4", "--output-format=json"]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return float(json.loads(done.stdout)["jobs"][0]["write"]["bw_bytes"])


def dd(file: Path, size: int) -> float:
    """Bytes per second of direct writes of 4 MiB, one after the other."""
    command = ["dd", "if=/dev/zero", f"of={file}", f"bs={PIECE}", f"count={size // PIECE}", "oflag=direct"]
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return size // PIECE * PIECE / (time.monotonic() - start)


DISKS: dict[str, Callable[[Path, int], float]] = {"fio": fio, "dd": dd}


OURS = {
    "buffers": "wirecap, buffers that are ready", "live": "wirecap, live", "copy": "wirecap, a copy, the whole command",
}  # fmt: skip


class Watched:
    """The most requests that were in flight on a folder's disk at once, looked at while something writes."""

    def __init__(self, folder: Path) -> None:
        device = folder.stat().st_dev
        self._path = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/inflight")
        self.most, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while self._path.exists() and not self._ended.wait(0.001):
            self.most = max(self.most, int(self._path.read_text().split()[1]))

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def live(args: argparse.Namespace, number: int, file: Path, rate_pps: float | None) -> dict[str, Any]:
    """A capture at full speed or at a rate: bytes per second in the file when the generator ends, and what was lost."""
    in_time = 0

    def send(sender: Any) -> int:
        nonlocal in_time
        sent = int(sender.send_paced(args.frames, rate_pps) if rate_pps else sender.send(args.frames))
        in_time = file.stat().st_size
        return sent

    one = common.measure("wirecap", number, send, args, (), file)
    return {"bytes_per_s": in_time / one.duration_s, "sent_bytes_per_s": one.sent * (args.size + 36) / one.duration_s,
            "dropped": one.dropped, "sent": one.sent, "waited": one.waited, "faults": one.faults}  # fmt: skip


def copied(source: Path, file: Path) -> float:
    """Bytes per second of a whole command that copies a file which lies in memory."""
    start = time.monotonic()
    command = [*common.WIRECAP, "capture", "-q", "-r", str(source), "-w", str(file)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return file.stat().st_size / (time.monotonic() - start)


def from_buffers(file: Path, size: int) -> float:
    """Bytes per second of our writing alone: buffers that are filled already, from the first to the closed file."""
    buffers = Buffers()
    for filled in [buffers.take() for _ in range(BUFFERS)]:
        assert filled
        filled.bytes[:] = np.random.default_rng(1).integers(0, 256, len(filled.bytes), np.uint8)
        buffers.give_back(filled)
    sink = Sink(str(file), headers.pcap_header(MAX_SNAPLEN), PCAP_US, buffers)
    start = time.monotonic()
    for _ in range(size // BUFFER_BYTES):
        buffer = sink.acquire()
        assert buffer
        sink.submit(buffer, len(buffer.bytes), 0)
    sink.close()
    return file.stat().st_size / (time.monotonic() - start)


def in_memory(folder: Path, size: int, frames: int) -> Path:
    """A pcap file of synthetic frames."""
    frame = bytes(synthetic.udp(size))
    path = folder / "frames.pcap"
    record = (1_700_000_000).to_bytes(4, "little") + bytes(4) + len(frame).to_bytes(4, "little") * 2 + frame
    with path.open("wb") as file:
        file.write(bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000"))
        for _ in range(frames // 1000):
            file.write(record * 1000)
    return path


def disk(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Each round: what the disk takes, ours at full speed, ours at a rate that the disk takes, a copy."""
    present = {name: run for name, run in DISKS.items() if find(name)}
    rounds, size, file = [], args.frames * (args.size + 36), folder / "out.pcapng"
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="wcbench-") as memory:
        source = in_memory(Path(memory), args.size, args.frames)
        for number in range(args.rounds):
            one: dict[str, Any] = {}
            for name in common.turned([*present, *OURS], number):
                with Watched(folder) as watched:
                    if name == "live":
                        one["live"] = live(args, number, file, None)
                    elif name == "copy":
                        one["copy"] = copied(source, file)
                    elif name == "buffers":
                        one["buffers"] = from_buffers(file, size)
                    else:
                        one[name] = present[name](file, size)
                one[f"{name}_in_flight"] = watched.most
                file.unlink()
            one["disk"] = max(one[name] for name in present)
            one["paced"] = live(args, number, file, 0.5 * one["disk"] / (args.size + 36))
            file.unlink()
            rounds.append(one)
    return rounds


def show(rounds: list[dict[str, Any]], args: argparse.Namespace) -> None:
    table = Table(title=f"{args.frames:,} frames of {args.size} bytes at full speed", title_justify="left")
    for heading in ("program", "MB/s", "of the disk", "in flight"):
        table.add_column(heading, justify="left" if heading == "program" else "right", no_wrap=True)
    for name in [*(name for name in DISKS if name in rounds[0]), *OURS]:
        speeds = [one[name]["bytes_per_s"] if name == "live" else one[name] for one in rounds]
        flights = [one[f"{name}_in_flight"] for one in rounds]
        share = [speed / one["disk"] for speed, one in zip(speeds, rounds, strict=True)]
        table.add_row(OURS.get(name, name), common.spread((s / 1e6 for s in speeds), "{:.0f}"), common.spread(share),
                      common.spread(flights, "{:.0f}"))  # fmt: skip
    common.console.print(table)
    for one in rounds:
        for what, run in (("full speed", one["live"]), ("half of what the disk takes", one["paced"])):
            common.console.print(
                f"live, {what}: sent {run['sent_bytes_per_s'] / 1e6:.0f} MB/s, dropped"
                f" {100 * run['dropped'] / run['sent']:.2f} %; the sender waited for its CPU {run['waited']:.0%}"
            )


class ThroughZstd(peers.Dumpcap):
    """dumpcap into zstd's standard input, with all CPUs.  It ends when dumpcap does."""

    name = "dumpcap | zstd"

    @classmethod
    def available(cls) -> str | None:
        return super().available() or (None if find("zstd") else "zstd is not installed")

    def command(self) -> list[str]:
        capture = f"exec dumpcap -i {self.interface} -q -B {self.buffer_mib} -w -"
        return ["bash", "-c", f"exec 3>&1; {capture} > >(trap '' INT; exec zstd -q -1 -T0 -f -o {self.file} 2>&3)"]


def body(args: argparse.Namespace) -> dict[str, Any]:
    tools = ["wirecap", *common.present(args.peers)]
    peers.CAPTURES[ThroughZstd.name] = ThroughZstd
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="wcbench-") as name:
        folder = Path(name)
        need = max(args.frames * (args.size + RECORD_BYTES), args.packets * (60 + RECORD_BYTES))
        if shutil.disk_usage(folder).free < 1.2 * need:
            raise WirecapError(f"{args.folder} has no room for {need / 1e9:.1f} GB", "use fewer --frames")
        rounds = disk(args, folder)
        show(rounds, args)
        args.size = synthetic.MINIMUM_BYTES
        small = compare(args, tools, folder, "pcapng")
        packed = compare(
            args, ["wirecap", *(common.present(ThroughZstd.name) if args.peers else [])], folder, "pcapng.zst"
        )
    against = common.show(f"{args.packets:,} frames of {args.size} bytes at full speed", small)
    against |= common.show("the same, compressed with zstd level 1", packed)
    failed = [fault for one in rounds for fault in (*one["live"]["faults"], *one["paced"]["faults"])]
    failed += common.faults(small) + common.faults(packed)
    runs = {"disk": rounds, "small": common.as_dicts(small), "compressed": common.as_dicts(packed)}
    return {"runs": runs, "ratios": against, "failed": failed}


def compare(args: argparse.Namespace, tools: list[str], folder: Path, suffix: str) -> list[common.Run]:
    runs = []
    for number in range(args.rounds):
        for tool in common.turned(tools, number):
            file = folder / f"{tool.split()[0]}.{suffix}"
            runs.append(common.measure(tool, number, lambda sender: sender.send(args.packets), args, (), file))
            file.unlink(missing_ok=True)  # zstd may be about to make it
    return sorted(runs, key=lambda one: tools.index(one.tool))


parser = common.options(__doc__.splitlines()[0], 5_000_000, 3, "dumpcap")
parser.add_argument("--frames", type=int, default=2_000_000, help="large frames per run")
parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where to put the temporary files")
parser.set_defaults(size=1500)
common.main(body, parser)
