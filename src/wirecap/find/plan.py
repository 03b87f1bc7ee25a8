"""What of a capture file has to be read: all of it, or the blocks that its index does not rule out."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wirecap.config.find import FindConfig
from wirecap.files.decompression import is_compressed
from wirecap.files.index import Index, Ranges, StaleError
from wirecap.files.stored import Pages, Stored
from wirecap.files.urls import is_url
from wirecap.filters.expression import compile_fitting
from wirecap.filters.metadata import Link
from wirecap.filters.narrow import NEVER, Condition, either, holds, narrowed
from wirecap.find.dataset import Dataset, Known
from wirecap.find.stretches import joined, of_frames

INTO_TABLE = "--summary NAME.wcidx.parquet"
"""How ``wirecap index`` is asked for indexes of files behind URLs."""
WORTHWHILE = 0.5
"""Share of a file from which on the whole file is read."""
SAMPLES = 2 * 4096


@dataclass
class ReadPlan:
    """``ranges``: bytes of the file, with its header, in order; None: all of it.  ``note`` says what is to be told."""

    path: str
    size: int
    ranges: Ranges | None = None
    blocks: int = 0
    blocks_read: int = 0
    indexed: bool = False
    linktypes: tuple[int, ...] = ()
    """Of its packets, where an index says so."""
    stream: bool = False
    """Whether the ranges are of compressed frames."""
    header: Ranges = field(default_factory=list)
    """The range that has the file's header."""
    index_bytes: int = 0
    note: str = ""
    stored: Stored | None = None
    """Where it is, if it is behind a URL."""
    ends: tuple[str, str] | None = None
    """What its first and last bytes must be known by, where nobody has looked yet."""

    @property
    def bytes_read(self) -> int:
        return self.size if self.ranges is None else sum(end - begin for begin, end in self.ranges)

    @property
    def ruled_out(self) -> bool:
        """Whether no packet of it can match."""
        return self.ranges is not None and self.ranges == []


def plan_for(path: str, config: FindConfig, stored: Stored | None = None, dataset: Dataset | None = None) -> ReadPlan:
    """stored: the file, if path is a URL.  dataset: the tables of blocks, for files that have no index of their own and
    for those behind URLs.  Raises OSError for a file that is not there."""
    status = None if stored else Path(path).stat()
    plan = ReadPlan(path, stored.size if stored else status.st_size, stored=stored)  # type: ignore[union-attr]
    if not config.indexes:
        return plan
    known = dataset.of(path, plan.size, status.st_mtime_ns if status else None) if dataset else None
    if known and stored:
        return _from_table(plan, known, config)
    try:
        index = stored.index() if stored else Index(path)
    except FileNotFoundError:
        return _from_table(plan, known, config) if known else plan
    except StaleError as error:
        plan.note = _unused(path, error)
        return plan
    try:
        _narrow(plan, index, config)
        plan.ends = index.ends if stored else None
    except StaleError as error:
        plan.note = _unused(path, error)
        plan.ranges, plan.indexed, plan.linktypes, plan.blocks = None, False, (), 0
    plan.index_bytes = index.pages.fetched if isinstance(index.pages, Pages) else index.bytes_read + SAMPLES
    return plan


def _from_table(plan: ReadPlan, known: Known, config: FindConfig) -> ReadPlan:
    """The plan for a file that a table of blocks has."""
    try:
        chosen = known.chosen(condition_for(config.filter, known.linktypes), config.since_ns, config.until_ns)
    except StaleError as error:
        plan.note = f"{plan.path}: the table of its blocks cannot be used, {error}: it is searched in full"
        return plan
    plan.indexed, plan.linktypes, plan.ends = True, known.linktypes, known.ends
    plan.stream, plan.blocks = known.compressed, known.blocks
    plan.header = joined(known.head)
    plan.blocks_read = len(chosen)
    if not chosen and not known.rest:
        plan.ranges = []
        return plan
    plan.ranges = joined([*known.head, *known.always, *known.rest, *chosen])
    if plan.bytes_read > WORTHWHILE * plan.size:
        plan.ranges = None
    return plan


def believe_nothing(plan: ReadPlan, error: StaleError) -> None:
    """The index is not the file's: have the file searched in full."""
    plan.note, plan.ranges, plan.stream = _unused(plan.path, error), None, False


def _unused(path: str, error: StaleError) -> str:
    words = f"{shlex.quote(path)} {INTO_TABLE}" if is_url(path) else shlex.quote(path)
    mended = f" (wirecap index {words} {error.remedy})" if error.remedy else ""
    return f"{path}: {error}: it is searched in full{mended}"


def _narrow(plan: ReadPlan, index: Index, config: FindConfig) -> None:
    plan.indexed, plan.linktypes = True, tuple(index.linktypes)
    condition = condition_for(config.filter, plan.linktypes)
    timely = index.first_ns < config.until_ns and index.last_ns >= config.since_ns
    wanted: Ranges = []
    start = index.covered
    chosen: list[tuple[int, int]] = []
    segments = index.segments()
    if segments:
        start = int(segments[0].start[0])
    for segment in segments:
        plan.blocks += len(segment.packets)
        if not timely or condition is NEVER:
            continue
        inside = (segment.last_ns >= config.since_ns) & (segment.first_ns < config.until_ns)
        if inside.any():
            inside &= holds(condition, lambda hashed, of=segment: index.has(of, hashed), len(inside))  # type: ignore[misc]
        chosen += _runs(inside, segment.start)
        plan.blocks_read += int(np.count_nonzero(inside))
    if not chosen and index.covered == plan.size and not index.frames:  # it need not be looked at
        plan.ranges, plan.header = [], [(0, start)]
        return
    compressed = plan.stored.is_compressed() if plan.stored else _is_compressed(plan.path)
    if not compressed and index.covered < plan.size:  # what is behind a damaged place, or was cut off
        chosen.append((index.covered, plan.size))
    wanted = [(0, start), *index.always, *chosen]
    if compressed and not index.frames:
        plan.ranges = None if chosen else []
        plan.header = [(0, plan.size)]
        return
    plan.stream = compressed
    plan.header = of_frames([(0, max(1, start))], index) if compressed else [(0, start)]
    if not chosen:
        plan.ranges = []
        return
    plan.ranges = of_frames(wanted, index) if compressed else joined(wanted)
    if plan.bytes_read > WORTHWHILE * plan.size:
        plan.ranges = None


def _is_compressed(path: str) -> bool:
    with Path(path).open("rb") as file:
        return is_compressed(file.read(4))


def _runs(inside: NDArray[np.bool_], start: NDArray[np.int64]) -> Ranges:
    """The bytes of the blocks that are True, where several follow each other as one."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
    return [(int(start[begin]), int(start[end])) for begin, end in edges.reshape(-1, 2)]


@lru_cache(64)
def condition_for(expression: str, linktypes: tuple[int, ...]) -> Condition:
    """What a block must have if a packet of one of these link types in it matches."""
    found = NEVER
    for linktype in linktypes:
        program = compile_fitting(expression, Link(linktype))
        if not program.rejects_all:
            found = either(found, narrowed(program))
    return found
