"""How long a user waits: for --help, Wireshark's list, an interface's facts, a small file, and until a capture runs.

The last three are measured against ``python -c 'import numpy, click'`` in the same rounds: what is above it is ours.
Kernels and filters are compiled before, by a round that does not count.  Then the first run of all is measured, with
nothing compiled before: from a wheel with object code, whose making here takes a minute, and from a clone.

sudo .venv/bin/python bench/startup.py
"""

from __future__ import annotations

import argparse
import compileall
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from rich.table import Table

import common
from wirecap.errors import WirecapError
from wirecap.files.headers import pcap_header
from wirecap.kernels.base import shipped
from wirecap.lab import testbed
from wirecap.lab.process import run
from wirecap.linux import af_xdp, netlink, netns

PACKETS = 200
BASE = "import numpy, click"
ROOT = Path(__file__).parents[1]
WHEEL, CLONE = "first of a wheel: ", "first of a clone: "
READ, FILTERED, LIVE = "capture -r", "capture -r -f 'port 53'", "capturing on"
MEMORY = "its packet memory"
POOL_BYTES = 100 * 256 * 2048
"""Of each queue, by default."""
LIMITS_S = {"--help": 0.2, "extcap interfaces": 0.2, "extcap dialog": 0.2, "an interface's facts": 0.05,
            WHEEL + READ: 3, WHEEL + FILTERED: 3, WHEEL + LIVE: 3, CLONE + READ: 3}  # fmt: skip
LIMITS_ABOVE_S = {READ: 0.1, FILTERED: 0.1, LIVE: 0.25}
"""Seconds above the base."""


def timed(command: list[str], expected: str) -> float:
    begin = time.monotonic()
    ended = run(command)
    taken = time.monotonic() - begin
    if ended.status or expected not in ended.output:
        raise WirecapError(f"{' '.join(command)} exited with status {ended.status}: {ended.output.strip()[-200:]}")
    return taken


def facts_s(args: argparse.Namespace) -> float:
    """Once pyroute2 is imported."""
    nic = testbed.up(common.NAME, queues=args.queues).nics[0]
    begin = time.monotonic()
    netns.call(common.NAME, netlink.interface, nic.inside)
    return time.monotonic() - begin


def live_s(args: argparse.Namespace) -> float:
    nic = testbed.up(common.NAME, queues=args.queues).nics[0]
    with common.Ours(nic.inside, common.NAME) as capture:
        capture.stop()
        return capture.ready_s


def memory_s(queues: int) -> float:
    """What the kernel takes to provide the pools' memory, which is part of the live capture: it varies by host."""
    begin = time.monotonic()
    af_xdp.cells(queues * POOL_BYTES).fill(1)
    return time.monotonic() - begin


def small_file(path: Path) -> None:
    """Packets of 60 bytes, whose content does not matter."""
    record = np.array([1, 0, 60, 60], "<u4").tobytes() + bytes(60)
    path.write_bytes(pcap_header(65535) + PACKETS * record)


def object_code(folder: Path) -> Path:
    """Object code for the best level of this processor."""
    has = shipped.features()
    fitting = [level for level, needed in shipped.LEVELS.get(os.uname().machine, {}).items() if needed <= has]
    if not fitting:
        raise WirecapError("no object code is made for this processor")
    script = [sys.executable, str(ROOT / ".ci/object_code.py"), str(folder / "code"), fitting[0]]
    subprocess.run(script, check=True, timeout=900)
    return folder / "code"


def unpacked_wheel(code: Path, folder: Path) -> Path:
    """A wheel's content, with object code."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    wanted = os.environ | {"WIRECAP_OBJECT_CODE": str(code)}
    subprocess.run(build, check=True, cwd=ROOT, env=wanted, timeout=60, stderr=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "wheel")
    compileall.compile_dir(folder / "wheel", quiet=1)  # as pip does
    return folder / "wheel"


@contextmanager
def new_machine(package: str) -> Iterator[Path]:
    """What is started within finds a package, and an empty cache, the folder that this gives."""
    with (
        tempfile.TemporaryDirectory() as cache,
        patch.dict(os.environ, {"PYTHONPATH": package, "WIRECAP_CACHE_DIR": cache}),
    ):
        yield Path(cache)


def first_runs(args: argparse.Namespace, folder: Path, steps: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """The seconds of each step when nothing is compiled."""
    taken: dict[str, list[float]] = {}
    packages = {WHEEL: str(unpacked_wheel(args.code or object_code(folder), folder)), CLONE: str(ROOT / "src")}
    for _ in range(args.first_rounds):
        for where, package in packages.items():
            for what, step in steps.items():
                with new_machine(package) as cache:
                    taken.setdefault(where + what, []).append(step())
                    if where == WHEEL and any(cache.glob("*/*.code")):
                        raise WirecapError("the wheel's object code does not fit: it was made of other kernels")
    return taken


def body(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "small.pcap")
        small_file(file)
        read = [*common.WIRECAP, "capture", "-r", str(file)]
        extcap = [sys.executable, "-P", "-m", "wirecap.extcap"]
        counted = f"{PACKETS} packets read"
        steps: dict[str, Callable[[], float]] = {
            BASE: lambda: timed([sys.executable, "-c", BASE], ""),
            "--help": lambda: timed([*common.WIRECAP, "--help"], "capture"),
            # what Wireshark asks at its start: once for the interfaces, then for the dialog of each
            "extcap interfaces": lambda: timed([*extcap, "--extcap-interfaces"], "="),
            "extcap dialog": lambda: timed([*extcap, "--extcap-config", "--extcap-interface", "wirecap-lo"], "="),
            "an interface's facts": lambda: facts_s(args),
            READ: lambda: timed(read, counted),
            FILTERED: lambda: timed([*read, "-f", "port 53"], counted),
            MEMORY: lambda: memory_s(args.queues),
            LIVE: lambda: live_s(args),
        }
        for step in steps.values():
            step()
        rounds = [{what: step() for what, step in steps.items()} for _ in range(args.rounds)]
        taken = {what: [one[what] for one in rounds] for what in steps}
        taken |= first_runs(args, Path(folder), {what: steps[what] for what in (READ, FILTERED, LIVE)})
    base = statistics.median(taken[BASE])
    table = Table(title=f"start-up, {args.rounds} rounds", title_justify="left")
    for heading in ("what", "seconds: median (least-most)", "above the base", "limit"):
        table.add_column(heading)
    failed = []
    for what, values in taken.items():
        above = statistics.median(values) - base
        limit = LIMITS_S.get(what) or LIMITS_ABOVE_S.get(what)
        shown = f"{above:.3f}" if what in LIMITS_ABOVE_S else ""
        table.add_row(what, common.spread(values, "{:.3f}"), shown, f"{limit} s" if limit else "")
        seconds = above if what in LIMITS_ABOVE_S else statistics.median(values)
        if limit and seconds > limit:
            failed.append(f"{what}: {seconds:.3f} s, not {limit} s")
    common.console.print(table)
    return {"seconds": taken, "limits": LIMITS_S, "limits_above_base": LIMITS_ABOVE_S, "failed": failed}


parser = common.options(__doc__.splitlines()[0], 0, 9)
parser.add_argument("--first-rounds", type=int, default=3, help="rounds with nothing compiled before")
parser.add_argument("--code", type=Path, metavar="DIR", help="object code that .ci/object_code.py made")
parser.add_argument("--queues", type=int, default=4)
common.main(body, parser)
