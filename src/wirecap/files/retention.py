"""A folder of capture files within bounds: the oldest are removed, never the newest or one that is being written.

Removal comes before growth.  Whoever writes to a file says how large it will be, and gets on with it once there is
room: the files never exceed the limit, not even for a moment.  What counts is what they take of the disk, as du has
it: whole blocks, and those that are reserved for what is still to come.
"""

from __future__ import annotations

import calendar
import contextlib
import fcntl
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from wirecap.config.bounds import LARGEST_FILE, SHARE, Bounds, check_age, check_limit, file_bytes
from wirecap.config.capture import WriteConfig
from wirecap.errors import UsageError
from wirecap.files.rotation import COMPRESSIONS, INDEX_SUFFIX, split_name
from wirecap.units import format_size

SCAN_S = 1.0
"""How often to look for what others did to the files: compressed or removed them, filled the disk."""
MAPPED_BYTES = 64 << 20
"""For so many bytes of a file a block is counted in which the file system notes where they are."""
ENDING_S = 30.0
"""How long to wait for files that are being closed, before the bound is exceeded."""


def _one_of(words: Iterable[str]) -> str:
    return "(?:" + "|".join(map(re.escape, words)) + ")"


_COMPANION = rf"(?:{_one_of(COMPRESSIONS)}|(?:\.[0-9a-f]{{8}})?{re.escape(INDEX_SUFFIX)})"
"""What names end with that were made from a capture file's, also of an index that was not finished."""
_CONVERSIONS = {
    **dict.fromkeys("YG", r"\d{4}"), **dict.fromkeys("CdeHIklMmSUVWgyuw", r"[ \d]?\d"), "j": r"\d{1,3}", "s": r"\d+",
    "F": r"\d{4}-\d\d-\d\d", "T": r"\d\d:\d\d:\d\d", "R": r"\d\d:\d\d", "%": "%",
    "A": _one_of(calendar.day_name), "a": _one_of(calendar.day_abbr), "B": _one_of(calendar.month_name[1:]),
    **dict.fromkeys("bh", _one_of(calendar.month_abbr[1:])),
}  # fmt: skip
"""What strftime makes of each conversion; others give some word."""
_WORD = r"[\w:.+ -]+?"


class Space(Protocol):
    """What a file takes, told by whoever writes it."""

    def grow(self, size: int, ahead: int = 0) -> int:
        """The file will have this many bytes, and would like so many ahead.

        Returns once there is room for ``size``: that, or ``size + ahead`` if there is room for both.
        """

    def end(self, size: int) -> None:
        """The file is complete, with this many bytes."""


class Unbounded:
    """Space without a bound."""

    def grow(self, size: int, ahead: int = 0) -> int:
        return size + ahead

    def end(self, size: int) -> None:
        pass


UNBOUNDED = Unbounded()


@dataclass
class _Kept:
    """A capture file with what was made from it, such as its compressed form."""

    size: int = 0
    companions: int = 0  # bytes
    names: set[str] = field(default_factory=set)  # companions
    ended_s: float = 0.0  # by the clock that nobody sets
    open: bool = False
    ending: bool = False
    busy: bool = False  # another capture was writing to it, when last looked at
    stuck: bool = False  # it could not be removed

    @property
    def removable(self) -> bool:
        return not (self.open or self.busy or self.stuck)


def rotated(config: WriteConfig, outputs: int) -> WriteConfig:
    """The config for files that are bounded: it starts a file often enough for the oldest to make room.

    outputs: how many files are written at once.  Raises UsageError for bounds that hold less than one file.
    """
    bounds, folder = config.bounds, Path(config.path).parent
    check_age(bounds.max_age_ns)
    size = config.ring_bytes or config.stop_bytes or config.split_bytes
    if bounds.limit:
        limit = bounds.limit.of(disk_bytes(folder))
        if size is None and (config.split_ns or config.file_for_each):
            what = "one file of -G" if config.split_ns else "what one alarm saves"
            raise UsageError(f"--limit: {what} can fill the folder", "add -C SIZE, or use -b duration:SECONDS")
        if size is None:
            config = replace(config, ring_bytes=file_bytes(limit, outputs))
        else:
            check_limit(limit, size, outputs)
    if not (config.rings or config.split_ns or config.split_bytes or config.file_for_each):
        age_ns = bounds.max_age_ns
        config = replace(config, ring_ns=age_ns // SHARE) if age_ns else replace(config, ring_bytes=LARGEST_FILE)
    return config


def check_change(config: WriteConfig, bounds: Bounds, paths: Sequence[str]) -> None:
    """Raise UsageError for bounds that files cannot be held within which are made as ``config`` (``rotated``) says."""
    check_age(bounds.max_age_ns)
    if bounds.limit:
        size = config.ring_bytes or config.stop_bytes or config.split_bytes
        if size is None:
            raise UsageError("--limit: the files of this capture have no size", "restart the capture")
        check_limit(bounds.limit.of(disk_bytes(Path(config.path).parent)), size, len(paths))
    check_free(replace(config, bounds=bounds), paths)


def check_free(config: WriteConfig, paths: Sequence[str]) -> None:
    """Raise UsageError for a --min-free that is out of reach even if all earlier files of these names are removed."""
    least = config.bounds.min_free
    if not least:
        return
    folder, patterns = Path(paths[0]).parent, [names_of(config, path) for path in paths]
    with os.scandir(folder) as entries:
        ours = [entry for entry in entries if any(pattern.fullmatch(entry.name) for pattern in patterns)]
        size = sum(taken_bytes(entry.stat(follow_symlinks=False)) for entry in ours)
    reachable = free_bytes(folder) + size
    if reachable < least.of(disk_bytes(folder)):
        where = "the disk" if folder == Path() else folder
        raise UsageError(
            f"--min-free {least.text}: {where} has only {format_size(reachable)} free, earlier files of this name"
            " included",
            "ask for less, or make room on that disk",
        )


def names_of(config: WriteConfig, path: str) -> re.Pattern[str]:
    """What the names of an output's files look like, with group 1 the name without a companion's suffix."""
    name = Path(path).name
    if config.rings:
        stem, suffix = split_name(name)
        number = r"\d{14}_\d{5}" if config.ring_name_time_first else r"\d{5}_\d{14}"
        pattern = f"{re.escape(stem)}_{number}{re.escape(suffix)}"
    else:
        pattern = _time_pattern(name) if config.split_ns or config.file_for_each else re.escape(name)
        pattern += r"\d*" if config.split_bytes else ""
    return re.compile(f"({pattern}){_COMPANION}?")


def _time_pattern(name: str) -> str:
    """What strftime makes of a name."""
    parts = re.split(r"%[-_0^#]?([A-Za-z%])", name)
    parts[::2] = map(re.escape, parts[::2])
    parts[1::2] = [_CONVERSIONS.get(kind, _WORD) for kind in parts[1::2]]
    return "".join(parts)


class Retention:
    """Holds the files that a capture of this name writes, and wrote before, within bounds.

    paths: what each output is called.  ``notes`` says what happened, a sentence for each; ``removed`` and
    ``removed_bytes`` count.
    """

    def __init__(self, bounds: Bounds, config: WriteConfig, paths: Sequence[str]) -> None:
        self._folder = Path(paths[0]).parent
        self._where = "" if self._folder == Path() else f"{self._folder}: "
        self._block = block_bytes(self._folder)
        self._measure(bounds)
        self._patterns = [names_of(config, path) for path in paths]
        self._files: dict[str, _Kept] = {}  # the oldest first
        self._newest: dict[int, str] = {}  # of each output: it counts as open even when it is complete
        self._changed = threading.Condition()
        self._scanned_s = float("-inf")
        self._closed = False
        self._exceeded = False
        self.removed = self.removed_bytes = 0
        self._complaints: dict[str, None] = {}
        try:
            self._look()
        except OSError as error:
            raise UsageError(
                f"{self._folder}: {os.strerror(error.errno or 0)}", "bounds need a folder that can be listed"
            ) from None
        self._thread: threading.Thread | None = None
        self._start_watch()

    def _measure(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._limit = bounds.limit.of(disk_bytes(self._folder)) if bounds.limit else None
        self._least_free = bounds.min_free.of(disk_bytes(self._folder)) if bounds.min_free else None

    def _start_watch(self) -> None:
        """Look after the bounds that are reached without writing."""
        if self._thread is None and (self._bounds.max_age_ns is not None or self._least_free is not None):
            self._thread = threading.Thread(target=self._watch, name="retention", daemon=True)
            self._thread.start()

    def change(self, bounds: Bounds) -> None:
        """Hold the files within other bounds from now on."""
        with self._changed:
            self._measure(bounds)
            self._scan()
            self._make_room(0)
        self._start_watch()

    def begin(self, path: str) -> Space:
        """A file is about to be created, or emptied; it is the newest."""
        name = Path(path).name
        with self._changed:
            self._scan()
            output = self._output(name)
            if (before := self._files.get(self._newest.get(output, ""))) and before.ended_s:
                before.open = False
            self._newest[output] = name
            self._files.pop(name, None)
            self._files[name] = _Kept(open=True)
        return _FileSpace(self, name)

    def ending(self, path: str) -> None:
        """Nothing more will be put into a file, which is on its way to the disk."""
        with self._changed:
            if file := self._files.get(Path(path).name):
                file.ending = True

    @property
    def notes(self) -> list[str]:
        with self._changed:
            what = f"{_files(self.removed)} ({format_size(self.removed_bytes)})"
            done = [f"{self._where}{what} removed to stay within bounds"] if self.removed else []
            return done + list(self._complaints)

    @property
    def bounds(self) -> Bounds:
        """Those that hold now."""
        return self._bounds

    @property
    def held(self) -> int:
        """Bytes that the files take together."""
        with self._changed:
            return self._total()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join()

    def grow(self, name: str, size: int, ahead: int) -> int:
        with self._changed:
            file = self._files[name]
            if time.monotonic() - self._scanned_s > SCAN_S:
                self._scan()
            taken, before = self._in_blocks(size), file.size
            file.size = max(before, taken)
            self._make_room(file.size - before, name)
            before, file.size = file.size, max(file.size, self._in_blocks(size + ahead))
            if ahead and not self._make_room(file.size - before, name, must=False):
                file.size = before
                return size
            return size + ahead

    def end(self, name: str, size: int) -> None:
        with self._changed:
            file = self._files[name]
            file.size = self._in_blocks(size)  # what it had ahead is given back
            file.open, file.ending = name == self._newest.get(self._output(name)), False
            file.ended_s = _uptime_s()
            self._changed.notify_all()

    def _output(self, name: str) -> int:
        return next((at for at, pattern in enumerate(self._patterns) if pattern.fullmatch(name)), -1)

    def _in_blocks(self, size: int) -> int:
        """What a file of so many bytes takes: whole blocks, and some in which the file system notes where they are."""
        return (-(-size // self._block) + (size and 1 + size // MAPPED_BYTES)) * self._block

    def _make_room(self, growth: int, growing: str = "", must: bool = True) -> bool:
        """Remove the oldest files until what is there, and grows by so much, is within the bounds.

        Returns whether it is.  must: it grows anyhow, and so files that are being closed are waited for.
        """
        self._remove_old()
        short = 0
        if self._least_free is not None:
            short = self._least_free + growth - self._free_bytes(self._least_free + growth)
        give_up_s = time.monotonic() + ENDING_S
        while True:
            above = 0 if self._limit is None else self._total() - self._limit
            if above <= 0 and short <= 0:
                return True
            if oldest := self._oldest():
                short -= self._remove(oldest)  # a reader may hold its blocks for long: count them as free
            elif not must:
                return False
            elif above <= 0 or not self._wait_for_end(growing, give_up_s):
                self._exceeded_by(above)
                return False

    def _remove_old(self) -> None:
        if self._bounds.max_age_ns is None:
            return
        born_s = _uptime_s() - self._bounds.max_age_ns * 1e-9
        for name in [name for name, file in self._files.items() if file.removable and file.ended_s <= born_s]:
            self._remove(name)

    def _wait_for_end(self, growing: str, give_up_s: float) -> bool:
        """Wait until another file that is on its way to the disk has got there; False if there is none."""
        if not any(file.open and file.ending and name != growing for name, file in self._files.items()):
            return False
        return self._changed.wait(give_up_s - time.monotonic())

    def _exceeded_by(self, above: int) -> None:
        if not self._exceeded:
            self._exceeded = True
            what = f"the files exceed --limit by {format_size(above)}" if above > 0 else "--min-free is not kept"
            self._complaints[f"{self._where}{what}: there is no older file that could be removed"] = None

    def _total(self) -> int:
        return sum(file.size + file.companions for file in self._files.values())

    def _oldest(self) -> str | None:
        return next((name for name, file in self._files.items() if file.removable), None)

    def _remove(self, name: str) -> int:
        """Remove a file and what belongs to it, unless another capture is writing to one; returns the bytes."""
        file = self._files[name]
        paths = [self._folder / each for each in (name, *file.names)]
        try:
            with contextlib.ExitStack() as held:
                for path in paths:
                    held.enter_context(_not_written(path))
                for path in paths:
                    path.unlink(missing_ok=True)
        except BlockingIOError:
            file.busy = True
            return 0
        except OSError as error:
            file.stuck = True
            self._complaints[f"{self._folder / name}: cannot be removed: {os.strerror(error.errno or 0)}"] = None
            return 0
        del self._files[name]
        size = file.size + file.companions
        self.removed += 1
        self.removed_bytes += size
        return size

    def _scan(self) -> None:
        """Look at the folder; if that fails, what was known holds until the next time."""
        try:
            self._look()
        except OSError as error:
            self._complain(error)
        self._scanned_s = time.monotonic()

    def _complain(self, error: OSError) -> None:
        reason = os.strerror(error.errno or 0)
        self._complaints[f"{self._where}the bounds were not kept for a while: {reason}"] = None

    def _free_bytes(self, otherwise: int) -> int:
        try:
            return free_bytes(self._folder)
        except OSError as error:
            self._complain(error)
            return otherwise

    def _look(self) -> None:
        """Take what is in the folder for what it is: others may have compressed, moved or removed files."""
        found: dict[str, _Kept] = {}
        wall_s, uptime_s = time.time(), _uptime_s()
        with os.scandir(self._folder) as entries:
            for entry in entries:
                match = next(filter(None, (pattern.fullmatch(entry.name) for pattern in self._patterns)), None)
                try:
                    if not match or not entry.is_file(follow_symlinks=False):
                        continue
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # somebody removed it just now
                    continue
                except OSError as error:  # of this file alone
                    self._complain(error)
                    continue
                file = found.setdefault(match[1], _Kept())
                ended_s = uptime_s - max(0.0, wall_s - status.st_mtime)
                if entry.name == match[1]:
                    file.size, file.ended_s = taken_bytes(status), ended_s
                else:
                    file.companions += taken_bytes(status)
                    file.names.add(entry.name)
                    file.ended_s = file.ended_s or ended_s
        for name in [name for name, file in self._files.items() if not file.open and name not in found]:
            del self._files[name]
        for name, file in sorted(found.items(), key=lambda item: (item[1].ended_s, item[0])):
            known = self._files.setdefault(name, file)
            known.companions, known.names = file.companions, file.names
            known.size = max(known.size, file.size) if known.open else file.size
            if known.busy:
                known.busy, known.ended_s = False, file.ended_s

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                self._scan()
                self._make_room(0)
                self._changed.wait(SCAN_S)


@dataclass(frozen=True)
class _FileSpace:
    """The space of one file."""

    retention: Retention
    name: str

    def grow(self, size: int, ahead: int = 0) -> int:
        return self.retention.grow(self.name, size, ahead)

    def end(self, size: int) -> None:
        self.retention.end(self.name, size)


@contextlib.contextmanager
def _not_written(path: Path) -> Iterator[None]:
    """Keep other captures from a file; raises BlockingIOError if one is writing to it (files/writer.py locks it)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # an exclusive one would need more rights on NFS
        except BlockingIOError:
            raise
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(fd)


def disk_bytes(folder: Path) -> int:
    """The size of the disk that a folder is on."""
    status = os.statvfs(folder)
    return status.f_blocks * status.f_frsize


def free_bytes(folder: Path) -> int:
    """What users may still write there."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def block_bytes(folder: Path) -> int:
    """What its file system gives to files at a time."""
    return os.statvfs(folder).f_frsize


def taken_bytes(status: os.stat_result) -> int:
    """What a file takes of the disk, as du counts: also blocks beyond its end."""
    return max(status.st_size, 512 * status.st_blocks)


def _uptime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _files(number: int) -> str:
    return f"{number} file{'' if number == 1 else 's'}"
