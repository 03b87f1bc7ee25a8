"""What has kept packets saved: triggers from anywhere, as spans of time for each writer."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from wirecap.config.keep import KeepConfig, trigger_name
from wirecap.engine.engine import Engine
from wirecap.errors import UsageError
from wirecap.kernels.file.read import LATEST_NS
from wirecap.kernels.handlers.tables import FIRINGS

MOST_LISTED = 1000
"""How many triggers the summary lists; the first ones."""
LOOK_NS = 100_000_000
"""How often lost packets are counted."""
FROM_THE_BEGINNING = -(1 << 62)


class Keeps(Protocol):
    """What keeps packets, for those who ask it something."""

    triggers: Triggers

    @property
    def announcement(self) -> str:
        """A line at the beginning of a run."""
        ...

    def change(self, keep: KeepConfig) -> Callable[[], None]:
        """What lets other triggers save what is kept.  Raises UsageError for a filter that is wrong."""
        ...

    def held(self) -> dict[str, Any]:
        """What is kept and what had it saved, for the summary."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """Packets from ``since_ns`` to ``until_ns`` are to be saved; at_ns: when it happened; why: "" if only extended."""

    since_ns: int
    until_ns: int
    at_ns: int
    why: str


class Triggers:
    """``fire`` may be called by any thread and by signal handlers: nothing here waits for a lock."""

    def __init__(self, config: KeepConfig) -> None:
        self.config = config
        self._inboxes: list[deque[Span]] = []
        self._number = itertools.count(1)
        self.count = 0
        self.listed: list[dict[str, Any]] = []
        self._engine: Engine | None = None
        self._looked_ns, self._lost = 0, 0
        self._tables: list[_Table] = []
        self._taking = threading.Lock()  # for writers alone, and none holds it for long
        self._looking = 0  # writers
        self.stream_ns = 0
        """The time of the last packet, which is now where packets come from a file."""

    def listen(self, tables: Sequence[tuple[str, Any]]) -> None:
        """Also take what compiled handlers fire: what each trigger is called, and its table."""
        self._tables += [_Table(name, table) for name, table in tables]

    def take_fired(self) -> None:
        """Take what compiled handlers fired."""
        if self._tables and self._taking.acquire(blocking=False):
            try:
                for table in self._tables:
                    for first, last in table.fresh():
                        self.fire(table.name, first, last + self.config.after_ns)
                    for begin, end in table.longer():
                        self.extend(begin, end + self.config.after_ns)
            finally:
                self._taking.release()

    def attach(self, engine: Engine) -> None:
        """Before the first packet; for each writer."""
        self._engine = engine
        if self not in _running:
            _running.append(self)

    def close(self) -> None:
        """The capture has ended."""
        while self in _running:
            _running.remove(self)

    def add_writer(self) -> int:
        """The number of one more writer; before the first packet."""
        self._inboxes.append(deque())
        self._looking += 1
        return len(self._inboxes) - 1

    def fire(self, why: str, at_ns: int | None = None, until_ns: int | None = None) -> None:
        """Have saved what is kept and what follows; at_ns: when it happened, None for now."""
        config = self.config
        if at_ns is None:
            live = self._engine is None or self._engine.source.live
            at_ns = time.time_ns() if live else self.stream_ns
        since_ns = FROM_THE_BEGINNING if config.span.ns is None else at_ns - config.span.ns
        self._post(Span(since_ns, min(max(until_ns or 0, at_ns + config.after_ns), LATEST_NS), at_ns, why))
        self.count = next(self._number)
        if len(self.listed) < MOST_LISTED:
            time_utc = np.datetime_as_string(np.datetime64(at_ns, "ns"), unit="ns")
            self.listed.append({"why": why, "time": f"{time_utc}Z"})

    def extend(self, at_ns: int, until_ns: int) -> None:
        """What fired before matched again."""
        self._post(Span(at_ns, min(until_ns, LATEST_NS), at_ns, ""))

    def _post(self, span: Span) -> None:
        for inbox in self._inboxes:
            inbox.append(span)

    def end(self) -> None:
        """A writer has looked through all its packets."""
        with self._taking:
            self._looking -= 1

    @property
    def over(self) -> bool:
        """Whether all of them have, so that nothing more will fire because of a packet."""
        return self._looking <= 0

    def take(self, writer: int) -> list[Span]:
        """What fired since that writer last asked."""
        self.take_fired()
        inbox, spans = self._inboxes[writer], []
        while inbox:
            spans.append(inbox.popleft())
        return spans

    def look(self, now_ns: int) -> None:
        """Fire if enough packets were lost since it last fired for that; for one thread."""
        wanted = self.config.on_drops
        if wanted is None or self._engine is None or abs(now_ns - self._looked_ns) < LOOK_NS:
            return
        self._looked_ns = now_ns
        lost = self._engine.summary().total("dropped")
        if lost - self._lost >= wanted:
            self.fire(f"--save-on-drops: {lost - self._lost} packets were dropped")
            self._lost = lost


_running: list[Triggers] = []


def trigger(name: str, timestamp_ns: int | None = None) -> None:
    """Have the captures of this program save what they keep; for handlers in Python, and for other threads.

    name: stands in the file.  timestamp_ns: when it happened, ns since the epoch; now if left out.  Raises UsageError
    if no capture keeps packets.
    """
    why = trigger_name(name)
    if not _running:
        raise UsageError("no capture of this program keeps packets", 'capture with keep="60s" and write="FILE"')
    for triggers in _running.copy():
        triggers.fire(why, None if timestamp_ns is None else int(timestamp_ns))


class _Table:
    """A trigger in a compiled handler's state, and how much of it was taken (kernels/handlers/tables.py)."""

    def __init__(self, name: str, table: Any) -> None:
        self.name, self._table = name, table
        self._ends: dict[int, int] = {}  # of the stretch whose end still moves, by its number

    def fresh(self) -> list[tuple[int, int]]:
        """Stretches that were begun since this was last asked: the first and the last time."""
        table, fired = self._table, int(self._table.fired)
        begun = max(self._ends) + 1 if self._ends else int(table.taken)
        found = []
        for number in range(begun, fired):
            first, last = int(table.first[number % FIRINGS]), int(table.last[number % FIRINGS])
            found.append((first, last))
            self._ends[number] = last
        return found

    def longer(self) -> list[tuple[int, int]]:
        """How far the ends moved of those that were known: from, to."""
        table, found = self._table, []
        fired = int(table.fired)
        for number, before in list(self._ends.items()):
            now = int(table.last[number % FIRINGS])
            if now > before:
                found.append((before, now))
                self._ends[number] = now
            if number < fired - 1:  # its end moves no more
                del self._ends[number]
                table.taken = number + 1
        return found
