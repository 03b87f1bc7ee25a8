"""What decoding and single packets cost in Python: ns for each packet, against the bar of 10 ns for decoding.

    python bench/decode.py [--rounds N] [--json FILE]

``chunk.decode()`` fills every usual column (addresses, ports, protocol, VLAN, TCP flags, payload offset, ...) for the
chunks that ``wirecap.open`` gives of the mixed trace, of its IPv4 packets and of its IPv6 packets.  Each chunk is
decoded several times in a row, and the fastest counts: its packets are in the cache then, as they are when they were
just captured.  A round's figure is the median over the chunks of at least 192 packets (the default M is 256).

The other lines are whole loops over the trace from its file: decoding each chunk once, ``capture.packets()``, and
writing packets with ``wirecap.write``.  They include reading the file.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import common
import wirecap

MOST_NS = 10.0
LEAST_PACKETS = 192
TRIES = 15
KINDS = {"mixed": "", "IPv4": "ip", "IPv6": "ip6"}


def decoding(trace: Path, expression: str) -> float:
    """ns a packet of ``chunk.decode()``."""
    found = []
    with wirecap.open(str(trace), filter=expression) as capture:
        for chunk in capture:
            if len(chunk) < LEAST_PACKETS:
                continue
            spent = []
            for _ in range(TRIES):
                begin = time.perf_counter_ns()
                chunk.decode()
                spent.append(time.perf_counter_ns() - begin)
            found.append(min(spent) / len(chunk))
    if not found:
        raise SystemExit(f"decode.py: {trace} has no {LEAST_PACKETS} packets for the filter {expression!r}")
    return median(found)


def one_field(trace: Path, name: str) -> float:
    """ns a packet of reading one more field."""
    found = []
    with wirecap.open(str(trace)) as capture:
        for chunk in capture:
            fields = chunk.decode()
            begin = time.perf_counter_ns()
            fields[name]
            if len(chunk) >= LEAST_PACKETS:
                found.append((time.perf_counter_ns() - begin) / len(chunk))
    return median(found)


def loop(trace: Path, body: Callable[[wirecap.Capture], int]) -> float:
    """ns a packet of a loop over a file."""
    with wirecap.open(str(trace)) as capture:
        begin = time.perf_counter_ns()
        packets = body(capture)
        return (time.perf_counter_ns() - begin) / packets


def decode_all(capture: wirecap.Capture) -> int:
    return sum(len(chunk.decode()) for chunk in capture)


def count_packets(capture: wirecap.Capture) -> int:
    return sum(1 for _ in capture.packets())


def copy_packets(capture: wirecap.Capture) -> int:
    with tempfile.TemporaryDirectory() as folder, wirecap.write(f"{folder}/copy.pcapng") as out:
        for packet in capture.packets():
            out.write(packet)
    return out.packets_written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured as JSON")
    args = parser.parse_args()
    trace = common.mixed_trace()
    runs: dict[str, Callable[[], float]] = {
        f"chunk.decode(), {kind}": partial(decoding, trace, expression) for kind, expression in KINDS.items()
    }
    runs["one more field (ip.ttl)"] = lambda: one_field(trace, "ip.ttl")
    runs["loop: chunk.decode()"] = lambda: loop(trace, decode_all)
    runs["loop: capture.packets()"] = lambda: loop(trace, count_packets)
    runs["loop: packets() into write()"] = lambda: loop(trace, copy_packets)
    found: dict[str, list[float]] = {name: [] for name in runs}
    decoding(trace, "")  # everything is compiled now
    for _ in range(args.rounds):
        for name, run in runs.items():
            found[name].append(run())
    table = common.Table(title="ns a packet", title_justify="left")
    for heading in ("what", "median (minimum-maximum)"):
        table.add_column(heading)
    for name, values in found.items():
        table.add_row(name, common.spread(values, "{:.1f}"))
    common.console.print(table)
    missed = [name for name, values in found.items() if name.startswith("chunk") and median(values) > MOST_NS]
    if args.json:
        args.json.write_text(json.dumps({"ns": found, "missed": missed}, indent=1) + "\n")
    if missed:
        sys.exit(f"above {MOST_NS:.0f} ns: {', '.join(missed)}")


if __name__ == "__main__":
    main()
