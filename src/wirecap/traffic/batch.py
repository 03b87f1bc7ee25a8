"""What a plan hands to a sender: packets where they lie, when each is due, and on which queue it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wirecap.kernels.transmit.frames import Frames

PACKETS = 8192
"""Packets of a batch at the most."""


@dataclass(slots=True)
class Batch:
    """``n`` packets, in the order in which they are sent.

    arena: uint8; address: int64 (n,), offsets in the arena; length: uint32 (n,) bytes; due: int64 (n,) ns after the
    start, rising; queue: int64 (n,), which of the sender's queues, from 0.  ``release`` is called once the arena's
    bytes are not needed any more.
    """

    n: int
    arena: NDArray[np.uint8]
    address: NDArray[np.int64]
    length: NDArray[np.uint32]
    due: NDArray[np.int64]
    queue: NDArray[np.int64]
    share: float | None = None
    """How much of the plan, 0 to 1, is sent with this batch; None where the plan's end is not known."""
    release: Callable[[], object] = lambda: None
    pause_ns: int = 0
    """How long to wait before it, at full speed, once everything before it is sent."""

    def frames(self) -> Frames:
        """What kernels get."""
        return Frames(self.arena, self.address, self.length, self.due, self.queue)


@dataclass
class NotSent:
    """Packets of the plan that no sender gets, by reason, and notes on those that it does."""

    reasons: dict[str, int] = field(default_factory=dict)
    cut_by_capture: int = 0
    """Sent as far as the file has them: its snap length was shorter."""
    notes: dict[str, int] = field(default_factory=dict)
    """Sent otherwise than they are in the file, by how."""
    outside: int = 0
    """Packets of the file whose time 64-bit nanoseconds cannot hold."""


class SendPlan(Protocol):
    """Where the packets come from."""

    paced: bool
    """False: as fast as possible."""
    queues: int
    """How many queues of the sender it uses."""
    not_sent: NotSent
    counted: bool
    """Its packets have a fixed number, however long they take: no end by time, no pipe, not for ever."""

    def kernels(self) -> list[Any]: ...

    def batches(self) -> Iterator[Batch]:
        """The batches in order.  May raise UsageError after what was whole, for a damaged file."""
        ...

    def left(self) -> int | None:
        """Packets that ``batches`` has not given yet; None where they have to be read to be counted."""
        ...

    def close(self) -> None:
        """End ``batches`` soon; by any thread, more than once."""
        ...
