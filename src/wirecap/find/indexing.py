"""Make indexes for files that were written without."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from wirecap.errors import UsageError
from wirecap.files.decompression import open_source
from wirecap.files.index import Index, StaleError, ends_of, index_into, index_path, make_index
from wirecap.files.live_index import KERNELS
from wirecap.files.reader import CaptureFile, PagesAhead, Streamed, open_capture
from wirecap.files.stored import Stored
from wirecap.files.urls import facts_of
from wirecap.kernels.base import jit
from wirecap.units import format_size


class Made(NamedTuple):
    """An index that was made."""

    file: str
    packets: int
    index_bytes: int
    damage: str
    """Of the file, behind these packets; "" if it is whole."""

    def __str__(self) -> str:
        made = f"{self.file}: {self.packets} packets, index of {format_size(self.index_bytes)}"
        damaged = f"what follows them is damaged, and always read: {self.damage}"
        return f"{made}; {damaged}" if self.damage else made


Tell = Callable[[Made | str, bool], None]
"""Gets an index that was made, or a line about a file, and whether that has none."""


def index_files(paths: Sequence[str], force: bool, compiling: Callable[[str], None] | None, tell: Tell) -> None:
    """Index the files that have no good index; all with ``force``."""
    jit.prepare(KERNELS, compiling)
    for path in paths:
        if not force and has_index(path):
            continue
        try:
            tell(_index(path), False)
        except UsageError as error:
            tell(str(error), True)
        except OSError as error:
            tell(f"{error.filename or index_path(path)}: {os.strerror(error.errno or 0)}", True)


def has_index(path: str) -> bool:
    try:
        Index(path).segments()
    except (StaleError, OSError):
        return False
    return True


def _index(path: str) -> Made:
    file = open_capture(path)
    ahead = PagesAhead(file)
    try:
        packets, damage = make_index(file, path)
    finally:
        ahead.stop()
        file.close()
    size = Path(index_path(path)).stat().st_size
    return Made(path, packets, size, damage)


def stored_index(stored: Stored, force: bool) -> tuple[Index, Made | None]:
    """The index of a file behind a URL: the one beside it, if it is good and not to be made anew; or one that is made
    of the file, all of which is fetched, and not kept.

    Raises UsageError for what is no capture file, StaleError for one that changes meanwhile, OSError.
    """
    if not force:
        with suppress(FileNotFoundError, StaleError):
            index = stored.index()
            index.segments()
            stored.check(index.ends)
            return index, None
    facts = facts_of(stored.url)
    source = stored.source()

    def identity() -> dict[str, Any]:
        head, tail = ends_of(lambda begin, end: source.read(begin, end).tobytes(), stored.size)
        if facts_of(stored.url) != facts or facts[0] != stored.size:
            raise StaleError("it was changed while it was read")
        return {"size": stored.size, "head": head, "tail": tail, "mtime_ns": 0}

    with TemporaryDirectory(prefix="wirecap-") as folder:
        target = Path(index_path(f"{folder}/made"))
        start = source.read(0, min(4, stored.size)).tobytes()
        file = CaptureFile(stored.url, Streamed(open_source(-1, start, source)))
        try:
            packets, damage = index_into(str(target), file, identity)
        finally:
            file.close()
        data = target.read_bytes()
    return Index(stored.url, data, stored.size), Made(stored.url, packets, len(data), damage)
