"""What offloading costs the capture thread: advanced mode compared with basic, in ns per packet, without a kernel.

    python bench/offload.py

One queue of four is fed by an in-process NIC that only moves descriptors, as fast as the capture thread takes them;
the chunks are taken on another CPU and recycled at once.  ``policy``: T = 60, where no chunk goes to a buddy and the
only cost is the decision.  ``offloading``: T = 1, where most chunks do.  ``polling``: one thread takes the chunks of
all capture queues and never sleeps; ``handlers``: the real handler threads, which sleep when they have nothing to do.
With those, offloading hands chunks to sleeping buddies, and most of its cost is the system call that wakes them;
that case is only shown, the other three must meet the limit.  A round measures basic and advanced mode right after
each other, in alternating order, and takes the difference.
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
from rich.console import Console
from rich.table import Table

from wirecap.engine.engine import build_pool
from wirecap.kernels.base import jit, libc
from wirecap.kernels.base.atomics import load, store
from wirecap.kernels.base.jit import inline
from wirecap.kernels.pool import handler_loop, work_queues
from wirecap.kernels.pool import pool as k
from wirecap.kernels.pool.pool import SLOT_WORDS, STATE, recycle, work_queue
from wirecap.kernels.pool.work_queues import pop
from wirecap.kernels.xdp.capture_loop import BATCH, turn
from wirecap.kernels.xdp.rings import (
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
"""So that several chunks are in a capture queue, and T = 1 has something to hand to the buddies."""


@inline
def arrive(rings, queues, count):
    """Make up to ``count`` packets arrive on queue 0: cells move from the fill ring to the RX ring, untouched."""
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


@inline
def capture(pool, rings, packets, depths, scratch):
    """Take this many packets; returns the ns of the turns that took some, without the NIC's part."""
    spent = 0
    goal = pool.queues[k.TAKEN] + packets
    while pool.queues[k.TAKEN] < goal:
        before = pool.queues[k.TAKEN]
        arrive(rings, pool.queues, BATCH)
        begin = libc.monotonic_ns(scratch)
        turn(pool, rings, 0, begin, NEVER_NS, depths, scratch)
        end = libc.monotonic_ns(scratch)
        if (
            pool.queues[k.TAKEN] > before
        ):  # otherwise the consumers hold every cell, and there is nothing to capture into
            spent += end - begin
    return spent


@inline
def take_all(pool, consumers, scratch):
    """Take the chunks of all capture queues and give them back, sweeping every PAUSE_NS, until the engine closes."""
    last = 0
    while load(pool.control, k.PHASE) < k.CLOSE:
        now = libc.monotonic_ns(scratch)
        if now - last < PAUSE_NS:
            continue
        last = now
        for consumer in range(consumers):
            slot = pop(pool.work_queues, work_queue(pool, consumer), pool.control[k.WORK_QUEUE_MASK])
            while slot >= 0:
                recycle(pool, slot, load(pool.meta, slot * SLOT_WORDS + STATE) >> 2)
                slot = pop(pool.work_queues, work_queue(pool, consumer), pool.control[k.WORK_QUEUE_MASK])


class Bench:
    """A pool whose queue 0 is captured here, and threads on the other CPU that take its chunks."""

    def __init__(self, kind: str, M: int, R: int, cpu: int) -> None:
        source = MemorySource(QUEUES, R * M)
        source.arena[: R * M * source.cell : 64] = 1  # touch all pages, so that none is shared or missing
        self.pool = build_pool(source, M, R, list(range(QUEUES)), [list(range(QUEUES))], QUEUES)
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
        settings = np.zeros(4, np.int64)
        settings[handler_loop.ONWARD] = work_queues.EMPTY
        select, chain = handler_loop.address_of(handler_loop.everything), handler_loop.addresses_of([])
        states, failure = np.zeros((handler_loop.STAGES, 1), np.int64), np.zeros(4, np.int64)
        work = handler_loop.Work(select, handler_loop.NO_FILTER, chain, states, settings, failure)
        nowhere = np.zeros(0, np.int64)
        intake = handler_loop.Intake(0, self.rings, nowhere, -1, nowhere)
        handler_loop.handler_loop(self.pool, number, work, intake, libc.scratch())

    def measure(self, packets: int, threshold: int | None) -> tuple[float, float]:
        """(ns per packet, share of chunks offloaded); threshold None: basic mode."""
        self.pool.control[k.THRESHOLD], self.pool.control[k.ADVANCED] = threshold or 0, threshold is not None
        before = self.pool.queues[[k.CHUNKS, k.OFFLOADED_CHUNKS]].copy()
        spent = capture(self.pool, self.rings, packets, self._depths, self._scratch)
        chunks, offloaded = (self.pool.queues[[k.CHUNKS, k.OFFLOADED_CHUNKS]] - before).tolist()
        return spent / packets, offloaded / chunks

    def close(self) -> None:
        self.pool.control[k.PHASE] = k.CLOSE
        stride = work_queues.PLACES + int(self.pool.control[k.WORK_QUEUE_MASK]) + 1
        for consumer in range(QUEUES):
            work_queues.wake_consumer(self.pool.work_queues, consumer * stride)
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
    parser.add_argument("--packets", type=int, default=100_000, help="packets per measurement")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("-M", type=int, default=256, help="packets per chunk")
    parser.add_argument("-R", type=int, default=100, help="chunks per queue")
    parser.add_argument("--capture-cpu", type=int, default=cpus[0], help="CPU of the capture thread")
    parser.add_argument("--consumer-cpu", type=int, default=cpus[-1], help="CPU of the threads that take the chunks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured as JSON")
    args = parser.parse_args()
    jit.prepare([handler_loop.handler_loop, handler_loop.everything, handler_loop.nothing, work_queues.wake_consumer])
    os.sched_setaffinity(0, {args.capture_cpu})
    found = [one for kind in ("polling", "handlers") for one in run(kind, args)]
    table = Table(title=f"offloading at M = {args.M}: {args.rounds} rounds, ns per packet", title_justify="left")
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
        sys.exit(f"offloading costs more than {LIMIT_NS:g} ns per packet: {'; '.join(dear)}")


if __name__ == "__main__":
    main()
