"""A dataset of Parquet files that several sensors' messages go to, each exactly once whatever is killed when.

A commit writes files under hidden names onto the disk, then ``.wirecap-collect.json`` with all that has been seen and
the names that the files are to have, and only then gives them their names.  Whoever begins again gives the names of the
last commit, if that was interrupted, and removes hidden files of which it does not know.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from wirecap.errors import UsageError, WirecapError
from wirecap.flows.files import PARQUET, Part, take_name
from wirecap.flows.records import arrow, arrow_schema
from wirecap.flows.seen import Seen

STATE, LOCK, VERSION = ".wirecap-collect.json", ".wirecap-collect.lock", 1
SENSOR = "sensor"
"""The column before those of a record: the subject that it came on."""
MOST_PARTS, MOST_ROWS = 16, 4_000_000
"""Files and rows that are open before there is a commit."""


def folder_of(pattern: str) -> Path:
    """The folder that a pattern of strftime stays in."""
    return Path(pattern.partition("%")[0] + "x").parent


class Dataset:
    """The files of one pattern.  Raises UsageError for a folder that cannot be used."""

    def __init__(self, pattern: str) -> None:
        if not pattern.endswith(PARQUET) or pattern.endswith("/" + PARQUET[0]):
            raise UsageError(f"-w {pattern}: a dataset is of Parquet files", "write -w 'flows/%Y/%m/%d/%H.parquet'")
        self._pattern, self._folder = pattern, folder_of(pattern)
        self._schema = arrow_schema().insert(0, arrow().field(SENSOR, arrow().string(), nullable=False))
        self._open: dict[str, Part] = {}
        self.rows, self.begun = 0, 0.0
        """Rows that wait for the next commit, and since when; monotonic seconds."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self._folder / LOCK).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._begin_again()
        except UsageError:
            self._lock.close()
            raise
        except BlockingIOError:
            self._lock.close()
            raise UsageError(
                f"{self._folder}: another wirecap collect writes there", "give each a folder of its own"
            ) from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UsageError(f"{self._folder}: {reason}", "name a folder that can be written") from None

    def _begin_again(self) -> None:
        path = self._folder / STATE
        self.commits = self.position = 0
        self.stream, files = "", []
        """The stream, and in ``position`` the last of its messages that has been looked at."""
        self.sensors: dict[tuple[str, str], Seen] = {}
        if path.exists():
            try:
                state = json.loads(path.read_text())
                if state["version"] != VERSION:
                    raise ValueError
                self.commits, self.position = int(state["commits"]), int(state["position"])
                self.stream = str(state["stream"])
                seen = [Seen.restored(each) for each in state["sensors"]]
                files = [(self._folder / str(hidden), self._folder / str(name)) for hidden, name in state["files"]]
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UsageError(
                    f"{path}: this is damaged, or of another version of wirecap",
                    "collect into another folder: what the broker still has is collected again",
                ) from None
            self.sensors = {(each.sensor, each.spool): each for each in seen}
        for hidden, name in files:
            _name(hidden, name)
        for left in self._folder.rglob(".*.collect-*.part"):
            left.unlink()

    def seen(self, sensor: str, spool: str) -> Seen:
        return self.sensors.setdefault((sensor, spool), Seen(sensor, spool))

    def add(self, sensor: str, batch: Any) -> None:
        """Take a record batch of ``arrow_schema``, from ``sensor``; the caller takes its message down as seen."""
        if not batch.num_rows:
            return
        pa = arrow()
        names = pa.repeat(sensor, batch.num_rows)
        batch = pa.RecordBatch.from_arrays([names, *batch.columns], schema=self._schema)
        if not self.rows:
            self.begun = time.monotonic()
        for name, some in self._by_name(batch):
            if name not in self._open:
                self._open[name] = Part(name, f"collect-{self.commits + 1}", self._schema)
            self._open[name].write(some)
        self.rows += batch.num_rows

    def _by_name(self, batch: Any) -> list[tuple[str, Any]]:
        """Its records by the file that they go to: that of their ends."""
        if "%" not in self._pattern:
            return [(self._pattern, batch)]
        ends = np.frombuffer(batch.column("flowEndNanoseconds").buffers()[1], np.int64)
        ends = ends[batch.column("flowEndNanoseconds").offset :][: batch.num_rows]
        seconds, places = np.unique(ends // 1_000_000_000, return_inverse=True)
        names = [datetime.fromtimestamp(second, UTC).strftime(self._pattern) for second in seconds.tolist()]
        known = list(dict.fromkeys(names))
        if len(known) == 1:
            return [(known[0], batch)]
        number = np.array([known.index(name) for name in names])[places]
        pa = arrow()
        return [(name, batch.filter(_mask(pa, number == n))) for n, name in enumerate(known)]

    def is_full(self) -> bool:
        return len(self._open) > MOST_PARTS or self.rows > MOST_ROWS

    def commit(self) -> None:
        """Have all that was added, and what was seen, on the disk.  Raises WirecapError."""
        files = []
        for name, part in self._open.items():
            part.finish()
            files.append([str(each.relative_to(self._folder)) for each in (part.hidden, Path(name))])
        self._open, self.rows = {}, 0
        self.commits += 1
        state = {
            "version": VERSION, "commits": self.commits, "stream": self.stream, "position": self.position,
            "files": files, "sensors": [each.saved() for each in self.sensors.values()],
        }  # fmt: skip
        path = self._folder / STATE
        hidden = path.with_name(path.name + ".new")
        try:
            with hidden.open("w") as file:
                json.dump(state, file)
                file.flush()
                os.fsync(file.fileno())
            hidden.rename(path)
            for part_path, name in files:
                _name(self._folder / part_path, self._folder / name)
        except OSError as error:
            raise WirecapError(
                f"{self._folder}: {error.strerror or error}", "free some space; what is missing is collected again"
            ) from None

    def close(self) -> None:
        """Leave what was not committed to the next one."""
        for part in self._open.values():
            part.discard()
        self._open = {}
        self._lock.close()


def _mask(pa: Any, chosen: Any) -> Any:
    bits = pa.py_buffer(np.packbits(chosen, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(chosen), [None, bits])


def _name(hidden: Path, name: Path) -> None:
    """Give a file its name, unless it has it."""
    try:
        linked = hidden.stat().st_nlink > 1
    except FileNotFoundError:
        return
    if linked:
        hidden.unlink()
    else:
        take_name(hidden, name)
