"""Real threads on the kernels' shared words, compiled with bounds checks: queues, returned cells and the wires' lock.

Rounds end when each queue has passed so many chunks; nothing may be lost, doubled, overtaken or out of bounds.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["NUMBA_BOUNDSCHECK"] = "1"  # read when the first kernel is declared

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "kernels" / "pool"))

from test_returned_cells import Sender
from test_work_queues import SLOTS, consume, produce

import doc_blocks
from rig import Rig
from wirecap.kernels.base import libc
from wirecap.kernels.base.atomics import load, store
from wirecap.kernels.base.jit import CHECKED, kernel, prepare
from wirecap.kernels.base.kinds import i64, words
from wirecap.kernels.forward.wires import WIRES, Wires, acquire, give_up
from wirecap.kernels.pool import pool as k
from wirecap.kernels.pool import work_queues
from wirecap.kernels.pool.pool import POOL, give_cells, take_cells
from wirecap.kernels.transmit.ring import TX_WORDS

THREADS = 3
CELLS = 4  # of each thread that sends
LINE = 8  # words


@kernel(i64(WIRES, words, i64, words))
def count_locked(wires, counter, rounds, scratch):
    """Count under a wire's lock, in a plain word."""
    for _ in range(rounds):
        acquire(wires, 0, scratch)
        counter[0] += 1
        give_up(wires, 0)
    return 0


@kernel(i64(POOL, words, i64, i64, i64, words, words, words))
def send(pool, entries, me, cells, rounds, content, back, scratch):
    """Fill my cells and give them home, each time that all are back."""
    for done in range(rounds):
        while load(back, me * LINE) < done:
            libc.sleep_ns(1, scratch)
        for i in range(cells):
            content[me * cells + i] = done + 1
        give_cells(pool, 0, entries, me * cells, entries.size - 1, cells)
    return 0


@kernel(i64(POOL, i64, i64, words, words, words, words))
def take_home(pool, cells, wanted, content, home, back, scratch):
    """Take ``wanted`` cells of each sender; 1 if one is lost, 2 if one came too early or twice."""
    taken, empty = 0, 0
    while taken < wanted * home.size:
        found = take_cells(pool, 0)
        for i in range(found):
            cell = pool.free_cells[0, i]
            sender = cell // cells
            if content[cell] != home[sender] // cells + 1:
                return 2
            content[cell] = -1
            home[sender] += 1
            if home[sender] % cells == 0:
                store(back, sender * LINE, home[sender] // cells)
        pool.queues[k.FREE_CELLS] = 0
        taken += found
        empty = 0 if found else empty + 1
        if empty > 10_000_000:
            return 1
        if empty:
            libc.sleep_ns(1, scratch)
    return 0


def together(calls: list[Callable[[Any], int]]) -> float:
    """Run functions in threads of their own; returns seconds, and ends the program if one returns not 0."""
    results: list[int | BaseException] = []

    def run(call: Callable[[Any], int]) -> None:
        try:
            results.append(call(libc.scratch()))
        except BaseException as problem:  # an index out of bounds
            results.append(problem)

    start = time.monotonic()
    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    if results != [0] * len(calls):
        sys.exit(f"threads ended with {results}: 0 is right")
    return time.monotonic() - start


def queues(rounds: int) -> float:
    """Producers send slots through one queue, the consumer sends each back through the producer's own."""
    array, bases, mask = work_queues.allocate_work_queues(1 + THREADS, THREADS * SLOTS)
    number, expected = np.zeros(THREADS * SLOTS, np.int64), np.zeros(THREADS, np.int64)
    calls = [
        lambda scratch, me=me: produce(array, bases, mask, me, SLOTS, rounds, number, scratch) for me in range(THREADS)
    ]
    calls.append(lambda scratch: consume(array, bases, mask, SLOTS, rounds * THREADS, number, expected, scratch))
    seconds = together(calls)
    if expected.tolist() != [rounds] * THREADS:
        sys.exit(f"chunks by producer: {expected.tolist()}, of {rounds} each")
    return seconds


def returned(rounds: int) -> float:
    """Senders fill cells and give them home, where one thread takes them."""
    pool = Rig(Sender(), 1, THREADS, CELLS).engine.pool
    pool.queues[k.FREE_CELLS] = 0
    content, home = np.zeros(THREADS * CELLS, np.int64), np.zeros(THREADS, np.int64)
    entries, back = np.arange(16, dtype=np.int64), np.zeros(THREADS * LINE, np.int64)
    calls = [
        lambda scratch, me=me: send(pool, entries, me, CELLS, rounds, content, back, scratch) for me in range(THREADS)
    ]
    calls.append(lambda scratch: take_home(pool, CELLS, rounds * CELLS, content, home, back, scratch))
    seconds = together(calls)
    if home.tolist() != [rounds * CELLS] * THREADS:
        sys.exit(f"cells by sender: {home.tolist()}, of {rounds * CELLS} each")
    return seconds


def lock(rounds: int) -> float:
    """Threads count under one wire's lock."""
    none, page = np.zeros(8, np.int64), np.zeros((1, 8), np.int64)
    wires = Wires(np.zeros(TX_WORDS, np.int64), page[None], page, page, none, page[None], none)
    counter = np.zeros(1, np.int64)
    seconds = together([lambda scratch: count_locked(wires, counter, rounds, scratch)] * THREADS)
    if counter[0] != rounds * THREADS:
        sys.exit(f"counted {counter[0]} of {rounds * THREADS}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2_000_000, help="of each thread (default: 2,000,000)")
    parser.add_argument("--write", action="store_true", help="write the table into docs/reliability.md")
    arguments = parser.parse_args()
    assert CHECKED
    prepare([produce, consume, send, take_home, count_locked])
    rows = []
    for text, run, rounds, each in (
        ("work-queue pairs: chunks there and back", queues, arguments.rounds, 1),
        ("returned cells: taken home", returned, arguments.rounds // 10, CELLS),  # of which each round has a sleep
        ("a wire's lock: times taken", lock, arguments.rounds, 1),
    ):
        seconds, count = run(rounds), rounds * THREADS * each
        rows.append((text, THREADS, count))
        print(f"{text}: {count:,} by {THREADS} threads in {seconds:.1f} s, none wrong")
    if arguments.write:
        heads = ("what", "threads that share it", "how often")
        doc_blocks.write("reliability.md", "shared words", doc_blocks.table(heads, rows))


if __name__ == "__main__":
    main()
