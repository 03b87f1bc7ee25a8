"""A part of a capture file: the records that begin in a range of its bytes.

Where the range begins inside a file, the first record is found there (files/boundary.py), which is a guess: whoever
takes the parts together sees that each begins where the one before ended, and has it read again from there if not.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from wirecap.errors import UsageError
from wirecap.files import headers
from wirecap.files.boundary import first_record
from wirecap.files.reader import CaptureFile, Description, Mapped, Progress, Words
from wirecap.kernels.file import read as at

Context = tuple[Description, ...]
"""The sections and interfaces of a pcapng file that were described up to some place."""


@dataclass(frozen=True)
class Range:
    """Bytes of a file.  start: where the first record in it begins, if that is known, and context what was described
    before it."""

    begin: int
    end: int
    start: int | None = None
    context: Context = ()


class MappedPart(Mapped):
    """A mapped file of which the records are read that begin in a range."""

    def __init__(self, fd: int, size: int) -> None:
        super().__init__(fd, size)
        self.stop = size

    def begin(self, state: Words, start: int, stop: int) -> None:
        """Read the records that begin from start on and before stop; the first one begins at start."""
        size = self.arena.size
        self.stop = self.until = min(stop, size)
        state[at.POSITION], state[at.END] = start, self.stop
        state[at.FINAL] = self.stop == size

    def refill(self, state: Words, timeout_s: float | None) -> Progress:
        position, size = int(state[at.POSITION]), self.arena.size
        if position >= self.stop:
            state[at.END], state[at.FINAL] = position, 1
        else:  # the last record ends behind the range
            state[at.END] = min(size, max(int(state[at.END]), position + int(state[at.WANTED])))
            state[at.FINAL] = state[at.END] == size
        return Progress.READY


def context_of(file: CaptureFile) -> Context:
    """What was described of a file so far."""
    kinds = (headers.SECTION_HEADER, headers.INTERFACE_DESCRIPTION)
    return tuple(described for described in file.descriptions if described.kind in kinds)


def open_part(path: str, of: Range) -> CaptureFile | None:
    """The part of a local file that is not compressed; None if no record is found in it.

    Raises UsageError as ``open_capture`` does, OSError where the file cannot be opened or mapped.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    status = os.fstat(fd)
    feed = MappedPart(fd, status.st_size)
    file = CaptureFile(path, feed, status)
    if of.begin == 0 and of.start is None:
        feed.begin(file.state, int(file.state[at.POSITION]), of.end)
        return file
    start = of.start
    if start is None:
        start = first_record(file, lambda begin, end: feed.arena[begin:end], of.begin, of.end, status.st_size)
    if start is None:
        file.close()
        return None
    learn(file, of.context)
    feed.begin(file.state, start, of.end)
    return file


def learn(file: CaptureFile, context: Sequence[Description]) -> None:
    """Take in what was described before the part and is not in the file's first blocks."""
    try:
        for described in context[len(context_of(file)) :]:
            file.learn(described)
    except headers.FormatError as error:
        file.close()
        raise UsageError(f"{file.path}: {error}", error.hint) from error


def ranges_of(size: int, part_bytes: int) -> list[Range]:
    """The ranges that a file of so many bytes is read in."""
    edges = [*range(0, max(size, 1), part_bytes), size]
    if len(edges) > 2 and edges[-1] - edges[-2] < part_bytes // 4:  # a short rest is not worth a part
        del edges[-2]
    return list(map(partial(Range), edges[:-1], edges[1:]))
