"""What a handler counted in one part of the input, to be taken to another process and merged there with others'.

A fold takes the parts in the order of the input, so that the result is the same whoever read which part, and when.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.handlers.state import UNUSED, Merge, Records, combined, wide
from wirecap.handlers.tables import merged
from wirecap.kernels.handlers.tables import HISTOGRAM, TRIGGER, Kind

MANY = 64
"""So many tables of one field are made one, to save memory."""


class Fold(Protocol):
    """Takes what ``Handler.part`` gave, part by part."""

    def add(self, part: Any) -> None: ...

    def result(self) -> Any: ...


@dataclass
class TableCopy:
    """A table without its free places, with the names that ``tables.merged`` reads."""

    total: int
    without: int
    counts: NDArray[np.int64] | None = None
    held: int = 0
    keys: NDArray[np.int64] | None = None
    amounts: NDArray[np.int64] | None = None
    lost: int = 0
    error: int = 0

    @classmethod
    def of(cls, table: Any, kind: Kind) -> TableCopy:
        total, without = int(table.total), int(table.without)
        if kind.policy == TRIGGER:
            return cls(total, without)
        if kind.policy == HISTOGRAM:
            return cls(total, without, np.array(table.counts))
        held = int(table.held)
        return cls(
            total, without, None, held, np.array(table.keys[:held]), np.array(table.amounts[:held]),
            int(table.lost), int(table.error),
        )  # fmt: skip


def as_one(copies: Sequence[TableCopy], kind: Kind) -> TableCopy:
    """Tables added up, without losing a key."""
    total, without = sum(copy.total for copy in copies), sum(copy.without for copy in copies)
    if kind.policy == TRIGGER:
        return TableCopy(total, without)
    if kind.policy == HISTOGRAM:
        return TableCopy(total, without, np.sum([copy.counts for copy in copies if copy.counts is not None], axis=0))
    keys, places = np.unique(np.concatenate([copy.keys for copy in copies if copy.keys is not None]), axis=0,
                             return_inverse=True)  # fmt: skip
    amounts = np.zeros(len(keys), np.int64)
    np.add.at(
        amounts, places.reshape(-1), np.concatenate([copy.amounts for copy in copies if copy.amounts is not None])
    )
    lost, error = sum(copy.lost for copy in copies), sum(copy.error for copy in copies)
    return TableCopy(total, without, None, len(keys), keys, amounts, lost, error)


def fields_of(records: Records) -> list[dict[str, Any]]:
    """The fields of each thread's record: numbers, arrays, and tables as TableCopy."""
    return [
        {
            name: TableCopy.of(getattr(record, name), records.tables[name]) if name in records.tables
            else np.array(getattr(record, name))
            for name in records.kind.names or () if name != UNUSED
        }
        for record in records.all()
    ]  # fmt: skip


class Summing:
    """The sum of each field, as ``Records.merged`` has it."""

    def __init__(self, kind: np.dtype[Any], tables: Mapping[str, Kind]) -> None:
        self._kind, self._tables = kind, tables
        names = [name for name in kind.names or () if name != UNUSED]
        self._copies: dict[str, list[TableCopy]] = {name: [] for name in names if name in tables}
        self._sums = {
            name: np.zeros(kind[name].shape, bool if kind[name].base.kind == "b" else wide(kind[name].base))
            for name in names if name not in tables
        }  # fmt: skip
        self._names = names

    def add(self, part: list[dict[str, Any]]) -> None:
        for record in part:
            for name, sums in self._sums.items():
                value = record[name].astype(sums.dtype)
                self._sums[name] = sums | value if sums.dtype == bool else sums + value
            for name, copies in self._copies.items():
                copies.append(record[name])
                if len(copies) > MANY:  # one stays apart: a key that one table holds may have been lost by another
                    copies[:] = [as_one(copies[:-1], self._tables[name]), copies[-1]]

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in self._names:
            if name in self._copies:
                found[name] = merged(self._copies[name] or [self._empty(name)], self._tables[name])
            else:
                total = np.asarray(self._sums[name])
                found[name] = total.item() if total.ndim == 0 else total
        return found

    def _empty(self, name: str) -> TableCopy:
        records = Records(self._kind, self._tables)
        records.new()
        return TableCopy.of(getattr(records.all()[0], name), self._tables[name])


class Merging:
    """Whole records, for a user's own merge: it gets those of all parts."""

    def __init__(self, kind: np.dtype[Any], tables: Mapping[str, Kind], merge: Merge) -> None:
        self._records, self._merge = Records(kind, tables), merge

    def add(self, part: list[bytes]) -> None:
        for record in part:
            self._records.adopt(record)

    def result(self) -> Any:
        return self._records.merged(self._merge)


class Joining:
    """States that are objects of any kind."""

    def __init__(self, make: Callable[[], Any], merge: Merge | None) -> None:
        self._make, self._merge = make, merge
        self._states: list[Any] = []

    def add(self, part: bytes) -> None:
        self._states += pickle.loads(part)

    def result(self) -> Any:
        states = self._states or [self._make()]
        return self._merge(states) if self._merge else combined(states)


class Nothing:
    """Of a handler without a result."""

    def add(self, part: None) -> None: ...

    def result(self) -> None: ...


def pickled(name: str, states: Sequence[Any]) -> bytes:
    """States on their way to another process.  Raises UsageError for those that cannot go."""
    try:
        return pickle.dumps(list(states))
    except Exception as error:  # of many types
        why = f"{type(error).__name__}: {error}"
        hint = "use numbers, arrays, dicts, lists and sets"
        raise UsageError(f"handler {name}: its state cannot be sent to another process: {why}", hint) from None
