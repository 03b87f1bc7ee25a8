"""What is done with chunks: applications, made of handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from wirecap.engine.engine import Engine

STATE_WORDS = 64


class Application(Protocol):
    """Who takes the chunks of an engine."""

    def consumers(self, queues: int) -> list[int]:
        """The consumer (capture queue and handler thread) of each home queue."""
        ...

    def kernels(self) -> list[object]: ...

    def open(self, engine: Engine) -> None: ...

    def run(self, engine: Engine, consumer: int) -> None:
        """A handler thread's life: take chunks until ``next_slot`` says CLOSED."""
        ...

    def close(self, engine: Engine) -> None: ...


class NativeHandler(Protocol):
    """A handler that is a compiled kernel (kernels/handle.py: PROCESS_SIGNATURE)."""

    name: str
    process: Any

    def state(self, consumer: int) -> NDArray[np.int64]:
        """A thread's own words, at most STATE_WORDS."""
        ...
