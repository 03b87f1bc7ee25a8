"""The index of a capture file that is being written: a thread reads each buffer once more, while it is written."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wirecap.errors import UsageError
from wirecap.files.buffers import Buffer, Buffers
from wirecap.files.index import Builder, Ranges, identity_of, index_path
from wirecap.files.reader import Bytes, CaptureFile, Progress, Words
from wirecap.files.retention import UNBOUNDED, Space
from wirecap.kernels.file import index as k
from wirecap.kernels.file import read as at

KERNELS: list[Any] = [k.index_records, k.end_early]


SHARE, LEAST_BYTES = 100, 64 << 10


@dataclass(frozen=True)
class _IndexedSpace:
    """The space of a file and of its index, which is never larger than LEAST_BYTES and one part in SHARE."""

    space: Space
    stream_bytes: Callable[[], int]

    def grow(self, size: int, ahead: int = 0) -> int:
        index_bytes = self._index_bytes(size)
        return self.space.grow(size + index_bytes, ahead) - index_bytes

    def end(self, size: int) -> None:
        self.space.end(size + self._index_bytes(size))

    def _index_bytes(self, size: int) -> int:
        return LEAST_BYTES + max(size, self.stream_bytes()) // SHARE


def with_index(space: Space, stream_bytes: Callable[[], int]) -> Space:
    """The space for a file of which so many bytes are there, before compression, and its index."""
    return _IndexedSpace(space, stream_bytes) if space is not UNBOUNDED else space


class _Given:
    """A feed of whole records, which somebody else puts into the arena."""

    damage = ""

    def __init__(self, start: bytes) -> None:
        self.arena: Bytes = np.frombuffer(bytearray(start), np.uint8)
        self.held: Words = np.zeros(1, np.int64)

    def prepare(self, state: Words) -> None:
        state[at.END], state[at.FINAL], state[at.BLOCK_BYTES] = len(self.arena), 1, 1 << 62

    def refill(self, state: Words, timeout_s: float | None) -> Progress:
        return Progress.IDLE

    def close(self) -> None: ...


class LiveIndex:
    """The index of the capture file ``path``, which starts with ``header``.

    A failure ends the index, not the capture: ``note`` says so.
    """

    def __init__(self, path: str, header: bytes, buffers: Buffers) -> None:
        self.path, self.note = path, ""
        self._buffers = buffers
        self._builder: Builder | None = None
        try:
            file = CaptureFile(path, _Given(header))
            file.state[at.FINAL] = 0
            Path(index_path(path)).unlink(missing_ok=True)  # of what the file held before
            self._builder = Builder(file, index_path(path))
        except (OSError, UsageError) as error:
            self._give_up(error)
        self._work: queue.SimpleQueue[tuple[Buffer, int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"index {path}", daemon=True)
        self._thread.start()

    def add(self, buffer: Buffer, end: int) -> None:
        """Index the whole records in buffer.bytes[start:end]; the buffer is given back when that is done."""
        self._work.put((buffer, end))

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            buffer, end = work
            try:
                if self._builder:
                    self._take(self._builder, buffer, end)
            except Exception as error:
                self._give_up(error)
            finally:
                self._buffers.give_back(buffer)

    def _take(self, builder: Builder, buffer: Buffer, end: int) -> None:
        file = builder.file
        file.arena, state = buffer.bytes, file.state
        state[at.POSITION], state[at.END], state[at.ORIGIN] = buffer.start, end, buffer.offset
        builder.take()
        if state[at.POSITION] != end:
            raise ValueError("a record is not whole")

    def _give_up(self, error: Exception) -> None:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        self.note = f"{self.path}: it has no index: {reason}"
        self.abandon()

    def abandon(self) -> None:
        """There will be no index: the file is not what was asked for."""
        builder, self._builder = self._builder, None
        if builder:
            builder.abandon()

    def finish(self, frames: Ranges, whole: bool) -> None:
        """The capture file is closed.  whole: it is what was given here."""
        self._work.put(None)
        self._thread.join()
        if not whole:
            self.abandon()
        builder = self._builder
        if not builder:
            return
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                builder.finish(identity_of(fd), frames)
            finally:
                os.close(fd)
        except OSError as error:
            self._give_up(error)
        self._builder = None
