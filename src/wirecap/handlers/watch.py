"""``--save-on`` and ``--save-on-rate``: packets that have what is kept saved."""

from __future__ import annotations

from typing import Any

import numpy as np

from wirecap.config.keep import KeepConfig, Rate
from wirecap.errors import UsageError
from wirecap.files.reader import Bytes
from wirecap.handlers.handler import Selection
from wirecap.handlers.triggers import Triggers
from wirecap.kernels.file import keep as k
from wirecap.source.source import Source


class Watch:
    """Looks through the records of one writer, once each.

    The filter is applied to what is kept, so behind a snap length to what that leaves.
    """

    def __init__(self, config: KeepConfig, selection: Selection | None, layout: int) -> None:
        """selection: the filter of --save-on, if there is one."""
        self._layout = layout
        self._rows = (np.zeros(k.BATCH, np.int64), *np.zeros((2, k.BATCH), np.uint32), np.zeros(k.BATCH, np.int64))
        self._found = np.zeros((k.FOUND_ROOM, k.FOUND_WORDS), np.int64)
        self._state = np.zeros(k.STATE_WORDS, np.int64)
        self._state[[k.FILTER_UNTIL, k.RATE_UNTIL]] = -(1 << 62)
        self.set(config, selection)

    def set(self, config: KeepConfig, selection: Selection | None) -> None:
        """Any thread may change what saves packets: those at hand are judged by one or the other."""
        self._config, self._selection, state = config, selection, self._state
        state[k.AFTER] = config.after_ns
        rate = config.on_rate or Rate(0)
        state[k.RATE_BITS], state[k.RATE_LIMIT] = rate.bits, rate.limit

    def look(self, records: Bytes, position: int, end: int, triggers: Triggers) -> None:
        """Look through records[position:end], and fire."""
        state, found, given = self._state, self._found, self._selection
        if given is None and not state[k.RATE_LIMIT]:
            return
        state[k.FILTERED], selection = given is not None, given or Selection()
        while position < end:
            position = k.watch_kept(
                self._layout, records, position, end, selection.address, selection.states, *self._rows, state, found
            )
            for which, at, until, extends in found[: int(found[-1, 0])].tolist():
                if extends:
                    triggers.extend(at, until)
                else:
                    triggers.fire(self._why(which), at, until)

    def _why(self, which: int) -> str:
        if which == k.BY_RATE:
            return f"--save-on-rate: more than {self._config.on_rate}"
        return f"--save-on: {self._config.on_filter}"


def kernels(selection: Selection | None) -> list[Any]:
    """What has to be compiled."""
    return [k.watch_kept, k.copy_kept, (selection or Selection()).kernel]


def selection_of(expression: str, source: Source) -> Selection:
    """The filter of --save-on for the source's packets.  Raises UsageError."""
    from wirecap.filters.native import LinkFilters, NativeFilter

    links = source.links()
    try:
        filters = LinkFilters(expression, links)
    except UsageError as error:
        raise UsageError(f"--save-on: {error.message}", error.hint) from None
    return Selection(NativeFilter.process, filters.states(links), filters, filters.note)
