"""What offloading costs the capture thread: advanced mode against basic, in ns a packet, without a kernel.

    python bench/offload.py

One queue of four is fed from an in-process NIC that only moves descriptors, as fast as the capture thread takes
them; the chunks are taken on another CPU and recycled at once.  ``policy``: T = 60, where nothing is handed to
a buddy and only the decision is paid for.  ``offloading``: T = 1, where most chunks are.  ``polling``: one
thread takes the chunks of all capture queues and never sleeps; ``handlers``: the product's handler threads, which
sleep when they have nothing.  With those, offloading hands chunks to sleeping buddies, and most of what it costs
is the system call that wakes them; that case is shown, the other three are held to the limit.  A round measures
basic and advanced right after each other, in turning order, and their difference counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from rich.console import Console
from rich.table import Table

from wirecap.engine.pool import build
from wirecap.kernels import handle, jit, lanes, libc
from wirecap.kernels import pool as k
from wirecap.kernels.atomics import load, store
from wirecap.kernels.capture import BATCH, turn
from wirecap.kernels.lanes import pop
from wirecap.kernels.pool import SLOT_WORDS, STATE, lane, recycle
from wirecap.kernels.rings import (
    FILL_CONSUMER,
    FILL_DESCRIPTORS,
    FILL_MASK,
    FILL_PRODUCER,
    RX_CONSUMER,
    RX_DESCRIPTORS,
    RX_MASK,
    RX_PRODUCER,
    wrap,
)
from wirecap.source.memory import MemorySource

QUEUES = 4
LIMIT_NS = 3.0
CASES = {"policy": 60, "offloading": 1}
NEVER_NS = 1 << 60
FRAME_BYTES = 60
PAUSE_NS = 30_000
"""So that several chunks lie in a capture queue, and T = 1 has something to hand to the buddies."""


@njit(nogil=True)
def arrive(rings, queues, count):
    """Up to ``count`` packets arrive on queue 0: their cells go from the fill ring to the RX ring, untouched."""
    first = int(rings.halves[queues[FILL_CONSUMER]])
    there = (int(load(rings.halves, queues[FILL_PRODUCER])) - first) & 0xFFFFFFFF
    producer = int(rings.halves[queues[RX_PRODUCER]])
    room = queues[RX_MASK] + 1 - ((producer - int(load(rings.halves, queues[RX_CONSUMER]))) & 0xFFFFFFFF)
    count = min(count, there, room)
    for i in range(count):
        at = queues[RX_DESCRIPTORS] + ((producer + i) & queues[RX_MASK]) * 2
        rings.words[at] = rings.words[queues[FILL_DESCRIPTORS] + ((first + i) & queues[FILL_MASK])]
        rings.words[at + 1] = FRAME_BYTES
    store(rings.halves, queues[FILL_CONSUMER], wrap(first + count))
    store(rings.halves, queues[RX_PRODUCER], wrap(producer + count))


@njit(nogil=True)
def capture(pool, rings, packets, depths, scratch):
    """Take so many packets; the ns of the turns that took some, without the NIC's part."""
    spent = 0
    goal = pool.queues[k.TAKEN] + packets
    while pool.queues[k.TAKEN] < goal:
        before = pool.queues[k.TAKEN]
        arrive(rings, pool.queues, BATCH)
        begin = libc.monotonic_ns(scratch)
        turn(pool, rings, 0, begin, NEVER_NS, depths, scratch)
        end = libc.monotonic_ns(scratch)
        if pool.queues[k.TAKEN] > before:  # else every cell is with the consumers: nothing to capture into
            spent += end - begin
    return spent


@njit(nogil=True)
def take_all(pool, consumers, scratch):
    """Take the chunks of all capture queues and give them back, a sweep every PAUSE_NS, until the engine closes."""
    last = 0
    while load(pool.control, k.PHASE) < k.CLOSE:
        now = libc.monotonic_ns(scratch)
        if now - last < PAUSE_NS:
            continue
        last = now
        for consumer in range(consumers):
            slot = pop(pool.lanes, lane(pool, consumer), pool.control[k.LANE_MASK])
            while slot >= 0:
                recycle(pool, slot, load(pool.meta, slot * SLOT_WORDS + STATE) >> 2)
                slot = pop(pool.lanes, lane(pool, consumer), pool.control[k.LANE_MASK])


class Bench:
    """A pool whose queue 0 is captured here, and threads on the other CPU that take its chunks."""

    def __init__(self, kind: str, M: int, R: int, cpu: int) -> None:
        source = MemorySource(QUEUES, R * M)
        source.arena[: R * M * source.cell : 64] = 1  # pages of its own behind every stamp and packet
        self.pool = build(source, M, R, list(range(QUEUES)), [list(range(QUEUES))], QUEUES)
        self.rings, self._source = source.rings, source
        self._depths, self._scratch = np.zeros(QUEUES, np.int64), libc.scratch()
        targets = [self._poll] if kind == "polling" else [self._handle] * QUEUES
        self._threads = [
            threading.Thread(target=self._on, args=(cpu, target, number)) for number, target in enumerate(targets)
        ]
        for thread in self._threads:
            thread.start()

    def _on(self, cpu: int, target: Any, number: int) -> None:
        os.sched_setaffinity(0, {cpu})
        target(number)

    def _poll(self, number: int) -> None:
        take_all(self.pool, QUEUES, libc.scratch())

    def _handle(self, number: int) -> None:
        state, settings = np.zeros(1, np.int64), np.zeros(4, np.int64)
        settings[handle.ONWARD] = lanes.EMPTY
        handle.handler_loop(
            self.pool, number, handle.everything, state, (handle.nothing,) * handle.STAGES,
            np.zeros((handle.STAGES, 1), np.int64), settings, np.zeros(4, np.int64), libc.scratch(),
        )  # fmt: skip

    def measure(self, packets: int, threshold: int | None) -> tuple[float, float]:
        """(ns a packet, share of chunks offloaded); threshold None: basic mode."""
        self.pool.control[k.THRESHOLD], self.pool.control[k.ADVANCED] = threshold or 0, threshold is not None
        before = self.pool.queues[[k.CHUNKS, k.OFFLOADED_CHUNKS]].copy()
        spent = capture(self.pool, self.rings, packets, self._depths, self._scratch)
        chunks, offloaded = (self.pool.queues[[k.CHUNKS, k.OFFLOADED_CHUNKS]] - before).tolist()
        return spent / packets, offloaded / chunks

    def close(self) -> None:
        self.pool.control[k.PHASE] = k.CLOSE
        stride = lanes.PLACES + int(self.pool.control[k.LANE_MASK]) + 1
        for consumer in range(QUEUES):
            lanes.wake_consumer(self.pool.lanes, consumer * stride)
        for thread in self._threads:
            thread.join()


def run(kind: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All cases with one kind of consumer."""
    bench = Bench(kind, args.M, args.R, args.consumer_cpu)
    found: dict[str, dict[str, list[float]]] = {name: {"basic": [], "advanced": [], "offloaded": []} for name in CASES}
    try:
        bench.measure(args.packets, None)
        for number in range(args.rounds):
            for name, threshold in CASES.items():
                pair = [("basic", None), ("advanced", threshold)]
                for mode, T in pair if number % 2 else reversed(pair):
                    ns, offloaded = bench.measure(args.packets, T)
                    found[name][mode].append(ns)
                    if mode == "advanced":
                        found[name]["offloaded"].append(offloaded)
    finally:
        bench.close()
    return [result(kind, name, values) for name, values in found.items()]


def result(kind: str, name: str, values: dict[str, list[float]]) -> dict[str, Any]:
    costs = [advanced - basic for advanced, basic in zip(values["advanced"], values["basic"], strict=True)]
    low, middle, high = statistics.quantiles(costs, n=4)
    return {
        "consumers": kind, "case": name, "T": CASES[name], "basic_ns": statistics.median(values["basic"]),
        "advanced_ns": statistics.median(values["advanced"]), "offloaded": statistics.median(values["offloaded"]),
        "cost_ns": middle, "cost_quartiles_ns": [low, high], "all": values,
    }  # fmt: skip


def main() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    form = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=form)
    parser.add_argument("--packets", type=int, default=100_000, help="packets of one measurement")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("-M", type=int, default=256, help="packets of a chunk")
    parser.add_argument("-R", type=int, default=100, help="chunks of a queue")
    parser.add_argument("--capture-cpu", type=int, default=cpus[0], help="CPU of the capture thread")
    parser.add_argument("--consumer-cpu", type=int, default=cpus[-1], help="CPU of those who take the chunks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured as JSON")
    args = parser.parse_args()
    jit.prepare([handle.handler_loop, handle.everything, handle.nothing, lanes.wake_consumer])
    os.sched_setaffinity(0, {args.capture_cpu})
    found = [one for kind in ("polling", "handlers") for one in run(kind, args)]
    table = Table(title=f"offloading at M = {args.M}: {args.rounds} rounds, ns a packet", title_justify="left")
    for heading in ("chunks taken by", "case", "T", "offloaded", "basic", "advanced", "cost: median (quartiles)"):
        table.add_column(heading, justify="right")
    for one in found:
        low, high = one["cost_quartiles_ns"]
        table.add_row(
            one["consumers"], one["case"], f"{one['T']}", f"{one['offloaded']:.0%}", f"{one['basic_ns']:.2f}",
            f"{one['advanced_ns']:.2f}", f"{one['cost_ns']:.2f} ({low:.2f} to {high:.2f})",
        )  # fmt: skip
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    judged = [one for one in found if (one["consumers"], one["case"]) != ("handlers", "offloading")]
    dear = [f"{one['consumers']}, {one['case']}: {one['cost_ns']:.2f}" for one in judged if one["cost_ns"] > LIMIT_NS]
    if dear:
        sys.exit(f"offloading costs more than {LIMIT_NS:g} ns a packet: {'; '.join(dear)}")


if __name__ == "__main__":
    main()
