"""The tables of blocks below the places of a search, as one dataset (docs/find.md has the schema)."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.convert.parquet import library
from wirecap.errors import UsageError
from wirecap.files.index import Ranges, StaleError
from wirecap.files.urls import RangeSource, is_url
from wirecap.filters.narrow import NEVER, Condition, holds
from wirecap.find.summary import METADATA, SCHEMA_VERSION, schema_of
from wirecap.kernels.file import index as k
from wirecap.kernels.file.read import LATEST_NS

_NARROW = ["file", "file_bytes", "mtime_ns", "head", "tail", "compressed", "linktypes", "kind", "stored_offset",
           "stored_bytes", "first_ns", "last_ns"]  # fmt: skip
Numbers = NDArray[np.int64]


@dataclass
class Group:
    """A row group; the terms of its blocks are read when somebody asks for them."""

    table: _Table
    number: int
    first: Numbers
    last: Numbers
    _data: NDArray[np.uint64] | None = None
    _places: Numbers | None = None
    _found: dict[int, NDArray[np.bool_]] = field(default_factory=dict)

    def has(self, hashed: int) -> NDArray[np.bool_]:
        """For each row, whether its block may have the term of a hash."""
        if hashed not in self._found:
            self._found[hashed] = self._look(hashed)
        return self._found[hashed]

    def _look(self, hashed: int) -> NDArray[np.bool_]:
        if self._data is None or self._places is None:
            self._places, self._data = self.table.terms(self.number)
        words = np.diff(self._places)
        some = words > 0
        row = np.zeros(len(words), np.uint64)
        row[some] = self._data[(self._places[:-1] + (hashed >> 24) * words // k.FILTER_WORDS)[some]]
        wanted = np.uint64(sum({1 << (hashed >> shift & 63) for shift in (0, 6, 12, 18)}))
        found: NDArray[np.bool_] = row & wanted == wanted
        return found


@dataclass
class Known:
    """What a table has of one file: ranges of it as it is stored; ``begin`` to ``end`` are its rows."""

    size: int
    mtime_ns: int
    ends: tuple[str, str]
    linktypes: tuple[int, ...]
    compressed: bool
    group: Group
    begin: int
    end: int
    places: Ranges
    kinds: list[str]

    def _of(self, kind: str) -> Ranges:
        return [one for one, other in zip(self.places, self.kinds, strict=True) if other == kind]

    @property
    def head(self) -> Ranges:
        return self._of("head")

    @property
    def always(self) -> Ranges:
        return self._of("always")

    @property
    def rest(self) -> Ranges:
        return self._of("rest")

    @property
    def blocks(self) -> int:
        return self.kinds.count("block")

    def chosen(self, condition: Condition, since_ns: int, until_ns: int) -> Ranges:
        """The blocks in which a packet can match."""
        rows = slice(self.begin, self.end)
        inside = (self.group.last[rows] >= since_ns) & (self.group.first[rows] < until_ns)
        if condition is NEVER or not inside.any():
            return []
        inside &= holds(condition, lambda hashed: self.group.has(hashed)[rows], len(inside))
        return [self.places[row] for row in np.flatnonzero(inside)]


class Dataset:
    """tables: their paths and URLs, and how many bytes each has; tell: gets a line for each that is not used."""

    def __init__(self, tables: Mapping[str, int], tell: Callable[[str], None]) -> None:
        self._known: dict[str, list[Known]] = {}
        self._tables = []
        for place, size in tables.items():
            try:
                table = _Table(place, size)
                for name, known in table.checked_files():
                    self._known.setdefault(name, []).append(known)
                self._tables.append(table)
            except StaleError as error:
                tell(f"{place}: {error}: it is not used")
            except UsageError as error:  # without the library
                tell(f"{place}: {error}: it is not used")
            except OSError as error:
                tell(f"{place}: {error.strerror or error}: it is not used")

    def of(self, path: str, size: int, mtime_ns: int | None) -> Known | None:
        """What is known of a file of this size; mtime_ns: when it was changed, None: nobody can tell."""
        name = path if is_url(path) else os.path.realpath(path)
        for known in self._known.get(name, ()):
            if known.size == size and mtime_ns in (None, known.mtime_ns):
                return known
        return None

    def read(self) -> int:
        """Bytes of all tables so far."""
        return sum(table.bytes_read for table in self._tables)


class _Table:
    def __init__(self, place: str, size: int) -> None:
        """Raises StaleError for one that cannot be read here, OSError."""
        pyarrow, parquet = library()
        self._base = place.rpartition("/")[0] if is_url(place) else os.path.dirname(os.path.realpath(place))  # noqa: PTH120
        self._file = _Fetched(place, size)
        try:
            self._parquet = parquet.ParquetFile(pyarrow.PythonFile(self._file, "r"), pre_buffer=False)
            version = (self._parquet.schema_arrow.metadata or {}).get(METADATA, b"?").decode()
        except pyarrow.ArrowException as error:
            raise StaleError(f"it is not a table of blocks ({' '.join(str(error).split())[:100]})") from None
        if version != str(SCHEMA_VERSION):
            raise StaleError(f"it is a table of version {version}, and this wirecap reads {SCHEMA_VERSION}")
        ours, theirs = schema_of(pyarrow), self._parquet.schema_arrow
        for name in (*_NARROW, "terms"):
            if name not in theirs.names or not theirs.field(name).type.equals(ours.field(name).type):
                raise StaleError(f"its column {name} is not as version {version} has it")
        self._damaged = pyarrow.ArrowException

    @property
    def bytes_read(self) -> int:
        return self._file.bytes_read

    def _group(self, number: int, columns: list[str]) -> Any:
        try:
            return self._parquet.read_row_group(number, columns=columns, use_threads=False).combine_chunks()
        except (self._damaged, KeyError) as error:
            raise StaleError(f"it is damaged ({' '.join(str(error).split())[:100]})") from None

    def checked_files(self) -> list[tuple[str, Known]]:
        """(path or URL, what is known) of all files.  Raises StaleError for a table that has not what it must have."""
        try:
            return self._files()
        except (TypeError, ValueError, AttributeError, OverflowError):  # nothing where something must be
            raise StaleError("it is damaged") from None

    def _files(self) -> list[tuple[str, Known]]:
        found = []
        for number in range(self._parquet.num_row_groups):
            rows = self._group(number, _NARROW)
            columns = {name: rows[name].to_pylist() for name in _NARROW if name not in ("first_ns", "last_ns")}
            first, last = (
                np.array(rows[name].fill_null(none), np.int64)
                for name, none in (("first_ns", LATEST_NS), ("last_ns", -LATEST_NS))
            )
            group = Group(self, number, first, last)
            names = columns["file"]
            edges = [0, *(row for row in range(1, len(names)) if names[row] != names[row - 1]), len(names)]
            for begin, end in itertools.pairwise(edges):
                if end > begin:
                    found.append((self._place(names[begin]), _known(columns, group, begin, end)))
        return found

    def _place(self, name: str) -> str:
        return name if name.startswith("/") or is_url(name) else f"{self._base}/{name}"

    def terms(self, number: int) -> tuple[Numbers, NDArray[np.uint64]]:
        """(where each row's words begin, and where the last one's end, and the words)."""
        column = self._group(number, ["terms"])["terms"].combine_chunks().fill_null(b"")
        lengths = np.array([len(one) for one in column.to_pylist()], np.int64) // 8
        words = np.frombuffer(b"".join(one[: len(one) // 8 * 8] for one in column.to_pylist()), np.uint64)
        return np.concatenate([[0], np.cumsum(lengths)]), words


def _known(columns: dict[str, list[Any]], group: Group, begin: int, end: int) -> Known:
    rows = slice(begin, end)
    starts, sizes = columns["stored_offset"][rows], columns["stored_bytes"][rows]
    return Known(
        columns["file_bytes"][begin], columns["mtime_ns"][begin], (columns["head"][begin], columns["tail"][begin]),
        tuple(columns["linktypes"][begin]), columns["compressed"][begin], group, begin, end,
        [(start, start + size) for start, size in zip(starts, sizes, strict=True)], columns["kind"][rows],
    )  # fmt: skip


class _Fetched(io.RawIOBase):
    """A file, or what is behind a URL, read where somebody looks; counts the bytes."""

    def __init__(self, place: str, size: int) -> None:
        self._source = RangeSource(place, size) if is_url(place) else None
        self._fd = -1 if self._source else os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        self._size, self._at, self.bytes_read = size, 0, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = 0) -> int:
        self._at = place + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int = -1) -> bytes:
        end = self._size if count < 0 else min(self._size, self._at + count)
        if end <= self._at:
            return b""
        data = (
            self._source.read(self._at, end).tobytes() if self._source else os.pread(self._fd, end - self._at, self._at)
        )
        self._at += len(data)
        self.bytes_read += len(data)
        return data

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        super().close()
