"""``--keep``: a writer that keeps packets in memory, and writes them when something has them saved."""

from __future__ import annotations

import enum
import stat
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wirecap.engine.engine import Engine
from wirecap.errors import UsageError, WirecapError
from wirecap.files import headers
from wirecap.files.kept import Kept, Segment
from wirecap.files.rotation import NO_LIMIT, Action
from wirecap.handlers.handler import Selection
from wirecap.handlers.triggers import FROM_THE_BEGINNING, Span, Triggers
from wirecap.handlers.watch import Watch
from wirecap.handlers.write import QueueWriter
from wirecap.kernels.file import keep as k
from wirecap.kernels.file import merge as m
from wirecap.kernels.file.write import PCAPNG_COPY, PCAPNG_NS
from wirecap.linux.probes import available_memory_bytes

if TYPE_CHECKING:
    from wirecap.handlers.write import Writer

LOOK_NS = 50_000_000
"""How soon a trigger is heard, and how long the writer sleeps without packets."""
FLUSH_NS = 250_000_000
"""How soon what is saved can be read in the file."""
LATE_NS = 1_000_000_000
"""How long after the end of a span packets of it may still come, while nothing later has."""
MOST_TIMES = 100
"""How many times as much memory is advised at most."""
STEP_NS = 1_000_000_000
"""A clock that differs by more from one that nobody sets was set."""


class _Step(enum.Enum):
    """How copying a span out of memory went."""

    MORE = "go on"
    ALL = "all that is there"
    OVER = "to its end"
    BUSY = "no buffer is free"
    STOP = "the files are full"


@dataclass
class _Stretch:
    """Spans that overlap: one stretch of packets."""

    since_ns: int
    until_ns: int
    reasons: deque[tuple[int, str]] = field(default_factory=deque)  # that are not in a file yet, and when they came
    begun: bool = False

    def take(self, span: Span) -> None:
        self.since_ns, self.until_ns = min(self.since_ns, span.since_ns), max(self.until_ns, span.until_ns)
        if span.why:
            self.reasons.append((span.at_ns, span.why))


class KeepWriter(QueueWriter):
    """One output, as QueueWriter has it, of packets that are kept until something has them saved.

    Packets of all its queues are put in order of time into segments of memory, as the file's records.  Where they have
    to be saved, records are copied from there: never one of them twice.
    """

    _WHY_LEFT_OUT = "kept packets are plain packets; left out"

    def __init__(
        self, writer: Writer, engine: Engine, mine: list[int], path: str, number: int, triggers: Triggers,
        save_on: Selection | None
    ) -> None:  # fmt: skip
        super().__init__(writer, engine, mine, path)
        self._keep, self._number, self._triggers = triggers.config, number, triggers
        if self._layout == PCAPNG_COPY:
            self._layout = PCAPNG_NS
        writers = writer.count(len(engine.source.queues))
        self.kept = Kept(self._keep.room(available_memory_bytes()) // writers)
        self.watch = Watch(self._keep, save_on, self._layout)
        self._stretches: deque[_Stretch] = deque()
        self._at = (0, 0)  # number of a segment, and where in it the next record is that may have to be saved
        self._put = self._opened = self._described = 0
        self._found = np.zeros(8, np.int64)
        self._full = False
        self._clock = time.time_ns() - time.monotonic_ns()
        self._step_ns = self._step_end_ns = 0  # by how much the clock was set forward, and for how long that matters
        self._lost_ns = FROM_THE_BEGINNING  # the time of the last packet whose memory was needed too early
        self._short: tuple[int, int] | None = None  # when something had packets saved, and how far they reached back

    def begin(self) -> None:
        """Open what is no file on a disk, and start the printer; a file is made when there is something to save."""
        path = Path(self.config.path)
        special = self.config.path == "-" or (path.exists() and not stat.S_ISREG(path.stat().st_mode))
        header = self._header()
        if special:
            self._opened += 1
            self._open(header)
        if self._printer:
            self._printer.start(header)

    def _header(self, *comments: str) -> bytes:
        self._described = len(self._engine.source.interfaces)
        return super()._header(*comments)

    @property
    def _packets_put(self) -> int:
        return self._put

    @property
    def files_written(self) -> int:
        return self._opened

    def _write_some(self, selection: Selection, scratch: NDArray[np.int64]) -> bool:
        """Put more packets into memory, and save what has to be saved; False if there is nothing more to write."""
        settings, counts, engine = self.merge.settings, self.merge.counts, self._engine
        segment = self._segment()
        if segment is None:
            return not self._is_aborted() and not self._full
        start, before = segment.end, int(counts[m.WRITTEN])
        counts[m.POSITION] = start
        settings[m.FILE_END] = settings[m.PACKETS_LEFT] = NO_LIMIT
        settings[m.DEADLINE] = time.time_ns() + LOOK_NS
        reason = m.merge_packets(
            engine.pool, engine.source.rings, selection.address, selection.states, self.merge, segment.bytes, scratch
        )
        segment.packets += int(counts[m.WRITTEN]) - before
        segment.end, segment.last_ns = int(counts[m.POSITION]), int(counts[m.LAST_TIMESTAMP])
        if reason == m.FULL:
            if segment.end:
                segment.full = True
            else:
                self.kept.enlarge(segment, int(counts[m.WANTED]))
        if reason == m.NEW_DESCRIPTION and self._recorded:
            self._recorded.take(int(counts[m.WANTED]))
            self._know(self._recorded)
        self._look(segment, start)
        ended = reason in (m.CLOSED, m.ABORTED)
        if reason == m.CLOSED:
            self._wait_for_others()
        return (reason == m.ABORTED or self._save(all_of_it=ended)) and not ended

    def _wait_for_others(self) -> None:
        """Until the writers of other queues can have nothing saved any more."""
        self._triggers.end()
        while not self._triggers.over and not self._is_aborted():
            time.sleep(0.001)
        self._hear()

    def _segment(self) -> Segment | None:
        """The segment to fill; None if there is none, because what it has is still being saved."""
        if self.kept.current:
            return self.kept.current
        oldest = self.kept.segments[0] if self.kept.segments else None
        if oldest and (self.kept.is_full or self._is_too_old(oldest)):
            if self._is_wanted(oldest):
                self._full = not self._save(wait=True)
                if self._is_wanted(oldest):
                    return None
            if not self._is_too_old(oldest):
                self._lost_ns = max(self._lost_ns, oldest.last_ns)
            self.kept.forget()
        return self.kept.begin()

    def _is_too_old(self, segment: Segment) -> bool:
        """Whether no trigger from now on can have it saved."""
        if self._keep.span.ns is None:
            return False
        reach = self._keep.span.ns + self._step_ns + LATE_NS
        return segment.last_ns < int(self.merge.counts[m.LAST_TIMESTAMP]) - reach

    def _is_wanted(self, segment: Segment) -> bool:
        """Whether some of it may have to be saved."""
        self._hear()
        return bool(self._stretches) and self._at[0] <= segment.number

    def _look(self, segment: Segment, start: int) -> None:
        """See what in the new packets has them saved, and what else has."""
        last = int(self.merge.counts[m.LAST_TIMESTAMP])
        self._triggers.stream_ns = max(self._triggers.stream_ns, last)
        self._see_clock()
        self.watch.look(segment.bytes, start, segment.end, self._triggers)
        if not self._number:
            self._triggers.look(time.monotonic_ns())
        self._hear()

    def _see_clock(self) -> None:
        """Let triggers reach back over a clock that was set, for as long as that hides packets from them."""
        now, span = time.monotonic_ns(), self._keep.span.ns
        clock = time.time_ns() - now
        step, self._clock = clock - self._clock, clock
        if step > STEP_NS and span:
            self._step_ns, self._step_end_ns = self._step_ns + step, now + span
        elif self._step_ns and now > self._step_end_ns:
            self._step_ns = 0

    def _hear(self) -> None:
        latest = int(self.merge.counts[m.LAST_TIMESTAMP])
        for span in self._triggers.take(self._number):
            if self._engine.source.live:  # also over packets from before the clock was set back, or forward
                set_back = latest > time.time_ns() + STEP_NS
                until = max(span.until_ns, latest) if set_back else span.until_ns
                span = replace(span, since_ns=span.since_ns - self._step_ns, until_ns=until)
            last = self._stretches[-1] if self._stretches else None
            if last is None or span.since_ns > last.until_ns:
                last = _Stretch(span.since_ns, span.until_ns)
                self._stretches.append(last)
            last.take(span)
            reach = span.at_ns - self._lost_ns
            if span.why and span.since_ns < self._lost_ns and (self._short is None or reach < self._short[1]):
                self._short = (span.at_ns, reach)

    def _save(self, wait: bool = False, all_of_it: bool = False) -> bool:
        """Write what has to be saved of what is there; False if the files are full.

        wait: until memory is free again; all_of_it: no more packets will come.
        """
        while self._stretches and not self._is_aborted():
            stretch = self._stretches[0]
            step = self._copy(stretch, wait or all_of_it)
            if step is _Step.STOP:
                return False
            if step is _Step.OVER or (step is _Step.ALL and (all_of_it or self._is_past(stretch))):
                self._end_stretch()
                continue
            if wait and self._at[0] > self.kept.segments[0].number:  # the oldest is free again
                break
            if step is _Step.ALL or (step is _Step.BUSY and not (wait or all_of_it)):
                break
        if self._sinks and (self.flush_asked or time.monotonic_ns() - self._flushed_ns > FLUSH_NS):
            self._flushed_ns, self.flush_asked = time.monotonic_ns(), False
            self._sink.flush()
        return True

    def _is_past(self, stretch: _Stretch) -> bool:
        return self._engine.source.live and time.time_ns() > stretch.until_ns + LATE_NS

    def _copy(self, stretch: _Stretch, wait: bool) -> _Step:
        """Copy the next records of a stretch into a buffer of the file, and submit it."""
        segment = self._next_record(stretch)
        if isinstance(segment, _Step):
            return segment
        if not self._ready(stretch):
            return _Step.STOP
        buffer = self._sink.acquire(0.1 if wait else 0)
        if buffer is None:
            return _Step.BUSY
        found, due = self._found, self._due(stretch)
        over = time.time_ns() >= self._rotation.split_end_ns
        full = buffer.start + (0 if over else max(0, self._rotation.full_bytes - self._sink.size))
        most = self._rotation.full_packets - (self._put - self._packets_before)
        while True:
            k.copy_kept(
                self._layout, segment.bytes, self._at[1], segment.end, stretch.since_ns, stretch.until_ns, due,
                buffer.bytes, buffer.start, full, most, found,
            )  # fmt: skip
            if found[k.WHY] != k.FULL or found[k.PACKETS]:
                break
            self._sink.enlarge(buffer, int(found[k.WANTED]))
        at, end, packets, data, why = found[:5].tolist()
        if why == k.DUE and not packets:
            record = segment.bytes[at : at + self._size_at(segment, at)].tobytes()
            at += len(record)
            record = headers.commented(record, _sentence(*stretch.reasons.popleft()))
            self._sink.enlarge(buffer, len(record))
            end, packets, data, why = buffer.start + len(record), 1, int.from_bytes(record[20:24], "little"), k.DONE
            buffer.bytes[buffer.start : end] = np.frombuffer(record, np.uint8)
        self._at = (segment.number, at)
        self._put += packets
        segment.saved += packets
        self._show(buffer.bytes[buffer.start : end], packets)
        self._sink.submit(buffer, end, packets, data)
        going_on = self._go_on(m.FILE_FULL if why == k.FILE_FULL else m.FULL)
        return _Step.MORE if going_on else _Step.STOP

    def _next_record(self, stretch: _Stretch) -> Segment | _Step:
        """The segment with the next record of a stretch, ``_at``; or that there is none."""
        segments = self.kept.segments
        number, at = self._at
        if segments and number < segments[0].number:
            number, at = segments[0].number, 0
        while segments and number - segments[0].number < len(segments):
            segment = segments[number - segments[0].number]
            if segment.last_ns < stretch.since_ns:
                at = segment.end
            k.copy_kept(
                self._layout, segment.bytes, at, segment.end, stretch.since_ns, stretch.until_ns, k.NEVER,
                segment.bytes, 0, 0, 0, self._found,
            )  # fmt: skip
            at = int(self._found[k.AT])
            self._at = (number, at)
            if self._found[k.WHY] == k.FILE_FULL:
                return segment
            if self._found[k.WHY] == k.OVER:
                return _Step.OVER
            if not segment.full:
                break
            number, at = number + 1, 0
        self._at = (number, at)
        return _Step.ALL

    def _size_at(self, segment: Segment, at: int) -> int:
        return int.from_bytes(segment.bytes[at + 4 : at + 8].tobytes(), "little")

    def _ready(self, stretch: _Stretch) -> bool:
        """Have a file open that takes the next packet, and knows its interface; False if there is to be none."""
        if self._sinks and not (self.config.file_for_each and not stretch.begun):
            return self._ready_again(stretch)
        now = stretch.reasons[0][0] if stretch.reasons else time.time_ns()
        if self.config.file_for_each:
            self._rotation.name_anew(now)
        elif self._rotation.decide(0, 0, time.time_ns(), waiting=True) is Action.NEXT_FILE:
            self._rotation.next_file(time.time_ns())
        stretch.begun = True
        self._opened += 1
        comments = [_sentence(at, why) for at, why in stretch.reasons] if self.config.format == "pcapng" else []
        try:
            self._open(self._header(*comments[:1]))
        except UsageError as error:
            raise WirecapError(error.message, error.hint) from None
        return True

    def _ready_again(self, stretch: _Stretch) -> bool:
        stretch.begun = True
        interfaces = self._engine.source.interfaces
        if len(interfaces) > self._described and self._layout >= PCAPNG_NS:
            block = b"".join(self._describe(interface) for interface in list(interfaces)[self._described :])
            self._described = len(interfaces)
            self._sink.write(block)
            self._show_block(block)
        action = self._decide(waiting=True)
        if action is Action.NEXT_FILE:
            self._next_file()
        return action is not Action.STOP

    def _next_file(self) -> None:
        self._opened += 1
        super()._next_file()

    def _due(self, stretch: _Stretch) -> int:
        """The time of the packet that gets the next comment; 0 for whatever is next, ``NEVER`` for none."""
        if not stretch.reasons or self._layout < PCAPNG_NS:
            return k.NEVER
        at = stretch.reasons[0][0]
        return at if at <= int(self.merge.counts[m.LAST_TIMESTAMP]) else 0

    def _end_stretch(self) -> None:
        self._stretches.popleft()
        if not self._sinks:
            return
        if self.config.file_for_each:
            self._end_file()
            self._close_ended(0)
        else:
            self._sink.flush()

    def _end_file(self) -> None:
        if self._sinks:
            super()._end_file()

    @property
    def notes(self) -> list[str]:
        notes, wanted = super().notes, self._keep.span.ns
        if self._short and wanted:
            at, reach = self._short
            size = self.kept.size * self._writer.count(len(self._engine.source.queues))
            hint = "--keep-memory takes more"
            if reach * MOST_TIMES >= wanted:  # of less nobody knows how dense the packets before were
                hint = f"--keep-memory {-(-size * wanted // reach >> 20)}MiB would have held it"
            back = f"{max(reach, 0) / 1e9:.3g} s"
            notes.append(
                f"{self._path}: what was saved at {_utc(at)} begins {back} before that, not {wanted / 1e9:g} s: memory"
                f" was full ({hint})"
            )
        return notes

    def held(self) -> dict[str, int]:
        """What is kept now."""
        packets = self.kept.packets
        return {"packets": packets, "bytes": self.kept.bytes, "memory": self.kept.size, "let_go": self.kept.let_go}


def _sentence(at_ns: int, why: str) -> str:
    return f"saved by wirecap: {why} ({_utc(at_ns)})"


def _utc(at_ns: int) -> str:
    return f"{np.datetime_as_string(np.datetime64(at_ns, 'ns'), unit='us')}Z"
