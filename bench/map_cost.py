"""What a map over 10^3 to 10^6 files takes with 1 to 64 workers, reckoned from parts that are measured here.

    python bench/map_cost.py [--file-bytes 1e8] [--no-cluster] [--write]

Parts are measured in processor time, because the machine may be busy.  --write puts the table into docs/scale.md.
"""

from __future__ import annotations

import argparse
import heapq
import os
import pickle
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import doc_blocks
import map as of_map
from wirecap.handlers.parts import Nothing
from wirecap.mapping.coordinator import AHEAD, PART_BYTES, Coordinator
from wirecap.mapping.handler_text import HandlerText
from wirecap.mapping.inputs import Input, inputs_of
from wirecap.mapping.part import Job, PartResult, Task, run_part

JOB = Job(HandlerText("count"))
FILES, WORKERS = (1_000, 10_000, 100_000, 1_000_000), (1, 4, 16, 64)
CLUSTER_TASKS = 300


@dataclass
class Costs:
    """Seconds of processor time."""

    start: float
    """The command, until it can begin."""
    worker: float
    """A further worker: a copy."""
    file: float
    """Listing a file."""
    part: float
    """A part, for the worker, beside its bytes."""
    gigabyte: float
    """10^9 bytes, for the worker."""
    merge: float
    """A part, for the command: sending the task, taking and merging the result."""
    scheduled: float
    """A part, for Dask's scheduler; nan: not measured."""


def spent(run: object, *words: object) -> float:
    """Processor time of a function."""
    began = time.process_time()
    run(*words)  # type: ignore[operator]
    return time.process_time() - began


def command(words: Sequence[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*of_map.WIRECAP, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Echo:
    """Workers that answer at once, with what crosses the pipe."""

    count = 4

    def __init__(self, result: PartResult) -> None:
        self._result, self._keys = pickle.dumps(result), list[int]()

    def submit(self, key: int, task: Task, avoid: str = "") -> None:
        pickle.dumps(task)
        self._keys.append(key)

    def next(self) -> tuple[int, PartResult]:
        return self._keys.pop(0), pickle.loads(self._result)

    def close(self) -> None: ...


def measure(folder: Path, rounds: int, cluster: bool) -> Costs:
    small, large, many = folder / "small", folder / "large.pcap", folder / "many"
    small.mkdir()
    many.mkdir()
    of_map.write_file(large, 256_000_000)
    head = large.read_bytes()[:24]
    for number in range(8):
        (small / f"{number}.pcap").write_bytes(head)
    for number in range(2_000):
        (many / f"{number}.pcap").write_bytes(head)
    tiny, big = inputs_of([str(small)])[0], inputs_of([str(large)])[0][0]
    listed = inputs_of([str(many)])[0]
    result = run_part(Task(JOB, tiny[0], tiny[0].ranges(PART_BYTES, True)[0]))

    def parts(inputs: Sequence[Input]) -> None:
        for input in inputs:
            run_part(Task(JOB, input, input.ranges(PART_BYTES, True)[0]))

    middle = statistics.median
    part = middle(spent(parts, tiny) / len(tiny) for _ in range(rounds))
    whole = middle(spent(parts, [big]) for _ in range(rounds))
    one, eight = (middle(command(["map", "count", str(small), "--workers", n, "-q"]) for _ in range(rounds))
                  for n in ("1", "8"))  # fmt: skip
    return Costs(
        start=one - len(tiny) * part,
        worker=max(0.0, eight - one) / 7,
        file=middle(spent(inputs_of, [str(many)]) / len(listed) for _ in range(rounds)),
        part=part,
        gigabyte=(whole - part) / big.size * 1e9,
        merge=middle(spent(Coordinator(JOB, listed, Echo(result), Nothing()).run) / len(listed) for _ in range(rounds)),
        scheduled=scheduled(folder) if cluster else float("nan"),
    )


def scheduled(folder: Path) -> float:
    """Of Dask's scheduler, for a task that has nothing to do."""
    from distributed import Client

    running = of_map.Scheduler(folder, profile=False)
    try:
        with Client(running.address, set_as_default=False) as client:
            pid = client.run_on_scheduler(os.getpid)
            client.gather([client.submit(abs, 1, pure=False) for _ in range(20)])
            before = _of_process(pid)
            client.gather([client.submit(abs, 1, pure=False) for _ in range(CLUSTER_TASKS)])
            return (_of_process(pid) - before) / CLUSTER_TASKS
    finally:
        running.end()


def _of_process(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def simulated(costs: Costs, files: int, file_bytes: float, workers: int, cluster: bool) -> float:
    """Seconds of a map: workers take parts as they are free, no more of them ahead than the coordinator allows; it, and
    on a cluster the scheduler, take one after the other."""
    each = max(1, round(file_bytes / PART_BYTES))
    parts, work = files * each, costs.part + costs.gigabyte * file_bytes / each / 1e9
    serial = max(costs.merge, costs.scheduled) if cluster else costs.merge
    now = costs.start + files * costs.file + (0 if cluster else workers * costs.worker)
    free, done, merged = [now] * workers, list[float](), now
    for number in range(parts):
        if number >= AHEAD * workers:
            now = max(now, done[number - AHEAD * workers])
        begin = max(now, heapq.heappop(free))
        heapq.heappush(free, begin + work)
        merged = max(merged + serial, begin + work)
        done.append(merged)
    return merged


def shown(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def text_of(costs: Costs, file_bytes: float, cluster: bool) -> str:
    parts = [
        ("starting the command", f"{costs.start:.2f} s"),
        ("a further worker", f"{1e3 * costs.worker:.0f} ms"),
        ("listing a file", f"{1e3 * costs.file:.2f} ms"),
        ("a part, for its worker", f"{1e3 * costs.part:.1f} ms"),
        ("10⁹ bytes with `count`, for their worker", f"{costs.gigabyte:.2f} s"),
        ("a part, for the command: sending, taking and merging", f"{1e3 * costs.merge:.2f} ms"),
    ]
    if cluster:
        parts.append(("a part, for Dask's scheduler", f"{1e3 * costs.scheduled:.2f} ms"))
    rows = []
    for files in FILES:
        times = [simulated(costs, files, file_bytes, workers, False) for workers in WORKERS]
        there = [shown(simulated(costs, files, file_bytes, WORKERS[-1], True))] if cluster else []
        share = f"{100 * times[0] / times[-1] / WORKERS[-1]:.0f} %"
        rows.append((files, *map(shown, times), share, *there))
    heads = ["files", *(f"{n} worker{'s' if n > 1 else ''}" for n in WORKERS), "of 64 at work"]
    heads += ["64 of Dask"] if cluster else []
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    return (
        f"Measured, median of rounds, processor time ({machine}):\n\n{doc_blocks.table(['part', 'takes'], parts)}\n\n"
        f"Reckoned, for files of {file_bytes / 1e6:.0f} MB each:\n\n{doc_blocks.table(heads, rows)}\n\n"
        "Assumed: the storage gives all workers what they take, and its waiting is hidden behind their work; workers\n"
        "are as fast as the measured one, and none fails; results are small, as those of `count`; every part is\n"
        "guessed right. Only what the command does by itself bounds the workers: a handler that takes longer than\n"
        "`count` keeps more of them at work."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file-bytes", type=float, default=1e8, help="of each file that is reckoned with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-cluster", action="store_true")
    parser.add_argument("--write", action="store_true", help="put it into docs/scale.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        costs = measure(Path(folder), given.rounds, not given.no_cluster)
    text = text_of(costs, given.file_bytes, not given.no_cluster)
    sys.stdout.write(text + "\n")
    if given.write:
        doc_blocks.write("scale.md", "cost", text)


if __name__ == "__main__":
    main()
