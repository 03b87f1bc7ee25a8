"""Flow records: from the words of a flow table to columns with IPFIX's names, and to Arrow, JSON and text."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.flows.interfaces import Interfaces
from wirecap.kernels.flows import layout as f

SCHEMA_VERSION = 1
"""Goes up when a column changes its meaning or its type; further columns may come without that."""
_PORTS = (6, 17, 132, 33, 136)
_TCP, _ICMP, _ICMP6 = 6, 1, 58
_ODD = np.uint64(0x9E3779B97F4A7C15)


class Column(NamedTuple):
    """A column: its name (IANA's, of RFC 5103 with ``reverse``) and its type: time, address, name, or unsigned of so
    many bits."""

    name: str
    kind: str


COLUMNS = tuple(
    Column(*line.split())
    for line in """
    flowStartNanoseconds time
    flowEndNanoseconds time
    flowEndReason uint8
    biflowDirection uint8
    ipVersion uint8
    protocolIdentifier uint8
    vlanId uint16
    sourceIPv4Address address
    destinationIPv4Address address
    sourceIPv6Address address
    destinationIPv6Address address
    sourceTransportPort uint16
    destinationTransportPort uint16
    icmpTypeCodeIPv4 uint16
    icmpTypeCodeIPv6 uint16
    ipClassOfService uint8
    tcpControlBits uint16
    packetDeltaCount uint64
    octetDeltaCount uint64
    layer2OctetDeltaCount uint64
    reverseIpClassOfService uint8
    reverseTcpControlBits uint16
    reversePacketDeltaCount uint64
    reverseOctetDeltaCount uint64
    reverseLayer2OctetDeltaCount uint64
    capturedOctets uint64
    ingressInterface uint32
    egressInterface uint32
    interfaceName name
    flowDirection uint8
    reverseIngressInterface uint32
    reverseEgressInterface uint32
    reverseInterfaceName name
    reverseFlowDirection uint8
    """.strip().splitlines()
)
"""In the order of the files.  ``capturedOctets`` is ours: what was captured of all the flow's packets."""
INTERFACES = ("ingressInterface", "egressInterface", "reverseIngressInterface", "reverseEgressInterface")
NAMES = tuple(column.name for column in COLUMNS)
_KINDS = dict(COLUMNS)


@dataclass(frozen=True)
class Records:
    """Finished records.  words: int64 (n, ENTRY_WORDS), as kernels/flows/layout.py has them.  interfaces: the list in
    which they have places."""

    words: NDArray[np.int64]
    interfaces: Interfaces = ()

    def __len__(self) -> int:
        return len(self.words)

    def chosen(self, which: Any) -> Records:
        """Those at some places."""
        return Records(self.words[which], self.interfaces)

    def values(self, name: str) -> NDArray[Any]:
        """A column's numbers, int64 (n,); of an address its halves, int64 (n, 2).  0 where there is none."""
        return _VALUES[name](self)

    def missing(self, name: str) -> NDArray[np.bool_] | None:
        """Where a column has nothing; None: nowhere."""
        return _MISSING[name](self) if name in _MISSING else None

    def _bits(self, word: int, shift: int, mask: int) -> NDArray[np.int64]:
        return self.words[:, word] >> shift & mask

    @cached_property
    def is_ip6(self) -> NDArray[np.bool_]:
        return np.equal(self._bits(f.KEY, f.IS_IP6, 1), 1)

    @cached_property
    def protocol(self) -> NDArray[np.int64]:
        return self._bits(f.KEY, f.PROTOCOL, 0xFF)

    @cached_property
    def _from_b(self) -> NDArray[np.bool_]:
        return np.equal(self._bits(f.FLAGS, f.FROM_B, 1), 1)

    def end(self, far: bool) -> NDArray[np.int64]:
        """The address of the source, or of the destination, as halves."""
        take_b = (self._from_b != far)[:, None]
        return np.where(take_b, self.words[:, f.B_HIGH : f.B_LOW + 1], self.words[:, f.A_HIGH : f.A_LOW + 1])

    def port(self, far: bool) -> NDArray[np.int64]:
        return np.where(self._from_b != far, self._bits(f.KEY, f.PORT_B, 0xFFFF), self._bits(f.KEY, f.PORT_A, 0xFFFF))

    def place(self, reverse: bool) -> NDArray[np.int64]:
        """Of a direction's interface in the list, from 0; -1 where it is not known."""
        places = self._bits(f.MORE, f.ORIGIN + f.ORIGIN_BITS * reverse, f.INTERFACE_MASK) - 1
        return np.where(places < len(self.interfaces), places, -1)

    def direction(self, reverse: bool) -> NDArray[np.int64]:
        """f.IN, f.OUT or 0 of each record."""
        return self._bits(f.MORE, f.ORIGIN + f.ORIGIN_BITS * reverse + f.DIRECTION, 3)

    def interface(self, reverse: bool, out: bool) -> NDArray[np.int64]:
        """The number of the interface that packets of a direction left by, or came in by; 0 where there is none."""
        numbers = np.array([*(one.number for one in self.interfaces), 0], np.int64)
        return np.where((self.direction(reverse) == f.OUT) == out, numbers[self.place(reverse)], 0)

    def names(self, name: str) -> tuple[NDArray[np.int64], list[str]]:
        """A column of names, as ``addresses`` has one."""
        texts = [one.name for one in self.interfaces]
        named = np.array([*map(bool, texts), False])
        places = self.place(name.startswith("reverse"))
        return np.where(named[places], places, -1), texts

    def addresses(self, name: str) -> tuple[NDArray[np.int64], list[str]]:
        """An address column: (place in the list, -1 where there is none; the distinct addresses as text)."""
        halves, missing = self.values(name), self.missing(name)
        there = np.arange(len(halves)) if missing is None else np.flatnonzero(~missing)
        halves = halves[there].astype(np.uint64)
        mixed = (halves[:, 0] ^ halves[:, 0] >> np.uint64(29)) * _ODD ^ halves[:, 1]  # one number is faster to sort
        _, first, inverse = np.unique(mixed, return_index=True, return_inverse=True)
        if not np.array_equal(halves[first][inverse], halves):
            _, first, inverse = np.unique(halves, axis=0, return_index=True, return_inverse=True)
        places = np.full(len(self), -1, np.int64)
        places[there] = inverse.reshape(-1)
        version = 4 if "IPv4" in name else 6
        return places, [_text(high, low, version) for high, low in halves[first].tolist()]

    def to_arrow(self) -> Any:
        """A pyarrow.RecordBatch of ``arrow_schema``."""
        pa, fields = arrow(), arrow_schema()
        arrays = []
        for column in COLUMNS:
            kind = fields.field(column.name).type
            if column.kind == "name":
                arrays.append(_strings(pa, *self.names(column.name)))
            elif column.kind == "address":
                arrays.append(self._address_array(pa, column.name))
            else:
                values = self.values(column.name)
                values = values if column.kind == "time" else values.astype(column.kind)
                arrays.append(_array(pa, kind, values, self.missing(column.name)))
        return pa.RecordBatch.from_arrays(arrays, schema=fields)

    def _address_array(self, pa: Any, name: str) -> Any:
        """An Arrow array of addresses as text."""
        if "IPv4" not in name:
            return _strings(pa, *self.addresses(name))
        there = ~self.is_ip6
        bytes_of = self.values(name)[:, 1].astype(">u4").view(np.uint8).reshape(-1, 4)
        shown = _SHOWN[bytes_of] & there[:, None, None]
        shown[:, 3] &= _NO_DOT[bytes_of[:, 3]]
        return _text_array(pa, _OCTETS[bytes_of][shown], shown.sum((1, 2)), there)

    def lines(self) -> Iterator[str]:
        """Each record as a JSON object in a line; what it does not have is left out."""
        columns: list[list[Any]] = []
        for column in COLUMNS:
            if column.kind in ("address", "name"):
                places, texts = (self.addresses if column.kind == "address" else self.names)(column.name)
                columns.append([texts[place] if place >= 0 else None for place in places.tolist()])
                continue
            values = self.values(column.name)
            if column.kind == "time":
                columns.append([f"{text}Z" for text in np.datetime_as_string(values.view("datetime64[ns]")).tolist()])
                continue
            missing, found = self.missing(column.name), values.tolist()
            for place in [] if missing is None else np.flatnonzero(missing).tolist():
                found[place] = None
            columns.append(found)
        for row in zip(*columns, strict=True):
            yield json.dumps({name: value for name, value in zip(NAMES, row, strict=True) if value is not None}) + "\n"


@lru_cache(maxsize=1 << 16)
def _text(high: int, low: int, version: int) -> str:
    if version == 4:
        return socket.inet_ntop(socket.AF_INET, low.to_bytes(4, "big"))
    return socket.inet_ntop(socket.AF_INET6, (high << 64 | low).to_bytes(16, "big"))


def _array(pa: Any, kind: Any, values: NDArray[Any], missing: NDArray[np.bool_] | None) -> Any:
    """An Arrow array of these values; made of buffers, because ``pyarrow.array`` imports pandas."""
    there = None if missing is None else pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [there, pa.py_buffer(np.ascontiguousarray(values))])


def _strings(pa: Any, places: NDArray[np.int64], texts: list[str]) -> Any:
    """An Arrow array of the texts at these places; null where a place is -1."""
    known = np.array([text.encode() for text in texts] + [b""])  # the last one for -1
    lengths = np.char.str_len(known)[places]
    padded = known.view(np.uint8).reshape(len(known), known.itemsize)[places]
    return _text_array(pa, padded[np.arange(known.itemsize) < lengths[:, None]], lengths, places >= 0)


def _text_array(pa: Any, data: NDArray[np.uint8], lengths: NDArray[np.int64], there: NDArray[np.bool_]) -> Any:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    parts = (np.packbits(there, bitorder="little"), offsets, data)
    return pa.Array.from_buffers(pa.string(), len(there), [pa.py_buffer(part) for part in parts])


_OCTETS = np.array([f"{octet}.".encode() for octet in range(256)]).view(np.uint8).reshape(256, 4)
"""Each byte of an IPv4 address as text, with a dot behind it."""
_SHOWN, _NO_DOT = _OCTETS != 0, (_OCTETS != 0) & (ord(".") != _OCTETS)


def arrow() -> Any:
    """pyarrow, which only those need who write Parquet."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("the pyarrow library is not installed", "pip install 'wirecap[parquet]'") from None
    return pyarrow


def arrow_schema() -> Any:
    """Of version SCHEMA_VERSION."""
    pa = arrow()
    kinds = {"time": pa.timestamp("ns", "UTC"), "address": pa.string(), "name": pa.string()}
    fields = [
        pa.field(name, kinds.get(kind) or getattr(pa, kind)(), nullable=name in _MISSING) for name, kind in COLUMNS
    ]
    return pa.schema(fields, {"wirecap.flows": str(SCHEMA_VERSION)})


def _direction(records: Records) -> NDArray[np.int64]:
    """1: the source is the one that began; 0: it is only the one that was seen first."""
    return records._bits(f.FLAGS, f.INITIATED, 1)


_VALUES: dict[str, Callable[[Records], NDArray[Any]]] = {
    "flowStartNanoseconds": lambda r: np.ascontiguousarray(r.words[:, f.FIRST]),
    "flowEndNanoseconds": lambda r: np.ascontiguousarray(r.words[:, f.LAST]),
    "flowEndReason": lambda r: r._bits(f.FLAGS, f.REASON, 0xFF),
    "biflowDirection": _direction,
    "ipVersion": lambda r: np.where(r.is_ip6, 6, 4),
    "protocolIdentifier": lambda r: r.protocol,
    "vlanId": lambda r: r._bits(f.KEY, f.VLAN, 0xFFF),
    **{f"source{version}Address": lambda r: r.end(False) for version in ("IPv4", "IPv6")},
    **{f"destination{version}Address": lambda r: r.end(True) for version in ("IPv4", "IPv6")},
    "sourceTransportPort": lambda r: r.port(False),
    "destinationTransportPort": lambda r: r.port(True),
    "icmpTypeCodeIPv4": lambda r: r._bits(f.MORE, f.ICMP, 0xFFFF),
    "icmpTypeCodeIPv6": lambda r: r._bits(f.MORE, f.ICMP, 0xFFFF),
    "ipClassOfService": lambda r: r._bits(f.MORE, 0, 0xFF),
    "tcpControlBits": lambda r: r._bits(f.FLAGS, 0, f.TCP_FLAGS),
    "packetDeltaCount": lambda r: r.words[:, f.PACKETS],
    "octetDeltaCount": lambda r: r.words[:, f.IP_BYTES],
    "layer2OctetDeltaCount": lambda r: r.words[:, f.FRAME_BYTES],
    "reverseIpClassOfService": lambda r: r._bits(f.MORE, f.REVERSE_TOS, 0xFF),
    "reverseTcpControlBits": lambda r: r._bits(f.FLAGS, f.REVERSE_FLAGS, f.TCP_FLAGS),
    "reversePacketDeltaCount": lambda r: r.words[:, f.PACKETS + 1],
    "reverseOctetDeltaCount": lambda r: r.words[:, f.IP_BYTES + 1],
    "reverseLayer2OctetDeltaCount": lambda r: r.words[:, f.FRAME_BYTES + 1],
    "capturedOctets": lambda r: r.words[:, f.CAPTURED],
    "ingressInterface": lambda r: r.interface(False, out=False),
    "egressInterface": lambda r: r.interface(False, out=True),
    "flowDirection": lambda r: np.maximum(r.direction(False) - 1, 0),
    "reverseIngressInterface": lambda r: r.interface(True, out=False),
    "reverseEgressInterface": lambda r: r.interface(True, out=True),
    "reverseFlowDirection": lambda r: np.maximum(r.direction(True) - 1, 0),
}


def _none(name: str) -> Callable[[Records], NDArray[np.bool_]]:
    return lambda r: r.values(name) == 0


def _no_icmp(protocol: int) -> Callable[[Records], NDArray[np.bool_]]:
    return lambda r: (r.protocol != protocol) | (r._bits(f.MORE, f.HAS_ICMP, 1) == 0)


_MISSING: dict[str, Callable[[Records], NDArray[np.bool_]]] = {
    **{name: _none(name) for name in ("vlanId", *INTERFACES)},
    **{f"{end}IPv4Address": lambda r: r.is_ip6 for end in ("source", "destination")},
    **{f"{end}IPv6Address": lambda r: ~r.is_ip6 for end in ("source", "destination")},
    **{f"{end}TransportPort": lambda r: ~np.isin(r.protocol, _PORTS) for end in ("source", "destination")},
    "icmpTypeCodeIPv4": _no_icmp(_ICMP),
    "icmpTypeCodeIPv6": _no_icmp(_ICMP6),
    "tcpControlBits": lambda r: r.protocol != _TCP,
    "reverseTcpControlBits": lambda r: r.protocol != _TCP,
    "reverseIpClassOfService": lambda r: r.words[:, f.PACKETS + 1] == 0,
    **{name: lambda r, name=name: r.names(name)[0] < 0 for name in ("interfaceName", "reverseInterfaceName")},  # type: ignore[misc]
    "flowDirection": lambda r: r.direction(False) == 0,
    "reverseFlowDirection": lambda r: r.direction(True) == 0,
}
