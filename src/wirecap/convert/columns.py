"""The columns of a batch: headers as numbers, addresses as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.convert.addresses import AddressTable
from wirecap.convert.anonymise import links_of
from wirecap.convert.inputs import WHOLE, Input
from wirecap.convert.outputs import Batch
from wirecap.kernels.convert import addresses
from wirecap.kernels.convert import columns as k
from wirecap.kernels.convert.columns import Columns


class ColumnReader:
    def __init__(self, inputs: Sequence[Input], snaplen: int) -> None:
        self._inputs, self._snaplen = inputs, snaplen or WHOLE
        self.table = AddressTable()

    @staticmethod
    def kernels() -> list[Any]:
        return [k.fill_columns, addresses.move]

    def read(self, batch: Batch) -> Columns:
        """int64 columns; -1 where a packet has no such header; addresses are numbers in ``table``."""
        links, n = links_of(self._inputs), len(batch.slots)
        columns = k.new_columns(n)

        def run(first: int) -> int:
            return int(k.fill_columns(
                batch.out, batch.rows, batch.slots, first, n, links, self._snaplen, self.table.kernel, columns
            ))  # fmt: skip

        self.table.go_through(n, run)
        return columns

    def texts(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[str]]:
        """Addresses as (place in the list, -1 for none; the distinct ones of them as text)."""
        distinct, places = np.unique(numbers, return_inverse=True)
        none = int(len(distinct) > 0 and distinct[0] < 0)
        return places - none, [self.table.text(number) for number in distinct[none:].tolist()]
