"""Whether the threads that take packets from the source still do, as the kernel and the pool see it.

Every loop of a capture thread either takes packets, which the pool counts, or waits for some, for 0.1 s at most, which
the kernel counts as a voluntary switch to another thread.  A thread that hangs does neither, wherever it hangs: in a
loop that has no end, in a system call that does not return, or because it gets no processor.  The loops pay nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from wirecap.engine.engine import Engine
from wirecap.kernels.pool import pool as k


class Mark(NamedTuple):
    """How far a thread has come: voluntary switches, packets taken from its queues."""

    switches: int
    taken: int


class Turning:
    """Asked now and then, says whether all capture threads have turned since it was asked before."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._before = self._marks()

    def __call__(self) -> bool:
        """Always true of a source that is not live: who reads a pipe may wait for long."""
        before, self._before = self._before, self._marks()
        if not self._engine.source.live:
            return True
        return all(mark != before.get(thread) for thread, mark in self._before.items())

    def _marks(self) -> dict[int, Mark]:
        taken = self._engine.pool.queues[k.TAKEN :: k.QUEUE_WORDS]
        return {thread: Mark(_switches(thread), int(taken[mine].sum())) for thread, mine in self._engine.taking()}


def _switches(thread: int) -> int:
    """Voluntary context switches of a thread of this process, as proc_pid_status(5) has them; -1 if it has ended."""
    try:
        status = Path(f"/proc/self/task/{thread}/status").read_text()
    except OSError:
        return -1
    found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status, re.MULTILINE)
    return int(found[1]) if found else -1
