"""The native filter against libpcap's interpreter, on the mixed trace, in one run.

    python bench/filters.py [--json FILE] [--packets N]

Both are called for chunks of 256 packets from one compiled loop, in turn, and the best of the passes counts.
``cached``: a chunk's packets are in the cache, as when a handler thread takes a chunk that was just captured;
only the filter is timed.  ``streamed``: the trace is read from memory, packet after packet.  Every pass tests
all packets of the trace once, so that no branch predictor learns one chunk by heart.
The native filter also brings the matching descriptors to the front; the interpreter only counts.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import pcapy
from numba import njit

from wirecap.filters.expression import compile_filter
from wirecap.filters.native import compile_native
from wirecap.filters.program import Program
from wirecap.kernels import jit, libc
from wirecap.kernels.select import select

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
    octets = np.fromfile(path, np.uint8)
    words = octets.tobytes()
    rows, at = [], 24
    while at + 16 <= len(words):
        seconds, micros, captured, original = np.frombuffer(words, "<u4", 4, at).tolist()
        rows.append((at + 16, captured, original, seconds * 10**9 + micros * 1000))
        at += 16 + captured
    columns = list(zip(*rows, strict=True))
    kinds = (np.int64, np.uint32, np.uint32, np.int64)
    return octets, [np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]


def libpcap_filter() -> tuple[object, str]:
    """libpcap's interpreter as a C function, from the system's library, else from the one inside pcapy-ng."""
    name = ctypes.util.find_library("pcap")
    if not name:
        folder = Path(pcapy.__file__).parent / "pcapy_ng.libs"
        name = str(next(folder.glob("libpcap*")))
    function = ctypes.CDLL(name).bpf_filter
    function.restype = ctypes.c_uint
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    return function, name


def c_program(program: Program) -> np.ndarray:
    """The program as libpcap's array of struct bpf_insn."""
    kind = np.dtype([("code", "u2"), ("jt", "u1"), ("jf", "u1"), ("k", "u4")])
    return np.array(program.rows, kind)


INTERPRETER, LIBRARY = libpcap_filter()


@njit(nogil=True)
def interpret(arena, address, captured, original, program):
    hits = 0
    for i in range(len(address)):
        packet = arena.ctypes.data + address[i]
        hits += INTERPRETER(program.ctypes.data, packet, original[i], captured[i]) != 0
    return hits


@njit(nogil=True)
def native(arena, address, captured, original, stamp, state):
    return select(arena, address, captured, original, stamp, len(address), state)


@njit(nogil=True)
def touch(arena, address, captured):
    total = 0
    for i in range(len(address)):
        for j in range(0, min(captured[i], 128), 32):
            total += arena[address[i] + j]
    return total


@njit(nogil=True)
def one_pass(arena, address, captured, original, stamp, program, state, is_native, is_cached, scratch):
    """(ns, packets that match) for all packets; with ``is_cached`` without the time of fetching them."""
    hits = 0
    spent = 0
    dummy = 0
    start = libc.monotonic_ns(scratch)
    for low in range(0, len(address), CHUNK):
        high = min(low + CHUNK, len(address))
        a, c, o, s = address[low:high], captured[low:high], original[low:high], stamp[low:high]
        if is_cached:
            dummy += touch(arena, a, c)
            start = libc.monotonic_ns(scratch)
        if is_native:
            hits += native(arena, a, c, o, s, state)
        else:
            hits += interpret(arena, a, c, o, program)
        if is_cached:
            spent += libc.monotonic_ns(scratch) - start
    if not is_cached:
        spent = libc.monotonic_ns(scratch) - start
    return spent, hits, dummy


def measure(trace: tuple[np.ndarray, list[np.ndarray]], text: str, passes: int, clock_ns: float) -> dict[str, object]:
    octets, rows = trace
    program = compile_filter(text)
    started = time.process_time()
    compiled = compile_native(program)
    result: dict[str, object] = {"expression": text, "compile_ms": 1e3 * (time.process_time() - started)}
    instructions, scratch = c_program(program), np.zeros(8, np.int64)
    words = instructions.view(np.uint8)
    work = [row.copy() for row in rows]
    count = len(rows[0])
    clock = clock_ns * math.ceil(count / CHUNK)
    for cached in (True, False):
        times: dict[bool, list[float]] = {True: [], False: []}
        answers = set()
        for _ in range(passes):
            for is_native in (False, True):
                for mine, given in zip(work, rows, strict=True):
                    np.copyto(mine, given)
                spent, hits, _ = one_pass(octets, *work, words, compiled.state, is_native, cached, scratch)
                times[is_native].append((spent - clock * cached) / count)
                answers.add(hits)
        if len(answers) != 1:
            raise SystemExit(f"{text}: the two do not agree: {answers}")
        name = "cached" if cached else "streamed"
        ratios = sorted(theirs / ours for theirs, ours in zip(times[False], times[True], strict=True))
        result[f"{name}_libpcap_ns"], result[f"{name}_native_ns"] = min(times[False]), min(times[True])
        result[f"{name}_ratio"] = min(times[False]) / min(times[True])
        result[f"{name}_spread"] = [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]]
        result["matching"] = answers.pop()
    return result


@njit(nogil=True)
def clock_cost(scratch, times):
    start = libc.monotonic_ns(scratch)
    for _ in range(times):
        libc.monotonic_ns(scratch)
    return (libc.monotonic_ns(scratch) - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--passes", type=int, default=15)
    options = parser.parse_args()
    folder = Path(os.environ.get("WIRECAP_TRACES") or Path(__file__).parents[2] / "shared" / "traces")
    trace = folder / "mixed-30s.pcap"
    if not trace.exists():
        sys.exit(f"no trace at {trace}: set WIRECAP_TRACES to the folder that has mixed-30s.pcap")
    jit.prepare([select])
    data = read_trace(trace)
    clock_ns = clock_cost(np.zeros(8, np.int64), 100_000)
    print(f"{len(data[1][0])} packets, libpcap: {LIBRARY}, ns a packet: best of {options.passes} passes")
    print(f"{'cached':>22}{'streamed':>25}   compiled in")
    results = []
    for text in EVERYDAY:
        one = measure(data, text, options.passes, clock_ns)
        results.append(one)
        for name in ("cached", "streamed"):
            theirs, ours, ratio = (one[f"{name}_{what}"] for what in ("libpcap_ns", "native_ns", "ratio"))
            print(f"{theirs:7.2f} / {ours:5.2f} = {ratio:5.1f}", end="   ")
        print(f"{one['compile_ms']:4.0f} ms  {text}")
    for name in ("cached", "streamed"):
        ratios = [float(one[f"{name}_ratio"]) for one in results]  # type: ignore[arg-type]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"{name}: geometric mean {mean:.1f} times faster, least {min(ratios):.1f}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
