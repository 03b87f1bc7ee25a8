"""What it costs that losses can be explained: a look of the recorder, and a packet that the XDP program loses.

sudo .venv/bin/python bench/recording.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

import common
from wirecap.engine.engine import Engine
from wirecap.forensics.recorder import INTERVAL_S, Recorder
from wirecap.handlers.pipeline import Pipeline
from wirecap.linux import bpf, xdp_program
from wirecap.linux.asm import assemble
from wirecap.run import build
from wirecap.source.memory import MemorySource

M, R = 256, 20
PACKETS = 200_000


def look_us(queues: int, rounds: int) -> list[float]:
    """CPU time of a look after eight chunks on each queue, in us."""
    source, application = MemorySource(queues, M * R), Pipeline([])
    build.prepare(source, application)
    engine = Engine(source, application, M=M, R=R)
    recorder, zeros, spent = Recorder(engine), np.zeros(8 * M, np.int64), []
    engine.start()
    for _ in range(rounds):
        for queue in range(queues):
            source.inject(queue, np.zeros(60, np.uint8), zeros, zeros + 60, zeros + time.time_ns())
        time.sleep(0.005)
        begin = time.thread_time()
        recorder.look()
        spent.append(1e6 * (time.thread_time() - begin))
    engine.stop()
    source.close()
    return spent


def lost_ns(sampled: bool) -> float:
    """What the XDP program takes for a packet that finds no cell, in ns, at best."""
    maps = [bpf.Map(kind, size, 1) for kind, size in ((bpf.PERCPU_ARRAY, xdp_program.COUNTER_BYTES), (bpf.XSKMAP, 4))]
    ledger = xdp_program.Ledger(xdp_program.make_ledger(1, 16_384), 0, 16_384)
    code = xdp_program.program(maps[0].fd, maps[1].fd, ledger, 1792, xdp_program.best_clock(), True, sampled=sampled)
    program, best = bpf.Program(assemble(code)), float("inf")
    for _ in range(20):
        begin = time.perf_counter()
        program.run(bytes(60), PACKETS)
        best = min(best, time.perf_counter() - begin)
    return 1e9 * best / PACKETS


def body(args: argparse.Namespace) -> dict[str, Any]:
    looks = {queues: look_us(queues, args.rounds) for queues in (1, 4, 16)}
    for queues, spent in looks.items():
        share = statistics.median(spent) / INTERVAL_S / 1e4
        common.console.print(
            f"{queues} queues: a look takes {common.spread(spent, '{:.0f}')} us, {share:.1f} % of a CPU"
        )
    lost = {name: lost_ns(sampled) for name, sampled in (("counted", False), ("counted and sampled", True))}
    for name, found in lost.items():
        common.console.print(f"a lost packet, {name}: {found:.0f} ns")
    return {"looks_us": looks, "lost_ns": lost, "failed": []}


common.main(body, common.options(__doc__.splitlines()[0], 0, 100))
