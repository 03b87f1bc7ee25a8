"""The native filter compared with libpcap's interpreter, on the mixed trace, in one run.

    python bench/filters.py [--json FILE] [--passes N]

Each expression is measured in three ways, with the same job for both, from one compiled loop, taking turns on chunks of
256 packets; the best of the passes counts.
answer    yes or no for each packet, counted.  A chunk is brought into the cache and then filtered, as when a
          handler thread takes what has just been captured; only the filter is timed.
select    the same, and descriptors of packets that match move to the front of the chunk.
streamed  answers, with the whole trace read from memory, packet after packet.
Every pass tests each packet once, so that no branch predictor can memorise a chunk.

--long: instead, how long long lists and long expressions take until packets can be matched, step by step, and then for
each packet.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import random
import time
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np

import common
from wirecap.errors import WirecapError
from wirecap.filters import libpcap
from wirecap.filters.ebpf import set_map, standalone
from wirecap.filters.expand import plain
from wirecap.filters.expression import compile_filter
from wirecap.filters.native import NativeFilter
from wirecap.filters.program import Program
from wirecap.kernels.base import jit, libc
from wirecap.kernels.base.jit import inline
from wirecap.kernels.handlers.filter import select, swap, tally
from wirecap.linux import bpf
from wirecap.linux.asm import assemble

EVERYDAY = (
    "ip",
    "ip6",
    "arp",
    "tcp",
    "udp",
    "icmp",
    "vlan",
    "port 80",
    "tcp port 443",
    "udp port 53",
    "not port 22",
    "host 192.168.1.1",
    "src host 10.0.0.1",
    "net 192.168.0.0/16",
    "dst net 10.0.0.0/8 and tcp",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp portrange 8000-9000",
    "ip proto 50 or udp port 4500",
    "greater 1000",
    "tcp port 80 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0)",
)
CHUNK = 256


def read_trace(path: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """The bytes of a pcap file (µs, little-endian) and the four descriptor rows of its packets."""
    data = np.fromfile(path, np.uint8)
    words = data.tobytes()
    rows, at = [], 24
    while at + 16 <= len(words):
        seconds, micros, captured, original = np.frombuffer(words, "<u4", 4, at).tolist()
        rows.append((at + 16, captured, original, seconds * 10**9 + micros * 1000))
        at += 16 + captured
    columns = list(zip(*rows, strict=True))
    kinds = (np.int64, np.uint32, np.uint32, np.int64)
    return data, [np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]


def c_program(program: Program) -> np.ndarray:
    """The program as libpcap's array of struct bpf_insn."""
    kind = np.dtype([("code", "u2"), ("jt", "u1"), ("jf", "u1"), ("k", "u4")])
    return np.array(program.rows, kind)


INTERPRETER = libpcap.library().bpf_filter


ANSWER, SELECT, STREAMED = WAYS = range(3)
NAMES = ("answer", "select", "streamed")


@inline
def interpret(arena, address, captured, original, program):
    hits = 0
    for i in range(len(address)):
        hits += INTERPRETER(program.ctypes.data, arena.ctypes.data + address[i], original[i], captured[i]) != 0
    return hits


@inline
def interpret_and_select(arena, address, captured, original, timestamp, program):
    m = 0
    for i in range(len(address)):
        if INTERPRETER(program.ctypes.data, arena.ctypes.data + address[i], original[i], captured[i]) != 0:
            swap(address, captured, original, timestamp, i, m)
            m += 1
    return m


@inline
def touch(arena, address, captured, original, timestamp):
    total = 0
    for i in range(len(address)):
        for j in range(0, min(captured[i], 128), 32):
            total += arena[address[i] + j]
        total += original[i] + timestamp[i]
    return total


@inline
def one_pass(arena, address, captured, original, timestamp, program, state, way, is_native, clock_ns, scratch):
    """(ns, packets that match) for all packets."""
    hits = 0
    spent = 0
    dummy = 0
    start = libc.monotonic_ns(scratch)
    for low in range(0, len(address), CHUNK):
        high = min(low + CHUNK, len(address))
        a, c, o, s = address[low:high], captured[low:high], original[low:high], timestamp[low:high]
        if way != STREAMED:
            dummy += touch(arena, a, c, o, s)
            start = libc.monotonic_ns(scratch)
        if way == SELECT and is_native:
            hits += select(arena, a, c, o, s, high - low, state)
        elif way == SELECT:
            hits += interpret_and_select(arena, a, c, o, s, program)
        elif is_native:
            hits += tally(arena, a, c, o, s, high - low, state)
        else:
            hits += interpret(arena, a, c, o, program)
        if way != STREAMED:
            spent += libc.monotonic_ns(scratch) - start - clock_ns
    if way == STREAMED:
        spent = libc.monotonic_ns(scratch) - start
    return spent, hits, dummy


@inline
def clock_cost(scratch, times):
    """What the clock adds to a measured time, in ns."""
    least = 1 << 40
    for _ in range(times):
        start = libc.monotonic_ns(scratch)
        least = min(least, libc.monotonic_ns(scratch) - start)
    return least


def measure(trace: tuple[np.ndarray, list[np.ndarray]], text: str, passes: int, clock_ns: int) -> dict[str, Any]:
    data, rows = trace
    program = compile_filter(text)
    started = time.process_time()
    compiled = NativeFilter(program)
    result: dict[str, Any] = {"expression": text, "compile_ms": 1e3 * (time.process_time() - started)}
    instructions, scratch = c_program(program), np.zeros(16, np.int64)
    words = instructions.view(np.uint8)
    work = [row.copy() for row in rows]
    count = len(rows[0])
    answers = set()
    for way in WAYS:
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(passes):
            for is_native in (False, True):
                for mine, given in zip(work, rows, strict=True):
                    np.copyto(mine, given)
                spent, hits, _ = one_pass(data, *work, words, compiled.state, way, is_native, clock_ns, scratch)
                times[is_native].append(spent / count)
                answers.add(hits)
        ratios = sorted(theirs / ours for theirs, ours in zip(times[False], times[True], strict=True))
        result[NAMES[way]] = {
            "libpcap_ns": min(times[False]),
            "native_ns": min(times[True]),
            "ratio": min(times[False]) / min(times[True]),
            "quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        }
    if len(answers) != 1:
        raise SystemExit(f"{text}: the two do not agree: {answers}")
    result["matching"] = answers.pop()
    return result


def long_expressions() -> dict[str, str]:
    """Lists of random members, alone and inside an expression, and different terms."""
    generator = random.Random(1)
    bits = generator.getrandbits
    kinds = {
        "hosts": lambda: f"host {ipaddress.IPv4Address(bits(32))}",
        "IPv6 hosts": lambda: f"host {ipaddress.IPv6Address(0x20010DB8 << 96 | bits(40))}",
        "networks": lambda: f"net {ipaddress.ip_network((bits(32), generator.randint(8, 32)), strict=False)}",
        "ports": lambda: f"port {bits(16)}",
        "terms": lambda: f"(src host {ipaddress.IPv4Address(bits(32))} and port {bits(16)})",
    }
    found = {}
    for kind, member in kinds.items():
        for count in (1000, 5000) if kind != "terms" else (200, 1000):
            members = " or ".join(member() for _ in range(count))
            found[f"{count} {kind}"] = members
            found[f"tcp and not ({count} {kind})"] = f"tcp and not ({members})"
    return found


def measure_long(trace: tuple[np.ndarray, list[np.ndarray]], text: str, passes: int) -> dict[str, Any]:
    """Seconds for each step, and ns a packet."""
    data, rows = trace
    started = time.monotonic()
    program = compile_filter(text)
    compiled_by = time.monotonic()
    compiled = NativeFilter(program)
    native_by = time.monotonic()
    try:
        sets = set_map(program)
        loaded = bpf.Program(assemble(standalone(program, sets.fd if sets else -1)))
        for part in (loaded, sets):
            if part:
                part.close()
    except WirecapError:
        kernel_s = None
    else:
        kernel_s = time.monotonic() - native_by
    best = min(_tallied(data, rows, compiled) for _ in range(passes))
    return {
        "compile_s": compiled_by - started, "native_s": native_by - compiled_by, "kernel_s": kernel_s,
        "native_ns": best / len(rows[0]), "socket_instructions": len(plain(program)),
    }  # fmt: skip


def _tallied(data: np.ndarray, rows: list[np.ndarray], compiled: NativeFilter) -> int:
    started = time.monotonic_ns()
    tally(data, *rows, len(rows[0]), compiled.state)
    return time.monotonic_ns() - started


def report_long(trace: tuple[np.ndarray, list[np.ndarray]], passes: int) -> dict[str, Any]:
    results = {}
    print("   libpcap and sets    native    kernel    all (s)    ns a packet    instructions without sets")
    for name, text in long_expressions().items():
        one = results[name] = measure_long(trace, text, passes)
        kernel = "  -   " if one["kernel_s"] is None else f"{one['kernel_s']:6.2f}"
        total = one["compile_s"] + one["native_s"] + (one["kernel_s"] or 0)
        print(f"{one['compile_s']:19.2f} {one['native_s']:9.2f}    {kernel} {total:10.2f} {one['native_ns']:14.1f}"
              f" {one['socket_instructions']:27}  {name}")  # fmt: skip
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--passes", type=int, default=15)
    parser.add_argument("--long", action="store_true", help="measure long lists and expressions")
    options = parser.parse_args()
    trace = common.mixed_trace()
    jit.prepare([select, tally])
    data = read_trace(trace)
    if options.long:
        found = report_long(data, min(options.passes, 5))
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")
        return
    clock_ns = clock_cost(np.zeros(16, np.int64), 100_000)
    print(f"{len(data[1][0])} packets, {libpcap.version()}; ns a packet, libpcap / native, best of {options.passes}")
    print("".join(f"{name:>22}   " for name in NAMES) + "compiled in")
    results = []
    for text in EVERYDAY:
        one = measure(data, text, options.passes, clock_ns)
        results.append(one)
        for name in NAMES:
            print(
                f"{one[name]['libpcap_ns']:7.2f} / {one[name]['native_ns']:5.2f} = {one[name]['ratio']:5.1f}", end="   "
            )
        print(f"{one['compile_ms']:4.0f} ms  {text}")
    for name in NAMES:
        ratios = [one[name]["ratio"] for one in results]
        low, high = (geometric_mean(one[name]["quartiles"][at] for one in results) for at in (0, 1))
        print(f"{name}: geometric mean {geometric_mean(ratios):.1f} times faster (quartiles of the passes {low:.1f}"
              f" to {high:.1f}), least {min(ratios):.1f}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
