"""A handler thread: takes a chunk, filters it, runs the chain of handlers over it, and passes it on or sends it.

A chain of compiled handlers runs in one compiled loop.  If one of them is in Python, so is the loop: it waits for a
chunk without the GIL and calls each handler for the chunk, or for each of its packets.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wirecap.engine.accounting import give_up
from wirecap.engine.engine import Engine
from wirecap.handlers.handler import Handler, Selection, ThreadPlace
from wirecap.kernels.base import libc
from wirecap.kernels.pool import handler_loop as h
from wirecap.kernels.pool import pool as k

if TYPE_CHECKING:
    from wirecap.handlers.forward import Forwarder


@dataclass(frozen=True)
class HandlerThread:
    """What one handler thread works with; ``run`` is its life.

    states: int64 (STAGES, words), a row of words per compiled handler.  settings: int64 (4,), see
    kernels/pool/handler_loop.py.  direct: the thread receives packets itself.  count_failure: called with the stage
    of a Python handler that failed, if the run carries on.
    """

    engine: Engine
    consumer: int
    handlers: Sequence[Handler]
    states: NDArray[np.int64]
    selection: Selection
    settings: NDArray[np.int64]
    forwarder: Forwarder | None
    direct: bool
    count_failure: Callable[[int], None]

    def run(self) -> None:
        """Take chunks until the engine closes; a failure ends the run, or is counted with ``--keep-going``."""
        if any(handler.in_python for handler in self.handlers):
            self._run_in_python()
        else:
            self._run_compiled()

    def _run_compiled(self) -> None:
        engine, failure = self.engine, np.zeros(4, np.int64)
        chain = h.addresses_of([handler.process for handler in self.handlers])
        work = h.Work(self.selection.address, self.selection.states, chain, self.states, self.settings, failure)
        with Receiver(engine, self.consumer) as intake:
            if self.forwarder:
                from wirecap.kernels.forward.forward_loop import forward_loop

                outlet = self.forwarder.outlet(engine.M)
                rings = engine.source.rings
                ended = forward_loop(engine.pool, rings, self.consumer, work, intake, outlet, libc.scratch())
            else:
                ended = h.handler_loop(engine.pool, self.consumer, work, intake, libc.scratch())
        if ended:
            stage, packet, slot, _ = failure.tolist()
            self._give_up(slot, packet)
            handler = self.handlers[stage]
            raise handler.failed(engine, slot, packet, handler.reason(self.states[stage]))

    def _run_in_python(self) -> None:
        pool, scratch = self.engine.pool, libc.scratch()
        select, state = self.selection.address, self.selection.states
        row = [handler.on_thread(self._place(stage)) for stage, handler in enumerate(self.handlers)]
        outlet = self.forwarder.outlet(self.engine.M) if self.forwarder else None
        in_transmission = False
        with Receiver(self.engine, self.consumer) as intake:
            while True:
                wait_ns = self.forwarder.tending_ns if self.forwarder and in_transmission else h.WAIT_NS
                code = int(h.next_chunk(pool, self.consumer, intake, select, state, wait_ns, scratch))
                if code == h.CLOSED:
                    return
                if code == h.TIMED_OUT:
                    in_transmission = self.forwarder is not None and self.forwarder.tend(self.engine)
                    continue
                slot, count = code >> 32, code & 0xFFFFFFFF
                if self.forwarder:
                    self.forwarder.finish(self.engine, self.consumer, slot)
                try:
                    for handle in row if count else ():
                        handle(slot, count)
                except BaseException as error:
                    self._give_up(slot, vars(error).get("packet") or 0)
                    raise
                if outlet and self.forwarder:
                    self.forwarder.send(self.engine, self.consumer, slot, outlet)
                    in_transmission = True
                else:
                    h.hand_on(pool, slot, self.settings)

    def _give_up(self, slot: int, packet: int) -> None:
        """The packets from the one on which a handler failed are not handled.  A forwarder counts them by itself."""
        if self.forwarder is None:
            give_up(self.engine.pool, self.consumer, slot, packet)

    def _place(self, stage: int) -> ThreadPlace:
        editable = self.forwarder is not None
        return ThreadPlace(self.engine, stage, self.states[stage], self.settings, editable, self.count_failure)


class Receiver:
    """Where a consumer's chunks come from: capture threads or, for a ``direct`` source, its own receive rings.

    As a context manager it provides the ``Intake`` for the loops.
    """

    def __init__(self, engine: Engine, consumer: int) -> None:
        source = engine.source
        address: Any = 0
        mine, wait_fd = np.zeros(0, np.int64), -1
        self._waiter = None
        if source.direct:
            from wirecap.kernels.xdp.direct import receive

            address = h.address_of(receive, h.RECEIVE_SIGNATURE)
            mine = np.flatnonzero(engine.pool.queues[k.CONSUMER :: k.QUEUE_WORDS] == consumer).astype(np.int64)
            self._waiter = select.epoll()
            for queue in mine.tolist():
                self._waiter.register(source.descriptor(queue), select.EPOLLIN)
            wait_fd = self._waiter.fileno()
        self._intake = h.Intake(address, source.rings, mine, wait_fd, np.zeros(engine.consumers, np.int64))

    def __enter__(self) -> h.Intake:
        return self._intake

    def __exit__(self, *_: object) -> None:
        if self._waiter:
            self._waiter.close()
