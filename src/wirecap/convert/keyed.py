"""A file for each flow, or for each interface: records wait in memory, and are appended to their files now and then."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.config.convert import ConvertConfig
from wirecap.convert.blocks import Blocks
from wirecap.convert.columns import ColumnReader
from wirecap.convert.inputs import Input
from wirecap.convert.outputs import Batch, OneBuffer
from wirecap.errors import UsageError
from wirecap.files.rotation import compression_of, split_name
from wirecap.files.writer import SinkError, open_file
from wirecap.kernels.convert.columns import Columns
from wirecap.kernels.file.write import PCAP_OVERHEAD, PCAPNG_NS

MOST_WAITING = 64 << 20
"""Bytes of records that wait for their files."""
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6", 132: "sctp", -1: "arp"}
_BLOCK_HEADER = 28
LONGEST_NAME = 60
"""Characters of an interface's name that go into a file's: file systems take some 255 bytes."""


class File:
    """One of them.  ``described``: how many of the blocks that every file has are in it."""

    def __init__(self, path: str, described: int) -> None:
        self.path, self.described = path, described
        self.size = self.packets = 0
        self.records: list[bytes] = []


class KeyedFiles(OneBuffer):
    def __init__(self, config: ConvertConfig, blocks: Blocks, inputs: Sequence[Input]) -> None:
        assert config.split
        self._config, self._blocks, self._inputs = config, blocks, inputs
        if compression_of(config.output):
            raise UsageError("files for each flow or interface are not compressed", "compress them afterwards")
        self._columns = ColumnReader(inputs, config.snaplen) if config.split.by == "flow" else None
        super().__init__()
        self._files: dict[tuple[int, ...], File] = {}
        self._paths: set[str] = set()
        self._waiting = 0
        self._failed = False
        self._header_bytes = PCAP_OVERHEAD if blocks.layout < PCAPNG_NS else _BLOCK_HEADER

    def kernels(self) -> list[Any]:
        return self._columns.kernels() if self._columns else []

    @property
    def packets_written(self) -> int:
        return sum(file.packets for file in self._files.values())

    def begin(self) -> None: ...

    def put(self, batch: Batch) -> None:
        starts = batch.rows.place.reshape(-1)[batch.slots] - self._header_bytes
        ends = starts + batch.rows.room.reshape(-1)[batch.slots]
        keys, columns = self._keys(batch)
        distinct, first, places = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        files = [
            self._files.get(key) or self._new(key, columns, int(i))
            for key, i in zip(map(tuple, distinct.tolist()), first.tolist(), strict=True)
        ]
        out = batch.out.data
        for place, start, end in zip(places.reshape(-1).tolist(), starts.tolist(), ends.tolist(), strict=True):
            files[place].records.append(bytes(out[start:end]))
        self._waiting += batch.end
        if self._waiting > MOST_WAITING:
            self._append_all()

    def describe(self, blocks: bytes) -> None:
        """Each file gets those that it needs when it is written next; the others belong to no packet."""

    def next_file(self, timestamp_ns: int) -> None: ...

    def close(self) -> None:
        if not self._failed:
            self._append_all()

    def _keys(self, batch: Batch) -> tuple[NDArray[np.int64], Columns | None]:
        """int64 (n, words): equal for packets of one file."""
        if self._columns is None:
            return np.stack([batch.inputs, batch.rows.interface.reshape(-1)[batch.slots]], 1), None
        c = self._columns.read(batch)
        one, other = c.src << 16 | np.maximum(c.src_port, 0), c.dst << 16 | np.maximum(c.dst_port, 0)
        return np.stack([c.protocol, np.minimum(one, other), np.maximum(one, other)], 1), c

    def _new(self, key: tuple[int, ...], columns: Columns | None, i: int) -> File:
        stem, suffix = split_name(self._config.output)
        name = self._flow_name(columns, i) if columns else self._interface_name(*key)
        path, more = f"{stem}_{name}{suffix}", 0
        while path in self._paths:
            more += 1
            path = f"{stem}_{name}_{more}{suffix}"
        self._paths.add(path)
        self._files[key] = file = File(path, len(self._blocks.start))
        fd = open_file(path, empty=True)
        try:
            source, number = key if columns is None else (0, 0)
            self._append(file, fd, [self._blocks.header_for(self._inputs[source], number)], packets=0)
        finally:
            os.close(fd)
        return file

    def _flow_name(self, c: Columns, i: int) -> str:
        if c.src[i] < 0:
            return "other"
        assert self._columns
        ends = [self._columns.table.text(int(address[i])).replace(":", "-") for address in (c.src, c.dst)]
        if c.src_port[i] >= 0:
            ends = [f"{end}_{port[i]}" for end, port in zip(ends, (c.src_port, c.dst_port), strict=True)]
        protocol = int(c.protocol[i])
        return "_".join((_PROTOCOLS.get(protocol, f"ip{protocol}"), *ends))

    def _interface_name(self, source: int, number: int) -> str:
        name = self._inputs[source].file.interfaces[number].name
        return re.sub(r"[^\w .:@+-]|^\.+$", "_", name)[:LONGEST_NAME] or str(len(self._files))

    def _append_all(self) -> None:
        """Write what waits; after a failure nothing more is written."""
        start = self._blocks.start
        for file in self._files.values():
            if not file.records:
                continue
            more = start[file.described :]
            fd = open_file(file.path)
            try:
                self._append(file, fd, more, packets=0)
                self._append(file, fd, file.records, packets=len(file.records))
            finally:
                os.close(fd)
            file.described, file.records = len(start), []
        self._waiting = 0

    def _append(self, file: File, fd: int, records: list[bytes], packets: int) -> None:
        """Raises SinkError where not all of it can be written; the file then ends with a whole record."""
        data = memoryview(b"".join(records))
        done = 0
        try:
            while done < len(data):
                done += os.write(fd, data[done:])
        except OSError as error:
            self._failed = True
            ends = np.cumsum([len(record) for record in records])
            whole = int(np.searchsorted(ends, done, side="right"))
            file.size += int(ends[whole - 1]) if whole else 0
            os.ftruncate(fd, file.size)
            file.packets += whole if packets else 0
            raise SinkError(file.path, error, file.size, file.packets) from error
        file.size += done
        file.packets += packets
