"""Threads that remember why they ended, and which CPU they run on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

from wirecap.errors import UsageError
from wirecap.linux import syscall

PR_SET_NAME = 15  # linux/prctl.h


class Worker(threading.Thread):
    """A daemon thread; an exception ends it and is kept in ``failure``.  ended: called when it is over."""

    def __init__(self, name: str, run: Callable[[], None], ended: Callable[[], None]) -> None:
        super().__init__(name=f"wirecap {name}", daemon=True)
        self._work, self._ended = run, ended
        self._over = False
        self.failure: BaseException | None = None

    @property
    def is_working(self) -> bool:
        """Whether it has begun and is not over; the thread itself lives for a moment longer."""
        return self.is_alive() and not self._over

    def run(self) -> None:
        set_name(self.name)
        try:
            self._work()
        except BaseException as error:
            self.failure = error
        finally:
            self._over = True
            self._ended()


def set_name(name: str) -> None:
    """Name the calling thread for ``top -H`` and the like, which show 15 bytes."""
    syscall.libc.prctl(PR_SET_NAME, name.replace("wirecap ", "wirecap-").replace(" ", "-").encode()[:15], 0, 0, 0)


def pin(worker: Worker, cpus: Sequence[tuple[int, ...]], number: int) -> None:
    """Pin thread ``number`` to one of these sets of CPUs, round robin; without any, do nothing."""
    if not cpus or worker.native_id is None:
        return
    try:
        os.sched_setaffinity(worker.native_id, cpus[number % len(cpus)])
    except ProcessLookupError:
        return  # it has ended already
    except OSError:
        allowed = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        raise UsageError(f"CPU {cpus[number % len(cpus)][0]} is not available", f"choose from {allowed}") from None


def prefer(worker: Worker) -> bool:
    """Let a capture thread run as soon as it wakes (SCHED_FIFO): its turns are short, and what it misses is lost.

    False if the system does not allow it (no CAP_SYS_NICE); the thread then waits its turn.
    """
    if worker.native_id is None:
        return False
    try:
        os.sched_setscheduler(worker.native_id, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        return False
    return True
