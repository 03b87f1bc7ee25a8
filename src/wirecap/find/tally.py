"""How many packets of each file match, and from when to when, where nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wirecap.config.convert import ConvertConfig
from wirecap.convert.blocks import Blocks
from wirecap.convert.inputs import Input
from wirecap.convert.outputs import Batch, OneBuffer


class Tally(OneBuffer):
    """An output that counts: ``files`` has, for each input, (packets, first ns, last ns)."""

    def __init__(self, config: ConvertConfig, blocks: Blocks, inputs: Sequence[Input]) -> None:
        super().__init__(config.count)
        self._paths = [one.path for one in inputs]
        self._packets = np.zeros(len(inputs), np.int64)
        self._first, self._last = np.full(len(inputs), (1 << 63) - 1), np.full(len(inputs), -(1 << 63) + 1)
        blocks.header()

    def kernels(self) -> list[Any]:
        return []

    def begin(self) -> None: ...

    def put(self, batch: Batch) -> None:
        inputs, times = batch.inputs, batch.rows.timestamp.reshape(-1)[batch.slots]
        self._packets += np.bincount(inputs, minlength=len(self._packets))
        np.minimum.at(self._first, inputs, times)
        np.maximum.at(self._last, inputs, times)
        self.left -= len(batch.slots)

    def describe(self, blocks: bytes) -> None: ...

    def next_file(self, timestamp_ns: int) -> None: ...

    def close(self) -> None: ...

    @property
    def packets_written(self) -> int:
        return int(self._packets.sum())

    @property
    def files(self) -> list[tuple[str, int, int, int]]:
        """(path, packets, first ns, last ns) of each file that has any."""
        columns = (self._packets.tolist(), self._first.tolist(), self._last.tolist())
        return [one for one in zip(self._paths, *columns, strict=True) if one[1]]
