"""The file that a conversion writes, or one after the other, when it is split by packets, time or size."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wirecap.config.convert import ConvertConfig
from wirecap.convert.blocks import Blocks
from wirecap.convert.inputs import ROWS_EACH
from wirecap.errors import UsageError
from wirecap.files.buffers import BUFFER_BYTES, Buffer, Buffers
from wirecap.files.reader import Bytes
from wirecap.files.rotation import NO_LIMIT, compression_of, split_name
from wirecap.files.writer import Sink, check_target
from wirecap.kernels.convert import order as o
from wirecap.kernels.convert.order import Rows

_LATEST = (1 << 63) - 1
SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in a buffer, up to ``end``; packet j of them is in slot ``slots[j]`` of the flat ``rows``."""

    out: Bytes
    end: int
    slots: NDArray[np.int64]
    rows: Rows
    data_bytes: int

    @property
    def inputs(self) -> NDArray[np.int64]:
        """The number of each packet's input."""
        found: NDArray[np.int64] = self.slots // (ROWS_EACH * self.rows.timestamp.shape[1])
        return found


class Output(Protocol):
    def kernels(self) -> list[Any]: ...

    def begin(self) -> None:
        """Open what can be opened before the first packet is known."""

    def buffer(self, state: NDArray[np.int64]) -> Bytes | None:
        """Where the next records go: sets POSITION, ROOM, and where the file ends; None if it is not there yet."""

    def enlarge(self, state: NDArray[np.int64]) -> Bytes:
        """The same, with room for a record of state[WANTED] bytes."""

    def put(self, batch: Batch) -> None: ...

    def describe(self, blocks: bytes) -> None:
        """Blocks that hold no packet, which come next."""

    def next_file(self, timestamp_ns: int) -> None:
        """The next packet, of this time, is the first of another file."""

    def close(self) -> None: ...

    @property
    def packets_written(self) -> int: ...


class OneBuffer:
    """Records go into one buffer, again and again; for an output that takes them out of it and limits no file.

    count: of packets that it takes, 0: any; ``put`` subtracts from ``left``.
    """

    def __init__(self, count: int = 0) -> None:
        self._buffer: Bytes = np.zeros(BUFFER_BYTES, np.uint8)
        self.left = count or NO_LIMIT

    def buffer(self, state: NDArray[np.int64]) -> Bytes | None:
        state[o.POSITION], state[o.ROOM], state[o.FILE_END] = 0, len(self._buffer), NO_LIMIT
        state[o.PACKETS_LEFT], state[o.TIME_END] = self.left, (1 << 63) - 1
        return self._buffer

    def enlarge(self, state: NDArray[np.int64]) -> Bytes:
        self._buffer = np.zeros(int(state[o.WANTED]), np.uint8)
        state[o.ROOM] = len(self._buffer)
        return self._buffer


def numbered(path: str, number: int, timestamp_ns: int) -> str:
    """``out.pcapng`` -> ``out_00001_20260131120000.pcapng``, as editcap has it: number, and the first packet's time."""
    stem, suffix = split_name(path)
    when = time.strftime("%Y%m%d%H%M%S", time.localtime(timestamp_ns // SECOND_NS))
    return f"{stem}_{number:05}_{when}{suffix}"


class Files:
    """One file, or a series."""

    def __init__(self, config: ConvertConfig, blocks: Blocks) -> None:
        self._config, self._blocks = config, blocks
        self._compression = compression_of(config.output)
        self._buffers = Buffers()
        self._sinks: list[Sink] = []
        self._before = self._files = 0
        self._buffer: Buffer | None = None
        self._time_end = _LATEST
        self._packets_left = config.count or NO_LIMIT
        self._is_empty = True
        """Whether no packet was put into the file: it gets one, however small files are to be."""
        if not config.split:
            check_target(config.output)

    @property
    def packets_written(self) -> int:
        return self._before + sum(sink.packets_written for sink in self._sinks)

    def kernels(self) -> list[Any]:
        return []

    def begin(self) -> None:
        if not self._config.split:
            self._open(self._config.output)

    def _open(self, path: str) -> None:
        self._files += 1
        self._is_empty = True
        self._sinks.append(
            Sink(path, self._blocks.header(), self._blocks.layout, self._buffers, True, self._compression)
        )

    def buffer(self, state: NDArray[np.int64]) -> Bytes | None:
        if not self._sinks:  # the first packet tells the name
            state[o.POSITION], state[o.ROOM], state[o.FILE_END] = 0, 0, 0
            return _NOWHERE
        self._buffer = self._sinks[-1].acquire(0.1)
        if self._buffer is None:
            return None
        split = self._config.split
        state[o.POSITION] = self._buffer.start
        state[o.FILE_END], state[o.TIME_END] = NO_LIMIT, self._time_end
        state[o.PACKETS_LEFT] = self._packets_left
        if split and split.by == "size":
            left = max(1 if self._is_empty else 0, split.amount - self._sinks[-1].size)
            state[o.FILE_END] = self._buffer.start + left
        state[o.ROOM] = len(self._buffer.bytes)
        return self._buffer.bytes

    def enlarge(self, state: NDArray[np.int64]) -> Bytes:
        assert self._buffer is not None
        self._sinks[-1].enlarge(self._buffer, int(state[o.WANTED]))
        state[o.ROOM] = len(self._buffer.bytes)
        return self._buffer.bytes

    def put(self, batch: Batch) -> None:
        if self._buffer is None:
            return
        buffer, self._buffer = self._buffer, None
        self._packets_left -= len(batch.slots)
        self._is_empty = self._is_empty and not len(batch.slots)
        self._sinks[-1].submit(buffer, batch.end, len(batch.slots), batch.data_bytes, self._blocks.swapped)

    def describe(self, blocks: bytes) -> None:
        self._sinks[-1].write(blocks)

    def next_file(self, timestamp_ns: int) -> None:
        split = self._config.split
        assert split
        if self._sinks:
            self._sinks[-1].finish()
        self._close(keep=1)
        self._packets_left = split.amount if split.by == "packets" else NO_LIMIT
        if split.by == "time":  # editcap's -i: whole intervals after the first packet
            if self._time_end == _LATEST:
                self._time_end = timestamp_ns
            behind = max(1, -((self._time_end - timestamp_ns) // split.amount))
            self._time_end += behind * split.amount
        self._open(numbered(self._config.output, self._files, timestamp_ns + self._config.shift_ns))

    def close(self) -> None:
        """Finish every file; the first failure is raised, after all that could be written was."""
        for sink in self._sinks:
            sink.finish()
        failed: Exception | None = None
        while self._sinks:
            try:
                self._close(0)
            except Exception as error:
                failed = failed or error
        if failed:
            raise failed

    def _close(self, keep: int) -> None:
        while len(self._sinks) > keep:
            sink = self._sinks.pop(0)
            try:
                sink.close()
            finally:
                self._before += sink.packets_written


_NOWHERE = np.zeros(0, np.uint8)


def check_output(config: ConvertConfig) -> None:
    """Raise UsageError for a suffix that asks for what cannot be written."""
    if compression_of(config.output) and config.format == "parquet":
        raise UsageError(f"{config.output}: Parquet compresses by itself", "name it FILE.parquet")
