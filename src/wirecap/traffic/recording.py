"""A plan from capture files: pcap and pcapng of any size, read as they are sent."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.files.reader import CaptureFile, Mapped, Progress, open_capture
from wirecap.kernels.file import read
from wirecap.kernels.file import read as at
from wirecap.kernels.transmit import schedule as k
from wirecap.kernels.transmit.unique import make_unique
from wirecap.traffic.batch import PACKETS, Batch, NotSent
from wirecap.traffic.conversion import Arenas, Conversion, Rows
from wirecap.traffic.splitting import SKIPPED, Split
from wirecap.traffic.steering import Recorded, Rss
from wirecap.traffic.timing import Schedule, Timing

_HELD_S = 0.0005
_PIPE_S = 0.2
Words = NDArray[np.int64]
Lengths = NDArray[np.uint32]

LONGER, SHORTER = "longer than the MTU", "shorter than an Ethernet header"


@dataclass(slots=True)
class Row:
    """Packets that can be sent; ``lasting``: their bytes stay where they are (the file is mapped, or they are copies).

    own_bytes: bytes of memory that the row holds beside the file's.
    """

    n: int
    arena: NDArray[np.uint8]
    address: Words
    length: Lengths
    timestamp: Words
    queue: Words
    lasting: bool
    release: Callable[[], object]
    own_bytes: int = 0

    def times(self, count: int) -> Row:
        """The row so many times over."""
        if count == 1:
            return self
        address, timestamp, queue = (np.tile(row, count) for row in (self.address, self.timestamp, self.queue))
        length = np.tile(self.length, count)
        return Row(self.n * count, self.arena, address, length, timestamp, queue, self.lasting, self.release)


class Memory:
    """Where the packets of one pass lie, kept for the next ones: the file need not be scanned again."""

    MOST = 1 << 20
    MOST_BYTES = 1 << 28
    """Of copies; what lies in a mapped file takes none."""

    def __init__(self, wanted: bool) -> None:
        self.rows: list[tuple[int, Row]] = []
        self.complete = False
        self.wanted, self._packets, self._bytes = wanted, 0, 0

    def add(self, number: int, row: Row) -> None:
        self._packets += row.n
        self._bytes += row.own_bytes
        self.wanted &= row.lasting and self._packets <= self.MOST and self._bytes <= self.MOST_BYTES
        if self.wanted:
            self.rows.append((number, row))
        else:
            self.rows.clear()

    def close_pass(self) -> None:
        self.complete = self.wanted

    @property
    def repeats(self) -> int:
        """How many passes make a batch."""
        return max(1, PACKETS // self.rows[0][1].n) if len(self.rows) == 1 else 1


@dataclass
class LeftOut:
    """What a recording leaves out, and notes on what it sends, so far."""

    admitted: Words
    converted: Words
    foreign: Counter[int]
    sides: Words
    """Packets for each of two interfaces, int64 (2,)."""
    skipped: int = 0

    def of_pass(self, passes: int) -> LeftOut:
        """What each of so many equal passes left out."""
        foreign = Counter({link: count // passes for link, count in self.foreign.items()})
        sides, skipped = self.sides // passes, self.skipped // passes
        return LeftOut(self.admitted // passes, self.converted // passes, foreign, sides, skipped)

    def add(self, other: LeftOut, times: int) -> None:
        self.admitted += times * other.admitted
        self.converted += times * other.converted
        self.sides += times * other.sides
        for link, count in other.foreign.items():
            self.foreign[link] += times * count
        self.skipped += times * other.skipped


class Recording:
    """The packets of ``paths``, one file after the other, ``loops`` times (0: for ever) with pauses between them.

    mtu: of the interface that is to send them, or of each of two, in bytes; limit: packets in all; duration_ns: packets
    that are due later are left out; steering: chooses queues; split: chooses between two interfaces; conversion: to
    their link layer; unique: each so many passes have IP addresses of their own (0: all have the file's).  Raises
    UsageError for a file that is none.
    """

    def __init__(
        self, paths: Sequence[str], timing: Timing, mtu: int | Sequence[int], *, loops: int = 1,
        loop_pause_ns: int = 0, limit: int | None = None, duration_ns: int | None = None,
        steering: Rss | Recorded | None = None, queues: int = 1, split: Split | None = None,
        conversion: Conversion | None = None, unique: int = 0,
    ) -> None:  # fmt: skip
        if loops != 1 and "-" in paths:
            raise UsageError("standard input cannot be read twice", "leave --loop out, or replay a file")
        self.paced, self.queues, self.not_sent = timing.paced, queues, NotSent()
        self.counted = bool(loops) and duration_ns is None and "-" not in paths
        self._paths, self._loops, self._unique = list(paths), loops, unique
        # At full speed nobody knows when a pass ends: its pause is not part of the times.
        self._pause_ns, self._rest_ns = (loop_pause_ns, 0) if timing.paced else (0, loop_pause_ns)
        self._rest_before_next_ns = 0
        self._mtu = np.full(queues, mtu, np.int64) if isinstance(mtu, int) else np.array(mtu, np.int64)
        self._limit, self._duration_ns, self._steering, self._split = limit, duration_ns, steering, split
        self._conversion = conversion or Conversion()
        self._schedule = Schedule(timing)
        self._left_out = LeftOut(
            np.zeros(k.COUNTS, np.int64), self._conversion.counts, self._conversion.foreign, np.zeros(2, np.int64)
        )
        self._pass = self._left_out.of_pass(1)
        self._handed_out = 0
        self._read: float | None = None
        self._stopped = False
        self._memory, self._arenas = Memory(loops != 1), Arenas()
        self._may_convert = "-" in paths or not self._conversion.header
        for path in paths:
            if path != "-":  # what cannot be sent is better told before the first packet
                with open_capture(path) as file:
                    for interface in file.interfaces:
                        if len(file.interfaces) == 1:  # of several, some may have no packets
                            self._conversion.check(path, interface)
                        self._may_convert |= file.kind == "pcapng" or self._conversion.copies(interface.linktype)

    def kernels(self) -> list[Any]:
        conversion = self._conversion if self._may_convert else None  # most files need none
        parts = [part for part in (self._schedule, conversion, self._steering, self._split) if part]
        own = [read.scan, k.admit, *([make_unique] if self._unique else [])]
        return own + [kernel for part in parts for kernel in part.kernels()]

    def left(self) -> int | None:
        return None

    def close(self) -> None:
        self._stopped = True

    def batches(self) -> Iterator[Batch]:
        loop = 0
        while not self._stopped and (not self._loops or loop < self._loops):
            before = self._handed_out
            self._rest_before_next_ns = self._rest_ns if loop else 0
            if self._memory.complete:
                repeats = 1 if self._rest_ns else self._memory.repeats
                again = repeats if not self._loops else min(repeats, self._loops - loop)
                yield from self._from_memory(loop, again)
                loop += again
            else:
                yield from self._from_files(loop)
                loop += 1
                self._memory.close_pass()
                self._pass = self._left_out.of_pass(loop)
            if self._handed_out == before:
                return  # no packet that can be sent: another loop would bring none either

    def _from_files(self, loop: int) -> Iterator[Batch]:
        for number, path in enumerate(self._paths):
            self._schedule.restart(0 if number or not loop else self._pause_ns)
            if self._split:
                self._split.begin(path)
            place = loop * len(self._paths) + number
            for row, share in self._rows(path, loop == 0):
                self._read = None if share is None else (place + share) / (len(self._paths) * (self._loops or 1))
                self._memory.add(number, row)
                due = self._schedule.apply(row.timestamp, row.length, row.n)
                yield from self._timed(self._with_addresses(row, row.n, loop), due)
                if self._stopped:
                    return

    def _from_memory(self, loop: int, again: int) -> Iterator[Batch]:
        """A short file several times at once: a batch costs the same for few packets as for many."""
        file, rows = -1, self._memory.rows
        for done, (number, row) in enumerate(rows, 1):
            if number != file:
                self._schedule.restart(0 if number else self._pause_ns)
            file = number
            times = [self._schedule.apply(row.timestamp, row.length, row.n)]
            for _ in range(again - 1):
                self._schedule.restart(self._pause_ns)
                times.append(self._schedule.apply(row.timestamp, row.length, row.n))
            self._read = (loop + again * done / len(rows)) / (self._loops or 1)
            yield from self._timed(self._with_addresses(row.times(again), row.n, loop), np.concatenate(times))
            if self._stopped:
                return
        self._left_out.add(self._pass, again)
        self._tell()

    def _with_addresses(self, row: Row, in_pass: int, loop: int) -> Row:
        """The row with the IP addresses of its passes, of which the first has the number ``loop``."""
        if not self._unique or (loop + row.n // in_pass - 1) // self._unique == 0:
            return row
        out, give_back = self._arenas.take(int(row.length.sum(dtype=np.int64)))
        address = np.empty(row.n, np.int64)
        make_unique(row.arena, row.address, row.length, row.n, self._conversion.header, in_pass, loop, self._unique,
                    out, address)  # fmt: skip
        row.release()
        return Row(row.n, out, address, row.length, row.timestamp, row.queue, True, give_back)

    def _rows(self, path: str, first_time: bool) -> Iterator[tuple[Row, float | None]]:
        """The packets of a file that can be sent, with the share of the file that was read, where that is known."""
        released: deque[int] = deque()
        with open_capture(path) as file:
            file.state[at.MIXED] = not isinstance(self._steering, Recorded)
            while not self._stopped:
                address, timestamp = np.empty(PACKETS, np.int64), np.empty(PACKETS, np.int64)
                captured, original = np.empty(PACKETS, np.uint32), np.empty(PACKETS, np.uint32)
                n, progress = file.fill(address, captured, original, timestamp, PACKETS, _PIPE_S)
                while released:
                    file.release(released.popleft())
                if first_time:
                    self.not_sent.outside += int(file.state[at.OUTSIDE])
                    file.state[at.OUTSIDE] = 0
                if progress is Progress.BUSY:
                    time.sleep(_HELD_S)
                if progress is Progress.ENDED:
                    return
                if n == 0:
                    continue
                give_back = partial(released.append, int(address[0]))
                rows = Rows(n, file.arena, address, captured, original, timestamp, np.zeros(n, np.int64))
                row = self._admit(file, rows, give_back)
                if row.n:
                    yield row, file.offset / file.size if file.size else None

    def _admit(self, file: CaptureFile, rows: Rows, give_back: Callable[[], object]) -> Row:
        """Those of a file's packets that can be sent, converted and with their queues."""
        interface = file.interfaces[int(file.state[at.INTERFACE])]
        self._conversion.check(file.path, interface)
        self._choose_by_file(file, rows)
        copied = self._conversion.copies(interface.linktype)
        lasting = copied if self._memory.wanted else False
        release = self._conversion.apply(rows, interface.linktype, lasting)
        if copied:
            give_back()
            give_back = release
        self._choose_by_frame(rows)
        kept = int(k.admit(rows.arena, rows.address, rows.captured, rows.original, rows.timestamp, rows.queue, rows.n,
                           self._mtu, self._conversion.header, self._left_out.admitted))  # fmt: skip
        if self._split:
            self._left_out.sides += np.bincount(rows.queue[:kept], minlength=2)
        self._tell()
        if not kept:
            give_back()
        lasting = lasting or (not copied and isinstance(file.feed, Mapped))
        return Row(
            kept, rows.arena, rows.address[:kept], rows.captured[:kept], rows.timestamp[:kept], rows.queue[:kept],
            lasting, give_back, rows.arena.size if copied else 0,
        )  # fmt: skip

    def _choose_by_file(self, file: CaptureFile, rows: Rows) -> None:
        """Queues that depend on what the file says of its packets."""
        if isinstance(self._steering, Recorded):
            self._steering.look(file)
            rows.queue = self._steering.choose(rows.arena, rows.address, rows.captured, rows.n)
        elif self._split:
            rows.queue = self._split.by_block(file, rows)
            sent = rows.queue != SKIPPED
            self._left_out.skipped += rows.n - int(sent.sum())
            rows.keep(sent)

    def _choose_by_frame(self, rows: Rows) -> None:
        """Queues that depend on the bytes, and then the addresses of interfaces that depend on the queue."""
        if isinstance(self._steering, Rss) and rows.n:
            rows.queue = self._steering.choose(rows.arena, rows.address, rows.captured, rows.n)
        elif self._split:
            self._split.by_frame(rows, self._conversion.link)
        self._conversion.give_sources(rows)

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
            rest_ns, self._rest_before_next_ns = self._rest_before_next_ns, 0
            yield Batch(n, row.arena, row.address, row.length, due, row.queue, share, row.release, rest_ns)

    def _share(self, due_ns: int) -> float | None:
        """How much of the plan is handed out: by whichever end is nearest."""
        ends = [self._read] if self._loops and self._read is not None else []
        if self._limit is not None:
            ends.append(self._handed_out / self._limit)
        if self._duration_ns is not None:
            ends.append(due_ns / self._duration_ns)
        return max(ends, default=None)

    def _tell(self) -> None:
        left_out = self._left_out
        found = {LONGER: left_out.admitted[k.TOO_LONG], SHORTER: left_out.admitted[k.TOO_SHORT]}
        found |= self._conversion.reasons()
        if self._split:
            found[self._split.skipped] = left_out.skipped
        self.not_sent.reasons = {name: int(count) for name, count in found.items() if count}
        self.not_sent.notes = self._conversion.notes()
        if self._split and self._split.one_sided and left_out.sides.any() and not left_out.sides.all():
            self.not_sent.notes[self._split.one_sided] = int(left_out.sides.sum())
        self.not_sent.cut_by_capture = int(left_out.admitted[k.CUT])
