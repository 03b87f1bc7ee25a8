"""A sending thread that is to be on time: its sleeps end when they should, and it comes before others."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from wirecap.linux import syscall

_PR_SET_TIMERSLACK = 29  # linux/prctl.h
_MOST_BUSY = 0.9
"""Share of a CPU above which a thread is not preferred: it would starve others, and the kernel holds real-time
threads that never sleep up for 50 ms in each second (sched_rt_runtime_us)."""


class Punctual:
    """The calling thread: timer slack 1 ns instead of 50 us, SCHED_FIFO while it mostly sleeps (where allowed)."""

    def __enter__(self) -> Punctual:
        syscall.libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)
        self._preferred = prefer(True)
        self._wall, self._busy = time.monotonic(), time.thread_time()
        return self

    def adapt(self) -> None:
        """Between two pieces of work: be preferred or not, by how busy the thread was."""
        wall, busy = time.monotonic(), time.thread_time()
        if wall - self._wall < 0.005:
            return
        idle = (busy - self._busy) / (wall - self._wall) < _MOST_BUSY
        self._wall, self._busy = wall, busy
        if idle != self._preferred:
            self._preferred = prefer(idle) and idle

    def __exit__(self, *_: object) -> None:
        prefer(False)
        syscall.libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(0), 0, 0, 0)


@contextmanager
def first_in_line() -> Iterator[None]:
    """The calling thread before others; it sleeps between bursts, so that they get their time."""
    prefer(True)
    try:
        yield
    finally:
        prefer(False)


def prefer(wanted: bool) -> bool:
    """SCHED_FIFO or the normal policy for the calling thread; False where the system does not allow it."""
    policy, priority = (os.SCHED_FIFO, 1) if wanted else (os.SCHED_OTHER, 0)
    try:
        os.sched_setscheduler(0, policy, os.sched_param(priority))
    except PermissionError:  # no CAP_SYS_NICE
        return False
    return True
