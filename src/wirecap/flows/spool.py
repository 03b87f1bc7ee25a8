"""Flow records on disk until a broker has them: bounded, and whole behind a process that was killed.

A folder has segments, ``000000000012.flows``: a header of HEADER_WORDS int64 words, as many words for each interface
that records name, then records as kernels/flows/layout.py has them.  The segment with the highest number takes
records; the others are sealed: each becomes a message with the segment's number, and is removed once the broker has
taken it.  ``counters`` is a mapped file, so what was dropped stays counted whatever becomes of the process.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError, WirecapError
from wirecap.flows.interfaces import Interface, Interfaces
from wirecap.kernels.flows import layout as f

MAGIC = 0x57435350_00000002  # WCSP; the version of segments and of the records in them
_KNOWN = (MAGIC, MAGIC - 1)  # the first one had no interfaces
HEADER_WORDS = f.ENTRY_WORDS
_MAGIC, _NUMBER, _BASE, _INTERFACES = range(4)
RECORD_BYTES = 8 * f.ENTRY_WORDS
NAME_BYTES = RECORD_BYTES - 8
"""Of an interface's name, behind its number."""
MOST_RECORDS = 2048
"""Of a segment: a message stays below half of what a NATS server takes by default."""
SEAL_S = 1.0
"""After this time a segment is sealed, so that records do not wait for others."""
DROPS = ("spool_full", "spool_failed", "too_large", "export_full")
"""Why a record does not go to the broker: as ``counters`` has them, behind the id and two reserved words."""
_ID, _FIRST = 0, 3
LIMIT = 1 << 30


class Sealed(NamedTuple):
    """A segment as it is sent.  before: the spool's records in earlier segments.  words: int64 (n, ENTRY_WORDS).
    interfaces: those that the records name."""

    number: int
    before: int
    words: NDArray[np.int64]
    interfaces: Interfaces = ()


class Spool:
    """The spool in one folder; for one process at a time, which it sees to.  ``put`` is for one thread, the rest for
    another.  Raises UsageError for a folder that cannot be used."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder, self._limit = folder, limit
        self._lock = threading.Lock()
        self._interfaces: Interfaces = ()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._guard = (folder / "lock").open("w")
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._counters = self._map_counters()
            self._recover()
        except BlockingIOError:
            self._guard.close()
            raise UsageError(f"{folder}: another capture uses this spool", "give each its own --spool FOLDER") from None
        except OSError as error:
            if hasattr(self, "_guard"):
                self._guard.close()
            reason = (error.strerror or str(error)).lower()
            raise UsageError(f"{folder}: cannot make a spool: {reason}", "name another with --spool FOLDER") from None

    def _map_counters(self) -> NDArray[np.int64]:
        path, size = self.folder / "counters", 8 * (_FIRST + len(DROPS))
        if not path.exists() or path.stat().st_size != size:
            hidden = path.with_suffix(".new")
            words = np.zeros(_FIRST + len(DROPS), np.int64)
            words[_ID] = secrets.randbits(62)
            hidden.write_bytes(words.tobytes())
            hidden.rename(path)
        return np.memmap(path, np.int64, "r+")

    def _recover(self) -> None:
        """Find what is left; records that a killed process had not put into a sealed segment are sealed now."""
        self._sizes: dict[int, int] = {}
        """Bytes of the segments, by number."""
        self._heads: dict[int, int] = {}
        """Those before their records."""
        for path in self.folder.glob("*.flows"):
            if path.stem.isdecimal():
                self._sizes[int(path.stem)] = path.stat().st_size
        put = 0
        for number in sorted(self._sizes):
            header = np.fromfile(self._path(number), np.int64, HEADER_WORDS)
            damaged = len(header) < HEADER_WORDS or header[_MAGIC] >> 32 != MAGIC >> 32
            self._heads[number] = 8 * HEADER_WORDS * (1 if damaged else 1 + int(header[_INTERFACES]))
            if damaged:
                put += self._records_in(number)  # as after a power failure: who reads it sets it aside
            elif header[_MAGIC] not in _KNOWN:
                raise OSError(0, f"{number:012}.flows is of another version of wirecap; send or remove it first")
            else:
                put = int(header[_BASE]) + self._records_in(number)
        last = max(self._sizes, default=0)
        self.put_records = put
        """Records that were ever put into this spool."""
        self._begin(last + 1)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:012}.flows"

    def _records_in(self, number: int) -> int:
        return max(0, (self._sizes[number] - self._heads[number]) // RECORD_BYTES)

    def _begin(self, number: int) -> None:
        """Begin a segment; the one before it is sealed by that."""
        header = np.zeros((1 + len(self._interfaces), HEADER_WORDS), np.int64)
        header[0, [_MAGIC, _NUMBER, _BASE, _INTERFACES]] = MAGIC, number, self.put_records, len(self._interfaces)
        for row, one in zip(header[1:], self._interfaces, strict=True):
            row[0] = one.number
            row[1:].view(f"S{NAME_BYTES}")[0] = one.name.encode()[:NAME_BYTES]
        hidden = self.folder / "next"
        hidden.write_bytes(header.tobytes())
        hidden.rename(self._path(number))
        self._file = os.open(self._path(number), os.O_WRONLY | os.O_APPEND)
        with self._lock:
            self._open, self._sizes[number], self._heads[number] = number, header.nbytes, header.nbytes
        self._begun, self._held = time.monotonic(), 0

    @property
    def id(self) -> str:
        """Of this spool: its numbers mean nothing beside those of another."""
        return f"{int(self._counters[_ID]):016x}"

    @property
    def dropped(self) -> dict[str, int]:
        """Records that were dropped, ever, by why."""
        return {name: int(self._counters[_FIRST + at]) for at, name in enumerate(DROPS)}

    def drop(self, name: str, records: int) -> None:
        self._counters[_FIRST + DROPS.index(name)] += records

    def bytes(self) -> int:
        with self._lock:
            return sum(self._sizes.values())

    def spooled(self) -> int:
        """Records that wait in the spool."""
        with self._lock:
            return sum(self._records_in(number) for number in self._sizes)

    def put(self, words: NDArray[np.int64], interfaces: Interfaces = ()) -> int:
        """Take records, which name these interfaces; how many, the others being dropped and counted."""
        room = max(0, self._limit - self.bytes()) // RECORD_BYTES
        taken = words[:room]
        if len(taken) < len(words):
            self.drop("spool_full", len(words) - len(taken))
        done = 0
        try:
            if interfaces != self._interfaces:
                self._name(interfaces)
            while done < len(taken):
                if self._held == MOST_RECORDS:
                    self.seal()
                some = taken[done : done + MOST_RECORDS - self._held]
                self._append(np.ascontiguousarray(some))
                done += len(some)
        except OSError:  # a full disk: what is there still goes to the broker
            self.drop("spool_failed", len(taken) - done)
        return done

    def _name(self, interfaces: Interfaces) -> None:
        """From now on records name these, in a segment that says so.  Raises OSError."""
        before, self._interfaces = self._interfaces, interfaces
        try:
            if self._held:
                self.seal()
            else:
                empty = self._file
                self._begin(self._open)
                os.close(empty)
        except OSError:
            self._interfaces = before
            raise

    def _append(self, some: NDArray[np.int64]) -> None:
        """Raises OSError; then nothing of these records is in the segment."""
        written = os.write(self._file, some.tobytes())
        if written < some.nbytes:
            os.truncate(self._path(self._open), self._heads[self._open] + self._held * RECORD_BYTES)
            raise OSError(28, "the disk is full")
        self._held += len(some)
        self.put_records += len(some)
        with self._lock:
            self._sizes[self._open] += some.nbytes

    def tick(self) -> None:
        """Seal a segment that has waited long enough.  Raises OSError."""
        if self._held and time.monotonic() - self._begun > SEAL_S:
            self.seal()

    def seal(self) -> None:
        """Have what there is sent, also if that is nothing but the counters.  Raises OSError."""
        file, number = self._file, self._open
        self._begin(number + 1)
        os.close(file)

    def sealed(self, most: int) -> list[int]:
        """The numbers of the first segments to be sent."""
        with self._lock:
            return sorted(number for number in self._sizes if number != self._open)[:most]

    def read(self, number: int) -> Sealed:
        """A sealed segment.  Raises WirecapError for one that something has damaged."""
        words = np.fromfile(self._path(number), np.int64)
        whole = words[: len(words) // f.ENTRY_WORDS * f.ENTRY_WORDS].reshape(-1, f.ENTRY_WORDS)  # a killed write
        if not len(whole) or whole[0, _MAGIC] not in _KNOWN or whole[0, _NUMBER] != number:
            raise WirecapError(f"{self._path(number)}: this is not a segment of a spool", "move it away")
        records = 1 + int(whole[0, _INTERFACES])
        interfaces = tuple(_interface(row) for row in whole[1:records])
        return Sealed(number, int(whole[0, _BASE]), whole[records:], interfaces)

    def done(self, number: int) -> None:
        """The broker has it."""
        self._path(number).unlink(missing_ok=True)
        self._forget(number)

    def set_aside(self, number: int) -> Path:
        """A segment that nobody can read is not sent any more; what it is called now."""
        path = self._path(number).with_suffix(".damaged")
        with suppress(FileNotFoundError):
            self._path(number).rename(path)
        self._forget(number)
        return path

    def _forget(self, number: int) -> None:
        with self._lock:
            self._sizes.pop(number, None)
            self._heads.pop(number, None)

    def close(self) -> None:
        os.close(self._file)
        self._guard.close()


def _interface(row: NDArray[np.int64]) -> Interface:
    return Interface(int(row[0]), row[1:].tobytes().rstrip(b"\0").decode(errors="replace"))
