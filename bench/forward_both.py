"""Forward in both directions at once: the largest rate, a share of it for a minute, and the scalability experiment.

The long run needs a quiet machine: the pool must absorb whatever else runs on its CPUs (-R 500: 0.4 s at 300,000 p/s).

    sudo .venv/bin/python bench/forward_both.py --duration 60 --options '-R 500'
    sudo .venv/bin/python bench/forward_both.py --part scale --rounds 3
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from rich.table import Table

import common
from forward import SETTLE_S, Ours, faults
from wirecap.lab import testbed
from wirecap.lab.far_end import FarEnd
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames
from wirecap.traffic.transmitter import Transmitter


def paced(
    number: int, bed: testbed.Testbed, pps: float, duration_s: float, size: int, sent: dict[int, tuple[int, float]]
) -> None:
    """Send into one direction; how many frames, and in how many seconds."""
    with LiveFrames(bed.nics[number].outside, synthetic.udp(size)) as sender:
        begin = time.monotonic()
        count = sender.send_paced(round(pps * duration_s), pps)
        sent[number] = count, time.monotonic() - begin


def evenly(
    number: int, bed: testbed.Testbed, pps: float, duration_s: float, size: int, sent: dict[int, tuple[int, float]]
) -> None:
    """``paced`` evenly over all queues: live frames only arrive on the queue of the sender's CPU."""
    nic = bed.nics[number]
    with Transmitter(nic.outside, synthetic.udp(size), range(nic.queues)) as sender:
        begin = time.monotonic()
        done = sender.send(dict.fromkeys(range(nic.queues), pps / nic.queues), duration_s)
        sent[number] = sum(done.values()) - sender.refused, time.monotonic() - begin


def both_ways(
    pps: float, duration_s: float, args: argparse.Namespace, queues: int = 1, send: Callable[..., None] = paced,
    options: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Both directions at once, ``pps`` packets per second each."""
    bed = testbed.up(common.NAME, queues=queues, nics=2)
    one, other = bed.nics
    done: dict[int, tuple[int, float]] = {}
    with ExitStack() as stack:
        ours = stack.enter_context(
            Ours(one.inside, other.inside, bed.name, None, True, *args.options.split(), *options)
        )
        counters = [stack.enter_context(FarEnd(nic.outside)) for nic in bed.nics]
        given = (bed, pps, duration_s, args.size, done)
        threads = [threading.Thread(target=send, args=(number, *given)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        meanwhile = sum(counter.packets for counter in counters)
        time.sleep(SETTLE_S)
        cpu_s = ours.stop()
        arrived = sum(counter.packets for counter in counters)
    testbed.down(common.NAME)
    sent, took_s = sum(count for count, _ in done.values()), max(seconds for _, seconds in done.values())
    return {
        "queues": queues, "pps": pps, "sent": sent, "arrived": arrived, "cpu_s": cpu_s, "took_s": took_s,
        "meanwhile": meanwhile, "forwarded_pps": meanwhile / took_s,
        "drops": ours.summary["packets"]["drops"], "failed": faults(ours.summary, sent, arrived),
    }  # fmt: skip


def both(args: argparse.Namespace) -> dict[str, Any]:
    """Find the maximum in both directions at once, by bisection; then run at a share of it for a long time.

    A rate is sustained if nothing is lost and the pool does not hide that: at the end little is left in it.
    """
    low, high, best = 0.0, args.most_pps, 0.0
    while high - low > 0.04 * args.most_pps:
        middle = (low + high) / 2
        run = both_ways(middle, 3.0, args)
        kept = run["arrived"] == run["sent"] and run["meanwhile"] >= 0.995 * run["sent"]
        low, high = (middle, high) if kept else (low, middle)
        reached = run["sent"] / 2 / run["took_s"]  # on a busy machine the sender is slower than asked
        best = max(best, reached) if kept else best
        how = "kept up" if kept else f"{run['sent'] - run['meanwhile']} late, {run['sent'] - run['arrived']} lost"
        common.console.print(f"{middle:,.0f} p/s each way, {reached:,.0f} reached: {how} {run['drops']}")
    run = both_ways(args.share * best, args.duration, args)
    lost = run["sent"] - run["arrived"]
    common.console.print(
        f"maximum {best:,.0f} p/s each way; at {args.share:.0%} of it for {args.duration:g} s: {run['sent']:,} sent,"
        f" {lost} lost {run['drops']}"
    )
    return {"maximum_pps": best, "run": run, "failed": run["failed"] + ([f"{lost} lost"] if lost else [])}


def scale(args: argparse.Namespace) -> dict[str, Any]:
    """The paper's scalability experiment: two NICs, both directions, 1 to 6 queues, frames of 64 and 100 bytes.

    Offered is what the generators sent, evenly over all queues; forwarded is what arrived at both far ends meanwhile.
    """
    columns = ["frame bytes", "queues per NIC", "offered Mp/s", "forwarded Mp/s", "CPU s", "dropped %", "drops"]
    table = Table(title=f"both directions at once, advanced mode, {args.rounds} rounds", title_justify="left")
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "drops" else "right")
    rows = []
    for size in map(int, args.sizes.split(",")):
        for queues in map(int, args.queues.split(",")):
            args.size = size - 4  # frames are counted with their check sequence
            shape = (queues, evenly, ("--mode", "advanced"))
            runs = [both_ways(args.scale_pps, args.seconds, args, *shape) for _ in range(args.rounds)]
            drops = {name: sum(run["drops"].get(name, 0) for run in runs) for run in runs for name in run["drops"]}
            table.add_row(
                str(size), str(queues), common.spread(run["sent"] / run["took_s"] / 1e6 for run in runs),
                common.spread(run["forwarded_pps"] / 1e6 for run in runs),
                common.spread((run["cpu_s"] for run in runs), "{:.1f}"),
                common.spread((100 * (1 - run["arrived"] / run["sent"]) for run in runs), "{:.1f}"),
                ", ".join(f"{name} {count}" for name, count in drops.items()),
            )  # fmt: skip
            rows.append({"size": size, "queues": queues, "rounds": runs})
    common.console.print(table)
    return {"rows": rows, "failed": [fault for row in rows for run in row["rounds"] for fault in run["failed"]]}


PARTS = {"both": both, "scale": scale}


def main() -> None:
    parser = common.options(__doc__.splitlines()[0], 0, 1)
    parser.add_argument("--part", choices=PARTS, default="both", help="which measurement to run")
    parser.add_argument("--duration", type=float, default=60, help="seconds of the long run")
    parser.add_argument("--share", type=float, default=0.9, help="share of the maximum found")
    parser.add_argument(
        "--most-pps", type=float, default=600_000, help="search up to this many packets per second each way"
    )
    parser.add_argument("--sizes", default="64,100", help="scale: bytes per frame, including the check sequence")
    parser.add_argument("--queues", default="1,2,3,4,5,6", help="scale: queues per NIC")
    parser.add_argument("--scale-pps", type=float, default=250_000, help="scale: packets per second each way")
    parser.add_argument("--seconds", type=float, default=2.0, help="scale: seconds per run")
    parser.add_argument("--options", default="", help="more options for wirecap forward")
    common.main(lambda args: PARTS[args.part](args), parser)


if __name__ == "__main__":
    main()
