"""The application of compiled handlers: a thread per queue runs the chain over every chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError, WirecapError
from wirecap.handlers.base import STATE_WORDS, NativeHandler
from wirecap.kernels import handle as h
from wirecap.kernels import libc

if TYPE_CHECKING:
    from wirecap.engine.engine import Engine


class NativeApplication:
    """Compiled handlers in a row; none of them: chunks are only counted."""

    def __init__(self, handlers: list[NativeHandler], keep_going: bool = False) -> None:
        if len(handlers) > h.STAGES:
            raise UsageError(f"{len(handlers)} handlers in a row", f"at most {h.STAGES} fit one thread")
        self.handlers, self.keep_going = handlers, keep_going
        self.failures = 0

    def consumers(self, queues: int) -> list[int]:
        return list(range(queues))

    def kernels(self) -> list[object]:
        return [h.handler_loop, h.everything, h.nothing, *(handler.process for handler in self.handlers)]

    def open(self, engine: Engine) -> None:
        self.states: list[NDArray[np.int64]] = [self._states(c) for c in range(engine.consumers)]

    def _states(self, consumer: int) -> NDArray[np.int64]:
        states = np.zeros((h.STAGES, STATE_WORDS), np.int64)
        for stage, handler in enumerate(self.handlers):
            state = handler.state(consumer)
            states[stage, : state.size] = state
        return states

    def run(self, engine: Engine, consumer: int) -> None:
        chain = tuple(handler.process for handler in self.handlers) + (h.nothing,) * (h.STAGES - len(self.handlers))
        failure = np.zeros(4, np.int64)
        ended = h.handler_loop(
            engine.pool, consumer, h.everything, np.zeros(1, np.int64), chain, self.states[consumer],
            int(self.keep_going), failure, libc.scratch(),
        )  # fmt: skip
        self.failures += int(failure[3])
        if ended:
            name = self.handlers[int(failure[0])].name
            raise WirecapError(f"handler {name} failed on packet {int(failure[1])} of a chunk")

    def close(self, engine: Engine) -> None: ...
