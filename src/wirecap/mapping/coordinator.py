"""Has all parts of all files read, whoever does it, and merges what came of them in the files' order.

A part that begins inside a file was begun at a guess (files/boundary.py).  It counts only if it begins where the one
before it ended, with the same interfaces described; if not, it is read again from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from wirecap.errors import UsageError, WirecapError
from wirecap.files.part import Context, Range
from wirecap.handlers.parts import Fold
from wirecap.mapping.inputs import Input
from wirecap.mapping.part import Job, PartResult, Task
from wirecap.mapping.workers import Failure, Workers

AHEAD = 4
"""So many parts for each worker may be read before the first that is missing: results wait in memory until then."""
PART_BYTES = 256 << 20


@dataclass
class FileCount:
    """How far a file is read: where the next record begins, and what was described before it."""

    input: Input
    expected: int = 0
    context: Context = ()
    packets: int = 0
    received_bytes: int = 0
    failed: str = ""


@dataclass
class Counts:
    """What came of all files.  Packets, unless it is said."""

    files: list[FileCount] = field(default_factory=list)
    received: int = 0
    received_bytes: int = 0
    filtered_out: int = 0
    delivered: int = 0
    failures: int = 0
    outside: int = 0
    parts: int = 0
    read_again: int = 0
    retried: int = 0
    done_bytes: int = 0
    """Of files, as they are stored."""
    cpu_s: float = 0.0


Tell = Callable[[Counts], None]


class Coordinator:
    """job: what is done; fold: takes the results, None where there are none.  keep_going: a file that fails is left
    where it failed, and the others count."""

    def __init__(
        self, job: Job, inputs: Sequence[Input], workers: Workers, fold: Fold | None, divide: bool = True,
        part_bytes: int = PART_BYTES, keep_going: bool = False, tell: Tell = lambda counts: None,
    ) -> None:  # fmt: skip
        self._job, self._workers, self._fold = job, workers, fold
        self._keep_going, self._tell = keep_going, tell
        self.counts = Counts([FileCount(input) for input in inputs])
        self._parts: list[tuple[FileCount, Range | None]] = [
            (file, range) for file in self.counts.files for range in file.input.ranges(part_bytes, divide)
        ]
        self._results: dict[int, PartResult | Failure] = {}
        self._tries: dict[int, int] = {}
        self._merged = 0

    def run(self) -> Counts:
        """Raises WirecapError for the first file, in their order, that fails, unless that is to be gone on from."""
        submitted = 0
        while self._merged < len(self._parts):
            most = min(len(self._parts), self._merged + AHEAD * self._workers.count)
            while submitted < most:
                self._submit(submitted, self._parts[submitted][1])
                submitted += 1
            key, found = self._workers.next()
            self._take(key, found)
            self._merge()
            self._tell(self.counts)
        return self.counts

    def _submit(self, key: int, range: Range | None, avoid: str = "") -> None:
        self._workers.submit(key, Task(self._job, self._parts[key][0].input, range), avoid)

    def _take(self, key: int, found: PartResult | Failure) -> None:
        if isinstance(found, Failure) and not found.usage and self._fold and key not in self._tries:
            self._retry(key, self._parts[key][1], found.worker)
        else:
            self._results[key] = found

    def _retry(self, key: int, range: Range | None, avoid: str = "") -> None:
        self._tries[key] = self._tries.get(key, 0) + 1
        self.counts.retried += 1
        self._submit(key, range, avoid)

    def _merge(self) -> None:
        """Count the results that are next in order."""
        while (key := self._merged) in self._results:
            (file, range), found = self._parts[key], self._results.pop(key)
            if not file.failed and not self._accept(key, file, range, found):
                return  # it is read again
            self._merged += 1
            self._tries.pop(key, None)
            self.counts.parts += 1
            self.counts.done_bytes += range.end - range.begin if range else file.input.size

    def _accept(self, key: int, file: FileCount, range: Range | None, found: PartResult | Failure) -> bool:
        """Count a result; False if the part is read again."""
        if range and range.begin > 0:
            if file.input.reached(file.expected) >= range.end:  # a record goes beyond it
                return True
            known = replace(range, start=file.expected, context=file.context)
            guessed = isinstance(found, Failure) or (found.start, found.before) != (file.expected, file.context)
            if guessed and range != known:
                self._parts[key] = file, known
                self.counts.read_again += 1
                self._submit(key, known)
                return False
        if isinstance(found, PartResult) and found.failed[0] and self._fold and key not in self._tries:
            self._retry(key, range)
            return False
        if isinstance(found, Failure):
            begin = range.begin if range else 0
            named = found.message if file.input.path in found.message else f"{file.input.path}: {found.message}"
            self._fail(file, f"{named} (in the part from offset {begin})", found.hint, found.usage)
            return True
        self._count(file, found)
        if found.failed[0]:
            self._fail(file, *found.failed, usage=True)
        return True

    def _count(self, file: FileCount, found: PartResult) -> None:
        counts = self.counts
        file.expected, file.context = found.end, found.after
        file.packets += found.received
        file.received_bytes += found.received_bytes
        counts.received += found.received
        counts.received_bytes += found.received_bytes
        counts.filtered_out += found.filtered_out
        counts.delivered += found.delivered
        counts.failures += found.failures
        counts.outside += found.outside
        counts.cpu_s += found.cpu_s
        if self._fold and found.handled is not None:
            self._fold.add(found.handled)

    def _fail(self, file: FileCount, message: str, hint: str, usage: bool) -> None:
        file.failed = message
        if not self._keep_going:
            raise (UsageError if usage else WirecapError)(
                message, hint or "--keep-going names such files and carries on"
            )
