"""The fields of many packets as NumPy columns: what ``chunk.decode()`` returns."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wirecap.engine import arrow
from wirecap.engine.text import MAPPED
from wirecap.errors import UsageError, suggest
from wirecap.kernels.base import jit
from wirecap.kernels.packet import decode as k
from wirecap.kernels.packet.headers import LAYERS
from wirecap.kernels.pool.large import HASH_BYTES

KERNELS = (k.decode_rows, k.decode_field)
"""What reading fields calls, to be compiled ahead."""


class Rows(NamedTuple):
    """Where packets lie: ``n`` of them in row ``slot`` of three tables (kernels/pool/pool.py's)."""

    arena: NDArray[np.uint8]
    address: NDArray[np.int64]
    captured: NDArray[np.uint32]
    slot: int
    n: int
    link: int
    hashed: bool = False
    """Whether the NIC's hash lies in front of each packet."""


def hashes_of(rows: Rows) -> NDArray[np.uint32]:
    """The hash that the NIC has of each packet, (n,) uint32; 0 where it has none."""
    if not rows.hashed:
        return np.zeros(rows.n, np.uint32)
    before = rows.address[rows.slot, : rows.n, None] + np.arange(-HASH_BYTES, 0)
    pairs = rows.arena[before].view(np.uint32)
    return np.where(pairs[:, 1] != 0, pairs[:, 0], np.uint32(0))


class Lender(Protocol):
    """Whose bytes a field is read from that was not decoded at once."""

    def rows(self) -> Rows:
        """Raises ValueError once the bytes are no longer there."""


def _places() -> dict[str, tuple[int, k.Column]]:
    found, at = {}, 0
    for column in k.COLUMNS:
        found[column.name] = (at, column)
        at += np.dtype(column.dtype).itemsize * column.width
    return found


_PLACES = _places()
_LAYERS = frozenset(LAYERS)
STANDARD = tuple(_PLACES)
"""The columns that ``decode`` fills for every packet."""
_MORE = ("src", "dst", "nic_hash")
"""Columns of packets, not of a layer, that are made when they are first asked for."""
NAMES = (*STANDARD, *_MORE, *(name for name in k.RECIPES if name not in _PLACES))
"""All fields there are."""


class Fields:
    """The fields of n packets, each a NumPy array of n elements, by the names that compiled handlers use.

    ``fields.src_port``, ``fields.ip.src``, ``fields["tcp.flags"]``.  The columns that STANDARD names are copies and
    stay as they are when the chunk is released.  Any other field is read from the packets when it is first asked for,
    which raises ValueError once they are gone; to keep such fields, name them in ``chunk.decode("ip.ttl")``.

    An element is 0 where the packet does not have the field, whatever the dtype (see ``has``).
    """

    __slots__ = ("_block", "_known", "_n", "lender")

    def __init__(self, block: NDArray[np.uint8], n: int, lender: Lender) -> None:
        """block: what kernels/packet/decode.py's decode_rows filled for n packets."""
        self._block, self._n, self.lender = block, n, lender
        self._known: dict[str, NDArray[Any]] = {}

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The column of a field.  Addresses of IPv6, ``src`` and ``dst`` are (n, 2) uint64: high and low half."""
        known = self._known
        if name not in known:
            column = known[name] = self._make(name)
            column.flags.writeable = False
        return known[name]

    def __getattr__(self, name: str) -> Any:
        if name in _LAYERS:
            return Layer(self, name)
        if name in _PLACES or name in _MORE:
            return self[name]
        hint = suggest(name, [*_LAYERS, *NAMES])
        raise AttributeError(f"packets have no field {name!r}{f': {hint}' if hint else ''}")

    def has(self, layer: str) -> NDArray[np.bool_]:
        """Which packets have a layer (``"ip6"``, ``"tcp"``): its header was captured whole."""
        if layer not in _LAYERS:
            raise UsageError(f"unknown layer {layer!r}", f"the layers are {', '.join(LAYERS)}")
        found: NDArray[np.bool_] = (self["layers"] & k.BIT[layer]) != 0
        return found

    def _make(self, name: str) -> NDArray[Any]:
        if name in _PLACES:
            at, column = _PLACES[name]
            shape = (self._n,) if column.width == 1 else (self._n, column.width)
            return np.ndarray(shape, column.dtype, self._block, at * self._n)
        if name in ("src", "dst"):
            return self._address(name)
        if name == "nic_hash":
            return hashes_of(self._rows(name))
        if name in k.RECIPES:
            return self._read(name)
        raise UsageError(f"unknown field {name!r}", suggest(name, NAMES) or "docs/handlers.md lists the fields")

    def _address(self, which: str) -> NDArray[np.uint64]:
        """IPv6 addresses as they are, those of IPv4 as mapped ones, (0, 0) for neither."""
        found = self[f"ip6.{which}"].copy()
        four = self.has("ip")
        found[four, 1] = self[f"ip.{which}"][four].astype(np.uint64) | np.uint64(MAPPED)
        return found

    def _rows(self, name: str) -> Rows:
        try:
            return self.lender.rows()
        except ValueError:
            raise ValueError(
                f"{name} was not read before its packets were released: name it in chunk.decode({name!r})"
            ) from None

    def _read(self, name: str) -> NDArray[Any]:
        rows = self._rows(name)
        recipe = k.RECIPES[name]
        out = np.empty((rows.n, recipe.width), np.int64)
        k.decode_field(
            rows.arena, rows.address, rows.captured, rows.slot, rows.n, rows.link, np.array(recipe, np.int64), out
        )
        if recipe.width == 2:
            return out.view(np.uint64)
        return out[:, 0].astype(recipe.dtype)

    def to_arrow(self) -> Any:
        """A pyarrow.Table with a row for each packet, null where it does not have a field; addresses as text.

        Raises UsageError where pyarrow is not installed.
        """
        return arrow.table_of(self)

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with a row for each packet, NA where it does not have a field; addresses as text.

        Raises UsageError where pandas or pyarrow is not installed.
        """
        return arrow.frame_of(self)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that there are without reading packets again."""
        return (*STANDARD, *(name for name in self._known if name not in _PLACES))

    def __repr__(self) -> str:
        return f"<fields of {self._n} packet{'' if self._n == 1 else 's'}: {', '.join(self.names)}>"


class Layer:
    """The fields of a layer: ``fields.tcp.flags``."""

    __slots__ = ("_fields", "_name")

    def __init__(self, fields: Fields, name: str) -> None:
        self._fields, self._name = fields, name

    @property
    def there(self) -> NDArray[np.bool_]:
        """Which packets have it."""
        return self._fields.has(self._name)

    def __getattr__(self, name: str) -> NDArray[Any]:
        full = f"{self._name}.{name}"
        if full not in k.RECIPES:
            known = [field.partition(".")[2] for field in k.RECIPES if field.startswith(f"{self._name}.")]
            hint = suggest(name, known) or f"it has {', '.join(known)}"
            raise AttributeError(f"{self._name} has no field {name!r}: {hint}")
        return self._fields[full]

    def __repr__(self) -> str:
        return f"<{self._name} of {self._fields!r}>"


def decode(
    arena: NDArray[np.uint8], address: NDArray[np.int64], captured: NDArray[np.uint32], original: NDArray[np.uint32],
    timestamp: NDArray[np.int64], slot: int, n: int, link: int, lender: Lender,
) -> Fields:  # fmt: skip
    """The fields of the first n packets in row ``slot``.  link: kernels/packet/headers.py's, or UNKNOWN_LINK."""
    if not ready:
        prepare()
    block = np.empty(n * k.ROW_BYTES, BYTE)
    k.decode_rows(arena, address, captured, original, timestamp, slot, n, link, block)
    return Fields(block, n, lender)


BYTE, ROW_BYTES = np.dtype(np.uint8), k.ROW_BYTES
bind: Any = None
"""Once the kernels are ready: gets decode_rows's arrays, and returns what calls it with the other arguments."""
ready: list[bool] = []
"""Not empty once the kernels are compiled or loaded."""


def prepare() -> None:
    """Compile the kernels that ``decode`` and fields call, or load them."""
    global bind
    jit.prepare(KERNELS)
    bind = partial(partial, k.decode_rows) if jit.PURE else k.decode_rows.binder(5)
    ready.append(True)
