"""From the inputs' rows to the outputs' records, in order of time."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wirecap.config.convert import ConvertConfig
from wirecap.convert.blocks import Blocks, blocks_for
from wirecap.convert.inputs import ROWS_EACH, WHOLE, Input
from wirecap.convert.outputs import Batch, Files, Output, check_output
from wirecap.errors import UsageError, WirecapError
from wirecap.files.reader import CaptureFile, open_capture
from wirecap.files.writer import SinkError
from wirecap.kernels.base import jit
from wirecap.kernels.convert import order as o
from wirecap.kernels.convert import records as r
from wirecap.kernels.file.read import scan
from wirecap.kernels.file.write import whole_records
from wirecap.signals import Interrupts

if TYPE_CHECKING:
    from wirecap.convert.anonymise import Anonymiser

ROW_PACKETS, MOST_ROW_PACKETS = 16384, 1 << 20
"""Packets of a row, and of all inputs' rows together."""
_HINTS = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EFBIG: "write several files with --split size:BYTES",
}
MOST_FILLING = 4
"""Threads that fill rows: a pipe that is silent holds up the other inputs' packets only where all of them wait."""


@dataclass
class Result:
    """Where every packet went: read = unselected + filtered_out + duplicates + written + unwritten."""

    read: int = 0
    unselected: int = 0
    filtered_out: int = 0
    duplicates: int = 0
    written: int = 0
    unwritten: int = 0
    unordered: int = 0
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For --summary-json."""
        counts = asdict(self)
        return {"packets": {name: n for name, n in counts.items() if name != "notes"}, "notes": self.notes}


def convert(
    config: ConvertConfig, tell: Callable[[Result], None] = lambda result: None,
    compiling: Callable[[str], None] | None = None,
) -> Result:  # fmt: skip
    """Do what the configuration says.

    tell: gets the result, also of a run that fails half-way; compiling: gets the name of each kernel that is compiled
    first.  Raises UsageError for a damaged input, once everything that is whole was written, WirecapError for an output
    that failed, and KeyboardInterrupt for one that a signal ended; the files are whole.
    """
    result, errors = convert_files(config, tell, compiling)
    if errors:
        raise errors[0]
    return result


Making = Callable[[ConvertConfig, Blocks, Sequence[Input]], Output]
"""What makes an output."""


def convert_files(
    config: ConvertConfig, tell: Callable[[Result], None], compiling: Callable[[str], None] | None,
    opening: Callable[[str], CaptureFile] = open_capture, making: Making | None = None,
) -> tuple[Result, list[UsageError]]:  # fmt: skip
    """``convert``, but what is wrong with inputs is returned, not raised.

    opening: opens an input; making: makes another output than the configuration says.
    """
    check_output(config)
    with ExitStack() as stack:
        inputs = []
        for path in config.inputs:
            inputs.append(Input(path, config, opening))
            stack.callback(inputs[-1].close)
        conversion = Conversion(config, inputs, making)
        threads = ThreadPoolExecutor(min(len(inputs), MOST_FILLING), "wirecap rows")
        pool = stack.enter_context(threads)  # they end before their inputs are closed
        jit.prepare(conversion.kernels(), compiling)
        with Interrupts() as interrupts:
            try:
                conversion.run(interrupts, pool)
            except SinkError as error:
                raise WirecapError(error.message, _HINTS.get(error.errno or 0, error.hint)) from None
            finally:
                tell(conversion.finish())
        if interrupts.asked.is_set():
            raise KeyboardInterrupt
    return conversion.result, [one.error for one in inputs if one.error]


class Conversion:
    def __init__(self, config: ConvertConfig, inputs: Sequence[Input], making: Making | None = None) -> None:
        self.config, self.inputs = config, inputs
        self.result = Result()
        packets = max(256, min(ROW_PACKETS, MOST_ROW_PACKETS // len(inputs)))
        self._rows = o.new_rows(ROWS_EACH * len(inputs), packets)
        self._active = np.arange(0, ROWS_EACH * len(inputs), ROWS_EACH)
        self._filled, self._cursor, self._more = np.zeros((3, ROWS_EACH * len(inputs)), np.int64)
        self._slots = np.zeros(packets, np.int64)
        self._seeds = np.frombuffer(secrets.token_bytes(16), np.int64).copy()
        self._state = o.new_state()
        duplicates = config.duplicates
        self._state[o.WINDOW] = max(0, duplicates.window - 1)
        self._state[o.WINDOW_NS] = duplicates.window_ns
        self._state[o.SNAPLEN] = config.snaplen or WHOLE
        self._seen = o.new_seen(duplicates.window, duplicates.window_ns)
        self._blocks: Blocks = blocks_for(config, inputs)
        for number, one in enumerate(inputs):
            one.use_rows(self._rows, number)
        self._output: Output = making(config, self._blocks, inputs) if making else self._make_output()
        self._anonymiser = self._make_anonymiser()

    def _make_output(self) -> Output:
        if self.config.format == "parquet":
            from wirecap.convert.parquet import ParquetFile

            return ParquetFile(self.config, self.inputs)
        if self.config.split and self.config.split.keyed:
            from wirecap.convert.keyed import KeyedFiles

            return KeyedFiles(self.config, self._blocks, self.inputs)
        return Files(self.config, self._blocks)

    def _make_anonymiser(self) -> Anonymiser | None:
        if self.config.key_file is None:
            return None
        from wirecap.convert.anonymise import Anonymiser

        return Anonymiser(self.config.key_file, self.inputs)

    def kernels(self) -> list[Any]:
        filters = [one.select for one in self.inputs[:1] if one.select]
        editing = self._anonymiser.kernels() if self._anonymiser else []
        return [scan, whole_records, r.examine, r.place, o.order, *filters, *editing, *self._output.kernels()]

    def run(self, interrupts: Interrupts, pool: Executor) -> None:
        """Put everything, until a signal asks for the end; the output is closed however it ends."""
        with closing(self._output):
            self._fill_all(interrupts, pool)
            self._output.begin()
            while not interrupts.asked.is_set() and self._step():
                self._fill_all(interrupts, pool)

    def _fill_all(self, interrupts: Interrupts, pool: Executor) -> None:
        """A row for each input that still has packets and none here."""
        for number, one in enumerate(self.inputs):
            while not one.ended and self._is_used_up(one):
                if interrupts.asked.is_set():
                    return
                last = one.row.number
                one.next_row(pool, self._seeds)
                self._filled[last] = self._cursor[last] = self._more[last] = 0
                row = one.row
                self._active[number] = row.number
                self._filled[row.number], self._cursor[row.number] = row.packets, 0
                self._more[row.number] = not row.ended
                self._describe(one)
                if not row.ended:
                    one.fill_ahead(pool, self._seeds)
            if self.config.concatenate and not self._is_used_up(one):
                return

    def _is_used_up(self, one: Input) -> bool:
        return bool(self._cursor[one.row.number] == self._filled[one.row.number])

    def _describe(self, one: Input) -> None:
        if blocks := self._blocks.take(one):
            self._output.describe(blocks)

    def _step(self) -> bool:
        """Put one buffer of records; False if there are no more packets."""
        if not (self._cursor < self._filled).any():
            return False
        state, before = self._state, self._cursor.copy()
        out = self._output.buffer(state)
        if out is None:
            return True
        reason = self._order()
        if reason == o.BUFFER_FULL and not state[o.CHOSEN] and (self._cursor == before).all():
            out = self._output.enlarge(state)
            reason = self._order()
        for row in np.flatnonzero(self._cursor > before).tolist():
            self.inputs[row // ROWS_EACH].put(int(before[row]), int(self._cursor[row]), out)
        slots = self._slots[: state[o.CHOSEN]]
        batch = Batch(out, int(state[o.POSITION]), slots, self._rows, int(state[o.BYTES]))
        if self._anonymiser:
            self._anonymiser.apply(batch, self.config.snaplen)
        self._output.put(batch)
        if reason == o.SEEN_FULL:
            self._seen = o.enlarged(self._seen, int(state[o.SEQUENCE]))
        if reason == o.FILE_FULL:
            if not self.config.split:  # there are as many packets as were asked for
                return False
            self._output.next_file(int(state[o.NEXT_NS]))
        return True

    def _order(self) -> int:
        more = self._more
        if self.config.concatenate:  # then only one input has packets here
            more = np.zeros_like(more)
        return int(o.order(
            self._rows, self._active, self._filled, self._cursor, more, self._seen, self._slots, self._state
        ))  # fmt: skip

    def finish(self) -> Result:
        """The counters as they are now."""
        result, state = self.result, self._state
        result.read = sum(one.read for one in self.inputs)
        result.unselected = sum(one.unselected for one in self.inputs)
        result.filtered_out = sum(one.filtered for one in self.inputs)
        result.duplicates = int(state[o.DUPLICATES])
        result.written = self._output.packets_written
        gone = result.unselected + result.filtered_out + result.duplicates + result.written
        result.unwritten = result.read - gone
        result.unordered = int(state[o.UNORDERED])
        moved = sum(one.count(r.MOVED) for one in self.inputs)
        filters = [one.filters for one in self.inputs if one.filters]
        result.notes = [*self._blocks.notes(), *dict.fromkeys(note for each in filters for note in each.notes)]
        if moved:
            of = "1 packet has a time" if moved == 1 else f"{moved} packets have times"
            result.notes.append(f"{of} that the file cannot hold: written with the nearest")
        if self._anonymiser and self._anonymiser.unknown:
            packets = f"{self._anonymiser.unknown} packets have no IP or ARP header that is known"
            result.notes.append(f"{packets}: of these at most MAC addresses were replaced")
        return result
