"""What is done with chunks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wirecap.kernels.handle import everything

if TYPE_CHECKING:
    from wirecap.engine.engine import Engine


@dataclass(frozen=True)
class Layout:
    """Which threads an application has.

    Consumers 0 to ``handlers`` - 1 are fed by capture queues (``consumer_of`` says whose), the ``writers``
    after them by handler threads.  Only a ``sharing`` application may be handed a buddy's chunks.
    """

    consumer_of: list[int]
    handlers: int
    writers: int = 0
    sharing: bool = True
    threads: bool = True
    """False: the caller takes the chunks itself."""
    transmits: bool = False
    """Cells may leave by a TX ring."""


class Application(Protocol):
    """Who takes the chunks of an engine."""

    def layout(self, queues: int) -> Layout: ...

    def kernels(self) -> list[Any]:
        """The entry points that its threads call, to be compiled ahead."""
        ...

    def open(self, engine: Engine) -> None: ...

    def run(self, engine: Engine, consumer: int) -> None:
        """The life of one of its threads."""
        ...

    def close(self, engine: Engine) -> None: ...


class NativeHandler(Protocol):
    """A handler that is a compiled kernel (kernels/handle.py: PROCESS_SIGNATURE)."""

    name: str
    process: Any

    def state(self, consumer: int) -> NDArray[np.int64]:
        """A thread's own words."""
        ...


@dataclass(frozen=True)
class Selection:
    """A filter as the threads apply it: a kernel of PROCESS_SIGNATURE and its state."""

    kernel: Any = everything
    state: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    owner: Any = None
    """What must live as long as the kernel's code does."""
