"""pcapy-ng and wirecap.compat.pcapy: CPU time for a packet of a file, and packets a second from an interface.

    python bench/compat.py
    python bench/compat.py --only file

The file is the mixed trace, repeated.  Callbacks do nothing.  Live, one program with each module counts 60-byte frames
in a callback; the rate goes up by a quarter until packets are lost twice in a row.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

import common
from wirecap.errors import WirecapError
from wirecap.lab import testbed
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

MODULES = {"pcapy-ng": "pcapy", "wirecap": "wirecap.compat.pcapy"}
END_BYTES = 100
"""A frame of this size ends a trial."""


def repeat(trace: Path, times: int, target: Path) -> None:
    """Write a pcap file with the packets of another, repeated."""
    data = trace.read_bytes()
    with target.open("wb") as file:
        file.write(data[:24])
        for _ in range(times):
            file.write(data[24:])


def packets_of(reader: Any) -> int:
    counted = 0
    while records := reader.next_batch(1024)[1]:
        counted += len(records) // 16
    return counted


def nothing(header: Any, data: bytes) -> None:
    pass


def one_by_one(reader: Any) -> None:
    take = reader.next
    while take()[0] is not None:
        pass


def in_batches(reader: Any) -> None:
    while reader.next_batch(1024)[1]:
        pass


def filtered(reader: Any) -> None:
    reader.setfilter("udp port 53")
    reader.loop(-1, nothing)


WAYS: dict[str, Callable[[Any], Any]] = {
    "loop": lambda reader: reader.loop(-1, nothing),
    "dispatch": lambda reader: reader.dispatch(-1, nothing),
    "loop, getts": lambda reader: reader.loop(-1, lambda header, data: header.getts()),
    "next": one_by_one,
    "next_batch": in_batches,
    "loop, filter": filtered,
}


def floor_ns(file: Path, rounds: int) -> tuple[list[float], list[float]]:
    """What no module gets below, CPU ns a packet: calling back with objects that are there, and making the bytes."""
    reader, bodies = importlib.import_module(MODULES["wirecap"]).open_offline(str(file)), []
    reader.loop(500, lambda header, data: bodies.append(data))  # few enough for the cache
    everything = b"".join(bodies)
    ends = list(itertools.accumulate(map(len, bodies)))
    parts = [slice(end - len(data), end) for end, data in zip(ends, bodies, strict=True)]
    header, calls, copies = object(), [], []
    packets = 100 * len(bodies)
    for _ in range(rounds):
        begin = time.process_time()
        for _ in range(100):
            for data in bodies:
                nothing(header, data)
        middle = time.process_time()
        for _ in range(100):
            for part in parts:
                everything[part]
        end = time.process_time()
        calls.append((middle - begin) / packets * 1e9)
        copies.append((end - middle) / packets * 1e9)
    return calls, copies


def files(args: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of each module and way, round by round."""
    modules = {name: importlib.import_module(module) for name, module in MODULES.items()}
    found: dict[str, dict[str, list[float]]] = {way: {name: [] for name in modules} for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "repeated.pcap"
        repeat(common.mixed_trace(), args.repeat, file)
        packets = packets_of(modules["pcapy-ng"].open_offline(str(file)))
        for number in range(args.rounds):
            for way, read in WAYS.items():
                for name in common.turned(list(modules), number):
                    reader = modules[name].open_offline(str(file))
                    begin = time.process_time()
                    read(reader)
                    found[way][name].append((time.process_time() - begin) / packets * 1e9)
        calls, copies = floor_ns(file, args.rounds)
    table = Table(title=f"{packets} packets of a file: CPU ns for each", title_justify="left")
    for heading in ("way", *modules, "faster", "than pcapy-ng's loop"):
        table.add_column(heading, justify="left" if heading == "way" else "right", no_wrap=True)
    loop = found["loop"]["pcapy-ng"]
    for way, own in found.items():
        theirs, ours = own["pcapy-ng"], own["wirecap"]
        faster, over = ([a / b for a, b in zip(left, ours, strict=True)] for left in (theirs, loop))
        table.add_row(
            way,
            common.spread(theirs, "{:.0f}"),
            common.spread(ours, "{:.0f}"),
            common.spread(faster),
            common.spread(over),
        )
    common.console.print(table)
    common.console.print(f"calling back with objects that are there: {common.spread(calls, '{:.0f}')} ns")
    common.console.print(f"slicing such bytes out of others: {common.spread(copies, '{:.0f}')} ns")
    return {"file": found, "floor": {"calls": calls, "copies": copies}}


def count(module: str, interface: str) -> None:
    """The program of a live trial: print how many frames came before each frame of END_BYTES."""
    pcapy = importlib.import_module(module)
    reader = pcapy.open_live(interface, 65535, 1, 100)
    counted = 0

    def take(header: Any, data: bytes) -> None:
        nonlocal counted
        if len(data) == END_BYTES:
            if counted:
                print(counted, flush=True)
            counted = 0
        else:
            counted += 1

    print("ready", flush=True)
    reader.loop(-1, take)


class Counting:
    """A child that counts."""

    def __init__(self, module: str, interface: str, args: argparse.Namespace) -> None:
        command = ["ip", "netns", "exec", common.NAME, "taskset", "-c", str(args.peer_cpu), sys.executable, __file__]
        if module == MODULES["wirecap"]:  # its capture thread goes before others, and may run anywhere
            command = [word for word in command if word not in ("taskset", "-c", str(args.peer_cpu))]
        self.child = subprocess.Popen([*command, "--child", module, interface], stdout=subprocess.PIPE, text=True)
        if self.line() != "ready":
            raise WirecapError(f"{module} does not start")

    def line(self) -> str:
        assert self.child.stdout
        return self.child.stdout.readline().strip()

    def trial(self, outside: str, rate_pps: float, args: argparse.Namespace) -> tuple[int, int, float]:
        """(sent, counted, packets a second)"""
        frame = synthetic.udp(args.size)
        with LiveFrames(outside, frame, cpu=args.sender_cpu) as sender:
            begin = time.monotonic()
            sent = sender.send_paced(round(rate_pps * args.seconds), rate_pps)
            achieved_pps = sent / (time.monotonic() - begin)
        time.sleep(0.5)
        with LiveFrames(outside, synthetic.udp(END_BYTES), cpu=args.sender_cpu) as sender:
            sender.send_paced(20, 200)
        return sent, int(self.line()), achieved_pps

    def close(self) -> None:
        self.child.terminate()
        self.child.wait(10)


def live(args: argparse.Namespace) -> dict[str, Any]:
    """The highest rate without a loss, for each module and round."""
    nic = testbed.up(common.NAME, queues=1, gro=True).nics[0]
    found: dict[str, list[float]] = {name: [] for name in MODULES}
    for number in range(args.rounds):
        for name in common.turned(list(MODULES), number):
            counting = Counting(MODULES[name], nic.inside, args)
            rate_pps, best, lost = args.start, 0.0, 0
            counting.trial(nic.outside, 10_000, args)
            while lost < 2 and rate_pps < 20e6:
                sent, counted, achieved_pps = counting.trial(nic.outside, rate_pps, args)
                if achieved_pps < rate_pps / 2:
                    break  # the sender can do no more
                if counted == sent:
                    best, lost, rate_pps = achieved_pps, 0, rate_pps * 1.25
                else:
                    lost += 1
            counting.close()
            found[name].append(best)
    ratios = [ours / theirs for ours, theirs in zip(found["wirecap"], found["pcapy-ng"], strict=True) if theirs]
    for name, rates in found.items():
        common.console.print(f"live, {name}: {common.spread(rate / 1e6 for rate in rates)} Mp/s without loss")
    common.console.print(f"ratio: {common.spread(ratios)}")
    return {"live": found}


def body(args: argparse.Namespace) -> dict[str, Any]:
    return {**(files(args) if args.only != "live" else {}), **(live(args) if args.only != "file" else {})}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        count(*sys.argv[2:4])
        sys.exit()
    parser = common.options(__doc__ or "", packets=0, rounds=5)
    parser.add_argument("--only", choices=["file", "live"])
    parser.add_argument("--repeat", type=int, default=10, help="how often the file has the trace")
    parser.add_argument("--start", type=float, default=200e3, help="the first rate of a live trial, packets a second")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a live trial sends")
    common.main(body, parser)
