"""The application of the command line: compiled handlers in a row, then a writer, either of them optional."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError, WirecapError
from wirecap.handlers.base import Layout, NativeHandler, Selection
from wirecap.handlers.write import Writer
from wirecap.kernels import handle as h
from wirecap.kernels import libc
from wirecap.kernels.lanes import EMPTY

if TYPE_CHECKING:
    from wirecap.engine.engine import Engine


class Pipeline:
    """``handlers`` run on every queue's thread; without any, chunks are only counted.

    A writer alone takes chunks straight from the capture queues; behind handlers it has threads of its own.
    """

    def __init__(
        self, handlers: list[NativeHandler], writer: Writer | None = None, selection: Selection | None = None,
        keep_going: bool = False,
    ) -> None:  # fmt: skip
        if len(handlers) > h.STAGES:
            raise UsageError(f"{len(handlers)} handlers in a row", f"at most {h.STAGES} fit one thread")
        self.handlers, self.writer, self.keep_going = handlers, writer, keep_going
        self.selection = selection or Selection()
        self.failures = 0
        self.states: list[NDArray[np.int64]] = []
        self._layout = Layout([], 0)

    def layout(self, queues: int) -> Layout:
        writers = self.writer.count(queues) if self.writer else 0
        if self.writer and not self.handlers:
            consumer_of = [self.writer.of_queue(queue) for queue in range(queues)]
            self._layout = Layout(consumer_of, writers, sharing=False)
        else:
            self._layout = Layout(list(range(queues)), queues, writers)
        return self._layout

    def kernels(self) -> list[Any]:
        own = [h.handler_loop, h.nothing] if self.handlers or not self.writer else []
        return [
            *own, self.selection.kernel, *(handler.process for handler in self.handlers),
            *(self.writer.kernels() if self.writer else []),
        ]  # fmt: skip

    def open(self, engine: Engine) -> None:
        self.states = [self._states(consumer) for consumer in range(self._layout.handlers)]
        if self.writer:
            self.writer.open(engine)

    def _states(self, consumer: int) -> NDArray[np.int64]:
        given = [handler.state(consumer) for handler in self.handlers]
        states = np.zeros((h.STAGES, max([1, *(state.size for state in given)])), np.int64)
        for stage, state in enumerate(given):
            states[stage, : state.size] = state
        return states

    def run(self, engine: Engine, consumer: int) -> None:
        first_writer = self._layout.handlers if self.handlers or not self.writer else 0
        if self.writer and consumer >= first_writer:
            self.writer.run(engine, consumer - first_writer, consumer, self.selection, direct=first_writer == 0)
        else:
            self._handle(engine, consumer)

    def _handle(self, engine: Engine, consumer: int) -> None:
        chain = tuple(handler.process for handler in self.handlers) + (h.nothing,) * (h.STAGES - len(self.handlers))
        settings = np.zeros(4, np.int64)
        settings[h.KEEP_GOING] = self.keep_going
        settings[h.ONWARD] = self._layout.handlers if self.writer else EMPTY
        settings[h.BY_QUEUE] = bool(self.writer and self.writer.per_queue)
        failure = np.zeros(4, np.int64)
        ended = h.handler_loop(
            engine.pool, consumer, self.selection.kernel, self.selection.state, chain, self.states[consumer],
            settings, failure, libc.scratch(),
        )  # fmt: skip
        self.failures += int(failure[3])
        if ended:
            name = self.handlers[int(failure[0])].name
            raise WirecapError(f"handler {name} failed on packet {int(failure[1])} of a chunk")

    def close(self, engine: Engine) -> None: ...
