"""Twice the packets that can be handled, for ten minutes: what is lost has a name, what is delivered is not late, and
a moment later nothing is lost any more.

A consumer takes so many packets a second from a small pool, and is sent twice as many.  A packet waits behind at most
those that the pool has room for, so what is delivered took no longer than these take.

    sudo .venv/bin/python bench/overload.py --write
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import common
import doc_blocks
import wirecap
from wirecap.errors import WirecapError
from wirecap.lab import process, testbed
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

M, R = 256, 20
CELLS = M * R
NAMED = ("pool_exhausted", "capture_late")
"""Drops for want of a cell: because the consumer has not given it back, or because the capture thread had no CPU."""
AFTERWARDS = 1000
"""Packets that are sent at once when the overload is over for so long; the pool holds them."""
RECOVERED_S = 1.0
FIRST_NS, LAST_NS, PACKETS, TAKEN_NS = range(4)
"""Of a chunk: its packets' times, how many they are, and when the consumer got it."""

Chunks = NDArray[np.int64]


def consume(interface: str, namespace: str, rate: str, folder: str) -> None:
    """Another process: take at most so many packets a second until SIGINT; leave the chunks and the summary behind."""
    found = []
    with wirecap.open(interface, netns=namespace, M=M, R=R) as capture:
        print("ready", flush=True)
        signal.signal(signal.SIGINT, lambda *_: capture.stop())
        due = time.monotonic()
        for chunk in capture:
            now_ns, now, stamps = time.time_ns(), time.monotonic(), chunk.timestamps
            found.append((int(stamps[0]), int(stamps[-1]), len(stamps), now_ns))
            due = max(due, now) + len(stamps) / float(rate)
            time.sleep(max(0.0, due - time.monotonic()))
    np.save(f"{folder}/chunks.npy", np.array(found, np.int64).reshape(-1, 4))
    Path(folder, "summary.json").write_text(json.dumps(capture.summary()))


def overload(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    nic = testbed.up(common.NAME, queues=1).nics[0]
    command = [sys.executable, __file__, "--consume", nic.inside, common.NAME, str(args.rate), str(folder)]
    with process.Child(command) as child, LiveFrames(nic.outside, synthetic.udp(60)) as sender:
        child.wait_for("^ready", 180)
        begun_ns = time.time_ns()
        in_10_ms = 2 * args.rate // 100
        sent = sender.send_paced(round(2 * args.rate * args.seconds), 2 * args.rate, in_10_ms)
        over_ns = time.time_ns()
        time.sleep(args.recovery)
        later_ns = time.time_ns()
        later = 0
        while later < AFTERWARDS:  # what the veth's own queue has no room for is not taken
            later += sender.send(AFTERWARDS - later)
        time.sleep(1)
        ended = child.end(timeout_s=120)
    if ended.status:
        raise WirecapError(f"the capture ended with status {ended.status}: {ended.output[-400:]}")
    told = json.loads((folder / "summary.json").read_text())
    chunks = np.load(folder / "chunks.npy")
    found = {
        "seconds": (over_ns - begun_ns) / 1e9, "sent": sent, "packets": told["packets"],
        "delivered_later": int(chunks[chunks[:, FIRST_NS] >= later_ns, PACKETS].sum()),
        **waits(chunks, begun_ns, over_ns),
    }  # fmt: skip
    return {**found, "failed": [*common.contradictions(told, sent + later), *judge(found, args.recovery)]}


def waits(chunks: Chunks, begun_ns: int, over_ns: int) -> dict[str, Any]:
    """How long packets waited for the consumer, and behind how many; when the last that came in time was taken."""
    packets, took_ns = chunks[:, PACKETS], chunks[:, TAKEN_NS] - chunks[:, FIRST_NS]
    order = np.argsort(took_ns)
    share = np.cumsum(packets[order]) / max(1, packets.sum())
    p50, p99 = (int(took_ns[order[min(np.searchsorted(share, each), len(order) - 1)]]) for each in (0.5, 0.99))
    done = np.concatenate(([0], np.cumsum(packets)))
    before = np.searchsorted(chunks[:, TAKEN_NS], chunks[:, FIRST_NS])
    during = chunks[chunks[:, FIRST_NS] <= over_ns]
    seconds = np.bincount((during[:, TAKEN_NS] - begun_ns) // 1_000_000_000, during[:, PACKETS])[1:-1]
    return {
        "p50_s": p50 / 1e9, "p99_s": p99 / 1e9, "longest_s": int(took_ns.max()) / 1e9,
        "most_ahead": int((done[:-1] - done[before]).max()),
        "recovery_s": max(0.0, (int(during[-1, TAKEN_NS]) - over_ns) / 1e9),
        "slowest_pps": float(seconds.min()) if len(seconds) else None,
    }  # fmt: skip


def judge(found: dict[str, Any], recovery_s: float) -> list[str]:
    """What was promised and did not come true."""
    drops = {name: count for name, count in found["packets"]["drops"].items() if count}
    failed = [f"lost as {name}: {count}" for name, count in drops.items() if name not in NAMED]
    if not drops:
        failed.append("nothing was lost: that is no overload")
    if found["most_ahead"] > CELLS + M:  # and the chunk that is being taken
        failed.append(f"a packet waited behind {found['most_ahead']}, but the pool holds {CELLS}")
    if found["recovery_s"] > recovery_s:
        failed.append(f"packets still waited after {found['recovery_s']:.2f} s")
    if found["delivered_later"] != AFTERWARDS:
        failed.append(f"later {AFTERWARDS} were sent, and {found['delivered_later']} delivered: it does not recover")
    return failed


def written(args: argparse.Namespace, found: dict[str, Any]) -> str:
    """The figures, as a sentence for docs/reliability.md."""
    packets = found["packets"]
    lost = ", ".join(f"{count:,} lost as `{name}`" for name, count in packets["drops"].items() if count)
    return (
        f"The last run: a consumer that takes at most {args.rate:,} packets a second was sent"
        f" {found['sent'] / found['seconds']:,.0f} a second for {found['seconds'] / 60:.1f} minutes. Of"
        f" {packets['received']:,} packets {packets['delivered']:,}"
        f" were delivered, {lost}. A packet waited behind {found['most_ahead']:,} others at most, of"
        f" {CELLS:,} that the pool holds; that took {found['p50_s'] * 1000:.0f} ms for half of them, at most"
        f" {found['p99_s'] * 1000:.0f} ms for 99 of 100 and {found['longest_s'] * 1000:.0f} ms for each."
        f" {found['recovery_s'] * 1000:.0f} ms after the overload none was waiting any more, and {AFTERWARDS:,} packets"
        f" at once, {args.recovery:g} s after it, were all delivered."
    )


def main() -> int:
    if sys.argv[1:2] == ["--consume"]:
        consume(*sys.argv[2:6])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=int, default=20_000, help="packets per second that the consumer takes")
    parser.add_argument("--recovery", type=float, default=RECOVERED_S, metavar="SECONDS", help="how long that may take")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reliability.md")
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="wirecap-overload-") as folder:
            found = overload(args, Path(folder))
    finally:
        testbed.down(common.NAME)
    if args.json:
        args.json.write_text(json.dumps(found))
    if args.write and not found["failed"]:
        doc_blocks.write("reliability.md", "overload", written(args, found))
    print(written(args, found))
    for line in found["failed"]:
        print(f"FAILED: {line}")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
