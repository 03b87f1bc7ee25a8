"""Read and count five-tuples from a capture file: our handlers, scapy and dpkt, in one run.

    python bench/handlers.py [--rounds N] [--copies N] [--json FILE]

Every program does the same job on the packets of the mixed trace: it counts addresses, ports and protocol of
each IPv4 or IPv6 packet, by flow.  Ours reads the trace ``--copies`` times (about 20 MB each, from the page
cache), the peers as much of it as they manage in some seconds; all are timed from opening the file to the last
packet, after loading and compiling.

The cost of the handler is measured in three ways: the time and the CPU time (of all threads) of a whole run, minus
those of ``count`` in the same round; and the handler's kernel alone, on chunks that were just brought into the
cache, as when a handler thread takes what has just been captured, minus the kernel that does nothing.  The last
one has to meet the bar; on a machine with other work to do, the first two mostly show that work.

scapy and dpkt are other programs, under their own licences (GPL-2.0, BSD): ``pip install scapy dpkt``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numba
import numpy as np
from rich.table import Table

import common
import wirecap
from wirecap.handlers import table
from wirecap.kernels.base import jit, libc
from wirecap.kernels.pool import handler_loop

MOST_NS = 10.0
LEAST = {"scapy": 200.0, "dpkt": 50.0}
SLOTS = 1 << 13
TRACE = common.mixed_trace()
HEADER_BYTES = 24  # a pcap file's
CHUNK = 256


@wirecap.handler(state={"flows": (np.int64, SLOTS), "packets": np.int64})
def five_tuple(packet, state):  # type: ignore[no-untyped-def]
    if packet.ip:
        ends = packet.ip.src * 31 + packet.ip.dst
    elif packet.ip6:
        ends = np.int64(packet.ip6.src[1] * np.uint64(31) + packet.ip6.dst[1])
    else:
        return
    flow = (ends * 31 + (packet.src_port << 24 | packet.dst_port << 8 | packet.protocol)) * 0x9E3779B97F4A7C1
    state.flows[flow >> 40 & SLOTS - 1] += 1
    state.packets += 1


def repeat(trace: Path, times: int, target: Path) -> None:
    """Write a pcap file with the packets of another, repeated ``times``."""
    data = trace.read_bytes()
    with target.open("wb") as file:
        file.write(data[:HEADER_BYTES])
        for _ in range(times):
            file.write(data[HEADER_BYTES:])


def run_ours(path: Path, handler: Any) -> tuple[int, int, float, float]:
    """(packets read, packets with a five-tuple, seconds, CPU seconds of all threads)."""
    cpu, begin = time.process_time(), time.perf_counter()
    outcome = wirecap.capture(str(path), handler)
    seconds, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    counted = outcome.result["packets"] if outcome.result else 0
    return outcome.summary["packets"]["delivered"], int(counted), seconds, cpu_s


def kernel_ns(trace: Path, handler: Any, passes: int = 200) -> float:
    """ns per packet of a handler's kernel (or of ``nothing``) on chunks in the cache, the best of the passes."""
    data, rows = read_trace(trace)
    bound = table.bind(handler) if handler else None
    if bound:
        bound.compile(lambda name: None)
        bound.connect([1], keep_going=False)
    process = bound.process if bound else handler_loop.nothing
    jit.prepare([handler_loop.nothing])
    drive = _driver(process)
    words = bound.state(0) if bound else np.zeros(1, np.int64)
    return min(float(drive(data, *rows, words, libc.scratch())) for _ in range(passes)) / len(rows[0])


def _driver(process: Any) -> Any:
    @numba.njit(nogil=True)
    def drive(data, address, captured, original, timestamp, words, scratch):  # type: ignore[no-untyped-def]
        spent = 0
        for first in range(0, address.size, CHUNK):
            n = min(CHUNK, address.size - first)
            touched = 0
            for i in range(first, first + n):
                touched += data[address[i]] + data[address[i] + min(np.int64(captured[i]), 64) - 1]
            last = first + n
            begin = libc.monotonic_ns(scratch)
            failed = process(
                data, address[first:last], captured[first:last], original[first:last], timestamp[first:last], n, words
            )
            spent += libc.monotonic_ns(scratch) - begin
            if failed or touched < 0:
                return -1
        return spent

    return drive


def read_trace(path: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """The bytes of a pcap file and the four descriptor rows of its packets."""
    data = np.fromfile(path, np.uint8)
    address, captured = [], []
    at = HEADER_BYTES
    while at + 16 <= data.size:
        address.append(at + 16)
        captured.append(int(data[at + 8 : at + 12].view("<u4")[0]))
        at += 16 + captured[-1]
    lengths = np.array(captured, np.uint32)
    return data, [np.array(address, np.int64), lengths, lengths, np.zeros(len(address), np.int64)]


def run_dpkt(path: Path, limit: int) -> tuple[int, int, float]:
    import dpkt

    flows: Counter[tuple[Any, ...]] = Counter()
    number = 0
    begin = time.perf_counter()
    with path.open("rb") as file:
        for number, (_, data) in enumerate(dpkt.pcap.Reader(file), 1):
            try:
                ip = dpkt.ethernet.Ethernet(data).data
                if isinstance(ip, (dpkt.ip.IP, dpkt.ip6.IP6)):
                    ports = getattr(ip.data, "sport", 0), getattr(ip.data, "dport", 0)
                    protocol = getattr(ip, "p", ip.nxt) if isinstance(ip, dpkt.ip6.IP6) else ip.p  # none if cut short
                    flows[ip.src, ip.dst, *ports, protocol] += 1
            except dpkt.dpkt.Error:
                pass
            if number == limit:
                break
    return number, sum(flows.values()), time.perf_counter() - begin


def run_scapy(path: Path, limit: int) -> tuple[int, int, float]:
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.utils import PcapReader

    flows: Counter[tuple[Any, ...]] = Counter()
    number = 0
    begin = time.perf_counter()
    with PcapReader(str(path)) as reader:
        for number, packet in enumerate(reader, 1):
            ip = packet.getlayer(IP) or packet.getlayer(IPv6)
            if ip:
                transport = packet.getlayer(TCP) or packet.getlayer(UDP)
                ports = (transport.sport, transport.dport) if transport else (0, 0)
                flows[ip.src, ip.dst, *ports, ip.proto if isinstance(ip, IP) else ip.nh] += 1
            if number == limit:
                break
    return number, sum(flows.values()), time.perf_counter() - begin


PEERS: dict[str, Callable[[Path, int], tuple[int, int, float]]] = {"scapy": run_scapy, "dpkt": run_dpkt}
LIMITS = {"scapy": 10_000, "dpkt": 60_000}


def present() -> list[str]:
    found = [name for name in PEERS if importlib.util.find_spec(name)]
    for name in set(PEERS) - set(found):
        common.console.print(f"left out: {name} is not installed (pip install {name})")
    return found


def measure(args: argparse.Namespace, path: Path) -> dict[str, Any]:
    peers = present()
    for handler in ("count", five_tuple):  # compiled and cached before the first round
        run_ours(TRACE, handler)
    rounds: list[dict[str, Any]] = []
    for number in range(args.rounds):
        row: dict[str, Any] = {}
        for tool in common.turned(["count", "five_tuple", *peers], number):
            if tool in peers:
                packets, counted, seconds = PEERS[tool](TRACE, LIMITS[tool] // args.shrink)
                row[tool] = {"ns": seconds / packets * 1e9, "share": counted / packets}
            else:
                packets, counted, seconds, cpu_s = run_ours(path, five_tuple if tool == "five_tuple" else "count")
                row[tool] = {"ns": seconds / packets * 1e9, "cpu_ns": cpu_s / packets * 1e9, "share": counted / packets}
        row["kernel_ns"] = kernel_ns(TRACE, five_tuple) - kernel_ns(TRACE, None)
        rounds.append(row)
    return {"rounds": rounds, "peers": peers}


def show(found: dict[str, Any]) -> list[str]:
    """Print the tables; returns what missed its bar."""
    rounds, missed = found["rounds"], []
    shown = Table(title="five-tuples counted, from a file", title_justify="left")
    for heading in ("program", "ns a packet", "CPU ns a packet", "with a five-tuple %", "ours is faster by", "bar"):
        shown.add_column(heading, justify="left" if heading == "program" else "right")
    for tool in ("count", "five_tuple", *found["peers"]):
        rows = [row[tool] for row in rounds]
        ratios = [row[tool]["ns"] / row["five_tuple"]["ns"] for row in rounds]
        peer = tool in found["peers"]
        shown.add_row(
            tool,
            common.spread((row["ns"] for row in rows), "{:.1f}"),
            "" if peer else common.spread((row["cpu_ns"] for row in rows), "{:.1f}"),
            f"{100 * rows[0]['share']:.1f}" if tool != "count" else "",
            common.spread(ratios, "{:.0f}") if peer else "",
            f"{LEAST[tool]:.0f}" if peer else "",
        )
        if peer and median(ratios) < LEAST[tool]:
            missed.append(f"{tool}: less than {LEAST[tool]:.0f} times faster")
    common.console.print(shown)
    for what, key in (("a run's time", "ns"), ("a run's CPU time", "cpu_ns")):
        extra = [row["five_tuple"][key] - row["count"][key] for row in rounds]
        best = min(row["five_tuple"][key] for row in rounds) - min(row["count"][key] for row in rounds)
        common.console.print(f"over count, {what}: best runs {best:.1f} ns a packet, {common.spread(extra, '{:.1f}')}")
    alone = [row["kernel_ns"] for row in rounds]
    cost = common.spread(alone, "{:.1f}")
    common.console.print(f"over count, the kernel alone: {cost} ns a packet (bar: {MOST_NS:.0f})")
    if min(alone) > MOST_NS:
        missed.append(f"the kernel alone: more than {MOST_NS:.0f} ns a packet over count")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--copies", type=int, default=32, help="how often to repeat the trace in our file")
    parser.add_argument("--shrink", type=int, default=1, help="divide the packets that peers read by this")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured as JSON")
    args = parser.parse_args()
    path = args.folder / f"wcbench-{os.getpid()}.pcap"
    try:
        repeat(TRACE, args.copies, path)
        found = measure(args, path)
    finally:
        path.unlink(missing_ok=True)
    missed = show(found)
    if args.json:
        args.json.write_text(json.dumps({**found, "missed": missed}, indent=1) + "\n")
    for line in missed:
        common.console.print(f"below the bar: {line}")


if __name__ == "__main__":
    main()
