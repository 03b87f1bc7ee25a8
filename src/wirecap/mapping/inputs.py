"""The files of a map: where each is, what identifies it, and opening a part of it."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from wirecap.errors import UsageError
from wirecap.files.decompression import is_compressed
from wirecap.files.part import Range, open_part, ranges_of
from wirecap.files.reader import CaptureFile, open_capture
from wirecap.files.urls import RangeSource, facts_of, is_url
from wirecap.find.archive import files_of
from wirecap.find.store import names_of
from wirecap.mapping.frames import frame_of, has_frames, open_frames, reading
from wirecap.mapping.remote import open_remote

HINT = "name capture files, folders of them, or URLs"
_CHANGED = "the file has changed since it was listed", "map files that nobody writes"


@dataclass(frozen=True)
class Input:
    """A file.  version: what changes when its contents do, the time of its last change in ns, or an ETag.
    divisible: whether parts of it can be read; framed: they are frames of a compressed file."""

    path: str
    size: int
    version: str
    divisible: bool
    framed: bool = False

    def identity(self) -> dict[str, object]:
        return {"path": self.path, "bytes": self.size, "version": self.version}

    def reached(self, place: int) -> int:
        """The offset in the file of a place in it, as a part has it."""
        return frame_of(place) if self.framed else place

    def ranges(self, part_bytes: int, divide: bool) -> Sequence[Range | None]:
        """The parts it is read in; None: all of it."""
        return ranges_of(self.size, part_bytes) if divide and self.divisible else [None]


def inputs_of(paths: Sequence[str]) -> tuple[list[Input], list[str]]:
    """(the files among the paths and in folders, lines about what is not as it should be).  Raises UsageError."""
    found: list[Input] = []
    lines: list[str] = []
    for remote, some in groupby(paths, is_url):
        named = list(some)
        if remote:
            found += [_remote(name) for url in named for name in _listed(url)]
            continue
        archive = files_of(named, hint=HINT)
        archive.check(named)
        found += [_local(path) for path in archive.files]
        lines += archive.problems + archive.notes
    return list(dict.fromkeys(found)), lines


def _listed(url: str) -> list[str]:
    try:
        names = names_of(url)
    except OSError as error:
        raise UsageError(f"{url}: {error.strerror}", HINT) from None
    if not names:
        raise UsageError(f"no capture file in {url}", "name a folder that has pcap or pcapng files")
    return names


def _remote(url: str) -> Input:
    try:
        size, version, start = facts_of(url)
    except OSError as error:
        raise UsageError(f"{url}: {error.strerror}", HINT) from None
    return Input(url, size, version, *_division(start, size))


def _local(path: str) -> Input:
    try:
        status = Path(path).stat()
        with Path(path).open("rb") as file:
            start = file.read(4) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "a capture file must be readable") from None
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path}: this is not a file, and cannot be read twice", "copy it into a file first")
    return Input(path, status.st_size, str(status.st_mtime_ns), *_division(start, status.st_size))


def _division(start: bytes, size: int) -> tuple[bool, bool]:
    """(whether it is divisible, whether into frames)."""
    framed = has_frames(start)
    return size > 0 and (framed or not is_compressed(start)), framed


def open_input(input: Input, range: Range | None) -> CaptureFile | None:
    """A part of a file, open; None if no record begins in it.  Raises UsageError or OSError."""
    if is_url(input.path):
        size, version, _ = facts_of(input.path)
        if (size, version) != (input.size, input.version):
            raise UsageError(f"{input.path}: {_CHANGED[0]}", _CHANGED[1])
        if range and input.framed:
            source = RangeSource(input.path, size)
            return open_frames(input.path, lambda begin, end: source.read(begin, end).tobytes(), size, range)
        return open_remote(input.path, input.size, range)
    status = Path(input.path).stat()
    if (status.st_size, str(status.st_mtime_ns)) != (input.size, input.version):
        raise UsageError(f"{input.path}: {_CHANGED[0]}", _CHANGED[1])
    if range and input.framed:
        return open_frames(input.path, reading(input.path), input.size, range)
    return open_capture(input.path) if range is None else open_part(input.path, range)
