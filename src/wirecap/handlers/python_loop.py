"""A handler thread whose row has Python in it: wait for a chunk without the GIL, call, hand on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wirecap.chunk import Chunk
from wirecap.handlers.direct import Receiver
from wirecap.handlers.failure import failed
from wirecap.handlers.python import HandlerError, PythonHandler
from wirecap.kernels import handle as h
from wirecap.kernels import libc
from wirecap.kernels import pool as k
from wirecap.kernels.forward import TENDING_NS

if TYPE_CHECKING:
    from wirecap.engine.engine import Engine
    from wirecap.handlers.pipeline import Pipeline


def run(pipeline: Pipeline, engine: Engine, consumer: int, settings: NDArray[np.int64]) -> None:
    """Take chunks until the engine closes; a failure ends the run, or is counted with ``keep_going``."""
    pool, selection, scratch = engine.pool, pipeline.selection, libc.scratch()
    select = h.address_of(selection.kernel)
    records = [handler.state() if isinstance(handler, PythonHandler) else () for handler in pipeline.handlers]
    own = pipeline.forwarder.sender(engine.M) if pipeline.forwarder else None
    receiver = Receiver(engine, consumer) if pipeline.direct else None
    in_transmission = False
    while True:
        wait_ns = TENDING_NS if in_transmission else h.WAIT_NS
        if receiver:
            code = receiver.next_chunk(select, selection.state, wait_ns)
        else:
            code = int(h.next_chunk(pool, consumer, select, selection.state, wait_ns, scratch))
        if code == h.CLOSED:
            return
        if code == h.TIMED_OUT:
            in_transmission = pipeline.forwarder is not None and pipeline.forwarder.tend(engine)
            continue
        slot, count = code >> 32, code & 0xFFFFFFFF
        for stage in range(len(pipeline.handlers) if count else 0):
            _handle(pipeline, engine, consumer, stage, records[stage], slot, count)
        if own and pipeline.forwarder:
            pipeline.forwarder.send(engine, consumer, slot, own)
            in_transmission = True
        else:
            h.hand_on(pool, slot, settings)


def _handle(
    pipeline: Pipeline, engine: Engine, consumer: int, stage: int, record: tuple[Any, ...], slot: int, count: int
) -> None:
    pool, handler = engine.pool, pipeline.handlers[stage]
    if not isinstance(handler, PythonHandler):
        words = pipeline.states[consumer][stage]
        place = handler.process(
            pool.arena, pool.address[slot], pool.captured[slot], pool.original[slot], pool.stamp[slot], count, words
        )
        if place and not pipeline.keep_going:
            raise failed(engine, handler, slot, place - 1, words)
        return
    home = engine.source.queues[int(pool.meta[slot * k.SLOT_WORDS + k.HOME])]
    first = 0
    while first < count:
        chunk = Chunk(pool, slot, count, home, lambda: None, pipeline.forwarder is not None)
        try:
            handler.call(chunk, record, first)
            return
        except HandlerError as error:
            if not pipeline.keep_going:
                raise failed(engine, handler, slot, error.packet, why=error.reason) from error.__cause__
            pipeline.count_failure(stage)
            first = count if error.packet is None else error.packet + 1
        finally:
            chunk.release()
