"""What ``wirecap map`` costs: one worker beside ``capture -r``, two workers beside one, Dask beside plain processes.

    python bench/map.py [--bytes 1e9] [--files 4] [--rounds 5] [--no-cluster | --only-cluster] [--write]

Rounds alternate, because the machine may be busy; processor time is what is compared, and the median of the rounds'
ratios is printed with the smallest and largest.  The first two ratios are of one file, Dask's of several: in the
workers' processor time, in that of everybody (command, scheduler, workers), and in the time of the map without the
start of the command.  --write puts them into docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import doc_blocks

WIRECAP = [sys.executable, "-P", "-m", "wirecap"]


def write_file(path: Path, size: int) -> None:
    """A pcap file of UDP packets of 64 to 1500 bytes."""
    rng = np.random.default_rng(1)
    rows, total = [np.frombuffer(bytes.fromhex("d4c3b2a10200040000000000000000000000040001000000"),
                                 np.uint8)], 0  # fmt: skip
    number = 0
    while total < min(size, 32 << 20):
        length = int(rng.choice([64, 200, 576, 1500]))
        packet = np.full(16 + length, 1, np.uint8)
        packet[:16].view("<u4")[:] = (1_700_000_000, number, length, length)
        packet[28:30] = (8, 0)
        packet[30], packet[39] = 0x45, 17
        packet[32:34] = divmod(length - 14, 256)
        rows.append(packet)
        total, number = total + packet.size, (number + 1) % 1_000_000
    head, body = rows[0].tobytes(), np.concatenate(rows[1:]).tobytes()
    with path.open("wb") as file:
        file.write(head)
        for _ in range(max(1, round(size / len(body)))):
            file.write(body)


def seconds_of(words: list[str]) -> tuple[float, float]:
    """(processor seconds of a command and its children, its seconds)."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*WIRECAP, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, time.perf_counter() - started


def mapped(words: list[str], out: Path) -> dict[str, float]:
    """The ``run`` of a map's summary, with the processor time and the time of the whole command."""
    cpu, took = seconds_of(["map", *words, "-q", "--json", str(out)])
    summary = json.loads(out.read_text())
    assert len(summary["files"]) == sum(word.endswith(".pcap") for word in words)
    return {**summary["run"], "cpu_s": cpu, "command_s": took}


def ratio(name: str, values: list[float]) -> tuple[str, str]:
    low, high = min(values), max(values)
    found = f"{statistics.median(values):.2f} (from {low:.2f} to {high:.2f}, {len(values)} rounds)"
    print(f"{name}: {found}", flush=True)
    return name, found


def more(name: str, values: list[float]) -> tuple[str, str]:
    """Of ratios, by how much they are more than 1."""
    low, middle, high = (
        f"{100 * value - 100:+.1f} %" for value in (min(values), statistics.median(values), max(values))
    )
    found = f"{middle} (from {low} to {high}, {len(values)} rounds)"
    print(f"{name}: {found}", flush=True)
    return name, found


def alone(file: Path, handler: str, rounds: int) -> list[tuple[str, str]]:
    """One worker beside ``capture -r``, two workers beside one."""
    out, single, sooner, double = file.parent / "out.json", [], [], []
    for number in range(rounds + 1):  # the first warms the page cache
        captured, took = seconds_of(["capture", "-q", "-r", str(file), "--handler", handler])
        one = mapped([handler, str(file), "--workers", "1"], out)
        two = mapped([handler, str(file), "--workers", "2"], out)
        if number:
            single.append(captured / one["cpu_s"])
            sooner.append(took / one["command_s"])
            double.append(2 * one["worker_cpu_s"] / two["worker_cpu_s"])
    return [
        ratio("capture -r / map with one worker, processor time of the commands", single),
        ratio("capture -r / map with one worker, time of the commands", sooner),
        ratio("two workers as a multiple of one, in the workers' processor time", double),
    ]


KINDS = {"worker_cpu_s": "the workers' processor time", "all_cpu_s": "everybody's processor time",
         "duration_s": "time"}  # fmt: skip


def beside_dask(files: list[Path], handler: str, rounds: int) -> list[tuple[str, str]]:
    """Workers of Dask beside processes, with the profiler that they have by default and without."""
    folder = files[0].parent
    out, words = folder / "out.json", [handler, *map(str, files)]
    ratios: dict[tuple[bool, str], list[float]] = {}
    schedulers = [Scheduler(folder, profile) for profile in (True, False)]
    try:
        for number in range(rounds + 1):
            plain = mapped([*words, "--workers", "2"], out)
            plain["all_cpu_s"] = plain["cpu_s"]
            for scheduler in schedulers if number % 2 else schedulers[::-1]:
                before = scheduler.cpu_s()
                there = mapped([*words, "--on", scheduler.address], out)
                there["all_cpu_s"] = there["cpu_s"] + scheduler.cpu_s() - before
                for kind in KINDS if number else ():
                    ratios.setdefault((scheduler.profile, kind), []).append(there[kind] / plain[kind])
                each = ", ".join(f"{kind} {there[kind]:.3f} / {plain[kind]:.3f}" for kind in KINDS)
                print(f"round {number}, profiler {'on' if scheduler.profile else 'off'}: {each}", file=sys.stderr)
    finally:
        for scheduler in schedulers:
            scheduler.end()
    return [
        more(f"Dask more than processes, in {KINDS[kind]}{'' if profile else ', workers without profiler'}", values)
        for (profile, kind), values in sorted(
            ratios.items(), key=lambda one: (not one[0][0], list(KINDS).index(one[0][1]))
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=float, default=1e9, help="of each file")
    parser.add_argument("--files", type=int, default=4, help="for Dask")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--handler", default="count")
    parser.add_argument("--no-cluster", action="store_true")
    parser.add_argument("--only-cluster", action="store_true")
    parser.add_argument("--write", action="store_true", help="put it into docs/scale.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        files = [Path(folder) / f"{number}.pcap" for number in range(1 if given.no_cluster else given.files)]
        write_file(files[0], int(given.bytes))
        for file in files[1:]:
            shutil.copyfile(files[0], file)  # a link would be the same file, which is read once
        about = f"files of {files[0].stat().st_size / 1e9:.2f} GB, handler {given.handler}, {os.cpu_count()} cores"
        print(about)
        rows = [] if given.only_cluster else alone(files[0], given.handler, given.rounds)
        rows += [] if given.no_cluster else beside_dask(files, given.handler, given.rounds)
    if given.write:
        table = doc_blocks.table(["", "median"], rows)
        doc_blocks.write(
            "scale.md", "map", f"{about[0].upper()}{about[1:]}; {given.files} of them for Dask:\n\n{table}"
        )


class Scheduler:
    """A Dask scheduler with two workers.  profile: whether they look at themselves a hundred times a second."""

    def __init__(self, folder: Path, profile: bool) -> None:
        about = folder / f"scheduler.{profile}.json"
        self.profile = profile
        self._environment = {**os.environ, "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": str(profile)}
        self._running: list[subprocess.Popen[bytes]] = []
        try:
            self._start("dask_scheduler", "--port", "0", "--host", "127.0.0.1", "--scheduler-file", str(about))
            give_up = time.monotonic() + 120
            while not (about.exists() and about.read_text().strip()) and time.monotonic() < give_up:
                time.sleep(0.05)
            self.address = json.loads(about.read_text())["address"]
            for _ in range(2):
                self._start("dask_worker", self.address, "--nthreads", "1", "--no-nanny")
            from distributed import Client

            with Client(self.address, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=120)
        except BaseException:
            self.end()
            raise

    def _start(self, program: str, *words: str) -> None:
        command = [sys.executable, "-P", "-m", f"distributed.cli.{program}", "--no-dashboard", *words]
        self._running.append(
            subprocess.Popen(command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )

    def cpu_s(self) -> float:
        """Processor time of the scheduler and its workers so far: clock_getcpuclockid(3) of each."""
        return sum(time.clock_gettime(~process.pid << 3 | 2) for process in self._running)

    def end(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
