"""The application of the command line: handlers in a row, then a writer, either of them optional."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError, WirecapError
from wirecap.handlers import python_loop
from wirecap.handlers.base import Layout, NativeHandler, Selection
from wirecap.handlers.compiled import CompiledHandler
from wirecap.handlers.direct import Receiver
from wirecap.handlers.failure import failed, reason
from wirecap.handlers.forward import Forwarder
from wirecap.handlers.python import PythonHandler
from wirecap.handlers.write import Writer
from wirecap.kernels import handle as h
from wirecap.kernels import libc
from wirecap.kernels.direct import direct_loop, receive_chunk
from wirecap.kernels.forward import forward_loop
from wirecap.kernels.lanes import EMPTY

if TYPE_CHECKING:
    from wirecap.engine.engine import Engine

Handler = NativeHandler | PythonHandler


class Pipeline:
    """``handlers`` run on every queue's thread; without any, chunks are only counted.

    Threads run compiled handlers without the GIL; where one handler is in Python, their loop is too.
    A writer alone takes chunks straight from the capture queues; behind handlers it has threads of its own.
    """

    def __init__(
        self, handlers: Sequence[Handler], writer: Writer | None = None, selection: Selection | None = None,
        keep_going: bool = False, forwarder: Forwarder | None = None, direct: bool = False,
    ) -> None:  # fmt: skip
        """direct: handler threads receive by themselves, so that a writer is always behind them."""
        if len(handlers) > h.STAGES:
            raise UsageError(f"{len(handlers)} handlers in a row", f"at most {h.STAGES} fit one thread")
        self.handlers, self.writer, self.keep_going = list(handlers), writer, keep_going
        self.selection = selection or Selection()
        self.forwarder, self.direct = forwarder, direct
        self.failures = [0] * len(self.handlers)
        """Packets on which each handler failed (chunks, where it takes chunks)."""
        self.states: list[NDArray[np.int64]] = []
        self._layout = Layout([], 0)
        self._lock = threading.Lock()

    def layout(self, queues: int) -> Layout:
        writers = self.writer.count(queues) if self.writer else 0
        if not self._handles:
            assert self.writer
            consumer_of = [self.writer.of_queue(queue) for queue in range(queues)]
            self._layout = Layout(consumer_of, writers, sharing=False)
        else:
            self._layout = Layout(list(range(queues)), queues, writers, transmits=self.forwarder is not None)
        return self._layout

    @property
    def _handles(self) -> bool:
        """Whether there are handler threads; without handlers a writer takes the chunks itself."""
        return bool(self.handlers) or self.writer is None or self.direct

    @property
    def in_python(self) -> bool:
        return any(isinstance(handler, PythonHandler) for handler in self.handlers)

    def kernels(self) -> list[Any]:
        loop = [h.next_chunk, h.hand_on] if self.in_python else [h.handler_loop, h.nothing]
        if self.direct:
            loop = [receive_chunk, h.hand_on] if self.in_python else [direct_loop, h.nothing]
        if self.forwarder:
            loop = [loop[0] if self.in_python else h.nothing, *self.forwarder.kernels(self.in_python, self.direct)]
        processes = [handler.process for handler in self.handlers if not isinstance(handler, PythonHandler)]
        return [
            *(loop if self._handles else []), self.selection.kernel, *processes,
            *(self.writer.kernels() if self.writer else []),
        ]  # fmt: skip

    def compile(self, tell: Callable[[str], None]) -> None:
        """Compile users' handlers.  Raises UsageError with the user's line."""
        for handler in self.handlers:
            if isinstance(handler, CompiledHandler):
                handler.compile(tell)

    def open(self, engine: Engine) -> None:
        for handler in self.handlers:
            if isinstance(handler, CompiledHandler):
                kinds = (interface.dlt for interface in engine.source.interfaces)
                handler.connect(kinds, self.keep_going, editable=self.forwarder is not None)
        self.states = [self._states(consumer) for consumer in range(self._layout.handlers)]
        if self.writer:
            self.writer.open(engine)
        if self.forwarder:
            self.forwarder.open(engine, engine.consumers)

    def _states(self, consumer: int) -> NDArray[np.int64]:
        given = {
            stage: handler.state(consumer)
            for stage, handler in enumerate(self.handlers)
            if not isinstance(handler, PythonHandler)
        }
        states = np.zeros((h.STAGES, max([1, *(state.size for state in given.values())])), np.int64)
        for stage, state in given.items():
            states[stage, : state.size] = state
        return states

    def run(self, engine: Engine, consumer: int) -> None:
        first_writer = self._layout.handlers if self._handles else 0
        if self.writer and consumer >= first_writer:
            self.writer.run(engine, consumer - first_writer, consumer, self.selection, direct=first_writer == 0)
        elif self.in_python:
            python_loop.run(self, engine, consumer, self._settings())
        else:
            self._handle(engine, consumer)

    def _settings(self) -> NDArray[np.int64]:
        settings = np.zeros(4, np.int64)
        settings[h.KEEP_GOING] = self.keep_going
        settings[h.ONWARD] = self._layout.handlers if self.writer else EMPTY
        settings[h.BY_QUEUE] = bool(self.writer and self.writer.per_queue)
        return settings

    def _handle(self, engine: Engine, consumer: int) -> None:
        processes = tuple(handler.process for handler in self.handlers if not isinstance(handler, PythonHandler))
        chain = processes + (h.nothing,) * (h.STAGES - len(processes))
        failure = np.zeros(4, np.int64)
        given = (self.selection.kernel, self.selection.state, chain, self.states[consumer], self._settings())
        if self.forwarder and self.direct:
            own = self.forwarder.sender(engine.M)
            ended = Receiver(engine, consumer).forward_loop(self.forwarder.arrays, own, *given, failure)
        elif self.forwarder:
            own = self.forwarder.sender(engine.M)
            ended = forward_loop(
                engine.pool, engine.source.rings, self.forwarder.arrays, consumer, *given, own.sending, own.choice,
                own.wanted, failure, libc.scratch(),
            )  # fmt: skip
        elif self.direct:
            ended = Receiver(engine, consumer).loop(*given, failure)
        else:
            ended = h.handler_loop(engine.pool, consumer, *given, failure, libc.scratch())
        if ended:
            stage, packet, slot, _ = failure.tolist()
            raise failed(engine, self.handlers[stage], slot, packet, self.states[consumer][stage])

    def flush(self) -> None:
        """Let readers of the files see what was captured soon."""
        if self.writer:
            self.writer.flush()

    def close(self, engine: Engine) -> None:
        if self.writer:
            self.writer.close()
        if self.forwarder:
            self.forwarder.flush(engine)
        for stage, handler in enumerate(self.handlers):
            if isinstance(handler, CompiledHandler):
                self.failures[stage] += sum(handler.failures(states[stage]) for states in self.states)

    def count_failure(self, stage: int) -> None:
        """A handler in Python failed, and the run goes on."""
        with self._lock:
            self.failures[stage] += 1

    def results(self, failed: list[BaseException] | None = None) -> list[dict[str, Any]]:
        """For each user's handler its ``name``, ``result`` and ``failures``, in the order of the row.

        Where a ``merge`` fails, the result is None and ``failed`` gets the WirecapError; without it that is raised.
        """
        rows: list[dict[str, Any]] = []
        for stage, handler in enumerate(self.handlers):
            if not isinstance(handler, (CompiledHandler, PythonHandler)):
                continue
            result = None
            try:
                result = _result(handler)
            except WirecapError as error:
                if failed is None:
                    raise
                failed.append(error)
            rows.append({"name": handler.name, "result": result, "failures": self.failures[stage]})
        return rows


def _result(handler: CompiledHandler | PythonHandler) -> Any:
    try:
        return handler.result()
    except Exception as error:
        merge = handler.user.merge or handler.user.function
        raise WirecapError(f"handler {handler.name}: its merge failed: {reason(error, merge)}") from error
