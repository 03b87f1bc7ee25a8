"""One input of a conversion: its next row of packets, as far as they are wanted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wirecap.config.convert import FOREVER_NS, ConvertConfig, Ranges
from wirecap.errors import UsageError
from wirecap.files.headers import LINKTYPE_ETHERNET
from wirecap.files.reader import CaptureFile, PagesAhead, Progress, open_capture
from wirecap.kernels.convert import records as r
from wirecap.kernels.convert.order import Rows
from wirecap.kernels.file import read as at

if TYPE_CHECKING:
    from wirecap.filters.native import LinkFilters

WHOLE = 1 << 32
ROWS_EACH = 2
WAIT_S = 0.1
MOST_TICKS = (1 << 63) - 1


class Row:
    """Row ``number`` of ``rows``: packets of an input that are wanted, and what else must be known of them."""

    def __init__(self, rows: Rows, number: int, settings: NDArray[np.int64]) -> None:
        (self.address, self.captured, self.original, self.timestamp, self.room, self.interface, self.first_digest,
         self.second_digest, self.place) = (column[number] for column in rows)  # fmt: skip
        self.number, self.settings = number, settings.copy()
        self.packets, self.linktype = 0, -1
        self.held: int | None = None
        self.ended = False
        self.error: UsageError | None = None


class Input:
    """A capture file.  Two rows take turns: one is filled, by a thread of the pool, while the other is written."""

    def __init__(self, path: str, config: ConvertConfig, opening: Callable[[str], CaptureFile] = open_capture) -> None:
        self.path = path
        self.file = opening(path)
        self.file.state[at.MIXED] = 1
        self.blocks = self.file.kind == "pcapng"
        self.settings = np.zeros(r.SETTINGS, np.int64)
        self.settings[r.SNAPLEN] = config.snaplen or WHOLE
        self.settings[r.BLOCKS] = self.blocks
        self.settings[r.SHIFT_NS] = config.shift_ns
        self.settings[r.DIGESTS] = config.duplicates.window > 0
        self.settings[r.IGNORED] = config.duplicates.ignored
        self.numbers, self.ticks = np.zeros(16, np.int64), np.zeros(16, np.int64)
        """Of each interface: its number in the output, and what is added to the times in its blocks."""
        self.read = self.unselected = self.filtered = 0
        self.error: UsageError | None = None
        self.ended = False
        self.filters: LinkFilters | None = None
        self.select: Any = None
        """The kernel that runs them."""
        self.config = config
        self._filter_states: list[NDArray[np.int64]] = []
        self._filling: Future[Row] | None = None
        self._known = 0
        self._ahead = PagesAhead(self.file)
        self._meet_interfaces()

    def use_rows(self, rows: Rows, number: int) -> None:
        """Read into these rows from now on; number: of the input.  The settings are complete."""
        self.rows = [Row(rows, ROWS_EACH * number + k, self.settings) for k in range(ROWS_EACH)]
        self.row = self.rows[0]

    def next_row(self, pool: Executor, seeds: NDArray[np.int64]) -> None:
        """Wait for the next row, which becomes ``row``, and give back the last one; it may have no packet."""
        filling = self._filling or self.fill_ahead(pool, seeds)
        filled = filling.result()
        self._filling = None
        self._release(self.row)
        self.row = filled
        self.ended, self.error = filled.ended, filled.error

    def fill_ahead(self, pool: Executor, seeds: NDArray[np.int64]) -> Future[Row]:
        """Begin to fill the other row."""
        other = self.rows[1] if self.row is self.rows[0] else self.rows[0]
        self._filling = pool.submit(self._fill, other, seeds)
        return self._filling

    def _fill(self, row: Row, seeds: NDArray[np.int64]) -> Row:
        """Fill a row with packets that are wanted, as far as they come within WAIT_S."""
        row.packets, row.ended, row.error = 0, False, None
        file, limit = self.file, len(row.address)
        try:
            n, progress = file.fill(row.address, row.captured, row.original, row.timestamp, limit, WAIT_S)
        except UsageError as error:
            row.ended, row.error = True, error
            return row
        row.ended = progress is Progress.ENDED
        if n:
            row.held = int(row.address[0])
            if len(file.interfaces) > self._known:
                self._meet_interfaces()
            number = int(file.state[at.INTERFACE])
            row.linktype = file.interfaces[number].linktype
            row.packets = self._select(row, n, number)
            self.read += n
            row.settings[r.SWAPPED] = file.state[at.SWAPPED]
            row.settings[r.SECTION] = file.state[at.SECTION] if self.blocks else 0
            r.examine(
                file.arena, row.address, row.captured, row.packets, row.settings, seeds, row.room, row.interface,
                row.first_digest, row.second_digest,
            )  # fmt: skip
        return row

    def put(self, first: int, last: int, out: NDArray[np.uint8]) -> None:
        """The packets [first, last) of the row into the buffer, where ``place`` says."""
        row = self.row
        r.place(
            self.file.arena, row.address, row.captured, row.original, row.timestamp, row.interface, row.place, first,
            last, row.settings, self.numbers, self.ticks, out,
        )  # fmt: skip

    def count(self, word: int) -> int:
        """A counter of the settings, over both rows."""
        return sum(int(row.settings[word]) for row in self.rows)

    def _release(self, row: Row) -> None:
        if row.held is not None:
            self.file.release(row.held)
            row.held = None

    def close(self) -> None:
        self._ahead.stop()
        self.file.close()

    def _meet_interfaces(self) -> None:
        interfaces, first = self.file.interfaces, self._known
        self._known = len(interfaces)
        if self._known > len(self.numbers):
            more = np.zeros(2 * self._known - len(self.numbers), np.int64)
            self.numbers, self.ticks = np.append(self.numbers, more), np.append(self.ticks, more)
        for number, interface in enumerate(interfaces[first:], first):  # the others may be a hundred thousand
            self.ticks[number] = ticks_of(self.config.shift_ns, interface.resolution)
        if self.config.filter:
            from wirecap.filters.metadata import Link
            from wirecap.filters.native import LinkFilters, NativeFilter  # takes a while to load

            links = [Link(interface.dlt) for interface in interfaces[first:]] or [Link(LINKTYPE_ETHERNET)]
            if self.filters is None:
                self.filters = LinkFilters(self.config.filter, links, where_it_fits=self.config.where_it_fits)
                self.select = NativeFilter.process
            self.filters.states(links)  # compiles for those that are new
            self._filter_states += [self.filters.by_link[link].state for link in links[: len(interfaces) - first]]

    def _select(self, row: Row, n: int, interface: int) -> int:
        """Bring the packets of the row that are wanted to its front, in order; how many they are."""
        kept = n
        wanted = self._wanted(row, n)
        if wanted is not None:
            kept = int(np.count_nonzero(wanted))
            if kept < n:
                for column in (row.address, row.captured, row.original, row.timestamp):
                    column[:kept] = column[:n][wanted]
                self.unselected += n - kept
        if self.filters is not None and kept:
            state = self._filter_states[interface]
            matching = int(
                self.select(self.file.arena, row.address, row.captured, row.original, row.timestamp, kept, state)
            )
            self.filtered += kept - matching
            kept = matching
        return kept

    def _wanted(self, row: Row, n: int) -> NDArray[np.bool_] | None:
        config = self.config
        wanted = None
        if config.keep or config.omit:
            inside = within(config.keep or config.omit, self.read + 1, n)
            wanted = inside if config.keep else ~inside
        if config.since_ns > -FOREVER_NS or config.until_ns < FOREVER_NS:
            time = row.timestamp[:n]
            inside = (time >= config.since_ns) & (time < config.until_ns)
            wanted = inside if wanted is None else wanted & inside
        return wanted


def within(ranges: Ranges, first: int, n: int) -> NDArray[np.bool_]:
    """Which of the packets number first, first + 1, ... are in one of the ranges: bool (n,)."""
    starts, ends = np.array(ranges, np.int64).T
    numbers = np.arange(first, first + n)
    before = np.searchsorted(starts, numbers, side="right") - 1
    inside: NDArray[np.bool_] = (before >= 0) & (numbers <= ends[before])
    return inside


def ticks_of(shift_ns: int, resolution: int) -> int:
    """A shift in ticks of an interface's if_tsresol, rounded down as editcap does."""
    per_second = 1 << (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    return max(-MOST_TICKS, min(MOST_TICKS, shift_ns * per_second // 10**9))
