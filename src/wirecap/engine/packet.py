"""A single packet as Python code sees it: a copy of its bytes, which belongs to whoever has it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np

from wirecap.engine.chunk import Chunk
from wirecap.engine.fields import NAMES, STANDARD, Fields, Rows, decode, hashes_of
from wirecap.errors import suggest
from wirecap.files.headers import Interface
from wirecap.kernels.packet.compare import comparable
from wirecap.kernels.packet.decode import RECIPES
from wirecap.kernels.packet.headers import LAYERS

_LAYERS = frozenset(LAYERS)


class Packet:
    """A packet and its own copy of what was captured of it: it stays as it is for as long as it is kept.

    Fields have the names that they have in compiled handlers: ``packet.src_port``, ``packet.ip.ttl``,
    ``if packet.tcp:``; they are numbers, 0 where the packet does not have them, and addresses among them equal their
    text, too: ``packet.ip.src == "192.0.2.1"``.  ``src`` and ``dst`` are IP addresses
    or None.
    """

    __slots__ = ("_fields", "_index", "data", "described", "interface", "length", "nic_hash", "queue", "timestamp")

    data: bytes
    """The captured bytes."""
    timestamp: int
    """Nanoseconds since the epoch, UTC."""
    length: int
    """Bytes on the wire."""
    interface: str
    """The interface that received it, or the file's path."""
    queue: int
    """The receive queue that it came from."""
    nic_hash: int
    """The hash that the NIC has of it, 0 without one."""
    described: Interface
    """What is known of the interface: its name and link type (LINKTYPE_)."""

    def __init__(
        self, data: bytes, timestamp: int, length: int, nic_hash: int, chunk: Chunk, fields: Fields, index: int
    ) -> None:
        self.data, self.timestamp, self.length, self.nic_hash = data, timestamp, length, nic_hash
        self.interface, self.queue, self.described = chunk.interface, chunk.queue, chunk.described
        self._fields, self._index = fields, index

    @property
    def captured_length(self) -> int:
        return len(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __bytes__(self) -> bytes:
        return self.data

    def __getitem__(self, index: Any) -> Any:
        """A byte or, for a slice, bytes."""
        return self.data[index]

    @property
    def src(self) -> IPv4Address | IPv6Address | None:
        """The source address; None without IPv4 and IPv6."""
        return self._address("src")

    @property
    def dst(self) -> IPv4Address | IPv6Address | None:
        """The destination address; None without IPv4 and IPv6."""
        return self._address("dst")

    def _address(self, which: str) -> IPv4Address | IPv6Address | None:
        if self.has("ip"):
            return IPv4Address(self.field(f"ip.{which}"))
        if self.has("ip6"):
            high, low = self.field(f"ip6.{which}")
            return IPv6Address(high << 64 | low)
        return None

    def has(self, layer: str) -> bool:
        """Whether the packet has a layer (``"ip6"``, ``"tcp"``): its header was captured whole."""
        return bool(self._fields.has(layer)[self._index])

    def field(self, name: str) -> Any:
        """A field as an int (IPv6 addresses: two, high and low), by a name such as ``"tcp.flags"``."""
        if name == "nic_hash":
            return self.nic_hash
        if name not in STANDARD:  # read from the packet's own bytes: those of its chunk may be gone
            self._fields, self._index = self._decoded(), 0
        return self._plain(self._fields[name][self._index])

    @staticmethod
    def _plain(value: Any) -> Any:
        return value.item() if value.ndim == 0 else tuple(value.tolist())

    def rows(self) -> Rows:
        """Its bytes as a row of one packet, for kernels."""
        size = len(self.data)
        arena = np.frombuffer(bytearray(self.data or b"\0"), np.uint8)
        captured = np.full((1, 1), size, np.uint32)
        return Rows(arena, np.zeros((1, 1), np.int64), captured, 0, 1, self.described.link)

    def _decoded(self) -> Fields:
        if len(self._fields) == 1 and self._index == 0 and self._fields.lender is self:
            return self._fields
        rows = self.rows()
        original, timestamp = np.full((1, 1), self.length, np.uint32), np.full((1, 1), self.timestamp, np.int64)
        return decode(rows.arena, rows.address, rows.captured, original, timestamp, 0, 1, rows.link, self)

    def __getattr__(self, name: str) -> Any:
        if name in _LAYERS:
            return PacketLayer(self, name)
        if name in STANDARD:
            return self._plain(self._fields[name][self._index])
        hint = suggest(name, [*_LAYERS, *NAMES])
        raise AttributeError(f"packets have no field {name!r}{f': {hint}' if hint else ''}")

    def __repr__(self) -> str:
        ends = f" {self.src} > {self.dst}" if self.src else ""
        return f"<packet of {self.length} bytes{ends}>"


class PacketLayer:
    """A layer of a packet, false if it is not there: ``packet.tcp.flags``, ``if packet.tcp:``."""

    __slots__ = ("_name", "_packet")

    def __init__(self, packet: Packet, name: str) -> None:
        self._packet, self._name = packet, name

    def __bool__(self) -> bool:
        return self._packet.has(self._name)

    def __repr__(self) -> str:
        return f"<{self._name}{'' if self else ', which is not there,'} of {self._packet!r}>"

    def __getattr__(self, name: str) -> Any:
        full = f"{self._name}.{name}"
        if full not in RECIPES:
            known = [field.partition(".")[2] for field in RECIPES if field.startswith(f"{self._name}.")]
            hint = suggest(name, known) or f"it has {', '.join(known)}"
            raise AttributeError(f"{self._name} has no field {name!r}: {hint}")
        return comparable(full, self._packet.field(full))


def packets_of(chunk: Chunk) -> Iterator[Packet]:
    """The packets of a chunk, copied one after the other."""
    fields, memory, hashes = chunk.decode(), chunk.arena.data, hashes_of(chunk.rows())
    rows = zip(
        chunk.offsets.tolist(), chunk.lengths.tolist(), chunk.timestamps.tolist(), chunk.original_lengths.tolist(),
        hashes.tolist(), strict=True,
    )  # fmt: skip
    for index, (start, size, timestamp, original, told) in enumerate(rows):
        yield Packet(bytes(memory[start : start + size]), timestamp, original, told, chunk, fields, index)
