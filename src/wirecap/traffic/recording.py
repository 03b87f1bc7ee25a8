"""A plan from capture files: pcap and pcapng of any size, read as they are sent."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.files.feed import Mapped, Progress
from wirecap.files.interface import LINKTYPE_ETHERNET
from wirecap.files.reader import CaptureFile, open_capture
from wirecap.kernels import pcap_read
from wirecap.kernels import scan_state as at
from wirecap.kernels import schedule as k
from wirecap.traffic.batch import PACKETS, Batch, NotSent
from wirecap.traffic.steering import Recorded, Rss
from wirecap.traffic.timing import Schedule, Timing

_HELD_S = 0.0005
_PIPE_S = 0.2
Words = NDArray[np.int64]
Lengths = NDArray[np.uint32]

LONGER, SHORTER, FOREIGN = "longer than the MTU", "shorter than an Ethernet header", "not Ethernet"


@dataclass(slots=True)
class Row:
    """Packets of a file that can be sent; ``lasting``: their bytes stay where they are (the file is mapped)."""

    n: int
    arena: NDArray[np.uint8]
    address: Words
    length: Lengths
    stamp: Words
    queue: Words
    lasting: bool
    release: Callable[[], object]

    def times(self, count: int) -> Row:
        """The row so many times over."""
        if count == 1:
            return self
        address, length, stamp = np.tile(self.address, count), np.tile(self.length, count), np.tile(self.stamp, count)
        queue = np.tile(self.queue, count)
        return Row(self.n * count, self.arena, address, length, stamp, queue, self.lasting, self.release)


class Memory:
    """Where the packets of one pass lie, kept for the next ones: the file need not be scanned again."""

    MOST = 1 << 20

    def __init__(self, wanted: bool) -> None:
        self.rows: list[tuple[int, Row]] = []
        self.complete = False
        self._wanted, self._packets = wanted, 0

    def add(self, number: int, row: Row) -> None:
        self._packets += row.n
        self._wanted = self._wanted and row.lasting and self._packets <= self.MOST
        if self._wanted:
            self.rows.append((number, row))
        else:
            self.rows.clear()

    def close_pass(self) -> None:
        self.complete = self._wanted

    @property
    def repeats(self) -> int:
        """How many passes make a batch."""
        return max(1, PACKETS // self.rows[0][1].n) if len(self.rows) == 1 else 1


class Recording:
    """The packets of ``paths``, one file after the other, ``loops`` times (0: for ever).

    mtu: of the interface that is to send them, in bytes; limit: packets in all; duration_ns: packets that are due
    later are left out; steering: chooses queues.  Raises UsageError for a file that is none.
    """

    def __init__(
        self, paths: Sequence[str], timing: Timing, mtu: int, *, loops: int = 1, loop_pause_ns: int = 0,
        limit: int | None = None, duration_ns: int | None = None, steering: Rss | Recorded | None = None,
        queues: int = 1,
    ) -> None:  # fmt: skip
        if loops != 1 and "-" in paths:
            raise UsageError("the standard input cannot be read twice", "leave --loop out, or replay a file")
        self.paced, self.queues, self.not_sent = timing.paced, queues, NotSent()
        self._paths, self._mtu, self._loops, self._pause_ns = list(paths), mtu, loops, loop_pause_ns
        self._limit, self._duration_ns, self._steering = limit, duration_ns, steering
        self._schedule = Schedule(timing)
        self._counts = np.zeros(k.COUNTS, np.int64)
        self._foreign = self._pass_foreign = 0
        self._pass_counts = self._counts.copy()
        self._handed_out = 0
        self._read: float | None = None
        self._stopped = False
        self._memory = Memory(loops != 1)
        for path in paths:
            if path != "-":
                open_capture(path).close()  # a file that is none is better told before the first packet

    def kernels(self) -> list[Any]:
        return [
            pcap_read.scan,
            k.admit,
            *self._schedule.kernels(),
            *(self._steering.kernels() if self._steering else []),
        ]

    def close(self) -> None:
        self._stopped = True

    def batches(self) -> Iterator[Batch]:
        loop = 0
        while not self._stopped and (not self._loops or loop < self._loops):
            before = self._handed_out
            if self._memory.complete:
                again = self._memory.repeats if not self._loops else min(self._memory.repeats, self._loops - loop)
                yield from self._from_memory(loop, again)
                loop += again
            else:
                yield from self._from_files(loop)
                loop += 1
                self._memory.close_pass()
                self._pass_counts, self._pass_foreign = self._counts // loop, self._foreign // loop
            if self._handed_out == before:
                return  # no packet that can be sent: another loop would bring none either

    def _from_files(self, loop: int) -> Iterator[Batch]:
        for number, path in enumerate(self._paths):
            self._schedule.restart(0 if number or not loop else self._pause_ns)
            place = loop * len(self._paths) + number
            for row, share in self._rows(path):
                self._read = None if share is None else (place + share) / (len(self._paths) * (self._loops or 1))
                self._memory.add(number, row)
                yield from self._timed(row, self._schedule.apply(row.stamp, row.length, row.n))
                if self._stopped:
                    return

    def _from_memory(self, loop: int, again: int) -> Iterator[Batch]:
        """A short file several times at once: a batch costs the same for few packets as for many."""
        file, rows = -1, self._memory.rows
        for done, (number, row) in enumerate(rows, 1):
            if number != file:
                self._schedule.restart(0 if number else self._pause_ns)
            file = number
            times = [self._schedule.apply(row.stamp, row.length, row.n)]
            for _ in range(again - 1):
                self._schedule.restart(self._pause_ns)
                times.append(self._schedule.apply(row.stamp, row.length, row.n))
            self._read = (loop + again * done / len(rows)) / (self._loops or 1)
            yield from self._timed(row.times(again), np.concatenate(times))
            if self._stopped:
                return
        self._counts += again * self._pass_counts
        self._foreign += again * self._pass_foreign
        self._tell()

    def _rows(self, path: str) -> Iterator[tuple[Row, float | None]]:
        """The packets of a file that can be sent, with the share of the file that was read, where that is known."""
        released: deque[int] = deque()
        with open_capture(path) as file:
            while not self._stopped:
                address, stamp = np.empty(PACKETS, np.int64), np.empty(PACKETS, np.int64)
                captured, original = np.empty(PACKETS, np.uint32), np.empty(PACKETS, np.uint32)
                n, progress = file.fill(address, captured, original, stamp, PACKETS, _PIPE_S)
                while released:
                    file.release(released.popleft())
                if progress is Progress.BUSY:
                    time.sleep(_HELD_S)
                if progress is Progress.ENDED:
                    return
                if n == 0:
                    continue
                first = int(address[0])
                kept = self._admit(file, address, captured, original, stamp, n)
                if not kept:
                    released.append(first)
                    continue
                arena, lasting = file.arena, isinstance(file.feed, Mapped)
                queue = np.zeros(kept, np.int64)
                if self._steering:
                    self._steering.look(file)
                    queue = self._steering.choose(arena, address, captured, kept)
                give_back = partial(released.append, first)
                row = Row(kept, arena, address[:kept], captured[:kept], stamp[:kept], queue, lasting, give_back)
                yield row, file.offset / file.size if file.size else None

    def _admit(
        self, file: CaptureFile, address: Words, captured: Lengths, original: Lengths, stamp: Words, n: int
    ) -> int:
        if file.interfaces[int(file.state[at.INTERFACE])].linktype == LINKTYPE_ETHERNET:
            kept = int(k.admit(file.arena, address, captured, original, stamp, n, self._mtu, self._counts))
        else:
            self._foreign += n
            kept = 0
        self._tell()
        return kept

    def _timed(self, row: Row, due: Words) -> Iterator[Batch]:
        """The row as a batch, as far as limit and duration allow."""
        n = row.n
        if self._limit is not None:
            n = min(n, self._limit - self._handed_out)
        if self._duration_ns is not None:
            n = min(n, int(np.searchsorted(due, self._duration_ns)))
        self._handed_out += n
        self._stopped |= n < row.n or self._handed_out == self._limit
        if n:
            share = self._share(int(due[n - 1]))
            yield Batch(n, row.arena, row.address, row.length, due, row.queue, share, row.release)

    def _share(self, due_ns: int) -> float | None:
        """How much of the plan is handed out: by whichever end is nearest."""
        ends = [self._read] if self._loops and self._read is not None else []
        if self._limit is not None:
            ends.append(self._handed_out / self._limit)
        if self._duration_ns is not None:
            ends.append(due_ns / self._duration_ns)
        return max(ends, default=None)

    def _tell(self) -> None:
        found = {LONGER: self._counts[k.TOO_LONG], SHORTER: self._counts[k.TOO_SHORT], FOREIGN: self._foreign}
        self.not_sent.reasons = {name: int(count) for name, count in found.items() if count}
        self.not_sent.cut_by_capture = int(self._counts[k.CUT])
