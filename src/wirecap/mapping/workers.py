"""Who reads the parts: what is asked of them, and processes of this machine.

    python -m wirecap.mapping.workers FD

is one of them: it gets tasks from a socket, and answers each with what came of it.  Where no thread is in the way, a
copy of this process is one too (fork): it has everything imported, which takes an interpreter most of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol

from wirecap.errors import UsageError, WirecapError
from wirecap.mapping.part import PartResult, Task, run_part


@dataclass(frozen=True)
class Failure:
    """Why there is no result.  usage: the user's mistake, which another attempt would find again.  worker: who failed,
    for ``submit``."""

    message: str
    hint: str = ""
    usage: bool = False
    worker: str = ""


class Workers(Protocol):
    """Processes that run parts."""

    count: int

    def submit(self, key: int, task: Task, avoid: str = "") -> None:
        """Have a task run.  avoid: by anybody but this one, if there are others."""

    def next(self) -> tuple[int, PartResult | Failure]:
        """Wait for any result: the key that was submitted, and what came of it."""

    def close(self) -> None:
        """Leave nothing running."""


def outcome_of(task: Task) -> PartResult | Failure:
    """What came of a task, in the worker's process."""
    try:
        return run_part(task)
    except WirecapError as error:
        return Failure(error.message, error.hint, isinstance(error, UsageError))
    except MemoryError:
        return Failure("out of memory", "use fewer workers")


class _Started(Protocol):
    """A child process: subprocess.Popen, or a copy."""

    def kill(self) -> None: ...

    def wait(self) -> int:
        """Its exit status, or the signal that killed it as a negative number."""


class _Copy:
    """A copy of this process that serves; others: connections that are not for it."""

    def __init__(self, connection: Connection, others: Iterable[Connection]) -> None:
        fork = multiprocessing.get_context("fork")
        self._process = fork.Process(target=_serve_alone, args=(connection, list(others)), daemon=True)
        self._process.start()

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int:
        self._process.join()
        status = self._process.exitcode
        assert status is not None
        return status


def _serve_alone(connection: Connection, others: Iterable[Connection]) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):  # what the command says of them, it says once
        signal.signal(number, signal.SIG_DFL)
    for other in others:  # who holds them would keep the workers behind them from seeing that nobody is left
        other.close()
    serve(connection)


def _interpreter(connection: Connection) -> _Started:
    """A new interpreter that serves."""
    command = [sys.executable, "-P", "-m", "wirecap.mapping.workers", str(connection.fileno())]
    found = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        command, pass_fds=[connection.fileno()], env={**os.environ, "PYTHONPATH": found}, stdin=subprocess.DEVNULL
    )


class _Process:
    """One worker, and the task that it has.  copy: whether it is a copy of this process; others: workers beside it."""

    def __init__(self, number: int, copy: bool, others: Iterable[_Process]) -> None:
        self.name = f"worker {number}"
        self.key: int | None = None
        here, there = (Connection(end.detach()) for end in socket.socketpair())
        self.connection = here
        with there:
            others_ends = [here, *(other.connection for other in others)]
            self.process: _Started = _Copy(there, others_ends) if copy else _interpreter(there)

    def end(self) -> int:
        """Its exit status, or the signal that killed it as a negative number."""
        self.connection.close()
        self.process.kill()
        return self.process.wait()


def threads() -> int:
    """How many this process has, those of libraries too."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def copies_while(most: int) -> Callable[[], bool]:
    """Whether workers can be copies of this process: while none of Python's threads runs beside this one, and no more
    than so many of libraries, which NumPy's stops for a fork.  Locks that another thread holds stay locked in a copy.
    """
    return lambda: threading.active_count() == 1 and threads() <= most


class Processes:
    """Workers on this machine; one that dies is replaced.  copies: whether a copy of this process can be one, now."""

    def __init__(self, count: int, copies: Callable[[], bool] = lambda: False) -> None:
        self.count = count
        self._copies = copies
        self._waiting: deque[tuple[int, Task, str]] = deque()
        self._made = 0
        self._workers: list[_Process] = []

    def submit(self, key: int, task: Task, avoid: str = "") -> None:
        self._waiting.append((key, task, avoid))
        while len(self._workers) < min(self.count, len(self._waiting) + self._busy()):
            self._start()
        self._assign()

    def _start(self) -> None:
        self._workers.append(_Process(self._made, self._copies(), self._workers))
        self._made += 1

    def _busy(self) -> int:
        return sum(worker.key is not None for worker in self._workers)

    def _assign(self) -> None:
        for worker in self._workers:
            place = next(
                (
                    number for number, (_, _, avoid) in enumerate(self._waiting)
                    if avoid != worker.name or len(self._workers) == 1
                ),
                None,
            )  # fmt: skip
            if worker.key is not None or place is None:
                continue
            key, task, _ = self._waiting[place]
            del self._waiting[place]
            worker.key = key
            try:
                worker.connection.send(task)
            except OSError:  # it has died: ``next`` will see that
                pass

    def next(self) -> tuple[int, PartResult | Failure]:
        while True:
            self._assign()
            busy = {worker.connection: worker for worker in self._workers if worker.key is not None}
            for ready in wait(list(busy)):
                worker = busy[ready]  # type: ignore[index]
                key, worker.key = worker.key, None
                assert key is not None
                try:
                    return key, self._named(worker.connection.recv(), worker)
                except (EOFError, OSError):
                    return key, self._died(worker)

    def _named(self, found: PartResult | Failure, worker: _Process) -> PartResult | Failure:
        return found if isinstance(found, PartResult) else Failure(found.message, found.hint, found.usage, worker.name)

    def _died(self, worker: _Process) -> Failure:
        self._workers.remove(worker)
        status = worker.end()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self._start()
        return Failure(f"the process that read it {how}", worker=worker.name)

    def close(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers = []


def serve(connection: Connection) -> None:
    """The life of a worker: tasks until nobody has any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started us, who will end us
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, TextIOWrapper)]
    for stream in streams:
        if stream.write_through:  # PYTHONUNBUFFERED: print writes a line's end by itself, and lines of workers mix
            stream.reconfigure(line_buffering=True, write_through=False)
    while True:
        try:
            task = connection.recv()
            found = outcome_of(task)
            for stream in streams:
                with suppress(OSError, ValueError):  # what a handler printed: nobody may read it any more
                    stream.flush()
            connection.send(found)
        except (EOFError, OSError):
            return


if __name__ == "__main__":
    from wirecap.mapping import workers  # not this module, whose classes would be called __main__'s

    workers.serve(Connection(int(sys.argv[1])))
