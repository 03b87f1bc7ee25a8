"""The file source: a capture file, its packets where they lie in the mapping (or in a stream's blocks)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.files.feed import Mapped, Progress
from wirecap.files.interface import Interface
from wirecap.files.reader import open_capture
from wirecap.kernels import libc
from wirecap.kernels import pool as k
from wirecap.kernels.file_loop import STOPPED, UNWANTED, file_loop
from wirecap.kernels.handle import everything
from wirecap.kernels.rings import Rings
from wirecap.kernels.scan_state import MIXED
from wirecap.source.base import CaptureSettings, HookCounts, SourceQueue

POLL_S = 0.1
BUSY_S = 0.0005
LARGE_BYTES = 16 << 20
"""From this size on a thread of its own asks for a file's pages ahead of the scan."""


class FileSource:
    """A pcap or pcapng file, compressed or not, or ``-`` for the standard input; one queue."""

    engine = "file"
    truncates = True
    keeps_unread = True

    def __init__(self, path: str, keep_apart: bool = True) -> None:
        """keep_apart: a chunk holds packets of one interface, which costs time where they alternate."""
        self.file = open_capture(path)
        self.file.state[MIXED] = not keep_apart
        self.queues = [SourceQueue(path, 0)]
        self.arena = self.file.arena
        self._select: Callable[..., int] = everything
        self._select_state: NDArray[np.int64] = np.zeros(1, np.int64)
        self._ahead: threading.Thread | None = None
        self._stopped = threading.Event()
        empty = np.zeros(1, np.int64)
        self.rings = Rings(empty, empty.view(np.uint32), empty)

    @property
    def interfaces(self) -> list[Interface]:
        return self.file.interfaces

    def filter_by(self, select: Callable[..., int], state: NDArray[np.int64]) -> None:
        """Hand over only what a kernel of PROCESS_SIGNATURE selects: it runs while the bytes are in the cache."""
        self._select, self._select_state = select, state

    def equip(self, pool: k.Pool, cells_per_queue: int) -> None: ...

    def kernels(self) -> list[Any]:
        return [file_loop, self._select]

    def run(self, pool: k.Pool, mine: list[int], settings: CaptureSettings) -> None:
        """Read to the end; a damaged file raises once what was whole has been handed over."""
        file, depths, scratch = self.file, np.zeros(pool.tallies.shape[0], np.int64), libc.scratch()
        select, state = self._select, self._select_state
        while file_loop(pool, file.state, file.table, file.held, select, state, depths, scratch) != STOPPED:
            progress = file.advance(POLL_S)
            if progress is Progress.ENDED:
                return
            if progress is Progress.BUSY:
                time.sleep(BUSY_S)

    def claim(self) -> None: ...

    def start(self) -> None:
        feed = self.file.feed
        if isinstance(feed, Mapped) and feed.arena.size >= LARGE_BYTES:
            arguments = (self.file.state, self._stopped)
            self._ahead = threading.Thread(target=feed.map_ahead, args=arguments, name="wirecap pages", daemon=True)
            self._ahead.start()

    def check(self) -> None: ...

    def stop(self) -> None:
        self._stopped.set()
        if self._ahead:
            self._ahead.join()

    def counts(self, pool: k.Pool, queue: int) -> HookCounts:
        unwanted = int(pool.queues[UNWANTED])
        return HookCounts(int(pool.queues[k.TAKEN]), int(pool.queues[k.TAKEN_OCTETS]), filtered=unwanted)

    def describe(self) -> dict[str, object]:
        return {"xdp_mode": None, "zero_copy": False}

    def close(self) -> None:
        self.file.close()
