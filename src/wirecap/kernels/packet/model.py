"""A packet and its layers as types for Numba; imported to compile."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import make_attribute_wrapper, models, register_model

from wirecap.kernels.packet.headers import LAYERS, MEMBERS


class PacketType(types.Type):
    """The packet itself."""


layer_types = {name: type(f"{name}_type", (types.Type,), {})(name) for name in LAYERS}
"""A layer is the same value as its packet, with a type of its own."""
PACKET = PacketType("packet")


class _PacketModel(models.StructModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        members = [("data", types.voidptr), *((name, types.int64) for name in MEMBERS), ("edit", types.int64)]
        super().__init__(manager, kind, members)


for _kind in (PacketType, *map(type, layer_types.values())):
    register_model(_kind)(_PacketModel)
    for _name in (*MEMBERS, "edit"):
        make_attribute_wrapper(_kind, _name, f"_{_name}")
