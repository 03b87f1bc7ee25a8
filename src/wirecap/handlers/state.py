"""What a user's handler counts in: a record per thread, and how they are merged at the end."""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.handlers.tables import Bins, TableSpec, Tally, begin, merged
from wirecap.kernels.handlers.tables import Kind
from wirecap.kernels.handlers.user import Record

Declared = np.dtype[Any] | Mapping[str, Any] | Sequence[Any] | Callable[[], Any]
"""A structured dtype, something NumPy can make one of, or ``{"packets": np.int64, "ports": (np.int64, 65536)}``; for
handlers in Python also what makes a thread's state, which may be any object: ``collections.Counter``."""

Merge = Callable[[list[Any]], Any]
"""Gets the states of all threads and returns the result."""

FORMS = 'declare it as state={"packets": np.int64, "ports": (np.int64, 65536)}'
UNUSED = "_unused"
_CACHE_LINE = 64


def dtype_of(declared: Declared | None, owner: str) -> np.dtype[Any]:
    """The record's dtype, aligned as in C.  Raises UsageError for something that threads cannot count in."""
    fields: Any = declared
    tables = tables_of(declared)
    if isinstance(fields, Mapping):
        fields = [
            (name, *(kind if isinstance(kind, tuple) else (tables[name].dtype if name in tables else kind,)))
            for name, kind in fields.items()
        ]
    try:
        made = np.dtype(fields if fields else [(UNUSED, np.int64)], align=True)
    except (TypeError, ValueError) as error:
        raise UsageError(f"handler {owner}: its state is not a record: {error}", FORMS) from None
    for name in made.names or ():
        base = made[name].base
        if name not in tables and (base.kind not in "biuf" or base.names):
            raise UsageError(f"handler {owner}: state.{name} is {base}, not a number or an array of numbers", FORMS)
        if not name.isidentifier() or (name.startswith("_") and name != UNUSED):
            raise UsageError(f"handler {owner}: its state has a field {name!r}", "start field names with a letter")
    if not made.names:
        raise UsageError(f"handler {owner}: its state is {made}, not a record", FORMS)
    return made


def tables_of(declared: Declared | None) -> dict[str, Kind]:
    """The fields that are tables (handlers/tables.py), by name."""
    if not isinstance(declared, Mapping):
        return {}
    return {name: kind.kind for name, kind in declared.items() if isinstance(kind, TableSpec)}


def counters_in(function: Callable[..., Any], parameter: str) -> dict[str, Any]:
    """The fields of its parameter ``state`` that a function uses, each as an int64 counter."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):
        raise UsageError(f"handler {function.__name__}: its source cannot be read", FORMS) from None
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    used.sort(key=lambda node: (node.lineno, node.col_offset))
    names = [node.attr for node in used if isinstance(node.value, ast.Name) and node.value.id == parameter]
    return dict.fromkeys(names, np.int64)


class Records:
    """The records of all threads, each on its own cache lines."""

    def __init__(self, kind: np.dtype[Any], tables: Mapping[str, Kind] | None = None) -> None:
        self.kind, self.tables = kind, dict(tables or {})
        self._bytes: list[NDArray[np.uint8]] = []

    def new(self) -> int:
        """The address of a thread's own record: all zero, its tables empty."""
        data = np.zeros(self.kind.itemsize + 3 * _CACHE_LINE, np.uint8)
        self._bytes.append(data[-data.ctypes.data % _CACHE_LINE + _CACHE_LINE :])
        address = int(self._bytes[-1].ctypes.data)
        for name in self.tables:
            begin(getattr(self.at(address), name), self.tables[name])
        return address

    def adopt(self, record: bytes) -> None:
        """Take a copy of a record of another process, as it is in memory."""
        self.new()
        self._bytes[-1][: self.kind.itemsize] = np.frombuffer(record, np.uint8)

    def copies(self) -> list[bytes]:
        """Each record as it is in memory, for ``adopt``."""
        return [data[: self.kind.itemsize].tobytes() for data in self._bytes]

    def at(self, address: int) -> Record:
        return Record(address, self.kind, self.tables)

    def all(self) -> list[Record]:
        return [self.at(data.ctypes.data) for data in self._bytes]

    def merged(self, merge: Merge | None) -> Any:
        """The result: what ``merge`` returns, or else a dict with the sum of each field."""
        records = self.all() or [self.at(self.new())]
        return merge(records) if merge else summed(records, self.kind, self.tables)


def summed(records: Sequence[Record], kind: np.dtype[Any], tables: Mapping[str, Kind]) -> dict[str, Any]:
    """The sum of each field: an int or float for a number, an array for an array, a Tally or Bins for a table."""
    total: dict[str, Any] = {}
    for name in kind.names or ():
        if name == UNUSED:
            continue
        if name in tables:
            total[name] = merged([getattr(record, name) for record in records], tables[name])
            continue
        parts = np.stack([np.asarray(getattr(record, name), kind[name].base) for record in records])
        field = parts.any(axis=0) if parts.dtype == bool else parts.sum(axis=0, dtype=wide(parts.dtype))
        total[name] = field.item() if field.ndim == 0 else field
    return total


def wide(kind: np.dtype[Any]) -> Any:
    return {"i": np.int64, "u": np.uint64, "f": np.float64}[kind.kind]


class Objects:
    """The states of all threads where ``make`` makes them."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._made = make, list[Any]()

    def new(self) -> Any:
        self._made.append(self._make())
        return self._made[-1]

    def all(self) -> list[Any]:
        return self._made

    def merged(self, merge: Merge | None) -> Any:
        """The result: what ``merge`` returns, or else all of them as one."""
        states = self._made or [self._make()]
        return merge(states) if merge else combined(states)


def combined(states: Sequence[Any]) -> Any:
    """Several states as one: numbers and arrays are added, mappings by key, sets and lists joined.

    Of other objects it is the list of them.
    """
    first, *others = states
    if not others:
        return first
    if all(isinstance(state, Mapping) for state in states):
        keys = dict.fromkeys(key for state in states for key in state)
        return {key: combined([state[key] for state in states if key in state]) for key in keys}
    if all(isinstance(state, (set, frozenset)) for state in states):
        return frozenset().union(*states)
    if all(isinstance(state, list) for state in states):
        return [entry for state in states for entry in state]
    if all(isinstance(state, (int, float, np.number, np.ndarray)) for state in states):
        return sum(others, first)
    return list(states)


def tables_as_lines(handlers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The closing lines for counters by key, top-N tables and histograms in handlers' results."""
    lines = []
    for handler in handlers:
        found = handler["result"] if isinstance(handler["result"], Mapping) else {}
        for name, value in found.items():
            if isinstance(value, (Tally, Bins)):
                first, *rest = value.lines()
                lines += [f"{handler['name']}: {name}: {first}", *rest]
    return lines


def plain(result: Any) -> Any:
    """A result in JSON's types."""
    if isinstance(result, (Tally, Bins)):
        return result.plain()
    if isinstance(result, np.ndarray):
        return plain(result.tolist())
    if isinstance(result, np.generic):
        return plain(result.item())
    if isinstance(result, Mapping):
        return {_key(key): plain(value) for key, value in result.items()}
    if isinstance(result, (list, tuple, set, frozenset)):
        return [plain(value) for value in result]
    if isinstance(result, float) and not math.isfinite(result):
        return None  # JSON has no such numbers
    if isinstance(result, (bytes, bytearray)):
        return result.hex()
    return result if isinstance(result, (str, int, float, bool)) or result is None else str(result)


def _key(key: Any) -> str:
    """A key of a JSON object."""
    key = plain(key) if isinstance(key, (bytes, np.generic)) else key
    return " ".join(map(_key, key)) if isinstance(key, tuple) else str(key)
