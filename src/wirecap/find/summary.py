"""The blocks of many files as one Parquet table: what a search over machines, or another program, plans with.

docs/find.md has the schema.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wirecap.convert.parquet import library
from wirecap.errors import UsageError
from wirecap.files.decompression import is_compressed
from wirecap.files.index import Index, StaleError
from wirecap.files.stored import Stored
from wirecap.files.urls import is_url
from wirecap.find.indexing import Made, Tell, stored_index
from wirecap.find.stretches import stored_ranges

SCHEMA_VERSION = 2
METADATA = b"wirecap.index_summary"
GROUP_ROWS = 1 << 15
"""Rows of a row group, or more where a file has more blocks."""
KINDS = ("head", "always", "block", "rest")


def write_summary(paths: Sequence[str], target: str, tell: Tell, stored: Mapping[str, Stored], force: bool) -> int:
    """Write the blocks of all files that have an index; returns their number.

    stored: those of the files that are behind URLs, of which indexes are made, with ``force`` also where there is a
    good one.  Raises UsageError without pyarrow, or if it cannot be written.
    """
    pyarrow, parquet = library()
    schema = schema_of(pyarrow)
    blocks, rows, waiting = 0, 0, []
    try:
        with parquet.ParquetWriter(target, schema, compression="zstd") as writer:
            for path in paths:
                try:
                    index, made, compressed = _index_of(path, stored.get(path), force)
                    found = _table(pyarrow, schema, index, _named(path, target), compressed)
                except StaleError as error:
                    tell(f"{path}: {error}: left out", True)
                    continue
                if made:
                    tell(made, False)
                waiting.append(found)
                rows += found.num_rows
                blocks += found["kind"].to_pylist().count("block")
                if rows >= GROUP_ROWS:
                    writer.write_table(pyarrow.concat_tables(waiting), row_group_size=rows)
                    rows, waiting = 0, []
            if waiting:
                writer.write_table(pyarrow.concat_tables(waiting), row_group_size=rows)
    except OSError as error:
        raise UsageError(f"{target}: {error.strerror or error}", "name a file that can be written") from None
    return blocks


def schema_of(pyarrow: Any) -> Any:
    """Types that every reader of Parquet has: no nanoseconds as a type, no unsigned numbers."""
    time, text, number = pyarrow.timestamp("us", "UTC"), pyarrow.string(), pyarrow.int64()
    fields = [
        ("file", text), ("file_bytes", number), ("mtime_ns", number), ("head", text), ("tail", text),
        ("compressed", pyarrow.bool_()), ("linktypes", pyarrow.list_(pyarrow.int32())),
        ("kind", text), ("block", pyarrow.int32()), ("offset", number), ("bytes", number),
        ("stored_offset", number), ("stored_bytes", number),
        ("first_time", time), ("last_time", time), ("first_ns", number), ("last_ns", number),
        ("packets", number), ("terms", pyarrow.binary()),
    ]  # fmt: skip
    return pyarrow.schema(fields, {METADATA: str(SCHEMA_VERSION)})


def _index_of(path: str, stored: Stored | None, force: bool) -> tuple[Index, Made | None, bool]:
    """(its index, the same if it was made now, whether the file is compressed).  Raises StaleError: why it has none."""
    try:
        if stored:
            return *stored_index(stored, force), stored.is_compressed()
        with Path(path).open("rb") as file:
            return Index(path), None, is_compressed(file.read(4))
    except OSError as error:
        raise StaleError((error.strerror or str(error)) if stored else "it has no index") from None
    except UsageError as error:
        raise StaleError(error.message.removeprefix(f"{path}: ")) from None


def _table(pyarrow: Any, schema: Any, index: Index, file: str, compressed: bool) -> Any:
    """A row for each stretch of a file."""
    segments = index.segments()
    start = int(segments[0].start[0]) if segments else index.covered
    stretches = [("head", (0, start)), *(("always", one) for one in index.always)]
    known: dict[str, list[Any]] = {
        name: [None] * len(stretches) for name in ("first_ns", "last_ns", "packets", "terms")
    }
    for segment in segments:
        edges = segment.start.tolist()
        stretches += [("block", one) for one in itertools.pairwise(edges)]
        empty = (segment.packets == 0).tolist()
        for name, times in (("first_ns", segment.first_ns), ("last_ns", segment.last_ns)):
            known[name] += [None if none else ns for ns, none in zip(times.tolist(), empty, strict=True)]
        known["packets"] += segment.packets.tolist()
        known["terms"] += [row.tobytes() for row in np.ascontiguousarray(index.terms(segment))]
    if not compressed and index.covered < index.capture_bytes:
        stretches.append(("rest", (index.covered, index.capture_bytes)))
        for column in known.values():
            column.append(None)
    count = len(stretches)
    ranges = [one for _, one in stretches]
    places = stored_ranges(ranges, index, compressed)
    blocks = iter(range(count))
    columns = {
        "file": [file] * count, "file_bytes": [index.capture_bytes] * count,
        "mtime_ns": [index.mtime_ns] * count, "head": [index.ends[0]] * count, "tail": [index.ends[1]] * count,
        "compressed": [compressed] * count, "linktypes": [index.linktypes] * count,
        "kind": [kind for kind, _ in stretches],
        "block": [next(blocks) if kind == "block" else None for kind, _ in stretches],
        "offset": [begin for begin, _ in ranges], "bytes": [end - begin for begin, end in ranges],
        "stored_offset": [begin for begin, _ in places], "stored_bytes": [end - begin for begin, end in places],
        "first_time": [None if ns is None else ns // 1000 for ns in known["first_ns"]],
        "last_time": [None if ns is None else -(-ns // 1000) for ns in known["last_ns"]], **known,
    }  # fmt: skip
    return pyarrow.Table.from_pydict(columns, schema)


def _named(path: str, target: str) -> str:
    """As the table calls it: from the table's folder on, so that both can move; absolute if it lies elsewhere; URLs."""
    if is_url(path):
        return path
    folder, whole = Path(os.path.realpath(target)).parent, Path(os.path.realpath(path))
    return whole.relative_to(folder).as_posix() if whole.is_relative_to(folder) else str(whole)
