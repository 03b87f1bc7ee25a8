"""Tables in the state as types for Numba; imported to compile."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.datamodel import models
from numba.extending import overload_method, register_model

from wirecap.kernels.handlers.tables import TRIGGER, Kind, add_of, fire
from wirecap.kernels.packet.model import PacketType


class TableType(types.Record):
    """A table inside the record of the state; Numba sees it as a record with methods."""

    def __init__(self, kind: Kind, fields: Any, size: int, aligned: bool) -> None:
        super().__init__(fields, size, aligned)
        self.kind = kind
        self.name = f"{kind!r}"

    def can_convert_to(self, typingctx: Any, other: Any) -> None:
        """Into no other, though records of the same fields would: the keys differ."""


register_model(TableType)(models.RecordModel)


def register() -> None:
    """Teach Numba the tables' methods."""

    @overload_method(TableType, "add")
    def _add(table, what, amount=1):  # type: ignore[no-untyped-def]
        if table.kind.policy == TRIGGER:
            return None
        fits = isinstance(what, PacketType if table.kind.names else (types.Integer, types.Boolean))
        return add_of(table.kind) if fits and _is_whole(amount) else None

    @overload_method(TableType, "fire")
    def _fire(table, packet):  # type: ignore[no-untyped-def]
        return fire if table.kind.policy == TRIGGER and isinstance(packet, PacketType) else None


def _is_whole(amount: Any) -> bool:
    """Whether an argument is a whole number: its type, or its default value."""
    kind = amount.value if isinstance(amount, types.Omitted) else amount
    return isinstance(kind, (int, types.Integer, types.Boolean))


def state_type(kind: np.dtype[Any], tables: dict[str, Kind]) -> types.Record:
    """The record of the state with its tables as such."""
    record = numba.from_dtype(kind)
    if not tables:
        return record
    found = []
    for name, one in record.fields.items():
        of = one.type
        if name in tables:
            inner = [(field, _described(infos)) for field, infos in of.fields.items()]
            of = TableType(tables[name], inner, of.size, of.aligned)
        found.append((name, {**_described(one), "type": of}))
    return types.Record(found, record.size, record.aligned)


def _described(infos: Any) -> dict[str, Any]:
    return {"type": infos.type, "offset": infos.offset, "alignment": infos.alignment}
