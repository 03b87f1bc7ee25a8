"""Long work in a thread of its own: signals are heard meanwhile, and what takes too long can be left."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

STACK_BYTES = 256 << 20
"""libpcap calls itself for each member of a list: 20,000 hosts overflow the usual 8 MiB."""

T = TypeVar("T")


def apart(work: Callable[[], T], patience_s: float | None = None, idle: bool = False) -> T | None:
    """What ``work`` returns, or raises; None where it takes longer than the patience.

    A signal's handler runs, and may raise, while this waits.  Nothing ends the work then.  idle: it gets the time that
    nobody else wants; it must hold no lock that others need, Python's own included.
    """
    results: list[T] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            failures.append(error)
        done.set()

    # A daemon: it keeps no process from its end.
    thread = threading.Thread(target=run, name="wirecap filter", daemon=True)
    before = threading.stack_size(STACK_BYTES)
    try:
        thread.start()
    finally:
        threading.stack_size(before)
    try:
        if not done.wait(patience_s):
            return None
    finally:
        if idle and not done.is_set():
            with suppress(OSError):
                os.sched_setscheduler(thread.native_id or 0, os.SCHED_IDLE, os.sched_param(0))
    if failures:
        raise failures[0]
    return results[0]
