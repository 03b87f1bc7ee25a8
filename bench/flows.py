"""Flow records: the flow table's cost for each packet, its memory, and whole runs beside NFStream and scapy.

    python bench/flows.py                          all three; some minutes
    python bench/flows.py --only table --flows 1e6
    python bench/flows.py --only compare --nfstream VENV/bin/python
    python bench/flows.py --write                  puts the rows that are measured into docs/flows.md

The table: packets through the handler's kernel, which reads headers, too; 4,096 at a time, because each call from
Python takes some 2 us, and a capture's compiled loop makes none.  Flows are drawn by Zipf's law (exponent 1) or
uniformly.  Times are CPU times of the thread, so that other programs do not count; they still take memory bandwidth
and cache.

The comparison: ``wirecap capture -r FILE --handler flows`` into Parquet, and NFStream without dissection or
statistics, on the same file with the same timeouts, whole processes.  NFStream (LGPL) is only measured, from a virtual
environment of its own.  scapy reads 100,000 packets into a dict, scaled.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from operator import truediv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import doc_blocks
from common import WIRECAP, console, mixed_trace, spread
from wirecap.flows.memory import KERNELS, Table
from wirecap.kernels.base import jit
from wirecap.kernels.flows import layout as f
from wirecap.kernels.flows.process import process
from wirecap.kernels.packet.headers import ETHERNET

M, SIZE, PIECE = 4096, 64, 1 << 20
IDLE_NS, ACTIVE_NS, LINGER_NS = 30 * 10**9, 120 * 10**9, 2 * 10**9
STEP_NS = 100
LAWS = {"zipf": "drawn by Zipf's law", "uniform": "drawn uniformly"}


def frames(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A UDP packet of 64 bytes of each of these flows."""
    n, ids = len(numbers), numbers.astype(np.uint32)
    out = np.zeros((n, SIZE), np.uint8)
    out[:, 12], out[:, 14], out[:, 17], out[:, 22], out[:, 23], out[:, 37] = 8, 0x45, 50, 64, 17, 53
    for at, addresses in ((26, 0x0A000000 + ids), (30, 0xC0A80000 + (ids * np.uint32(2654435761) >> 16))):
        out[:, at : at + 4] = addresses.astype(">u4").view(np.uint8).reshape(n, 4)
    out[:, 34:36] = (1024 + (ids & 0x3FFF)).astype(">u2").view(np.uint8).reshape(n, 2)
    return out.reshape(-1)


class Feed:
    """A table, and the time that it takes for packets."""

    def __init__(self, flows: int) -> None:
        jit.prepare(KERNELS)
        self.table = Table(flows, IDLE_NS, ACTIVE_NS, LINGER_NS, ETHERNET, waits=False)
        self._phase = np.zeros(64, np.int64)
        self._state = self.table.state(self._phase.ctypes.data)
        self._now = 10**18

    def __call__(self, numbers: NDArray[np.int64]) -> tuple[int, float]:
        """How many packets went in, in whole chunks, and seconds of CPU time."""
        arena, count = frames(numbers), len(numbers) // M * M
        address = np.arange(count, dtype=np.int64) * SIZE
        times = self._now + np.arange(count, dtype=np.int64) * STEP_NS
        self._now += count * STEP_NS
        lengths, state = np.full(M, SIZE, np.uint32), self._state
        chunks = [(address[i : i + M], times[i : i + M]) for i in range(0, count, M)]
        begin = time.thread_time()
        for addresses, stamps in chunks:
            process(arena, addresses, lengths, lengths, stamps, M, state)
        return count, time.thread_time() - begin

    def fill(self, flows: int) -> None:
        for first in range(0, flows, PIECE):
            self(np.arange(first, min(first + PIECE, flows)))


def drawn(law: str, flows: int, count: int, dice: Any) -> NDArray[np.int64]:
    """Which flow each of ``count`` packets is of."""
    if law == "uniform":
        return np.asarray(dice.integers(0, flows, count))
    weights = np.cumsum(1 / np.arange(1, flows + 1))
    return np.asarray(dice.permutation(flows)[np.searchsorted(weights, dice.random(count) * weights[-1])])


def table(flows: int, packets: int, rounds: int) -> dict[str, list[float]]:
    """Nanoseconds for a packet, round by round, for each law."""
    feed, dice, found = Feed(flows), np.random.default_rng(5), {}
    feed.fill(flows)
    console.print(f"flow table, {int(feed.table.control[f.HELD])} flows, ns a packet with reading its headers:")
    for law in LAWS:
        found[law] = []
        for _ in range(rounds):
            count, seconds = (sum(part) for part in zip(*(
                feed(drawn(law, flows, min(PIECE, packets), dice)) for _ in range(max(1, packets // PIECE))
            ), strict=True))  # fmt: skip
            found[law].append(seconds / count * 1e9)
        console.print(f"  {law}: {spread(found[law], '{:.1f}')}")
        note(f"a packet through the handler at {flows:,} flows, with reading its headers, {LAWS[law]}",
             f"{spread(found[law], '{:.1f}')} ns")  # fmt: skip
    assert not feed.table.control[f.LOST]
    assert not feed.table.control[f.MADE + f.EVICTED]
    return found


def memory(flows: int) -> float:
    """Bytes of a process with so many concurrent flows; for a process of its own."""
    feed = Feed(flows)
    feed.fill(flows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    held = int(feed.table.control[f.HELD])
    console.print(f"memory: {held} concurrent flows, the whole process takes {peak / 2**30:.2f} GiB at most")
    note(f"{flows:,} concurrent flows: the whole process, at most", f"{peak / 2**30:.2f} GiB")
    return float(peak)


def looped(source: Path, packets: int, target: Path) -> None:
    """The trace over and over, each time behind the last one."""
    data = source.read_bytes()
    places, at = [], 24
    while at < len(data):
        places.append(at)
        at += 16 + int.from_bytes(data[at + 8 : at + 12], "little")
    times = np.array([int.from_bytes(data[at : at + 4], "little") for at in places])
    length = int(times.max() - times.min()) + 1
    body, done = bytearray(data[24:]), 0
    view = np.frombuffer(body, np.uint8)
    seconds = np.array([at - 24 for at in places])[:, None] + np.arange(4)
    with target.open("wb") as out:
        out.write(data[:24])
        for number in range(-(-packets // len(places))):
            view[seconds] = (times + number * length).astype("<u4").view(np.uint8).reshape(-1, 4)
            some = min(packets - done, len(places))
            out.write(body[: (places[some] - 24) if some < len(places) else len(body)])
            done += some


NFSTREAM = """
import sys, time
from nfstream import NFStreamer
if __name__ == "__main__":
    flows = packets = 0
    for flow in NFStreamer(source=sys.argv[1], idle_timeout=30, active_timeout=120, n_dissections=0,
                           statistical_analysis=False, accounting_mode=0):
        flows, packets = flows + 1, packets + flow.bidirectional_packets
    print(flows, packets)
"""
SCAPY = """
import sys
from scapy.all import IP, IPv6, TCP, UDP, PcapReader
flows, count = {}, 0
for packet in PcapReader(sys.argv[1]):
    count += 1
    network = packet.getlayer(IP) or packet.getlayer(IPv6)
    if network is not None:
        transport = packet.getlayer(TCP) or packet.getlayer(UDP)
        ends = [(network.src, getattr(transport, "sport", 0)), (network.dst, getattr(transport, "dport", 0))]
        flow = flows.setdefault((frozenset(ends), packet.lastlayer().name), [0, 0])
        flow[0] += 1
        flow[1] += packet.wirelen
    if count == int(sys.argv[2]):
        break
print(len(flows), count)
"""


def timed(command: list[str]) -> tuple[float, float, str]:
    """Seconds, CPU seconds of it and its children, and what it printed."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - begin, cpu, done.stdout.strip()


def compare(packets: int, rounds: int, nfstream: str, scapy_packets: int) -> dict[str, list[float]]:
    """Seconds for each program, round by round; scapy's are scaled to all packets."""
    found: dict[str, list[float]] = {"wirecap": []}
    cpus: dict[str, list[float]] = {"wirecap": []}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        file = Path(folder) / "looped.pcap"
        looped(mixed_trace(), packets, file)
        console.print(f"whole runs on {packets} packets, {file.stat().st_size / 1e9:.1f} GB, seconds (CPU seconds):")
        for number in range(rounds):
            target = f"{folder}/{number}.parquet"
            ours = [*WIRECAP, "capture", "-q", "-r", str(file), "--handler", "flows", "--to", f"file:{target}"]
            seconds, cpu, text = timed(ours)
            result = json.loads(text)["flows"]
            assert result["packets"] + sum(result["without"].values()) == packets
            found["wirecap"].append(seconds)
            cpus["wirecap"].append(cpu)
            console.print(f"  wirecap: {seconds:.2f} ({cpu:.2f}), {result['records']} records")
            if nfstream:
                seconds, cpu, text = timed([nfstream, "-c", NFSTREAM, str(file)])
                found.setdefault("NFStream", []).append(seconds)
                cpus.setdefault("NFStream", []).append(cpu)
                console.print(f"  NFStream: {seconds:.1f} ({cpu:.1f}), {text.split()[0]} records")
        if scapy_packets:
            seconds, cpu, _ = timed([sys.executable, "-P", "-c", SCAPY, str(file), str(scapy_packets)])
            found["scapy"] = [seconds * packets / scapy_packets]
            console.print(f"  scapy: {found['scapy'][0]:.0f}, from {scapy_packets} packets in {seconds:.1f} s")
    for name, times in found.items():
        if name != "wirecap":
            more = f"{spread(map(truediv, times, found['wirecap']), '{:.0f}')} times our time"
            if name in cpus:
                more += f", {spread(map(truediv, cpus[name], cpus['wirecap']), '{:.0f}')} times our CPU time"
            console.print(f"  {name} takes {more}")
            note(f"{name} on the same file", more)
    spent = f"{spread(found['wirecap'], '{:.1f}')} s; {spread(cpus['wirecap'], '{:.1f}')} s of CPU time"
    note(f"{packets:,} packets of mixed traffic from a file into Parquet", f"{spent}; runs: {rounds}")
    return found


ROWS: list[tuple[str, str]] = []
"""What was measured, for the documentation."""


def note(what: str, found: str) -> None:
    ROWS.append((what, found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("table", "memory", "compare"))
    parser.add_argument("--flows", type=float, default=1e6, help="flows in the table whose cost is measured")
    parser.add_argument("--most", type=float, default=1e7, help="concurrent flows whose memory is measured")
    parser.add_argument("--packets", type=float, default=1e7, help="packets of the file of the comparison")
    parser.add_argument("--drawn", type=float, default=4e6, help="packets a round through the table")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=1, help="rounds of the comparison")
    parser.add_argument("--nfstream", default="", metavar="PYTHON", help="an interpreter that has nfstream")
    parser.add_argument("--scapy", type=float, default=1e5, help="packets for scapy; 0: leave it out")
    parser.add_argument("--write", action="store_true", help="put what is measured into docs/flows.md")
    args = parser.parse_args()
    if args.only in (None, "table"):
        table(int(args.flows), int(args.drawn), args.rounds)
    if args.only == "memory":
        memory(int(args.most))
    elif args.only is None:
        sys.stdout.flush()
        words = ["--only", "memory", "--most", str(args.most), *(["--write"] if args.write else [])]
        subprocess.run([sys.executable, __file__, *words], check=True)
    if args.only in (None, "compare"):
        compare(int(args.packets), args.runs, args.nfstream, int(args.scapy))
    if args.write and ROWS:
        doc_blocks.write_rows("flows.md", "measured", doc_blocks.table(("what", "median (least-most)"), ROWS))


if __name__ == "__main__":
    main()
