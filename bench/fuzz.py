"""Hostile input by the hundred million: packets, capture files, flows and filters through the bounds-checked kernels,
and what Python reads of texts, files, messages and connections.

    NUMBA_BOUNDSCHECK=1 python bench/fuzz.py --cases 1e8 --minutes 60

Each worker is a process of its own that makes cases with a compiled mutator (tests/hostile_dice.py) and reads them with
the kernels; what says something new becomes a seed.  A worker that crashes, that does not come back in time or that
takes more memory than it may is a failure, and so is an index outside its array, and a filter on which libpcap, native
code and the Linux kernel do not agree.  The case is then written to a file.  Kernels get their SHARES of the cases; an
eighth of the time is for what Python reads.  ``--sum FILE`` adds to what earlier runs have put there.  ``--write`` puts
the figures into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import doc_blocks

HERE = Path(__file__).resolve().parent
SHARES = {"packets": 0.35, "files": 0.35, "flows": 0.15, "filters": 0.15}
"""Of the cases: no kernel's many easy ones stand for the others'."""
COMPILED = tuple(SHARES)
PYTHON = {
    "texts": "hostile_python", "captures": "hostile_python", "indexes": "hostile_python", "calls": "hostile_calls",
    "wireshark": "hostile_calls", "messages": "hostile_peers", "servers": "hostile_peers",
}  # fmt: skip
TARGETS = (*PYTHON, "flows", "filters", "files", "packets")
PYTHON_TIME = 1 / 8
BATCH = 51_200
PATIENCE_S, COMPILING_S = 60.0, 1800.0
"""How long a worker may say nothing, by its own processor's time: between batches of a second or less, and before the
first, when it compiles.  By the wall's it may be ten times as long, since the machine may have more to do."""
MOST_GROWTH = 256 << 20
"""Bytes by which a worker's memory may grow once it has tried its first batch."""


def target_of(name: str, seed: int) -> Any:
    sys.path.insert(0, str(HERE.parent / "tests"))
    if name == "files":
        import hostile_files

        return hostile_files.Files(seed)
    if name == "filters":
        import hostile_filters

        return hostile_filters.Filters(seed)
    if name in COMPILED:
        import hostile_packets

        return {"packets": hostile_packets.Packets, "flows": hostile_packets.Flows}[name](seed)
    return importlib.import_module(PYTHON[name]).TARGETS[name](seed)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def cpu_seconds(pid: int) -> float:
    """What a process has used so far; it may be over, but not waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def work(name: str, seconds: float, most: float, seed: int) -> int:
    """What a worker does: a line of JSON after each batch, until the time is over or there are so many cases."""
    target = target_of(name, seed)
    batch = getattr(target, "batch", BATCH)
    began, first = time.monotonic(), 0
    while True:
        failure = ""
        try:
            target.run(batch)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
            kind, data = target.at_hand()
            path = Path(f"fuzz-{name}-{seed}.bin")
            path.write_bytes(data)
            failure += f" (kind {kind}, {path})"
        if not first:  # compiled by now
            began, first = time.monotonic(), peak_bytes()
        grown = peak_bytes() - first
        if grown > MOST_GROWTH:
            failure = failure or f"its memory grew by {grown >> 20} MiB"
        cases, new = target.counts()
        said = {"target": name, "cases": cases, "new": new, "grown": grown, "failure": failure,
                "seconds": time.monotonic() - began}  # fmt: skip
        print(json.dumps(said), flush=True)
        if failure:
            return 1
        if time.monotonic() - began >= seconds or cases >= most:
            return 0


def watched(name: str, seconds: float, most: float, seed: int) -> dict[str, Any]:
    """Run a worker and watch it; what it said last, with its failure."""
    command = [sys.executable, str(Path(__file__)), "--worker", name, "--minutes", str(seconds / 60),
               "--cases", str(most), "--seed", str(seed)]  # fmt: skip
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1"}
    last: dict[str, Any] = {"target": name, "cases": 0, "new": 0, "grown": 0, "failure": "", "seconds": 0.0}
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, stdout=said, env=environment) as process:
        heard, used, size = time.monotonic(), 0.0, 0
        while process.poll() is None:
            now = os.fstat(said.fileno()).st_size
            patience = PATIENCE_S if size else COMPILING_S
            if now > size:
                size, heard, used = now, time.monotonic(), cpu_seconds(process.pid)
            elif cpu_seconds(process.pid) - used > patience or time.monotonic() - heard > 10 * patience:
                process.kill()
                last["failure"] = f"no answer in {patience:g} s of its processor's time, or ten times that"
            time.sleep(0.05)
        said.seek(0)
        lines = said.read().splitlines()
        if lines:
            last = {**json.loads(lines[-1]), "failure": last["failure"] or json.loads(lines[-1])["failure"]}
        if process.returncode and not last["failure"]:
            last["failure"] = f"exit status {process.returncode}"
    return last


def summed(results: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The results with those of earlier runs, which a file has; it is written anew."""
    before = {one["target"]: one for one in json.loads(path.read_text())} if path.exists() else {}
    for one in results:
        old = before.get(one["target"], {})
        one |= {name: one[name] + old.get(name, 0) for name in ("cases", "new", "seconds")}
        one["grown"] = max(one["grown"], old.get("grown", 0))
        one["failure"] = old.get("failure", "") or one["failure"]
        before[one["target"]] = one
    results = [before[name] for name in TARGETS if name in before]
    path.write_text(json.dumps(results))
    return results


def told(results: list[dict[str, Any]]) -> str:
    """The figures as a table."""
    total = sum(one["cases"] for one in results)
    rows = [
        [one["target"], one["cases"], f"{100 * one['cases'] / total:.2g} %" if total else "",
         round(one["cases"] / one["seconds"]) if one["seconds"] else 0, one["new"], one["grown"] >> 20,
         one["failure"] or "none"]
        for one in results
    ]  # fmt: skip
    rows.append(["in all", total, "", "", "", "", "" if failed(results) else "none"])
    return doc_blocks.table(
        ["input", "cases", "of all", "a second", "said something new", "MiB grown", "failures"], rows
    )


def failed(results: list[dict[str, Any]]) -> bool:
    return any(one["failure"] for one in results)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="in all at the most, beside compiling")
    parser.add_argument("--cases", type=float, default=float("inf"), help="of the kernels in all, such as 1e8")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--only", choices=TARGETS, action="append")
    parser.add_argument(
        "--sum", type=Path, metavar="FILE", help="add to the figures that FILE has, and keep them there"
    )
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reliability.md")
    parser.add_argument("--worker", choices=TARGETS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    seconds = args.minutes * 60
    if args.worker:
        return work(args.worker, seconds, args.cases, args.seed)
    chosen = [name for name in TARGETS if name in (args.only or TARGETS)]
    print(f"seed {args.seed}", flush=True)
    results, end, slow = [], time.monotonic() + seconds, [name for name in chosen if name in PYTHON]
    for place, name in enumerate(chosen):
        left = end - time.monotonic()
        share = SHARES.get(name, 0) * args.cases
        if name in PYTHON:
            left = seconds * (PYTHON_TIME if len(slow) < len(chosen) else 1) / len(slow)
            share = float("inf")
        results.append(watched(name, max(1, left / (1 if name in PYTHON else len(chosen) - place)), share, args.seed))
        print(json.dumps(results[-1]), flush=True)
    if args.sum:
        results = summed(results, args.sum)
    print(told(results))
    if args.write:
        said = "`python bench/fuzz.py --cases 1e8 --write`, in one run or several (`--sum`), tried"
        doc_blocks.write("reliability.md", "fuzz", f"{said}:\n\n{told(results)}")
    return 1 if failed(results) else 0


if __name__ == "__main__":
    sys.exit(main())
