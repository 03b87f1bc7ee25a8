"""Workers of a Dask cluster: ``--on tcp://scheduler:8786``.

A Dask scheduler runs what its users send it: whoever can reach it can run any code on its workers.
"""

from __future__ import annotations

import logging
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from wirecap.errors import UsageError, WirecapError
from wirecap.mapping.part import PartResult, Task
from wirecap.mapping.workers import Failure, outcome_of
from wirecap.version import __version__

ANSWER_S = 10
SCHEMES = ("tcp://", "tls://", "ucx://", "ws://", "wss://")


def facts() -> dict[str, str]:
    """What must be the same here and on a worker."""
    return {"wirecap": __version__, "Python": ".".join(platform.python_version_tuple()[:2])}


def run_there(task: Task) -> PartResult | Failure:
    """A task, on a worker."""
    from distributed import get_worker

    worker = get_worker()
    with unwatched(worker):
        found = outcome_of(task)
    return replace(found, worker=worker.address) if isinstance(found, Failure) else found


@contextmanager
def unwatched(worker: Any) -> Iterator[None]:
    """Keep a Dask worker from looking at what this thread does, a hundred times a second: that is for functions in
    Python, and shows nothing of a compiled handler."""
    active, lock = getattr(worker, "active_threads", {}), getattr(worker, "active_threads_lock", nullcontext())
    with lock:
        key = active.pop(threading.get_ident(), None)
    try:
        yield
    finally:
        if key is not None:
            with lock:
                active[threading.get_ident()] = key


class Cluster:
    """The workers of a scheduler; alone: only one of them is used.  Raises UsageError or WirecapError if none fits."""

    def __init__(self, address: str, alone: bool = False) -> None:
        if not address.startswith(SCHEMES):
            raise UsageError(
                f"--on {address}: this is not the address of a Dask scheduler", "write --on tcp://HOST:8786"
            )
        try:
            from distributed import Client, as_completed
        except ImportError:
            raise UsageError("--on needs Dask, which is not installed", "pip install 'wirecap[cluster]'") from None
        for name in [
            "distributed",
            *(each for each in logging.root.manager.loggerDict if each.startswith("distributed.")),
        ]:
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is in our own lines
        try:
            self._client: Any = Client(address, timeout=ANSWER_S, set_as_default=False)
        except (OSError, ValueError) as error:
            why = str(error).partition("\n")[0] or type(error).__name__
            raise WirecapError(f"--on {address}: {why}", "start one there: dask scheduler") from None
        self._address = address
        self._done, self._keys = as_completed(loop=self._client.loop), dict[str, int]()
        try:
            self._check(address)
            threads = self._client.nthreads()
        except BaseException:
            self.close()
            raise
        self._workers, self.count = list(threads), sum(threads.values())
        if alone:
            self._workers, self.count = self._workers[:1], 1
        self._alone = alone

    def _check(self, address: str) -> None:
        found = self._client.run(facts, on_error="return")
        if not found:
            raise WirecapError(f"--on {address}: the scheduler has no workers", "start some: dask worker ADDRESS")
        ours = facts()
        for worker, theirs in found.items():
            if not isinstance(theirs, dict):
                raise UsageError(f"{worker} cannot import wirecap: {theirs}", "install the same one there")
            for name, version in ours.items():
                if theirs.get(name) != version:
                    raise UsageError(
                        f"{worker} has {name} {theirs.get(name)}, and here it is {version}", "install the same there"
                    )

    def submit(self, key: int, task: Task, avoid: str = "") -> None:
        others = [worker for worker in self._workers if worker != avoid] if avoid else self._workers
        where = {"workers": others, "allow_other_workers": not self._alone} if avoid or self._alone else {}
        future = self._client.submit(run_there, task, pure=False, **where)
        self._keys[future.key] = key
        self._done.add(future)

    def next(self) -> tuple[int, PartResult | Failure]:
        future = next(self._done)
        key = self._keys.pop(future.key)
        if future.status == "finished":
            return key, future.result()
        if future.status in ("cancelled", "lost"):
            raise WirecapError(f"--on {self._address}: the scheduler is gone", "start it again, and this with it")
        error = future.exception()
        if type(error).__name__ == "KilledWorker":
            worker = error.last_worker
            return key, Failure("its worker died again and again", worker=getattr(worker, "address", ""))
        return key, Failure(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        self._client.close()
