"""The engine: capture threads in front, handler threads behind, and an orderly end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from wirecap.engine import accounting
from wirecap.engine.pool import build
from wirecap.engine.threads import Worker, pin, prefer
from wirecap.errors import WirecapError
from wirecap.flag import Flag
from wirecap.handlers.base import Application
from wirecap.kernels import lanes
from wirecap.kernels import pool as k
from wirecap.source.base import CaptureSettings, Source


class Engine:
    """One capture: a source, its pool, an application.

    capture_threads: how many serve the queues, None for one each.  cpus: cores to pin threads to, capture
    threads first, round robin.  limit: packets to deliver, 0 for no limit.  decisions: how many of the last
    offload decisions to keep (engine/decisions.py).
    """

    def __init__(
        self, source: Source, application: Application, *, M: int = 256, R: int = 100, T: int = 60,
        advanced: bool = False, groups: list[list[int]] | None = None, capture_threads: int | None = None,
        cpus: tuple[int, ...] = (), settings: CaptureSettings | None = None, limit: int = 0,
        decisions: int = 0,
    ) -> None:  # fmt: skip
        self.source, self.application = source, application
        self.M, self.R, self.T, self.advanced = M, R, T, advanced
        self.layout = application.layout(len(source.queues))
        self.consumers = self.layout.handlers + self.layout.writers
        if not groups or not self.layout.sharing:
            groups = [list(range(self.layout.handlers))]
        self.pool = build(
            source, M, R, self.layout.consumer_of, groups, self.consumers, decisions, self.layout.transmits
        )
        self.pool.control[k.LIMIT] = limit
        self.pool.control[k.THRESHOLD] = T
        self.pool.control[k.ADVANCED] = advanced and self.layout.sharing
        self._settings = settings or CaptureSettings()
        self._threads = min(capture_threads or len(source.queues), len(source.queues))
        self._cpus = cpus
        self.direct = source.engine == "direct"
        """Handler threads receive by themselves: there are no capture threads."""
        self._capture: list[Worker] = []
        self._handlers: list[Worker] = []
        self._writers: list[Worker] = []
        self.started = self.ended = 0.0
        self.stopped = False
        self._opened = self._halting = False
        self._source_failure: WirecapError | None = None
        self.changed = threading.Event()
        """Set when something happened that the owner should look at: a thread ended, a limit was reached."""

    def open(self) -> None:
        """Take all that can be refused, and make the files, which may wait for a pipe's reader; once."""
        self.source.claim()
        self.application.open(self)
        self._opened = True

    def start(self) -> None:
        """Threads first, then packets: nothing arrives before it can be taken.  Opens what is not open."""
        if not self._opened:
            self.open()
        for consumer in range(self.consumers if self.layout.threads else 0):
            kind, workers = (
                ("handler", self._handlers) if consumer < self.layout.handlers else ("writer", self._writers)
            )
            workers.append(self._worker(f"{kind} {consumer}", self.application.run, self, consumer))
        shares = [list(range(i, len(self.source.queues), self._threads)) for i in range(self._threads)]
        for number, mine in enumerate([] if self.direct else shares):
            self._capture.append(self._worker(f"capture {number}", self.source.run, self.pool, mine, self._settings))
        try:
            for number, worker in enumerate(self._workers):
                worker.start()
                pin(worker, self._cpus, number)
            for worker in () if self.source.keeps_unread else self._capture:  # a file's packets do not go away
                prefer(worker)
            self.started = time.monotonic()
            self.source.start()
        except BaseException:
            self._end(k.ABORT)
            raise

    def _worker(self, name: str, run: Callable[..., None], *arguments: object) -> Worker:
        return Worker(name, lambda: run(*arguments), self._thread_ended)

    def _thread_ended(self) -> None:
        self.changed.set()
        self._wake()

    def running(self) -> bool:
        """False once it was halted, a thread or the source failed, the packet limit is reached, or a file has ended."""
        if self._halting:
            return False
        try:
            self.source.check()
        except WirecapError as error:
            if not self._halting:  # else another thread is closing what was looked at
                self._source_failure = error
            return False
        if not all(worker.is_alive() for worker in self._handlers + self._writers):
            return False
        if any(worker.failure for worker in self._capture):
            return False
        limit = int(self.pool.control[k.LIMIT])
        if limit and int(self.pool.control[k.BUDGET]) >= limit:
            return False
        return self.direct or any(worker.is_alive() for worker in self._capture)

    def set_threshold(self, T: int) -> None:
        """Change T (percent of R) while running."""
        self.T = T
        self.pool.control[k.THRESHOLD] = T

    def stop(self, give_up: Flag | threading.Event | None = None) -> None:
        """End in order: no more packets in; rings drained; queues emptied; handlers closed.

        Everything that reached the hook is delivered, unless ``give_up`` is set (the rest is then counted as
        ``unread_at_stop``) or a thread failed.
        """
        self.halt()
        self.drain(give_up)

    def halt(self) -> None:
        """Let no more packets in: the first half of ``stop``."""
        self._halting = True
        self.source.stop()
        self.ended = time.monotonic()

    def drain(self, give_up: Flag | threading.Event | None = None) -> None:
        """The second half: returns when all threads have ended, which takes somebody who takes the chunks."""
        self._end(k.DRAIN, give_up)
        self.stopped = True
        self.application.close(self)

    def _end(self, phase: int, give_up: Flag | threading.Event | None = None) -> None:
        give_up = give_up or threading.Event()
        self._set_phase(phase)
        self._join(self._capture, give_up)
        self._set_phase(k.CLOSE)
        self._join(self._handlers, give_up)
        self._set_phase(k.FINISH)
        self._join(self._writers, give_up)

    def _set_phase(self, phase: int) -> None:
        if self.pool.control[k.PHASE] != k.ABORT:
            self.pool.control[k.PHASE] = phase
        self._wake()

    def _wake(self) -> None:
        """Let sleeping consumers look at the phase."""
        for consumer in range(self.consumers):
            base = consumer * (lanes.PLACES + int(self.pool.control[k.LANE_MASK]) + 1)
            lanes.wake_consumer(self.pool.lanes, base)

    def _join(self, workers: list[Worker], give_up: Flag | threading.Event) -> None:
        """Wait for threads; when a handler thread failed, or the user gives up, abort them all."""
        for worker in workers:
            while worker.is_alive():
                worker.join(0.02)
                if (give_up.is_set() or self._broken()) and self.pool.control[k.PHASE] != k.ABORT:
                    self._set_phase(k.ABORT)

    @property
    def _workers(self) -> list[Worker]:
        return self._capture + self._handlers + self._writers

    def _broken(self) -> bool:
        """True when a handler or writer failed, or ended before those that feed it: nobody takes what is left."""
        if any(worker.failure for worker in self._handlers + self._writers):
            return True
        feeding = list(self._capture)
        for stage in (self._handlers, self._writers):
            if stage and any(w.is_alive() for w in feeding) and not all(w.is_alive() for w in stage):
                return True
            feeding = feeding + stage
        return False

    def abandon(self) -> None:
        """Take chunks from nobody any more: what still waits was not read."""
        self._set_phase(k.ABORT)

    def failure(self) -> BaseException | None:
        """What ended a thread before its time, if anything did."""
        for worker in self._handlers + self._writers + self._capture:
            if worker.failure:
                return worker.failure
        return self._source_failure

    def depths(self) -> list[int]:
        """Chunks waiting in each capture queue."""
        stride = lanes.PLACES + int(self.pool.control[k.LANE_MASK]) + 1
        words = self.pool.lanes
        return [int(words[c * stride + lanes.TAIL] - words[c * stride + lanes.HEAD]) for c in range(self.consumers)]

    def summary(self) -> accounting.Summary:
        """The counters; exact once the engine has stopped, a moment's view before."""
        return accounting.summarize(self)
