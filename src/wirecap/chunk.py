"""What Python code sees of a chunk: NumPy views of the ring-buffer pool, no copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wirecap.kernels import pool as k
from wirecap.source.base import SourceQueue

T = TypeVar("T", bound=np.generic)


class Chunk:
    """Up to M packets of one receive queue, in the order in which they arrived.

    A chunk lends out the pool's own memory: it is valid until it is released, by ``release`` or by the
    loop's next turn.  After that its attributes raise ValueError, and arrays taken from it before show
    whatever packets come next; copy what is to be kept.
    """

    __slots__ = ("_count", "_give_back", "_home", "_pool", "_slot", "editable")

    def __init__(
        self, pool: k.Pool, slot: int, count: int, home: SourceQueue, give_back: Callable[[], None],
        editable: bool = False,
    ) -> None:  # fmt: skip
        self._pool, self._slot, self._count, self._home = pool, slot, count, home
        self.editable = editable
        """True in a forwarder: ``arena`` may be written to, packets may be dropped."""
        self._give_back: Callable[[], None] | None = give_back

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> memoryview:
        """One packet's captured bytes, read-only; ``bytes(chunk[0])`` copies them."""
        self._check()
        if index < 0:
            index += self._count
        if not 0 <= index < self._count:
            raise IndexError(f"packet {index} of a chunk of {self._count}")
        start = int(self._pool.address[self._slot, index])
        return memoryview(self._pool.arena)[start : start + int(self._pool.captured[self._slot, index])].toreadonly()

    def __iter__(self) -> Iterator[memoryview]:
        return (self[index] for index in range(self._count))

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Captured bytes of each packet, (n,) uint32."""
        return self._row(self._pool.captured)

    @property
    def original_lengths(self) -> NDArray[np.uint32]:
        """Bytes of each packet on the wire, (n,) uint32."""
        return self._row(self._pool.original)

    @property
    def timestamps(self) -> NDArray[np.uint64]:
        """Nanoseconds since the epoch, UTC, (n,) uint64."""
        return self._row(self._pool.stamp.view(np.uint64))

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each packet starts in ``arena``, (n,) int64."""
        return self._row(self._pool.address)

    @property
    def arena(self) -> NDArray[np.uint8]:
        """The memory that all packets lie in, uint8, read-only but in a forwarder."""
        self._check()
        view = self._pool.arena.view()
        view.flags.writeable = self.editable
        return view  # type: ignore[no-any-return]

    @property
    def interface(self) -> str:
        """The interface that received the packets, or the file's path."""
        return self._home.interface

    @property
    def queue(self) -> int:
        """The receive queue that they came from."""
        return self._home.queue

    def drop(self, numbers: int | Sequence[int] | NDArray[Any]) -> None:
        """In a forwarder: do not send these packets; a number, several, or a mask of all."""
        self._check()
        if not self.editable:
            raise RuntimeError("packets can be dropped by wirecap forward only")
        self._pool.captured[self._slot, : self._count][numbers] = 0

    def release(self) -> None:
        """Give the chunk back to its pool; a second call does nothing."""
        if self._give_back is not None:
            give_back, self._give_back = self._give_back, None
            give_back()

    def _check(self) -> None:
        if self._give_back is None:
            raise ValueError("this chunk was released: copy what you keep before the loop's next turn")

    def _row(self, table: NDArray[T]) -> NDArray[T]:
        self._check()
        row = table[self._slot, : self._count]
        row.flags.writeable = False
        return row
