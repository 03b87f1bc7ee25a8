"""Replay and generate compared with tcpreplay and trafgen on one veth, measured at the receiver by kernel timestamps.

Parts: ``full`` (full speed, 60-byte frames and a trace), ``timing`` (a trace as recorded: the error of each packet's
time), ``pps`` (fixed packet rates), ``drift`` (as recorded, for ``--minutes``).  Each round runs every program once.

    sudo .venv/bin/python bench/traffic.py --trace mixed.pcap --parts full,timing,pps
"""

from __future__ import annotations

import argparse
import os
import statistics
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import common
from wirecap.errors import UsageError, WirecapError
from wirecap.files.reader import open_capture
from wirecap.kernels.base import jit
from wirecap.kernels.file.read import scan
from wirecap.lab import peers, process, testbed
from wirecap.traffic import synthetic

PPS = (1_000, 10_000, 50_000, 100_000, 200_000, 350_000, 500_000)
KEEP = Path(__file__).parent / "keep_timestamps.py"
MTU = 1500


class Receiver:
    """``wirecap capture`` that keeps every timestamp, or (``sparse``) the first and last one of a chunk."""

    def __init__(self, nic: testbed.VethPair, sparse: bool, folder: Path) -> None:
        self._file = folder / "timestamps.npy"
        self._file.unlink(missing_ok=True)
        handler = f"{KEEP}:keep:path={self._file},sparse={sparse}"
        self._capture = common.Ours(nic.inside, common.NAME, ["-R", "400", "--handler", handler])

    def __enter__(self) -> Receiver:
        self._capture.__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        if failure[0] is None:
            summary, _ = self._capture.stop()
            self.packets = summary["packets"]
            self.timestamps: NDArray[np.int64] = np.load(self._file)
        self._capture.__exit__()

    @property
    def rate_pps(self) -> float:
        """Packets at the hook divided by the time between the first and the last of them."""
        spread = int(self.timestamps.max() - self.timestamps.min())
        return (self.packets["received"] - 1) / spread * 1e9


@dataclass
class Round:
    tool: str
    number: int
    figures: dict[str, float] = field(default_factory=dict)


def read_timestamps(path: Path, mtu: int = MTU) -> NDArray[np.int64]:
    """The times of a file's packets that fit the MTU, in ns."""
    jit.prepare([scan])
    row = (np.empty(4096, np.int64), np.empty(4096, np.uint32), np.empty(4096, np.uint32), np.empty(4096, np.int64))
    found = []
    with open_capture(str(path)) as file:
        while n := file.fill(*row, 4096)[0]:
            starts = row[0][:n, None] + np.array([12, 13])
            kinds = file.arena[starts].astype(np.int64) @ np.array([256, 1])
            bare = row[1][:n].astype(np.int64) - 14 - 4 * np.isin(kinds, (0x8100, 0x88A8))
            found.append(row[3][:n][bare <= mtu].copy())
    return np.concatenate(found)


def errors_ns(received: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.float64]:
    """How far each packet's time is from the trace's, minus what all have in common (the median)."""
    passed = (received - received[0]) - (wanted - wanted[0])
    return passed - np.median(passed)


def small_frames(path: Path, count: int = 1000, size: int = synthetic.MINIMUM_BYTES) -> Path:
    """Write a pcap file with the shortest frames of this many flows."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for number in range(count):
            data = synthetic.udp(size, source_port=1024 + number)
            file.write(struct.pack("<IIII", 0, number, len(data), len(data)) + data)
    return path


def trafgen_config(trace: Path, target: Path) -> Path:
    """The trace's packets in trafgen's language."""
    jit.prepare([scan])
    row = (np.empty(4096, np.int64), np.empty(4096, np.uint32), np.empty(4096, np.uint32), np.empty(4096, np.int64))
    with open_capture(str(trace)) as file, target.open("w") as out:
        while n := file.fill(*row, 4096)[0]:
            for at, size in zip(row[0][:n].tolist(), row[1][:n].tolist(), strict=True):
                if size <= MTU + 14:
                    out.write("{ " + ", ".join(f"0x{byte:02x}" for byte in file.arena[at : at + size]) + " }\n")
    return target


Send = Callable[[str], None]


def ours(*options: str) -> Send:
    def send(interface: str) -> None:
        ended = process.run([*common.WIRECAP, "replay", "-i", interface, *options], timeout_s=900)
        if ended.status and "dropped by the interface" not in ended.output:  # the receiver counts what is lost
            raise WirecapError(f"wirecap replay: {ended.output.strip()[-200:]}")

    return send


def tcpreplay(file: Path, *options: str) -> Send:
    return lambda interface: void(peers.tcpreplay(interface, file, options, timeout_s=900))


def trafgen(config: Path, count: int, cpus: int) -> Send:
    def send(interface: str) -> None:
        command = ["trafgen", "--dev", interface, "--conf", str(config), "-n", str(count), "--cpus", str(cpus)]
        ended = process.run(command, timeout_s=300)
        if ended.status:
            raise WirecapError(f"trafgen: {ended.output.strip()[-200:]}")

    return send


def void(_: object) -> None: ...


def full(args: argparse.Namespace, folder: Path) -> list[Round]:
    """Packets per second at the receiver, at full speed."""
    small = small_frames(folder / "small.pcap")
    configs = {
        "60 bytes": trafgen_config(small, folder / "small.cfg"),
        "trace": trafgen_config(args.trace, folder / "t.cfg"),
    }
    rounds = []
    for what, file in (("60 bytes", small), ("trace", args.trace)):
        inside = len(read_timestamps(file))
        loops = max(1, args.packets // inside)
        tools: dict[str, Send] = {
            "wirecap": ours("--topspeed", "--loop", str(loops), str(file)),
            "tcpreplay": tcpreplay(file, "--topspeed", "--preload-pcap", f"--loop={loops}"),
            "trafgen": trafgen(configs[what], args.packets, 1),
            "trafgen, all CPUs": trafgen(configs[what], args.packets, os.cpu_count() or 1),
        }
        for number in range(args.rounds):
            for tool in common.turned(list(tools), number):
                nic = testbed.up(common.NAME, queues=1).nics[0]
                with Receiver(nic, sparse=True, folder=folder) as receiver:
                    tools[tool](nic.outside)
                dropped = receiver.packets["dropped"] / receiver.packets["received"]
                figures = {"Mp/s": receiver.rate_pps / 1e6, "lost at the receiver %": 100 * dropped}
                rounds.append(Round(f"{tool}, {what}", number, figures))
    return rounds


def timing(args: argparse.Namespace, folder: Path) -> list[Round]:
    """The error of each packet's time, as recorded."""
    wanted = read_timestamps(args.trace)
    tools: dict[str, Send] = {
        "wirecap": ours("--speed", "1.0", str(args.trace)),
        "tcpreplay": tcpreplay(args.trace, "--preload-pcap"),
    }
    for way in args.ways.split(",") if args.ways else ():
        tools[f"wirecap, {way}"] = ours("--send", way, str(args.trace))
    rounds = []
    for number in range(args.rounds):
        for tool in common.turned(list(tools), number):
            nic = testbed.up(common.NAME, queues=1).nics[0]
            with Receiver(nic, sparse=False, folder=folder) as receiver:
                tools[tool](nic.outside)
            rounds.append(Round(tool, number, time_figures(receiver.timestamps, wanted)))
    return rounds


def time_figures(received: NDArray[np.int64], wanted: NDArray[np.int64]) -> dict[str, float]:
    if len(received) != len(wanted):
        raise WirecapError(f"only {len(received)} of {len(wanted)} packets arrived")
    found = errors_ns(received, wanted)
    tenth = max(1, len(found) // 10)
    moved = float(np.median(found[-tenth:]) - np.median(found[:tenth]))  # a slope would follow the few late ones
    size = np.abs(found) / 1e3
    names = ("median us", "99 % us", "most us")
    quantiles = dict(zip(names, map(float, np.percentile(size, (50, 99, 100))), strict=True))
    return {**quantiles, "drift us": moved / 1e3}


def pps(args: argparse.Namespace, folder: Path) -> list[Round]:
    """How far the packet rate at the receiver is from the wanted one, in percent."""
    small = small_frames(folder / "small.pcap")
    rounds = []
    for rate in PPS:
        count = max(2000, int(rate * args.seconds))
        for number in range(args.rounds):
            nic = testbed.up(common.NAME, queues=1).nics[0]
            with Receiver(nic, sparse=True, folder=folder) as receiver:
                ours("--pps", str(rate), "--loop", "0", "--limit", str(count), str(small))(nic.outside)
            off = 100 * (receiver.rate_pps / rate - 1)
            lost = count - receiver.packets["received"]
            rounds.append(Round(f"{rate} p/s", number, {"off %": off, "not arrived": lost}))
    return rounds


def drift(args: argparse.Namespace, folder: Path) -> list[Round]:
    """As recorded, for minutes: the same trace over and over, each pass timed from the last packet before it."""
    once = read_timestamps(args.trace)
    passes = max(2, round(args.minutes * 60e9 / (once[-1] - once[0])))
    wanted = np.concatenate([once - once[0] + k * (once[-1] - once[0]) for k in range(passes)])
    nic = testbed.up(common.NAME, queues=1).nics[0]
    with Receiver(nic, sparse=False, folder=folder) as receiver:
        ours("--loop", str(passes), str(args.trace))(nic.outside)
    return [Round(f"wirecap, {passes} passes", 0, time_figures(receiver.timestamps, wanted))]


PARTS: dict[str, Callable[[argparse.Namespace, Path], list[Round]]] = {
    "full": full, "timing": timing, "pps": pps, "drift": drift,
}  # fmt: skip


def show(part: str, rounds: list[Round]) -> None:
    table = Table(title=f"{part}: {(PARTS[part].__doc__ or '').strip()}", title_justify="left")
    names = list(rounds[0].figures)
    for heading in ("program", *names):
        table.add_column(heading, justify="left" if heading == "program" else "right", no_wrap=True)
    for tool in dict.fromkeys(one.tool for one in rounds):
        mine = [one.figures for one in rounds if one.tool == tool]
        table.add_row(tool, *(common.spread((f[name] for f in mine), "{:.4g}") for name in names))
    common.console.print(table)


def ratios(rounds: list[Round]) -> dict[str, list[float]]:
    """Our rate divided by each peer's, round by round."""
    rates = {(one.tool, one.number): one.figures["Mp/s"] for one in rounds}
    found: dict[str, list[float]] = {}
    for (tool, number), rate in rates.items():
        name, _, what = tool.rpartition(", ")
        if name != "wirecap":
            found.setdefault(tool, []).append(rates[f"wirecap, {what}", number] / rate)
    for tool, values in found.items():
        common.console.print(f"  ours / {tool}: {common.spread(values)}")
    return found


def body(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    process.run([*common.WIRECAP, "replay", "--help"], timeout_s=60)
    with tempfile.TemporaryDirectory() as name:
        for part in args.parts.split(","):
            if part not in PARTS:
                raise UsageError(f"unknown part {part!r}", f"use one of {', '.join(PARTS)}")
            rounds = PARTS[part](args, Path(name))
            show(part, rounds)
            found[part] = [{"tool": one.tool, "round": one.number, **one.figures} for one in rounds]
            if part == "full":
                found["ratios"] = {tool: statistics.median(values) for tool, values in ratios(rounds).items()}
    return found


if __name__ == "__main__":
    parser = common.options(__doc__ or "", packets=2_000_000, rounds=3)
    parser.add_argument("--trace", type=Path, required=True, help="a pcap or pcapng file of Ethernet packets")
    parser.add_argument("--parts", default="full,timing,pps", help=f"which of {', '.join(PARTS)} to run")
    parser.add_argument("--seconds", type=float, default=5.0, help="pps: seconds per rate")
    parser.add_argument("--minutes", type=float, default=10.0, help="drift: how long to send")
    parser.add_argument("--ways", default="", help="timing: other ways to send, besides the automatic one")
    common.main(body, parser)
