"""Flow records in files: JSON lines, and Parquet files that get their names once they are whole.

The name may take strftime(3)'s codes; a record goes to the file of its end (UTC).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from wirecap.errors import UsageError, WirecapError
from wirecap.files.shared import open_for_writing
from wirecap.flows.records import Records, arrow, arrow_schema
from wirecap.flows.targets import Output

LINES, PARQUET = (".jsonl", ".ndjson", ".json"), (".parquet",)
GROUP_ROWS = 1 << 17
"""Rows of a row group."""
PART_S = 300.0
"""A Parquet file gets its name after this time at the latest, so that a kill loses no more than this."""
MOST_OPEN = 3
"""Files that are open at once: records come in about the order of their ends."""


def check(path: str) -> None:
    """Raise UsageError for a name that tells no format."""
    if path == "-":
        return
    if not path.endswith(LINES + PARQUET):
        raise UsageError(f"--to file:{path}: the name tells no format", "end it in .jsonl or .parquet")
    if path.endswith(PARQUET):
        arrow()


def open_output(target: str) -> Output:
    """The output for ``-`` or ``file:PATH``."""
    path = target.removeprefix("file:")
    return ParquetFiles(target, path) if path.endswith(PARQUET) else JsonLines(target, path)


def by_name(records: Records, pattern: str) -> Iterator[tuple[str, Records]]:
    """The records by the file that they go to."""
    if "%" not in pattern or not len(records):
        yield pattern, records
        return
    seconds = records.values("flowEndNanoseconds") // 1_000_000_000
    distinct, places = np.unique(seconds, return_inverse=True)
    names = [_name(pattern, second) for second in distinct.tolist()]
    known = list(dict.fromkeys(names))
    number = np.array([known.index(name) for name in names])[places]
    for n, name in enumerate(known):
        yield name, records.chosen(number == n)


@lru_cache(maxsize=4096)
def _name(pattern: str, second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime(pattern)


def _failed(path: str, error: OSError) -> WirecapError:
    if path == "-":
        hint = "the program that read the output ended" if isinstance(error, BrokenPipeError) else ""
        return WirecapError(f"standard output: {error.strerror or error}", hint)
    reason = "Not a directory" if isinstance(error, FileExistsError) else error.strerror or str(error)
    return WirecapError(f"{path}: {reason}", "name files that can be written, on a disk with space")


class JsonLines(Output):
    """A record a line, behind what the file has already."""

    def __init__(self, target: str, path: str) -> None:
        super().__init__(target)
        self._path = path
        self._open: dict[str, Any] = {}
        if path == "-":
            self._open["-"] = sys.stdout.buffer
        elif "%" not in path:
            self._file(path)

    def write(self, records: Records) -> None:
        for name, some in by_name(records, self._path):
            try:
                file = self._file(name)
                file.write("".join(some.lines()).encode())
                file.flush()
            except OSError as error:
                raise _failed(name, error) from None
            self.stored += len(some)

    def _file(self, name: str) -> Any:
        if name not in self._open:
            while len(self._open) >= MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            try:
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                self._open[name] = Path(name).open("ab")  # noqa: SIM115
            except OSError as error:
                raise _failed(name, error) from None
        return self._open[name]

    def close(self) -> None:
        for name, file in self._open.items():
            if name != "-":
                file.close()
        self._open = {}


class ParquetFiles(Output):
    """A file for each name; another one, ``NAME-1.parquet``, where a name is taken already."""

    def __init__(self, target: str, path: str) -> None:
        super().__init__(target)
        self._pattern = path
        self._open: dict[str, Part] = {}
        if "%" not in path:
            self._open[path] = Part(path)

    def write(self, records: Records) -> None:
        for name, some in by_name(records, self._pattern):
            part = self._open.pop(name, None) or Part(name)
            self._open[name] = part  # the last one written to is the last one to be closed
            part.write(some.to_arrow())
            self.stored += len(some)
        while len(self._open) > MOST_OPEN:
            self._open.pop(next(iter(self._open))).close()

    def tick(self) -> None:
        now = time.monotonic()
        for name in [name for name, part in self._open.items() if now - part.begun > PART_S and part.rows]:
            self._open.pop(name).close()

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def discard(self) -> None:
        while self._open:
            self._open.popitem()[1].discard()


class Part:
    """A Parquet file under another name, ``.NAME.TAG.part``, until it is whole.  tag: the process, if not given.
    schema: of its record batches, if that is not ``arrow_schema``."""

    def __init__(self, name: str, tag: str = "", schema: Any = None) -> None:
        self._name, self._pa = Path(name), arrow()
        self._schema = schema or arrow_schema()
        self.hidden = self._name.with_name(f".{self._name.name}.{tag or os.getpid()}.part")
        self.begun, self.rows = time.monotonic(), 0
        self._waiting: list[Any] = []
        try:
            self._name.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(open_for_writing(self.hidden, os.O_TRUNC), "wb")
            self._writer = self._pa.parquet.ParquetWriter(self._file, self._schema, compression="zstd")
        except OSError as error:
            raise _failed(name, error) from None

    def write(self, batch: Any) -> None:
        """Add a record batch of its schema."""
        self._waiting.append(batch)
        self.rows += batch.num_rows
        if sum(batch.num_rows for batch in self._waiting) >= GROUP_ROWS:
            self._write_group()

    def _write_group(self) -> None:
        table = self._pa.Table.from_batches(self._waiting, self._schema)
        self._waiting = []
        try:
            self._writer.write_table(table, row_group_size=GROUP_ROWS)
        except OSError as error:
            raise self._lost(error) from None

    def close(self) -> None:
        """Write what is left, and give the file its name; an earlier one of that name stays as it is."""
        self.finish()
        try:
            take_name(self.hidden, self._name)
        except OSError as error:
            raise self._lost(error) from None

    def finish(self) -> None:
        """Write what is left, onto the disk."""
        if self._waiting:
            self._write_group()
        try:
            self._writer.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise self._lost(error) from None

    def discard(self) -> None:
        for each in (self._writer, self._file):
            with suppress(OSError):  # a full disk, which has been told
                each.close()
        self.hidden.unlink(missing_ok=True)

    def _lost(self, error: OSError) -> WirecapError:
        """A Parquet file that is cut short cannot be read."""
        self.hidden.unlink(missing_ok=True)
        return WirecapError(
            f"{self._name}: {error.strerror or error}; the file is incomplete and was removed",
            "free some space, or write to another disk",
        )


def take_name(hidden: Path, name: Path) -> None:
    """Give a whole file its name, or ``NAME-1`` and so on where that is taken.  Raises OSError."""
    wanted, number = name, 0
    while True:
        try:
            os.link(hidden, name)
            break
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not name.exists():
                hidden.rename(name)
                return
        number += 1
        name = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
    hidden.unlink()
