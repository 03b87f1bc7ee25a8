"""A long capture at full speed, with everything attached: nothing grows, no counter wraps, timestamps do not drift.

Advanced mode, a writer with retention and an index, metrics that are read, and ``wirecap top`` beside it.  The counters
of packets and cells begin just below 2^32 or 2^63 if asked, so that a short run crosses what a long one would.

    sudo .venv/bin/python bench/soak.py --minutes 60
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common
import doc_blocks
from wirecap.files.index import Index, StaleError
from wirecap.files.rotation import INDEX_SUFFIX
from wirecap.lab import process, testbed
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

NAME = f"{common.PREFIX}{os.getpid()}s"
GROWTH = 1.05
"""Memory at the end may be that of the middle times this: caches fill, a leak goes on."""
FEWEST, MANY = 8, 100
"""Samples for a judgement: however short it is, and however busy the machine, a run goes on until it has the fewest."""
TURNING = 2
"""Where a file has ended and the next has not begun, so many threads and descriptors are missing for a moment: of few
samples such a moment may be the typical one, of many it is not."""
DRIFT_S, JUDGED_S, AHEAD_S = 0.25, 300.0, 0.05
"""Timestamps may move so far against the clock of the file system, in a run of at least so long; and be ahead of it."""
PRESET = (
    "import sys; from wirecap.source import rings as r; from wirecap.kernels.pool import pool as k\n"
    "from wirecap.kernels.xdp import rings as x; from wirecap.kernels.pool import large\n"
    "first = int(sys.argv.pop(1)); equip = r.equip_queue\n"
    "def near(pool, rings, queue, fill, rx, fd, ledger, *more):\n"
    "    equip(pool, rings, queue, fill, rx, fd, ledger, *more)\n"
    "    words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]\n"
    "    for word in (k.TAKEN, x.SUBMITTED, x.FRESH, x.DISPUTED, x.DISPUTED_END, large.MORE_CELLS):\n"
    "        words[word] += first\n"
    "    rings.ledger[ledger + x.ADMITTED] += first; rings.ledger[ledger + x.OFFERED] += first\n"
    "import wirecap.source.xdp as s; s.equip_queue = near\n"
    "import wirecap.__main__ as m; m.main()\n"
)
"""``wirecap`` whose cells are numbered from a multiple of 2^32 on: a ring's own indices, of 32 bits, begin at 0."""


@dataclass
class Sample:
    """at_s: since the start; rss: KiB; received: by the metrics, packets; lag_s: from the last packet of the newest
    file that is complete to when the file was."""

    at_s: float
    rss: int
    descriptors: int
    threads: int
    received: int
    lag_s: float | None = None


def lag(folder: Path) -> float | None:
    """How long after the last packet's timestamp the newest file with an index was complete, by the file's own time."""
    for path in sorted(folder.glob(f"*{INDEX_SUFFIX}"), key=lambda each: each.name.split("_")[-2:], reverse=True):
        capture = Path(str(path).removesuffix(INDEX_SUFFIX))
        try:
            return (capture.stat().st_mtime_ns - Index(str(capture)).last_ns) / 1e9
        except (OSError, StaleError):  # not complete, or removed to make room
            continue
    return None


def look(pid: int, port: int, begun: float, folder: Path) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text()
    words = dict(line.split(":", 1) for line in status.splitlines())
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("wirecap_received_packets")]
    received = sum(float(line.split()[-1]) for line in lines)
    return Sample(
        time.monotonic() - begun, int(words["VmRSS"].split()[0]), sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        int(words["Threads"]), int(received), lag(folder),
    )  # fmt: skip


def wait_for_metrics(port: int) -> None:
    """They are served a moment after packets are captured."""
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=30).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def send(outside: str, end: threading.Event, sent: list[int], cpu: int) -> None:
    with LiveFrames(outside, synthetic.udp(60), cpu=cpu) as sender:
        while not end.is_set():
            sent[0] += sender.send(1_000_000)


def soak(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    nic = testbed.up(NAME, queues=2).nics[0]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    summary = folder / "summary.json"
    first = {"0": 0, "2^32": (1 << 32) * 3, "2^63": (1 << 63) - (1 << 40)}[args.near]
    command = [sys.executable, "-P", "-c", PRESET, str(first), "capture", "--netns", NAME, "-i", nic.inside,
               "--mode", "advanced", "-w", str(folder / "out.pcapng"), "--per-queue", "-b", "filesize:50000",
               "--limit", "400M", "--index", "--metrics", f"127.0.0.1:{port}", "--summary-json", str(summary),
               "-s", "60"]  # fmt: skip
    end, sent = threading.Event(), [0]
    samples: list[Sample] = []
    with process.Child(command) as child, process.Child([*common.WIRECAP, "top"], terminal=True) as top:
        child.wait_for(common.READY, 180)
        wait_for_metrics(port)
        begun = time.monotonic()
        sending = threading.Thread(target=send, args=(nic.outside, end, sent, args.sender_cpu))
        sending.start()
        try:
            while (time.monotonic() - begun < args.minutes * 60 and sent[0] < args.packets) or len(samples) < FEWEST:
                time.sleep(args.every)
                with contextlib.suppress(TimeoutError):  # of a machine that has much else to do: one sample less
                    samples.append(look(child.pid, port, begun, folder))
                    print(samples[-1], file=sys.stderr, flush=True)
        finally:
            end.set()
            sending.join()
        common.settle(nic.inside, NAME)
        watched = top.running
        ended = child.end(timeout_s=300)
    if ended.status:
        return {"samples": [], "failed": [f"the capture ended with status {ended.status}: {ended.output[-400:]}"]}
    told = json.loads(summary.read_text())
    return {"sent": sent[0], "packets": told["packets"], "samples": [asdict(each) for each in samples],
            "failed": judge(samples, told, sent[0]) + ([] if watched else ["wirecap top ended"])}  # fmt: skip


def judge(samples: list[Sample], told: dict[str, Any], sent: int) -> list[str]:
    """What grew, went backwards or does not add up."""
    packets, failed = told["packets"], common.contradictions(told, sent)
    if len(samples) < FEWEST:
        return [*failed, f"too short for a judgement: fewer than {FEWEST} samples"]
    half = samples[len(samples) // 4 :]
    early, late = half[: len(half) // 2], half[len(half) // 2 :]
    for name in ("rss", "descriptors", "threads"):
        before, after = (statistics.median(getattr(each, name) for each in part) for part in (early, late))
        if after > before * GROWTH + (TURNING if name != "rss" and len(samples) < MANY else 0):
            failed.append(f"{name} grew from {before:g} to {after:g}")
    failed += drifted(early, late)
    counts = [each.received for each in samples]
    if counts != sorted(counts) or counts[-1] > packets["received"]:
        failed.append(f"the packets received went backwards: {counts}")
    if min(packets["received"], packets["delivered"], *packets["drops"].values(), 0) < 0:
        failed.append(f"a counter wrapped: {packets}")
    return failed


def least_lags(early: list[Sample], late: list[Sample]) -> tuple[float, float] | None:
    """Writing takes its time, now more and now less: the least of it says how timestamps and files' times differ."""
    before, after = ([each.lag_s for each in part if each.lag_s is not None] for part in (early, late))
    return (min(before), min(after)) if before and after else None


def drifted(early: list[Sample], late: list[Sample]) -> list[str]:
    """What of the timestamps moved."""
    least, judged = least_lags(early, late), late[-1].at_s > JUDGED_S
    if not least:
        return ["no file was complete"] if judged else []
    failed = [f"timestamps are {-min(least):.3f} s ahead"] if min(least) < -AHEAD_S else []
    if judged and abs(least[1] - least[0]) > DRIFT_S:
        failed.append(f"timestamps drift: files were complete {least[0]:.3f} s after them, then {least[1]:.3f} s")
    return failed


def written(args: argparse.Namespace, found: dict[str, Any]) -> str:
    """The figures, as a sentence for docs/reliability.md."""
    samples, packets = [Sample(**each) for each in found["samples"]], found["packets"]
    middle, last = samples[len(samples) // 2], samples[-1]
    half = len(samples) // 2
    lags = least_lags(samples[:half], samples[half:])
    stamps = "" if lags is None else (
        f" The newest file was complete {lags[0] * 1000:.0f} ms after its last timestamp at best in the first half,"
        f" {lags[1] * 1000:.0f} ms in the second, by the file system's clock."
    )  # fmt: skip
    lost = ", ".join(f"{count:,} lost as `{name}`" for name, count in packets["drops"].items() if count) or "none lost"
    return (
        f"The last run, with cells numbered from {args.near} on: {last.at_s / 60:.1f} minutes,"
        f" {packets['received']:,} packets, {packets['delivered']:,} of them delivered, {lost};"
        f" {middle.rss >> 10} MiB of memory, {middle.descriptors} descriptors and {middle.threads} threads in"
        f" the middle, {last.rss >> 10}, {last.descriptors} and {last.threads} at the end."
        f"{stamps} The machine had"
        f" {os.cpu_count()} CPUs, which the sender shared with the capture."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--packets", type=float, default=1e10, help="end after so many, if that is sooner")
    parser.add_argument("--every", type=float, default=10, metavar="SECONDS", help="from one sample to the next")
    parser.add_argument("--near", choices=("0", "2^32", "2^63"), default="0", help="where cells are numbered from")
    parser.add_argument("--sender-cpu", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for the files")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reliability.md")
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="wirecap-soak-", dir=args.folder) as folder:
            found = soak(args, Path(folder))
    finally:
        testbed.down(NAME)
    if args.json:
        args.json.write_text(json.dumps(found))
    if args.write and found["samples"] and not found["failed"]:
        doc_blocks.write("reliability.md", "soak", written(args, found))
    for each in found["samples"][:: max(1, len(found["samples"]) // 20)]:
        print({name: round(value, 1) for name, value in each.items() if value is not None})
    print({name: found.get(name) for name in ("sent", "packets")})
    for line in found["failed"]:
        print(f"FAILED: {line}")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
