"""The command line's application: a chain of handlers, then a writer, either of them optional."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wirecap.engine.accounting import QueueCounts
from wirecap.engine.chunk import forget
from wirecap.engine.engine import Engine, ThreadLayout
from wirecap.errors import UsageError, WirecapError
from wirecap.handlers.handler import Follower, Handler, Selection
from wirecap.handlers.handler_thread import HandlerThread
from wirecap.handlers.printer import Printer
from wirecap.kernels.pool import handler_loop as h
from wirecap.kernels.pool.work_queues import EMPTY
from wirecap.source.source import Source

if TYPE_CHECKING:
    from wirecap.handlers.forward import Forwarder


class Pipeline:
    """``handlers`` run on every queue's thread; without any, packets are only counted.

    Threads run compiled handlers without the GIL; if one handler is in Python, so is their loop.
    A writer alone takes chunks directly from the capture queues; after handlers it has threads of its own.
    """

    def __init__(
        self, handlers: Sequence[Handler], writer: Follower | None = None, selection: Selection | None = None,
        keep_going: bool = False, forwarder: Forwarder | None = None, direct: bool = False,
    ) -> None:  # fmt: skip
        """direct: handler threads receive packets themselves, so a writer always comes after them."""
        self.handlers, self.writer = list(handlers), writer
        if len(self.handlers) > h.STAGES:
            raise UsageError(f"too many handlers: {len(self.handlers)}", f"use at most {h.STAGES}")
        self.keep_going, self.selection = keep_going, selection or Selection()
        self.forwarder, self.direct = forwarder, direct
        self.failures = [0] * len(self.handlers)
        """Packets on which each handler failed (or chunks, if it takes chunks)."""
        self.states: list[NDArray[np.int64]] = []
        self._layout = ThreadLayout([], 0)
        self._lock = threading.Lock()

    def layout(self, queues: int) -> ThreadLayout:
        writers = self.writer.count(queues) if self.writer else 0
        if not self._handles:
            assert self.writer
            consumer_of = [self.writer.of_queue(queue) for queue in range(queues)]
            self._layout = ThreadLayout(consumer_of, writers, sharing=False)
        else:
            self._layout = ThreadLayout(list(range(queues)), queues, writers, transmits=self.forwarder is not None)
        return self._layout

    @property
    def _handles(self) -> bool:
        """Whether there are handler threads; without handlers, a writer takes the chunks itself."""
        return bool(self.handlers) or self.writer is None or self.direct

    def warnings(self) -> list[str]:
        """What the user should know before the first packet."""
        own = [self.selection.note] if self.selection.note else []
        return list(dict.fromkeys(own + [line for part in self.parts for line in part.warnings()]))

    @property
    def printer(self) -> Printer | None:
        """Who prints the packets, if anybody."""
        return self.writer.printer if self.writer else None

    @property
    def parts(self) -> list[Handler]:
        """The handlers of the row, and the writer behind them."""
        return [*self.handlers, *([self.writer] if self.writer else [])]

    @property
    def in_python(self) -> bool:
        return any(handler.in_python for handler in self.handlers)

    def kernels(self) -> list[Any]:
        found = [self.selection.kernel, *(handler.process for handler in self.handlers if not handler.in_python)]
        if self._handles:
            found += [h.next_chunk, h.hand_on] if self.in_python else [h.handler_loop, h.nothing]
        if self.in_python:
            from wirecap.engine.fields import KERNELS  # a chunk may be decoded

            found += KERNELS
        if self.forwarder:
            found += self.forwarder.kernels(self.in_python)
        if self.direct:
            from wirecap.kernels.xdp.direct import receive

            found.append(receive)
        return found + (self.writer.kernels() if self.writer else [])

    def check(self, source: Source) -> None:
        """Raise UsageError for what its parts cannot do with the source's packets, as far as that is known now."""
        for handler in self.parts:
            handler.check(source)

    def compile(self, tell: Callable[[str], None]) -> None:
        for handler in self.handlers:
            handler.compile(tell)

    def open(self, engine: Engine) -> None:
        for handler in self.handlers:
            handler.open(engine, self.keep_going, editable=self.forwarder is not None)
        self.states = [self._states(consumer) for consumer in range(self._layout.handlers)]
        if self.writer and self.writer.keeping:
            for handler in self.handlers:
                self.writer.keeping.triggers.listen(handler.alarms())
        if self.writer:
            self.writer.open(engine, self.keep_going, editable=False)
        if self.forwarder:
            self.forwarder.open(engine, engine.consumers)

    def _states(self, consumer: int) -> NDArray[np.int64]:
        given = [handler.state(consumer) for handler in self.handlers]
        states = np.zeros((h.STAGES, max([1, *(state.size for state in given)]) + 1), np.int64)
        for stage, state in enumerate(given):
            states[stage, : state.size] = state
        return states

    def run(self, engine: Engine, consumer: int) -> None:
        first_writer = self._layout.handlers if self._handles else 0
        if self.writer and consumer >= first_writer:
            self.writer.run(engine, consumer - first_writer, consumer, self.selection, direct=first_writer == 0)
            return
        HandlerThread(
            engine,
            consumer,
            self.handlers,
            self.states[consumer],
            self.selection,
            self._settings(),
            self.forwarder,
            self.direct,
            self.count_failure,
        ).run()

    def _settings(self) -> NDArray[np.int64]:
        settings = np.zeros(4, np.int64)
        settings[h.KEEP_GOING] = self.keep_going
        settings[h.ONWARD] = self._layout.handlers if self.writer else EMPTY
        settings[h.BY_QUEUE] = bool(self.writer and self.writer.per_queue)
        return settings

    def flush(self) -> None:
        """Let readers of the files soon see what has been captured."""
        if self.writer:
            self.writer.flush()

    def close(self, engine: Engine) -> None:
        if self.in_python:
            forget(engine.pool)
        if self.writer:
            self.writer.close()
        if self.forwarder:
            self.forwarder.flush(engine)
        for stage, handler in enumerate(self.handlers):
            self.failures[stage] += sum(handler.failures(states[stage]) for states in self.states)

    def account(self, engine: Engine, queue: int, counts: QueueCounts) -> None:
        if self.forwarder:
            self.forwarder.account(engine, queue, counts)

    def count_failure(self, stage: int) -> None:
        """Count a failure of a handler in Python, after which the run carries on."""
        with self._lock:
            self.failures[stage] += 1

    def results(self, failures: list[BaseException] | None = None) -> list[dict[str, Any]]:
        """The ``name``, ``result`` and ``failures`` of each user's handler, in the order of the chain.

        If a ``merge`` fails, the result is None and ``failures`` gets the WirecapError; without that it is raised.
        """
        rows: list[dict[str, Any]] = []
        for stage, handler in enumerate(self.handlers):
            if not handler.has_result:
                continue
            result = None
            try:
                result = _result(handler)
            except WirecapError as error:
                if failures is None:
                    raise
                failures.append(error)
            rows.append({"name": handler.name, "result": result, "failures": self.failures[stage]})
        return rows


def _result(handler: Handler) -> Any:
    try:
        return handler.result()
    except Exception as error:
        raise WirecapError(f"handler {handler.name}: its merge failed: {handler.explain(error)}") from error
