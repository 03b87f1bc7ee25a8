"""What a user's handler counts in: a record for each thread, and what all of them come to at the end."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.kernels.record import Record

Declared = np.dtype[Any] | Mapping[str, Any] | Sequence[Any]
"""A structured dtype, or what NumPy makes one of, or ``{"packets": np.int64, "ports": (np.int64, 65536)}``."""

Merge = Callable[[list[Record]], Any]
"""Gets the record of every thread, returns the result."""

FORMS = 'declare it as state={"packets": np.int64, "ports": (np.int64, 65536)}'
_UNUSED = "_unused"
_CACHE_LINE = 64


def dtype_of(declared: Declared | None, owner: str) -> np.dtype[Any]:
    """The record's dtype, aligned as C does it.  Raises UsageError for what threads cannot count in."""
    fields: Any = declared
    if isinstance(fields, Mapping):
        fields = [(name, *(kind if isinstance(kind, tuple) else (kind,))) for name, kind in fields.items()]
    try:
        made = np.dtype(fields if fields else [(_UNUSED, np.int64)], align=True)
    except (TypeError, ValueError) as error:
        raise UsageError(f"handler {owner}: its state is no record: {error}", FORMS) from None
    for name in made.names or ():
        base = made[name].base
        if base.kind not in "biuf" or base.names:
            raise UsageError(f"handler {owner}: state.{name} is {base}, not a number or an array of numbers", FORMS)
        if not name.isidentifier() or (name.startswith("_") and name != _UNUSED):
            raise UsageError(f"handler {owner}: its state has a field {name!r}", "a field's name begins with a letter")
    if not made.names:
        raise UsageError(f"handler {owner}: its state is {made}, not a record", FORMS)
    return made


def counters_in(function: Callable[..., Any], parameter: str) -> dict[str, Any]:
    """The fields that a function uses of its parameter ``state``, each as an int64 counter."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):
        raise UsageError(f"handler {function.__name__}: its text cannot be read", FORMS) from None
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    used.sort(key=lambda node: (node.lineno, node.col_offset))
    names = [node.attr for node in used if isinstance(node.value, ast.Name) and node.value.id == parameter]
    return dict.fromkeys(names, np.int64)


class Records:
    """The records of all threads, each on cache lines of its own."""

    def __init__(self, kind: np.dtype[Any]) -> None:
        self.kind = kind
        self._octets: list[NDArray[np.uint8]] = []

    def new(self) -> int:
        """The address of a thread's own record, all zero."""
        octets = np.zeros(self.kind.itemsize + 3 * _CACHE_LINE, np.uint8)
        self._octets.append(octets[-octets.ctypes.data % _CACHE_LINE + _CACHE_LINE :])
        return int(self._octets[-1].ctypes.data)

    def at(self, address: int) -> Record:
        return Record(address, self.kind)

    def all(self) -> list[Record]:
        return [self.at(octets.ctypes.data) for octets in self._octets]

    def merged(self, merge: Merge | None) -> Any:
        """The result: of ``merge``, else a dict with the sum of each field."""
        records = self.all() or [self.at(self.new())]
        return merge(records) if merge else summed(records, self.kind)


def summed(records: Iterable[Record], kind: np.dtype[Any]) -> dict[str, Any]:
    """Field by field: int or float where it is one number, an array where it is an array."""
    total: dict[str, Any] = {}
    for name in kind.names or ():
        if name == _UNUSED:
            continue
        parts = np.stack([np.asarray(getattr(record, name), kind[name].base) for record in records])
        field = parts.any(axis=0) if parts.dtype == bool else parts.sum(axis=0, dtype=_wide(parts.dtype))
        total[name] = field.item() if field.ndim == 0 else field
    return total


def _wide(kind: np.dtype[Any]) -> Any:
    return {"i": np.int64, "u": np.uint64, "f": np.float64}[kind.kind]


def plain(result: Any) -> Any:
    """A result as JSON knows it."""
    if isinstance(result, np.ndarray):
        return plain(result.tolist())
    if isinstance(result, np.generic):
        return plain(result.item())
    if isinstance(result, Mapping):
        return {str(key): plain(value) for key, value in result.items()}
    if isinstance(result, (list, tuple, set)):
        return [plain(value) for value in result]
    return result if isinstance(result, (str, int, float, bool)) or result is None else str(result)
