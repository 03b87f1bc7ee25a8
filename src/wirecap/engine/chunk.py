"""A chunk as Python code sees it: NumPy views of the ring-buffer pool, without a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.files.headers import Interface
from wirecap.kernels.pool import pool as k
from wirecap.source.source import SourceQueue

if TYPE_CHECKING:
    from wirecap.engine.fields import Fields, Rows

T = TypeVar("T", bound=np.generic)


_fields: Any = None
"""engine/fields.py, once a chunk was decoded: captures from the command line do without."""


_bound: tuple[Any, Any] = (None, None)
"""The pool of the last chunk that was decoded, and what fills the columns of its slots."""


def _bind(pool: k.Pool) -> Any:
    global _bound
    fill = _fields.bind(pool.arena, pool.address, pool.captured, pool.original, pool.timestamp)
    _bound = pool, fill
    return fill


def forget(pool: k.Pool) -> None:
    """Let go of a pool that will have no more chunks."""
    global _bound
    if _bound[0] is pool:
        _bound = None, None


def _load() -> Any:
    global _fields
    from wirecap.engine import fields

    fields.prepare()
    _fields = fields
    return fields


class Chunk:
    """Up to M packets of one receive queue, in order of arrival.

    A chunk lends out the pool's own memory: it is valid until it is released, by ``release`` or by the loop's
    next iteration.  After that its attributes raise ValueError, and arrays taken from it earlier show whatever
    packets come next; copy what you want to keep.
    """

    __slots__ = ("_count", "_give_back", "_home", "_pool", "described", "editable", "slot")

    def __init__(
        self, pool: k.Pool, slot: int, count: int, home: SourceQueue, give_back: Callable[[], None],
        editable: bool = False, described: Interface | None = None,
    ) -> None:  # fmt: skip
        self._pool, self._count, self._home = pool, count, home
        self.slot = slot
        """Its number in the pool."""
        self.described = described or Interface()
        """What is known of the interface: its name and link type (LINKTYPE_)."""
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
        start = int(self._pool.address[self.slot, index])
        return memoryview(self._pool.arena)[start : start + int(self._pool.captured[self.slot, index])].toreadonly()

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
        return self._row(self._pool.timestamp.view(np.uint64))

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each packet starts in ``arena``, (n,) int64."""
        return self._row(self._pool.address)

    @property
    def nic_hashes(self) -> NDArray[np.uint32]:
        """The hash that the NIC has of each packet, a copy, (n,) uint32; 0 where it has none.

        Raises UsageError where the capture does not ask for it (``nic_hash=True``, ``--nic-hash``).
        """
        if not self._pool.control[k.HASHED]:
            raise UsageError("this capture does not ask for the NIC's hashes", "use nic_hash=True, or --nic-hash")
        from wirecap.engine.fields import hashes_of

        return hashes_of(self.rows())

    @property
    def arena(self) -> NDArray[np.uint8]:
        """The memory that holds all packets, uint8; read-only except in a forwarder."""
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

    def decode(self, *names: str) -> Fields:
        """The packets' header fields as NumPy columns: ``fields.ip.src``, ``fields.src_port``, ``fields.tcp.flags``.

        The usual columns are copies, which outlive the chunk; so are those of the further fields that ``names`` has,
        such as ``"ip.ttl"``.  Raises UsageError for a field that there is not.
        """
        fields = _fields  # each step counts here: a packet may cost 10 ns
        if fields is None or self._give_back is None:
            self._check()
            fields = _load()
        pool, n = self._pool, self._count
        block = np.empty(n * fields.ROW_BYTES, fields.BYTE)
        bound_pool, fill = _bound
        if bound_pool is not pool:
            fill = _bind(pool)
        fill(self.slot, n, self.described.link, block)
        found: Fields = fields.Fields(block, n, self)
        for name in names:
            found[name]
        return found

    def tables(self) -> tuple[Any, Any, Any, Any, Any]:
        """The pool's arena and its tables of addresses, captured and original lengths, and times; row ``slot``."""
        self._check()
        pool = self._pool
        return pool.arena, pool.address, pool.captured, pool.original, pool.timestamp

    def rows(self) -> Rows:
        """Where the packets lie, for kernels."""
        from wirecap.engine.fields import Rows

        self._check()
        pool = self._pool
        hashed = bool(pool.control[k.HASHED])
        return Rows(pool.arena, pool.address, pool.captured, self.slot, self._count, self.described.link, hashed)

    def drop(self, numbers: int | Sequence[int] | NDArray[Any]) -> None:
        """In a forwarder, do not send these packets: a number, several numbers, or a mask of all packets."""
        self._check()
        if not self.editable:
            raise RuntimeError("only wirecap forward can drop packets")
        self._pool.captured[self.slot, : self._count][numbers] = 0

    def release(self) -> None:
        """Give the chunk back to its pool; a second call does nothing."""
        if self._give_back is not None:
            give_back, self._give_back = self._give_back, None
            give_back()

    def _check(self) -> None:
        if self._give_back is None:
            raise ValueError("this chunk has been released: copy what you want to keep before the next iteration")

    def _row(self, table: NDArray[T]) -> NDArray[T]:
        self._check()
        row = table[self.slot, : self._count]
        row.flags.writeable = False
        return row
