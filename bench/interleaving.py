"""Every schedule of a few threads, for all that the kernels share without locks, at the sizes that take minutes.

Then every change of one access in those kernels (a fence left out, a plain store, two statements swapped): the ones
that matter must be found, the others must harm nobody.  The tables go into docs/reliability.md with --write.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import doc_blocks

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from interleaving import mutations, scenarios
from interleaving.explorer import FoundError

SIZES: list[tuple[str, str, dict[str, int]]] = [
    ("work queue: 2 producers, 1 consumer", "queue", {"producers": 2, "each": 1}),
    ("work queue: 1 producer with 3 slots, 1 consumer", "queue", {"producers": 1, "each": 3, "places": 4}),
    ("work-queue pair: 2 chunks, 2 slots, 1 handler", "pair", {"handlers": 1, "chunks": 2, "slots": 2}),
    ("work-queue pair: 3 chunks through 1 slot, 1 handler", "pair", {"handlers": 1, "chunks": 3, "slots": 1}),
    ("recycle: 3 threads with one chunk, 1 with none", "double_recycle", {"threads": 3, "strays": 1}),
    ("returned cells: 2 senders, 2 cells each", "returned_cells", {"givers": 2, "cells": 2}),
    ("returned cells: 2 senders, 1 cell each, twice", "returned_cells", {"givers": 2, "cells": 1, "rounds": 2}),
    ("wires' lock: 2 threads, 4 times", "wire_lock", {"threads": 2, "rounds": 4}),
    ("wires' lock: 3 threads, once", "wire_lock", {"threads": 3, "rounds": 1}),
    ("merge: arrived and waiting, 3 blocks, 3 looks", "merge_idle", {"blocks": 3, "packets": 2, "looks": 3}),
    ("exchange of hot cells: 7 packets", "hot_cells", {"packets": 7}),
    ("exchange of hot cells: 8 packets, shown by twos", "hot_cells", {"packets": 8, "unpublished": 2}),
    ("stop: 2 chunks, 1 consumer", "stop", {"chunks": 2}),
]


def explored() -> list[tuple[Any, ...]]:
    rows = []
    for text, name, size in SIZES:
        start = time.process_time()
        found = getattr(scenarios, name)(**size)
        rows.append((text, f"{found.schedules:.2g}" if found.schedules >= 10**6 else found.schedules, found.states))
        print(f"{text}: {found.schedules:.3g} schedules, {found.states:,} states, {time.process_time() - start:.1f} s")
    return rows


def changed() -> tuple[list[tuple[Any, ...]], list[str]]:
    """(a row for each kernel: changes, found, harmless), and what is wrong."""
    made, found, wrong = Counter[str](), Counter[str](), []
    for scenario, size, mutant in mutations.all_mutants():
        made[mutant.function] += 1
        try:
            scenario(mutant, **size)
        except FoundError as problem:
            found[mutant.function] += 1
            print(f"found    {mutant}: {str(problem).splitlines()[0]}")
            if mutations.reason(mutant):
                wrong.append(f"{mutant} is said to be harmless")
        else:
            print(f"harmless {mutant}: {mutations.reason(mutant)}")
            if not mutations.reason(mutant):
                wrong.append(f"{mutant} is not found")
    rows = [(f"`{name}`", count, found[name], count - found[name]) for name, count in made.items()]
    return [*rows, ("together", made.total(), found.total(), made.total() - found.total())], wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/reliability.md")
    arguments = parser.parse_args()
    schedules = explored()
    changes, wrong = changed()
    for line in wrong:
        print(f"WRONG: {line}")
    if arguments.write and not wrong:
        heads = ("what, and how much of it", "schedules", "states")
        doc_blocks.write("reliability.md", "schedules", doc_blocks.table(heads, schedules))
        heads = ("kernel", "changes", "found", "harmless, with a reason")
        doc_blocks.write("reliability.md", "changes", doc_blocks.table(heads, changes))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
