"""How long a user waits: for --help, and until a warm capture is ready.

sudo .venv/bin/python bench/startup.py
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from rich.table import Table

import common
from wirecap.errors import WirecapError
from wirecap.lab import testbed
from wirecap.lab.process import run

LIMITS_S = {"--help": 0.2, "capture ready": 1.5}


def help_s() -> float:
    begin = time.monotonic()
    ended = run([*common.WIRECAP, "--help"])
    taken = time.monotonic() - begin
    if ended.status or "capture" not in ended.output:
        raise WirecapError(f"wirecap --help ended with status {ended.status}")
    return taken


def ready_s(args: argparse.Namespace) -> float:
    nic = testbed.up(common.NAME, queues=args.queues).nics[0]
    with common.Ours(nic.inside, common.NAME) as capture:
        capture.stop()
        return capture.ready_s


def body(args: argparse.Namespace) -> dict[str, Any]:
    taken = {
        "--help": [help_s() for _ in range(args.rounds)],
        "capture ready": [ready_s(args) for _ in range(args.rounds)],
    }
    table = Table(title=f"start-up, {args.rounds} rounds", title_justify="left")
    for heading in ("command", "seconds: median (least-most)", "limit"):
        table.add_column(heading)
    for what, values in taken.items():
        table.add_row(what, common.spread(values, "{:.3f}"), f"{LIMITS_S[what]} s")
    common.console.print(table)
    late = [f"{what}: best of {len(v)} is {min(v):.3f} s" for what, v in taken.items() if min(v) > LIMITS_S[what]]
    return {"seconds": taken, "limits": LIMITS_S, "failed": late}


parser = common.options(__doc__.splitlines()[0], 0, 5)
parser.add_argument("--queues", type=int, default=4)
common.main(body, parser)
