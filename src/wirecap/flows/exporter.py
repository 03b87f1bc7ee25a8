"""The thread that takes finished records from the flow tables to the outputs, and lets time go on for quiet tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from wirecap.config.capture import Spooling
from wirecap.flows.interfaces import Interfaces
from wirecap.flows.memory import Table
from wirecap.flows.records import Records
from wirecap.flows.targets import Output, open_output
from wirecap.kernels.flows import layout as f
from wirecap.kernels.flows.process import advance, finish

LOOK_S = 0.02
"""How often the thread looks for records."""
QUIET_S = 0.25
"""Without a packet for this time, the clock goes on by itself, this much behind."""


class Exporter:
    """interfaces: those of the source that are known by now.  ended: whether no more packets come.  live: time goes on
    with the clock where none do."""

    def __init__(
        self, targets: Sequence[str], tables: list[Table], interfaces: Callable[[], Interfaces],
        ended: Callable[[], bool], live: bool, spooling: Spooling | None = None,
    ) -> None:  # fmt: skip
        self._tables, self._interfaces, self._ended, self._live = tables, interfaces, ended, live
        self.outputs: list[Output] = []
        try:
            for target in targets:
                self.outputs.append(open_output(target, spooling))
        except BaseException:
            self._close()
            raise
        self._seen: dict[int, tuple[int, float]] = {}
        self._begun = False
        self._missed = 0

    def discard(self) -> None:
        """End what was opened for a capture that did not begin."""
        for output in () if self._begun else self.outputs:
            output.discard()

    def run(self) -> None:
        """The life of the thread.  Raises WirecapError where an output fails; packets are then counted on."""
        self._begun = True
        try:
            while not self._ended():
                if not self._move() and self._live:
                    self._advance()
                time.sleep(LOOK_S if self._live else LOOK_S / 20)
            left = 1
            while left:
                left = sum(int(finish(table.kernel)) for table in self._tables)
                self._move()
        except BaseException:
            self._fail()
            raise
        for output in self.outputs:
            output.close()

    def _fail(self) -> None:
        """Let nobody wait for records to be taken."""
        for table in self._tables:
            table.control[f.FAILED] = 1
        self._close()

    def _close(self) -> None:
        for output in self.outputs:
            with suppress(Exception):  # one failure is told
                output.close()

    def _move(self) -> int:
        """Take what is finished to the outputs; how many records."""
        taken = [words for table in list(self._tables) if len(words := table.take())]
        missed = sum(int(table.control[f.LOST]) for table in list(self._tables))
        for output in self.outputs:
            output.missed(missed - self._missed)
            output.tick()
        self._missed = missed
        if not taken:
            return 0
        words = np.concatenate(taken) if len(taken) > 1 else taken[0]
        records = Records(words, self._interfaces())  # a file describes some while it is read
        for output in self.outputs:
            output.write(records)
        return len(records)

    def _advance(self) -> None:
        """Where no packets come, time goes on nevertheless: from the last packet on, as the clock does."""
        clock = time.monotonic()
        for number, table in enumerate(self._tables):
            now = int(table.control[f.NOW])
            before, since = self._seen.get(number, (f.NEVER_SEEN, clock))
            if now != before:
                self._seen[number] = (now, clock)
            elif now != f.NEVER_SEEN and clock - since > 2 * QUIET_S:
                later = min(now + int((clock - since - QUIET_S) * 1e9), f.EMPTY_FIRST)
                advance(table.kernel, later)
                self._seen[number] = (int(table.control[f.NOW]), clock - QUIET_S)
