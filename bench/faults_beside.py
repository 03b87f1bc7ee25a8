"""Faults of what is beside a capture: clock, memory, brokers, clusters.  bench/faults.py has the table."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import common
import fleet
import stepped_clock
from fault_rig import BrokenError, ImpossibleError, Outcome, Setting, require, times, wait, whole_packets
from wirecap.lab import process
from wirecap.linux import netlink, netns
from wirecap.traffic import synthetic

EATING = """
import wirecap

eaten = []

@wirecap.chunk_handler
def eats(chunk):
    eaten.append(bytearray(1 << 20))
    eaten[-1][:] = b"x" * (1 << 20)
"""
SLOW = """
import pathlib
import time
import wirecap

@wirecap.chunk_handler
def slow(chunk):
    pathlib.Path("MARK").touch()
    time.sleep(0.5)
"""


@contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """A memory cgroup of either version."""
    first = Path("/sys/fs/cgroup/memory")
    parent, name = (first, "memory.limit_in_bytes") if first.is_dir() else (Path("/sys/fs/cgroup"), "memory.max")
    group = parent / f"wirecap-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(limit))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise ImpossibleError(f"no memory cgroup: {error.strerror}") from None

    try:
        yield group
    finally:
        wait(lambda: not (group / "cgroup.procs").read_text().strip(), "an empty cgroup")
        group.rmdir()


def _used(group: Path) -> int:
    names = (group / "memory.usage_in_bytes", group / "memory.current")
    return int(next(path for path in names if path.exists()).read_text())


def _limit(group: Path, limit: int) -> None:
    names = (group / "memory.limit_in_bytes", group / "memory.max")
    next(path for path in names if path.exists()).write_text(str(limit))


def memory_eaten(s: Setting) -> Outcome:
    """the memory cgroup's limit is reached by a handler"""
    script, path = s.folder / "eating.py", s.folder / "out.pcapng"
    script.write_text(EATING)
    with memory_group(2 << 30) as group:
        before = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
        options = ("-w", str(path), "--handler", f"{script}:eats", "-M", "16")
        with s.capture(*options, before=before) as child:
            _limit(group, _used(group) + (100 << 20))
            for _ in range(60):
                s.send_any(1_000, 1000)
                if not _runs(child.pid):
                    break
                time.sleep(0.1)
            ended = child.end(None)
    wait(lambda: netns.call(s.bed.name, netlink.interface, s.inside).xdp_mode == "", "a clean interface", 30)
    require(ended.status in (-signal.SIGKILL, 1), f"status {ended.status}: {ended.output[-500:]}")
    require("Traceback" not in ended.output, ended.output[-500:])
    packets = whole_packets(path)
    result = "is killed by the kernel: interface clean, file whole" if ended.status < 0 else "ends"
    return Outcome("", result, packets, packets)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def broker_gone(s: Setting) -> Outcome:
    """the broker of flow records goes away, and comes back"""
    try:
        fleet.nats_server()
    except SystemExit as missing:
        raise ImpossibleError(str(missing)) from None
    broker, subject, out = fleet.Broker(s.folder / "broker"), "flows.lab.sensor1", s.folder / "collected.json"
    broker.start()
    spool = ("--to", f"{broker.url}/{subject}", "--spool", str(s.folder / "spool"))
    sent = 0
    with s.capture("--handler", "flows:idle=300ms,active=1s", *spool) as child:
        for _ in range(2):
            sent += s.send(500, rate=1_000)
            broker.kill()
            sent += s.send(500, rate=1_000)
            time.sleep(1.5)  # the flow is over, and its record nowhere but in the spool
            broker.start()
        sent += s.send(500, rate=1_000)
        ended = child.end(timeout_s=60)
    outcome = s.told("", ended, True)
    require(outcome.delivered == sent, f"{sent} sent, {outcome.delivered} delivered")
    made = json.loads(s.summary.read_text())["handlers"][0]["result"]
    collect = [*common.WIRECAP, "collect", f"{broker.url}/{subject}", "-w", str(s.folder / "flows" / "%H.parquet"),
               "--once", "--json", str(out)]  # fmt: skip
    subprocess.run(collect, timeout=60, check=True, capture_output=True)
    broker.kill()
    (sensor,) = json.loads(out.read_text())["sensors"]
    require(sensor["records"] == made["records"] and not sensor["gaps"], f"{made} made, {sensor} collected")
    outcome.result = f"goes on: {made['records']} records, each collected once"
    return outcome


def scheduler_gone(s: Setting) -> Outcome:
    """the scheduler of a Dask cluster goes away under `wirecap map`"""
    if importlib.util.find_spec("distributed") is None:
        raise ImpossibleError("needs distributed")
    about, script, files = s.folder / "scheduler.json", s.folder / "slow.py", s.folder / "files"
    script.write_text(SLOW.replace("MARK", str(s.folder / "mark")))
    files.mkdir()
    packet = synthetic.udp(60)
    record = struct.pack("<IIII", 1_700_000_000, 0, len(packet), len(packet)) + packet
    for number in range(60):
        head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
        (files / f"{number}.pcap").write_bytes(head + record * 100)
    dask = [sys.executable, "-P", "-m"]
    scheduler = process.Child([*dask, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
                               "--no-dashboard", "--scheduler-file", str(about)])  # fmt: skip
    with scheduler:
        wait(about.exists, "the scheduler", 120)
        address = json.loads(about.read_text())["address"]
        worker = process.Child([*dask, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny",
                                "--no-dashboard"])  # fmt: skip
        with worker:
            worker.wait_for("Registered to", 120)  # a map without a worker ends at once
            with process.Child([*common.WIRECAP, "map", f"{script}:slow", str(files), "--on", address]) as mapping:
                wait(lambda: (s.folder / "mark").exists() or not _runs(mapping.pid), "the first part", 100)
                scheduler.end(signal.SIGKILL)
                ended = mapping.end(None, timeout_s=120)
    require((s.folder / "mark").exists(), f"nothing was read: {ended.output[-500:]}")
    lines = [line for line in ended.output.splitlines() if line.startswith("wirecap: ")]
    require(ended.status == 1 and lines, f"status {ended.status}: {ended.output[-500:]}")
    require("Traceback" not in ended.output, f"a traceback: {ended.output[-500:]}")
    return Outcome("", "ends", said=lines[-1].removeprefix("wirecap: ").replace(address, "tcp://scheduler:8786"))


HOUR_S = 3600


def clock_back(s: Setting) -> Outcome:
    """the clock is set back by an hour"""
    return _clock_set(s, -HOUR_S, 1)


def clock_forward(s: Setting) -> Outcome:
    """the clock is set forward by an hour"""
    return _clock_set(s, HOUR_S, 2)


def _clock_set(s: Setting, seconds: int, wanted_files: int) -> Outcome:
    """Packets of one queue, while the other is silent, go into files of half an hour; they are there before the end."""
    clock, name = s.folder / "clock", "out.pcapng"
    stepped_clock.set_clock(clock, 0)

    def written() -> list[int]:
        try:
            return [time_ns for path in sorted(s.folder.glob("out*.pcapng")) for time_ns in times(path)]
        except BrokenError:  # a block that is being written
            return []

    def newest_ns() -> int:
        return next(reversed(written()), 0)

    def send(count: int) -> int:
        sent = s.send(count, cpu=0)
        wait(lambda: len(written()) >= before + sent, "packets in the file")
        return sent

    options = ("-w", str(s.folder / name), "-b", f"duration:{HOUR_S // 2}")
    with s.capture(*options, wirecap=stepped_clock.command(clock)) as child:
        before = 0
        before += send(1_000)
        right_ns = newest_ns()
        stepped_clock.set_clock(clock, seconds)
        before += send(1_000)
        end = time.monotonic() + 30
        while abs(newest_ns() - right_ns - seconds * 10**9) > 120 * 10**9:  # it was measured, and packets have it
            require(time.monotonic() < end, "packets do not have the new time")
            before += send(10)
        ended = child.end()
    outcome = s.told("", ended, True)
    files = len(list(s.folder.glob("out*.pcapng")))
    require(len(written()) == outcome.delivered == before, f"{before} sent, {len(written())} written")
    require(files == wanted_files, f"{files} files")
    where = "the next file of `-b duration:` begins" if files > 1 else "in the same file of `-b duration:`"
    outcome.result = f"goes on: all is written before the end, {where}"
    return outcome


FAULTS = (memory_eaten, broker_gone, scheduler_gone, clock_back, clock_forward)
