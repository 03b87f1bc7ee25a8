"""How a handler thread receives by itself, for ``--engine direct``: its queues, and what it waits for."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.handlers.forward import Sender
from wirecap.kernels import libc
from wirecap.kernels import pool as k
from wirecap.kernels.direct import direct_forward_loop, direct_loop, receive_chunk
from wirecap.kernels.wires import Wires
from wirecap.source.xdp import XdpSource

if TYPE_CHECKING:
    from wirecap.engine.engine import Engine


class Receiver:
    """A thread's receive rings.  consumer: whose chunks they fill."""

    def __init__(self, engine: Engine, consumer: int) -> None:
        source = engine.source
        if not isinstance(source, XdpSource):
            raise UsageError(f"the {source.engine} engine's handlers do not receive", "leave --engine direct out")
        self._pool, self._rings, self._consumer = engine.pool, source.rings, consumer
        consumers = engine.pool.queues[k.CONSUMER :: k.QUEUE_WORDS]
        self._mine = np.flatnonzero(consumers == consumer).astype(np.int64)
        self._waiter = select.epoll()
        for queue in self._mine.tolist():
            self._waiter.register(source.descriptor(queue), select.EPOLLIN)
        self._depths, self.scratch = np.zeros(engine.consumers, np.int64), libc.scratch()

    def next_chunk(self, select: Any, state: NDArray[np.int64], wait_ns: int) -> int:
        """``next_chunk`` of kernels/handle.py; it waits for whole milliseconds."""
        code = receive_chunk(
            self._pool, self._rings, self._mine, self._waiter.fileno(), self._consumer, select, state,
            -(-wait_ns // 1_000_000), self._depths, self.scratch,
        )  # fmt: skip
        return int(code)

    def loop(self, *given: Any) -> int:
        """``handler_loop`` of kernels/handle.py; given: its arguments from the filter on to the failure."""
        return int(direct_loop(*self._words(given)))

    def forward_loop(self, wires: Wires, sender: Sender, *given: Any) -> int:
        """The same for a thread that sends."""
        own = (wires, sender.sending, sender.choice, sender.wanted)
        return int(direct_forward_loop(*self._words(given), *own))

    def _words(self, given: tuple[Any, ...]) -> tuple[Any, ...]:
        received = (self._pool, self._rings, self._mine, self._waiter.fileno(), self._consumer)
        return (*received, *given, self._depths, self.scratch)
