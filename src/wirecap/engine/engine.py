"""The engine: capture threads in front, handler threads behind, and an orderly end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from wirecap.engine import accounting
from wirecap.engine.threads import Worker, pin, prefer
from wirecap.errors import WirecapError
from wirecap.kernels.pool import pool as k
from wirecap.kernels.pool import work_queues
from wirecap.kernels.pool.handler_loop import TALLY_WORDS
from wirecap.signals import Flag
from wirecap.source.source import CaptureSettings, Source


@dataclass(frozen=True)
class ThreadLayout:
    """Which threads an application has.

    Consumers 0 to ``handlers`` - 1 are fed by capture queues (``consumer_of`` says which home queues feed which), the
    ``writers`` after them by handler threads.  Only a ``sharing`` application may be handed a buddy's chunks.
    """

    consumer_of: list[int]
    handlers: int
    writers: int = 0
    sharing: bool = True
    threads: bool = True
    """False if the caller takes the chunks itself; writers have threads in any case."""
    transmits: bool = False
    """Whether cells may leave by a TX ring."""


class Application(Protocol):
    """Whatever takes the chunks of an engine."""

    def layout(self, queues: int) -> ThreadLayout: ...

    def kernels(self) -> list[Any]:
        """The entry points that its threads call, to be compiled ahead."""
        ...

    def compile(self, tell: Callable[[str], None]) -> None:
        """Compile the user's own code; ``tell`` gets its name."""
        ...

    def open(self, engine: Engine) -> None: ...

    def run(self, engine: Engine, consumer: int) -> None:
        """The life of one of its threads."""
        ...

    def close(self, engine: Engine) -> None: ...

    def account(self, engine: Engine, queue: int, counts: accounting.QueueCounts) -> None:
        """Add what became of a home queue's delivered packets, if the application forwards them."""
        ...


class Engine:
    """One capture: a source, its pool, and an application.

    capture_threads: how many serve the queues, None for one per queue.  cpus: sets of CPUs to pin threads to,
    round robin, capture threads first.  limit: packets to deliver, 0 for no limit.  decisions: how many of the last
    offload decisions to keep (engine/decisions.py).
    """

    def __init__(
        self, source: Source, application: Application, *, M: int = 256, R: int = 100, T: int = 60,
        advanced: bool = False, groups: list[list[int]] | None = None, capture_threads: int | None = None,
        cpus: Sequence[tuple[int, ...]] = (), settings: CaptureSettings | None = None, limit: int = 0,
        decisions: int = 0,
    ) -> None:  # fmt: skip
        self.source, self.application = source, application
        self.M, self.R, self.T, self.advanced = M, R, T, advanced
        self.layout = application.layout(len(source.queues))
        self.consumers = self.layout.handlers + self.layout.writers
        if not groups or not self.layout.sharing:
            groups = [list(range(self.layout.handlers))]
        self.pool = build_pool(
            source, M, R, self.layout.consumer_of, groups, self.consumers, decisions, self.layout.transmits
        )
        self.pool.control[k.LIMIT] = limit
        self.pool.control[k.THRESHOLD] = T
        self.pool.control[k.ADVANCED] = advanced and self.layout.sharing
        self._settings = settings or CaptureSettings()
        self._threads = min(capture_threads or len(source.queues), len(source.queues))
        self.cpus = cpus
        self.placed: list[str] = []
        """In words, where they were placed for it."""
        self._capture: list[Worker] = []
        self._handlers: list[Worker] = []
        self._writers: list[Worker] = []
        self._assistants: list[Worker] = []
        self.started = self.ended = 0.0
        self.stopped = False
        self._claimed = self._opened = self._halting = self._aborted = False
        self._source_failure: WirecapError | None = None
        self.changed = threading.Event()
        """Set when something happens that the owner should look at: a thread has ended, a limit is reached."""

    def claim(self) -> None:
        """Take everything that others may hold, once, so that a refusal comes before compiling and creating files."""
        if not self._claimed:
            self.source.claim()
            self._claimed = True

    def open(self) -> None:
        """Claim the source and create the files, which may wait for a pipe's reader; once."""
        self.claim()
        self.application.open(self)
        self._opened = True

    def start(self) -> None:
        """Start threads, then let packets in, so that none arrives before it can be taken.  Opens if necessary."""
        if not self._opened:
            self.open()
        for consumer in range(0 if self.layout.threads else self.layout.handlers, self.consumers):
            kind, workers = (
                ("handler", self._handlers) if consumer < self.layout.handlers else ("writer", self._writers)
            )
            workers.append(self._worker(f"{kind} {consumer}", self.application.run, self, consumer))
        self._capture = self._capture_workers()
        try:
            for worker in self._assistants:
                worker.start()
            for number, worker in enumerate(self._workers):
                worker.start()
                pin(worker, self.cpus, number)
            for worker in self._capture if self.source.live else ():
                prefer(worker)
            self.started = time.monotonic()
            self.source.start()
        except BaseException:
            self._end(k.ABORT)
            raise

    def rejoin(self, names: list[str]) -> None:
        """Take interfaces back that were away.  Capture threads end for that moment; packets of other interfaces wait
        in their rings.  For the thread that also stops the engine; raises WirecapError, after which all goes on.
        """
        if self.source.rejoins_at_work:
            self.source.rejoin(names)
            return
        self._set_phase(k.PAUSE)
        for worker in self._capture:
            worker.join()
        if any(worker.failure for worker in self._capture):
            return
        try:
            self.source.rejoin(names)
        finally:
            self._set_phase(k.RUN)
            self._capture = self._capture_workers()
            for number, worker in enumerate(self._capture):
                worker.start()
                pin(worker, self.cpus, number)
                prefer(worker)

    def _capture_workers(self) -> list[Worker]:
        shares = [] if self.source.direct else self.takers()
        return [
            self._worker(f"capture {number}", self.source.run, self.pool, mine, self._settings)
            for number, mine in enumerate(shares)
        ]

    def assist(self, name: str, run: Callable[[], None]) -> None:
        """Have another thread, which takes no chunks and ends by itself once ``all_handled``; to be called before
        ``start``.  If it fails, the run ends."""
        self._assistants.append(self._worker(name, run))

    @property
    def all_handled(self) -> bool:
        """True once no handler thread will run any more."""
        phase = int(self.pool.control[k.PHASE])
        return phase >= k.FINISH and not any(worker.is_working for worker in self._handlers)

    def _worker(self, name: str, run: Callable[..., None], *arguments: object) -> Worker:
        return Worker(name, lambda: run(*arguments), self._thread_ended)

    def _thread_ended(self) -> None:
        self.changed.set()
        self._wake()

    def running(self) -> bool:
        """False once the engine is halted, a thread or the source fails, the packet limit is reached or a file ends."""
        if self._halting:
            return False
        try:
            self.source.check()
        except WirecapError as error:
            if not self._halting:  # otherwise another thread is closing what was checked
                self._source_failure = error
            return False
        if not all(worker.is_working for worker in self._handlers + self._writers):
            return False
        if any(worker.failure for worker in self._capture + self._assistants):
            return False
        if self.is_full:
            return False
        return self.source.direct or any(worker.is_working for worker in self._capture)

    def takers(self) -> list[list[int]]:
        """The home queues of each thread that takes packets from the source."""
        count = len(self.source.queues)
        if self.source.direct:
            consumers = range(self.layout.handlers)
            return [[q for q in range(count) if self.layout.consumer_of[q] == number] for number in consumers]
        return [list(range(number, count, self._threads)) for number in range(self._threads)]

    def taking(self) -> list[tuple[int, list[int]]]:
        """The threads that take packets from the source, by their kernel ids, and the home queues of each."""
        workers = self._handlers if self.source.direct else self._capture
        return [(worker.native_id or 0, mine) for worker, mine in zip(workers, self.takers(), strict=False)]

    def consuming(self) -> list[tuple[str, int]]:
        """The threads that take chunks, consumer by consumer: names and kernel ids (0: none)."""
        if not self.layout.threads:
            return [(f"handler {number}", 0) for number in range(self.consumers)]
        workers = self._handlers + self._writers
        return [(worker.name.removeprefix("wirecap "), worker.native_id or 0) for worker in workers]

    @property
    def is_full(self) -> bool:
        """True once as many packets have been delivered as the limit allows."""
        limit = int(self.pool.control[k.LIMIT])
        return limit > 0 and int(self.pool.control[k.BUDGET]) >= limit

    def set_threshold(self, T: int) -> None:
        """Change T (percent of R) while running."""
        self.T = T
        self.pool.control[k.THRESHOLD] = T

    def stop(self, give_up: Flag | threading.Event | None = None) -> None:
        """End in an orderly way: let no more packets in, drain the rings, empty the queues, close the handlers.

        Everything that reached the hook is delivered, unless ``give_up`` is set (then the rest counts as
        ``unread_at_stop``) or a thread has failed.
        """
        self.halt()
        self.drain(give_up)

    def halt(self) -> None:
        """Let no more packets in: the first half of ``stop``."""
        self._halting = True
        self.source.stop()
        self.ended = time.monotonic()

    def drain(self, give_up: Flag | threading.Event | None = None, all_taken: bool = True) -> None:
        """The second half: returns once all threads have ended, for which someone must take the chunks.

        all_taken: False if the owner takes chunks itself, after this too: it sets ``stopped`` after the last one, and
        before that calls ``finish``.
        """
        self._end(k.DRAIN, give_up, all_taken)
        self.stopped = all_taken
        if all_taken:
            self.application.close(self)

    def finish(self) -> None:
        """Where the owner takes chunks itself: it has passed on all that it will, so writers may end."""
        for worker in self._writers:
            while worker.is_alive():  # ``drain`` may be under way, and set an earlier phase
                self._set_phase(k.FINISH)
                worker.join(0.02)
        self.application.close(self)

    def _end(self, phase: int, give_up: Flag | threading.Event | None = None, all_taken: bool = True) -> None:
        give_up = give_up or threading.Event()
        self._set_phase(phase)
        self._join(self._capture, give_up)
        self._set_phase(k.CLOSE)
        self._join(self._handlers, give_up)
        if not all_taken:
            return
        self._set_phase(k.FINISH)
        self._join(self._writers, give_up)
        self._join(self._assistants, give_up)

    def _set_phase(self, phase: int) -> None:
        """Any thread or signal handler may call this: it takes no lock, and no other phase can overwrite an ABORT."""
        self._aborted = self._aborted or phase == k.ABORT
        self.pool.control[k.PHASE] = phase
        if self._aborted:  # set before or during our store: an abort has the last word
            self.pool.control[k.PHASE] = k.ABORT
        self._wake()

    def _wake(self) -> None:
        """Wake sleeping consumers, so that they check the phase."""
        for consumer in range(self.consumers):
            base = consumer * (work_queues.PLACES + int(self.pool.control[k.WORK_QUEUE_MASK]) + 1)
            work_queues.wake_consumer(self.pool.work_queues, base)

    def _join(self, workers: list[Worker], give_up: Flag | threading.Event) -> None:
        """Wait for threads; if a handler thread has failed, or the user gives up, abort them all."""
        for worker in workers:
            while worker.is_alive():
                worker.join(0.02)
                if (give_up.is_set() or self._broken()) and not self._aborted:
                    self._set_phase(k.ABORT)

    @property
    def _workers(self) -> list[Worker]:
        return self._capture + self._handlers + self._writers

    def _broken(self) -> bool:
        """Whether a handler or writer failed, or ended before those that feed it, so that nobody takes what is left."""
        if any(worker.failure for worker in self._handlers + self._writers):
            return True
        feeding = list(self._capture)
        for stage in (self._handlers, self._writers):
            if stage and any(w.is_alive() for w in feeding) and not all(w.is_alive() for w in stage):
                return True
            feeding = feeding + stage
        return False

    def abandon(self) -> None:
        """Stop taking chunks: what is still waiting counts as unread."""
        self._set_phase(k.ABORT)

    def failure(self) -> BaseException | None:
        """What ended a thread early, if anything did."""
        for worker in self._handlers + self._writers + self._capture + self._assistants:
            if worker.failure:
                return worker.failure
        return self._source_failure

    def depths(self) -> list[int]:
        """Chunks waiting in each capture queue."""
        stride = work_queues.PLACES + int(self.pool.control[k.WORK_QUEUE_MASK]) + 1
        words = self.pool.work_queues
        return [
            int(words[c * stride + work_queues.TAIL] - words[c * stride + work_queues.HEAD])
            for c in range(self.consumers)
        ]

    def summary(self) -> accounting.Summary:
        """The counters: final once the engine has stopped, before that a snapshot whose rest is ``pending``."""
        return accounting.summarize(self.pool, self.source, self.layout.handlers, self.stopped, self._account)

    def _account(self, queue: int, counts: accounting.QueueCounts) -> None:
        self.application.account(self, queue, counts)


def build_pool(
    source: Source, M: int, R: int, consumer_of: list[int], groups: list[list[int]], consumers: int, decisions: int = 0,
    transmits: bool = False,
) -> k.Pool:  # fmt: skip
    """The pool of every home queue of ``source``: slots, stacks, queues, counters (docs/ownership.md).

    consumer_of: the home consumer of each home queue.  groups: buddy groups, as lists of consumers; every home
    consumer is in exactly one.  consumers: how many there are, including writers behind handlers.
    decisions: how many offload decisions to keep.  transmits: whether cells may leave by a TX ring.
    """
    queues = len(source.queues)
    slots = 2 * R
    total = queues * slots
    queue_places, _, mask = work_queues.allocate_work_queues(consumers + queues, total)
    returned, _, return_mask = work_queues.allocate_work_queues(queues, R * M + source.large_units)
    captured = np.zeros((total, M), np.uint32)
    pool = k.Pool(
        arena=source.arena,
        address=np.zeros((total, M), np.int64),
        captured=captured,
        original=np.zeros((total, M), np.uint32) if source.truncates else captured,
        timestamp=np.zeros((total, M), np.int64),
        meta=np.zeros(total * k.SLOT_WORDS, np.int64),
        queues=np.zeros(queues * k.QUEUE_WORDS, np.int64),
        free_slots=np.arange(total, dtype=np.int64).reshape(queues, slots)[:, ::-1].copy(),
        free_cells=np.zeros((queues, R * M), np.int64),
        work_queues=queue_places,
        members=np.zeros((consumers, 1 + consumers), np.int64),
        control=np.zeros(k.CONTROL_WORDS, np.int64),
        tallies=np.zeros((consumers, queues, TALLY_WORDS), np.int64),
        decisions=np.zeros((decisions, k.DECISION_WORDS + consumers), np.int64),
        returned=returned if transmits else np.zeros(0, np.int64),
        handed=np.zeros((queues, k.HANDED_CHUNKS, k.HANDED_WORDS), np.int64),
    )
    pool.control[k.RETURN_MASK] = return_mask
    pool.control[k.WORK_QUEUE_MASK] = mask
    pool.control[k.CAPACITY] = R
    group_of = {}
    for number, members in enumerate(groups):
        pool.members[number, 0] = len(members)
        pool.members[number, 1 : 1 + len(members)] = members
        group_of.update(dict.fromkeys(members, number))
    for queue in range(queues):
        words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
        words[k.FREE_SLOTS] = slots
        words[k.FILL_SLOT] = work_queues.EMPTY
        words[k.CONSUMER] = consumer_of[queue]
        words[k.GROUP] = group_of[consumer_of[queue]]
        words[k.CAPTURE_INTERFACE] = source.queues[queue].interface_id
    source.equip(pool, R * M)
    return pool
