"""The headers of packets in a Parquet file, one row for each packet.  docs/convert.md describes the columns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.config.convert import ConvertConfig
from wirecap.convert.columns import ColumnReader
from wirecap.convert.inputs import WHOLE, Input
from wirecap.convert.outputs import Batch, OneBuffer
from wirecap.errors import UsageError, WirecapError
from wirecap.files.writer import check_target, open_file
from wirecap.kernels.file.read import EARLIEST_NS, LATEST_NS

COLUMNS_VERSION = 1
"""Goes up when a column changes its meaning or its type; further columns may come without that."""
GROUP_ROWS = 1 << 18
"""Rows of a row group."""


def library() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet, which only those need who write such files."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("the pyarrow library is not installed", "pip install 'wirecap[parquet]'") from None
    return pyarrow, pyarrow.parquet


def schema() -> Any:
    """Of version COLUMNS_VERSION."""
    pa, _ = library()
    text = pa.string()
    fields = [
        pa.field("time", pa.timestamp("ns", "UTC"), nullable=False),
        pa.field("interface", text),
        pa.field("captured", pa.uint32(), nullable=False),
        pa.field("original", pa.uint32(), nullable=False),
        *(pa.field(name, kind) for name, kind in {
            "eth_src": text, "eth_dst": text, "vlan": pa.uint16(), "src": text, "dst": text, "protocol": pa.uint8(),
            "ttl": pa.uint8(), "src_port": pa.uint16(), "dst_port": pa.uint16(), "tcp_flags": pa.uint16(),
        }.items()),
    ]  # fmt: skip
    return pa.schema(fields, {"wirecap.columns": str(COLUMNS_VERSION)})


class ParquetFile(OneBuffer):
    def __init__(self, config: ConvertConfig, inputs: Sequence[Input]) -> None:
        self._pa, self._pq = library()
        check_target(config.output)
        self._config, self._inputs = config, inputs
        self._reader = ColumnReader(inputs, config.snaplen)
        super().__init__(config.count)
        self._schema = schema()
        self._batches: list[Any] = []
        self._rows = 0
        self.packets_written = 0
        self._writer: Any = None
        self._file: Any = None

    def kernels(self) -> list[Any]:
        return self._reader.kernels()

    def begin(self) -> None:
        self._file = os.fdopen(open_file(self._config.output, empty=True), "wb")
        self._try(
            lambda: setattr(self, "_writer", self._pq.ParquetWriter(self._file, self._schema, compression="zstd"))
        )

    def put(self, batch: Batch) -> None:
        pa, columns, flat = self._pa, self._reader.read(batch), batch.slots
        shift = self._config.shift_ns
        time = batch.rows.timestamp.reshape(-1)[flat]
        time = time.clip(EARLIEST_NS - min(shift, 0), LATEST_NS - max(shift, 0)) + shift
        captured = batch.rows.captured.reshape(-1)[flat].astype(np.int64).clip(max=self._config.snaplen or WHOLE)
        arrays = {
            "time": pa.array(time).view(pa.timestamp("ns", "UTC")),
            "interface": self._interfaces(batch),
            "captured": pa.array(captured.astype(np.uint32)),
            "original": pa.array(batch.rows.original.reshape(-1)[flat]),
        }
        for name in self._schema.names[len(arrays) :]:
            numbers, kind = getattr(columns, name), self._schema.field(name).type
            if kind == pa.string():
                places, texts = self._reader.texts(numbers)
                arrays[name] = self._dictionary(places, texts)
            else:
                arrays[name] = pa.array(numbers.astype(kind.to_pandas_dtype()), kind, mask=numbers < 0)
        self._batches.append(pa.record_batch(list(arrays.values()), schema=self._schema))
        self._rows += len(flat)
        self.left -= len(flat)
        if self._rows >= GROUP_ROWS:
            self._write_group()

    def _dictionary(self, places: NDArray[np.int64], texts: list[str]) -> Any:
        pa = self._pa
        indices = pa.array(places.astype(np.int32), mask=places < 0)
        return pa.DictionaryArray.from_arrays(indices, pa.array(texts, pa.string())).cast(pa.string())

    def _interfaces(self, batch: Batch) -> Any:
        """Names; null for interfaces without one, such as those of pcap files."""
        keys = batch.inputs << 32 | batch.rows.interface.reshape(-1)[batch.slots]
        distinct, places = np.unique(keys, return_inverse=True)
        names = [self._inputs[key >> 32].file.interfaces[key & 0xFFFFFFFF].name for key in distinct.tolist()]
        known = np.array([bool(name) for name in names], bool)
        return self._dictionary(np.where(known[places], places, -1), names)

    def _write_group(self) -> None:
        table = self._pa.Table.from_batches(self._batches, self._schema)
        self._try(lambda: self._writer.write_table(table, row_group_size=GROUP_ROWS))
        self.packets_written += self._rows
        self._batches, self._rows = [], 0

    def describe(self, blocks: bytes) -> None: ...

    def next_file(self, timestamp_ns: int) -> None: ...

    def close(self) -> None:
        if self._writer is None:
            return
        if self._rows:
            self._write_group()
        writer, self._writer = self._writer, None
        self._try(writer.close)
        self._try(self._file.close)

    def _try(self, action: Any) -> None:
        """A Parquet file that is cut short cannot be read, so a failed one is removed."""
        try:
            action()
        except OSError as error:
            self._writer, self.packets_written = None, 0
            with suppress(OSError):  # what is still to be written cannot be
                self._file.close()
            Path(self._config.output).unlink(missing_ok=True)
            raise WirecapError(
                f"{self._config.output}: {error.strerror or error}; the file is incomplete and was removed",
                "free some space, or write to another disk",
            ) from None
