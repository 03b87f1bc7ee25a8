"""What clients of ``wirecap serve`` get and what that costs, beside ``tcpdump -w - | nc`` in the same rounds.

Each way gets the same packets at the same rate: serve with nobody there, one client, four clients, and four with a
filter of their own; tcpdump into nc, which has one client.  Printed are packets that reached clients, those that were
lost, by name, and the processor time of the serving side for each packet that was sent.

    sudo .venv/bin/python bench/serve.py --rate 50kpps --packets 200000 --rounds 5 [--write]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

import common
import doc_blocks
from wirecap.lab import testbed
from wirecap.lab.process import Child, find
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames
from wirecap.units import parse_mean_rate

PEER = "tcpdump | nc"
WAYS = {"nobody": (), "1 client": ("",), "4 clients": ("",) * 4, "4 filters": tuple(
    f"udp and src port 1024 and len > {n}" for n in range(4))}  # fmt: skip
"""The filters of clients; the last ones let everything through, each for itself."""
READY_S, ENDED_S = 100, 60
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Served:
    """One way in one round, in packets.  clients: what each got.  ns: processor time for each that was sent."""

    way: str
    sent: int
    captured: int
    clients: list[int]
    drops: dict[str, int]
    ns: float


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def cpu_s(pid: int) -> float:
    """Processor time of a process and its children, as far as they live."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * TICK_S + sum(cpu_s(int(child)) for child in children)


def client(port: int, filter: str, out: Path) -> Child:
    """nc, which puts what it gets into a file."""
    asks = f"(echo '{filter}'; sleep {ENDED_S}) | exec nc" if filter else "exec nc -d"
    return Child(["sh", "-c", f"{asks} 127.0.0.1 {port} > {out}"])


def send(interface: str, args: argparse.Namespace) -> int:
    with LiveFrames(interface, synthetic.udp(args.size, source_port=1024)) as sender:
        return int(sender.send_paced(args.packets, args.rate, max(1, round(args.rate * 1e-3))))


def serve(bed: testbed.Testbed, way: str, args: argparse.Namespace, folder: Path) -> Served:
    port, summary = free_port(), folder / "summary.json"
    nic = bed.nics[0]
    line = ["serve", nic.inside, "--netns", bed.name, "--listen", str(port), "--json", str(summary)]
    with Child([*common.WIRECAP, *line]) as server:
        server.wait_for(f"serving {nic.inside}", READY_S)
        clients = [client(port, filter, folder / f"{n}.pcapng") for n, filter in enumerate(WAYS[way])]
        end = time.monotonic() + READY_S
        while server.output.count(" wants ") < len(clients) and time.monotonic() < end:
            time.sleep(0.01)
        before = cpu_s(server.pid)
        sent = send(nic.outside, args)
        time.sleep(args.settle)
        spent = cpu_s(server.pid) - before
        ended = server.end(signal.SIGINT, ENDED_S)
        for each in clients:
            each.end(signal.SIGKILL)
    if ended.status:
        sys.exit(f"serve: {ended.output}")
    found = json.loads(summary.read_text())
    rows = found["serving"]["clients"]
    drops = dict(found["packets"]["drops"])
    for row in rows:
        for name, count in row["drops"].items():
            drops[name] = drops.get(name, 0) + count
    return Served(way, sent, found["packets"]["delivered"], [row["sent"] for row in rows], drops, spent / sent * 1e9)


def peer(bed: testbed.Testbed, args: argparse.Namespace, folder: Path) -> Served:
    port, out, nic = free_port(), folder / "peer.pcap", bed.nics[0]
    command = f"ip netns exec {bed.name} tcpdump -n -i {nic.inside} -B 65536 -w - | nc -lN 127.0.0.1 {port}"
    with Child(["sh", "-c", command]) as server:
        server.wait_for("listening on", READY_S)
        time.sleep(args.settle)
        with client(port, "", out) as reader:
            while not (out.exists() and out.stat().st_size):
                time.sleep(0.05)
                with LiveFrames(nic.outside, synthetic.udp(args.size, source_port=9)) as sender:
                    sender.send(2000)  # tcpdump writes when a buffer is full
            before = cpu_s(server.pid)
            sent = send(nic.outside, args)
            time.sleep(args.settle)
            spent = cpu_s(server.pid) - before
            tcpdump = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()[0]
            os.kill(int(tcpdump), signal.SIGINT)
            server.end(None, ENDED_S)
            reader.end(None, ENDED_S)
    summary = folder / "peer.json"
    wanted = [*common.WIRECAP, "capture", "-q", "-r", str(out), "--json", str(summary), "udp src port 1024"]
    subprocess.run(wanted, check=True, capture_output=True, timeout=READY_S)
    counted = json.loads(summary.read_text())["packets"]["delivered"]
    return Served(PEER, sent, counted, [counted], {}, spent / sent * 1e9)


def run(args: argparse.Namespace) -> list[Served]:
    """Every way once a round, in another order each time."""
    with_peer = bool(find("tcpdump") and find("nc"))
    ways, found = [*args.ways.split(","), *([PEER] if with_peer else [])], []
    name = f"{common.NAME}s"
    try:
        bed = testbed.up(name, queues=1, gro=True)
        for number in range(args.rounds):
            for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                with tempfile.TemporaryDirectory() as folder:
                    place = Path(folder)
                    found.append(peer(bed, args, place) if way == PEER else serve(bed, way, args, place))
    finally:
        testbed.down(name)
    return found


HEADS = ("way", "captured of sent", "each client got", "ns of CPU a packet", "lost, all rounds")


def rows_of(found: Sequence[Served]) -> list[tuple[str, ...]]:
    rows = []
    for way in dict.fromkeys(each.way for each in found):
        runs = [each for each in found if each.way == way]
        got = [count / each.sent for each in runs for count in each.clients]
        lost: dict[str, int] = {}
        for each in runs:
            for name, count in each.drops.items():
                lost[name] = lost.get(name, 0) + count
        rows.append((
            way, _spread([each.captured / each.sent for each in runs], "{:.2%}"), _spread(got, "{:.2%}"),
            _spread([each.ns for each in runs], "{:.0f}"), ", ".join(f"{n}: {c}" for n, c in lost.items() if c) or "-",
        ))  # fmt: skip
    return rows


def show(rows: Sequence[Sequence[str]]) -> None:
    table = Table(*HEADS, title="median (least - most) of the rounds", title_justify="left")
    for row in rows:
        table.add_row(*row)
    common.console.print(table)


def _spread(values: list[float], form: str) -> str:
    if not values:
        return "-"
    return " ".join(
        (form.format(statistics.median(values)), f"({form.format(min(values))} - {form.format(max(values))})")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=parse_mean_rate, default=parse_mean_rate("50kpps"), help="packets a second")
    parser.add_argument("--packets", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=200, help="bytes of a packet")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", default=",".join(WAYS), help="those of serve, with commas")
    parser.add_argument("--settle", type=float, default=1.0, help="seconds behind the last packet that still count")
    parser.add_argument("--json", metavar="FILE", help="write all runs")
    parser.add_argument("--write", action="store_true", help="put the table into docs/serve.md")
    args = parser.parse_args()
    found = run(args)
    rows = rows_of(found)
    show(rows)
    if args.write:
        what = f"{args.packets:,} packets of {args.size} bytes at {args.rate:,.0f} a second, {args.rounds} rounds"
        doc_blocks.write("serve.md", "measured", f"{what}, {os.cpu_count()} cores; median (least - most):\n\n"
                         + doc_blocks.table(HEADS, rows))  # fmt: skip
    if args.json:
        Path(args.json).write_text(json.dumps({"runs": [asdict(each) for each in found]}, indent=1))


if __name__ == "__main__":
    main()
