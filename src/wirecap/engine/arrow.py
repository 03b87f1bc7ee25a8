"""Packets' fields as a table of Arrow or pandas: what a packet does not have is null there."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wirecap.engine.text import ip_texts, mac_text
from wirecap.errors import UsageError
from wirecap.kernels.packet.decode import BIT

_ALWAYS = ("timestamp", "length", "captured_length")
_SHOWN_OTHERWISE = ("layers", "ip.src", "ip.dst", "ip6.src", "ip6.dst")
"""Columns that the table has in another form: null values, and ``src`` and ``dst`` as text."""
_NETWORK = BIT["ip"] | BIT["ip6"]
_PORTS = (6, 17, 33, 132, 136)
"""Protocols with ports."""


class Fields(Protocol):
    """engine/fields.py's."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def __getitem__(self, name: str) -> NDArray[Any]: ...


def _pyarrow(what: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise UsageError(f"{what} needs pyarrow, which is not installed", "pip install 'wirecap[arrow]'") from None
    return pyarrow


def _missing(fields: Fields, name: str) -> NDArray[np.bool_] | None:
    """Which packets do not have the field; None: all have it."""
    layers, missing = fields["layers"], None
    layer, _, inner = name.partition(".")
    if inner:
        missing = (layers & BIT[layer]) == 0
    elif name in ("src", "dst", "protocol"):
        missing = (layers & _NETWORK) == 0
    elif name in ("payload", "nic_hash"):
        missing = fields[name] == 0
    elif name not in _ALWAYS:
        missing = ~(np.isin(fields["protocol"], _PORTS) & _has_ports(fields))
    return missing


def _has_ports(fields: Fields) -> Any:
    """Whether ports were captured: a layer that is there, or one of those (DCCP, UDP-Lite) without a layer."""
    return (fields["payload"] != 0) | (fields["src_port"] != 0) | (fields["dst_port"] != 0)


def table_of(fields: Fields) -> Any:
    """A pyarrow.Table.  Raises UsageError without pyarrow."""
    pa = _pyarrow("to_arrow")
    columns = {}
    for name in ("timestamp", "src", "dst", *fields.names):
        if name not in columns and name not in _SHOWN_OTHERWISE:
            columns[name] = _array(pa, fields, name)
    return pa.table(columns)


def _array(pa: Any, fields: Fields, name: str) -> Any:
    values, missing = fields[name], _missing(fields, name)
    if name == "timestamp":
        return pa.array(values.view(np.int64), pa.timestamp("ns", "UTC"))
    if values.ndim == 2:
        return _dictionary(pa, values, missing, ip_texts)
    if name.endswith(("eth.src", "eth.dst", "_mac")):
        return _dictionary(pa, values, missing, lambda macs: [mac_text(mac) for mac in macs])
    return pa.array(values, mask=missing)


def _dictionary(pa: Any, values: NDArray[Any], missing: NDArray[np.bool_] | None, texts: Any) -> Any:
    """Text for each distinct value only once."""
    distinct, places = np.unique(values, axis=0, return_inverse=True)
    indices = pa.array(places.reshape(-1).astype(np.int32), mask=missing)
    return pa.DictionaryArray.from_arrays(indices, pa.array(texts(distinct.tolist()), pa.string()))


def frame_of(fields: Fields) -> Any:
    """A pandas.DataFrame.  Raises UsageError without pandas or pyarrow."""
    pa = _pyarrow("to_pandas")
    try:
        import pandas as pd
    except ImportError:
        raise UsageError("to_pandas needs pandas, which is not installed", "pip install 'wirecap[pandas]'") from None
    kinds = {
        pa.uint8(): pd.UInt8Dtype(), pa.uint16(): pd.UInt16Dtype(), pa.uint32(): pd.UInt32Dtype(),
        pa.uint64(): pd.UInt64Dtype(),
    }  # fmt: skip
    return table_of(fields).to_pandas(types_mapper=kinds.get)
