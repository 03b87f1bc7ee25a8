"""The file source: a capture file, whose packets stay where they are in the mapping (or in a stream's blocks)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wirecap.files.reader import CaptureFile, PagesAhead, Progress, note_of_times, open_capture
from wirecap.kernels.base import libc
from wirecap.kernels.file.capture_loop import STOPPED, UNWANTED, file_loop
from wirecap.kernels.file.read import MIXED, OUTSIDE
from wirecap.kernels.pool import pool as k
from wirecap.kernels.pool.handler_loop import NO_FILTER, address_of, everything
from wirecap.kernels.pool.pool import Rings
from wirecap.source.source import CaptureSettings, HookCounts, Source, SourceQueue

if TYPE_CHECKING:
    from wirecap.filters.native import LinkFilters

POLL_S = 0.1
BUSY_S = 0.0005


class FileSource(Source):
    """A pcap or pcapng file, compressed or not, or ``-`` for standard input; one queue."""

    name = "file"
    live = False
    truncates = True

    def __init__(self, path: str, keep_apart: bool = True, file: CaptureFile | None = None) -> None:
        """keep_apart: a chunk holds packets of only one interface, which costs time if they alternate.
        file: the file, where it is open already, or a part of it."""
        self._take(file or open_capture(path), path, keep_apart)

    def _take(self, file: CaptureFile, name: str, keep_apart: bool) -> None:
        self.file = file
        self.file.state[MIXED] = not keep_apart
        self.queues = [SourceQueue(name, 0)]
        self.arena, self.interfaces = self.file.arena, self.file.interfaces
        self.recording = self.file if self.file.kind == "pcapng" else None
        self._filters: LinkFilters | None = None
        self._ahead: PagesAhead | None = None
        empty = np.zeros(1, np.int64)
        self.rings = Rings(empty, empty.view(np.uint32), empty)

    def keep_apart(self) -> None:
        self.file.state[MIXED] = 0

    def filter_by(self, filters: LinkFilters) -> bool:
        """The filter runs while the bytes are in the cache."""
        self._filters = filters
        return True

    @property
    def _select(self) -> Callable[..., int]:
        return self._filters.process if self._filters else everything

    def _states(self) -> NDArray[np.int64]:
        """The states of the filter for the interfaces that are known so far."""
        return self._filters.states(self.links()) if self._filters else NO_FILTER

    def equip(self, pool: k.Pool, cells_per_queue: int) -> None: ...

    def kernels(self) -> list[Any]:
        return [file_loop, self._select]

    def run(self, pool: k.Pool, mine: list[int], settings: CaptureSettings) -> None:
        """Read to the end; a damaged file raises an error once everything intact has been handed over."""
        file, depths, scratch = self.file, np.zeros(pool.tallies.shape[0], np.int64), libc.scratch()
        select, known, states = address_of(self._select), len(self.interfaces), self._states()
        while file_loop(pool, file.state, file.table, file.held, select, states, depths, scratch) != STOPPED:
            progress = self._advance(POLL_S)
            fresh = self.interfaces[known:]
            known += len(fresh)
            if any(one.dlt != self.interfaces[0].dlt for one in fresh):  # others get the first one's (``state_of``)
                states = self._states()
            if progress is Progress.ENDED:
                return
            if progress is Progress.BUSY:
                time.sleep(BUSY_S)

    def _advance(self, timeout_s: float) -> Progress:
        return self.file.advance(timeout_s)

    def start(self) -> None:
        self._ahead = PagesAhead(self.file)

    def stop(self) -> None:
        if self._ahead:
            self._ahead.stop()

    def counts(self, pool: k.Pool, queue: int) -> HookCounts:
        unwanted = int(pool.queues[UNWANTED])  # before TAKEN, which is never behind it
        return HookCounts(int(pool.queues[k.TAKEN]), int(pool.queues[k.TAKEN_BYTES]), filtered=unwanted)

    def notes(self) -> list[str]:
        return note_of_times(int(self.file.state[OUTSIDE]))

    def close(self) -> None:
        self.file.close()
