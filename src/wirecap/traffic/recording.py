"""A plan from capture files: pcap and pcapng of any size, read as they are sent."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.files.feed import Progress
from wirecap.files.interface import LINKTYPE_ETHERNET
from wirecap.files.reader import CaptureFile, open_capture
from wirecap.kernels import pcap_read
from wirecap.kernels import scan_state as at
from wirecap.kernels import schedule as k
from wirecap.traffic.batch import PACKETS, Batch, NotSent
from wirecap.traffic.steering import Rss
from wirecap.traffic.timing import Schedule, Timing

_HELD_S = 0.0005
_PIPE_S = 0.2
LONGER, SHORTER, FOREIGN = "longer than the MTU", "shorter than an Ethernet header", "not Ethernet"


class Recording:
    """The packets of ``paths``, one file after the other, ``loops`` times (0: for ever).

    mtu: of the interface that is to send them, in bytes; limit: packets in all; duration_ns: packets that are due
    later are left out; rss: chooses queues.  Raises UsageError for a file that is none.
    """

    def __init__(
        self, paths: Sequence[str], timing: Timing, mtu: int, *, loops: int = 1, loop_pause_ns: int = 0,
        limit: int | None = None, duration_ns: int | None = None, rss: Rss | None = None, queues: int = 1,
    ) -> None:  # fmt: skip
        if loops != 1 and "-" in paths:
            raise UsageError("the standard input cannot be read twice", "leave --loop out, or replay a file")
        self.paced, self.queues, self.not_sent = timing.paced, queues, NotSent()
        self._paths, self._mtu, self._loops, self._pause_ns = list(paths), mtu, loops, loop_pause_ns
        self._limit, self._duration_ns, self._rss = limit, duration_ns, rss
        self._schedule = Schedule(timing)
        self._counts = np.zeros(k.COUNTS, np.int64)
        self._foreign = 0
        self._handed_out = 0
        self._done = 0.0
        self._stopped = False
        for path in paths:
            if path != "-":
                open_capture(path).close()  # a file that is none is better told before the first packet

    def kernels(self) -> list[Any]:
        return [pcap_read.scan, k.admit, *self._schedule.kernels(), *(self._rss.kernels() if self._rss else [])]

    def share_done(self) -> float | None:
        return self._done if self._loops else None

    def close(self) -> None:
        self._stopped = True

    def batches(self) -> Iterator[Batch]:
        loop = 0
        while not self._loops or loop < self._loops:
            before = self._handed_out
            for number, path in enumerate(self._paths):
                first = loop == 0 and number == 0
                self._schedule.restart(0 if first or number else self._pause_ns)
                start = (loop * len(self._paths) + number) / (len(self._paths) * (self._loops or 1))
                yield from self._file(path, start)
                if self._stopped:
                    return
            if self._handed_out == before:
                return  # no packet that can be sent: another loop would bring none either
            loop += 1

    def _file(self, path: str, start: float) -> Iterator[Batch]:
        """The batches of one file."""
        share = 1.0 / (len(self._paths) * (self._loops or 1))
        released: deque[int] = deque()
        with open_capture(path) as file:
            while not self._stopped:
                batch, more = self._fill(file, released)
                if file.size:
                    self._done = start + share * file.offset / file.size
                if batch is not None:
                    yield batch
                if not more:
                    return

    def _fill(self, file: CaptureFile, released: deque[int]) -> tuple[Batch | None, bool]:
        """The next batch of a file, None where a row has no packet to send; False at the end."""
        address, stamp = np.empty(PACKETS, np.int64), np.empty(PACKETS, np.int64)
        captured, original = np.empty(PACKETS, np.uint32), np.empty(PACKETS, np.uint32)
        n, progress = file.fill(address, captured, original, stamp, PACKETS, _PIPE_S)
        while released:
            file.release(released.popleft())
        if progress is Progress.BUSY:
            time.sleep(_HELD_S)
        if n == 0:
            return None, progress is not Progress.ENDED
        first = int(address[0])
        interface = file.interfaces[int(file.state[at.INTERFACE])]
        if interface.linktype != LINKTYPE_ETHERNET:
            self._foreign += n
            kept = 0
        else:
            kept = int(k.admit(file.arena, address, captured, original, stamp, n, self._mtu, self._counts))
        self._tell()
        due = self._schedule.apply(stamp, captured, kept)
        kept, more = self._bound(due, kept)
        if kept == 0:
            released.append(first)
            return None, more
        queue = self._rss.choose(file.arena, address, captured, kept) if self._rss else np.zeros(kept, np.int64)
        return Batch(kept, file.arena, address, captured, due, queue, lambda: released.append(first)), more

    def _bound(self, due: NDArray[np.int64], kept: int) -> tuple[int, bool]:
        """How many of the packets are within limit and duration; False where the plan ends with them."""
        wanted = kept
        if self._limit is not None:
            kept = min(kept, self._limit - self._handed_out)
        if self._duration_ns is not None:
            kept = min(kept, int(np.searchsorted(due[:kept], self._duration_ns)))
        self._handed_out += kept
        self._stopped |= kept < wanted or self._handed_out == self._limit
        return kept, not self._stopped

    def _tell(self) -> None:
        found = {LONGER: self._counts[k.TOO_LONG], SHORTER: self._counts[k.TOO_SHORT], FOREIGN: self._foreign}
        self.not_sent.reasons = {name: int(count) for name, count in found.items() if count}
        self.not_sent.cut_by_capture = int(self._counts[k.CUT])
