"""A handler that failed: on which packet, and why."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import WirecapError
from wirecap.handlers.compiled import CompiledHandler
from wirecap.kernels import pool as k

if TYPE_CHECKING:
    from wirecap.engine.engine import Engine


def failed(
    engine: Engine, handler: Any, slot: int, packet: int | None, words: NDArray[np.int64] | None = None,
    why: str = "",
) -> WirecapError:  # fmt: skip
    """The error that ends the run; packet: its place in the chunk, None for the chunk as a whole."""
    if isinstance(handler, CompiledHandler) and words is not None:
        why = handler.reason(words)
    queue = engine.source.queues[int(engine.pool.meta[slot * k.SLOT_WORDS + k.HOME])]
    stamp = str(np.datetime64(int(engine.pool.stamp[slot, packet or 0]), "ns")).replace("T", " ")
    where = f"{queue.interface} queue {queue.queue}" if engine.source.engine != "file" else queue.interface
    what = "a chunk" if packet is None else f"packet {packet} of a chunk"
    begins = "that begins at" if packet is None else "at"
    return WirecapError(
        f"handler {handler.name} failed on {what} of {where} {begins} {stamp} UTC{': ' if why else ''}{why}",
        "--keep-going counts such packets and goes on",
    )


def reason(error: BaseException, function: Callable[..., Any]) -> str:
    """What was raised, with the last line of the function's file on the way there."""
    code = getattr(function, "__code__", None)  # a merge may be a built-in function
    file = code and code.co_filename
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    what = ": ".join(filter(None, [type(error).__name__, _text(error)]))
    return f"{what} ({file}, line {frames[-1].lineno})" if frames else what


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a user's own class, which cannot say it
        return ""
