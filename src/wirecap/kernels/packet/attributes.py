"""What a handler can write after ``packet.``: layers, fields and methods, for Numba or in plain Python."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from wirecap.kernels.base.jit import PURE, extends_numba, intrinsic
from wirecap.kernels.base.later import extending, types
from wirecap.kernels.packet import fields as f
from wirecap.kernels.packet import headers as p
from wirecap.kernels.packet.compare import comparable
from wirecap.kernels.packet.edit import WRITERS
from wirecap.kernels.packet.headers import load8


def item(packet, index):  # type: ignore[no-untyped-def]
    """``packet[index]``, as for bytes: a negative index counts from the end, IndexError if there is no such byte."""
    at = index + packet._captured if index < 0 else index
    if at < 0 or at >= packet._captured:
        raise IndexError("the packet has no such byte")
    return load8(packet, at)


def captured_length(packet):  # type: ignore[no-untyped-def]
    return packet._captured


def _there(start: Any) -> Callable[[Any], Any]:
    def there(packet):  # type: ignore[no-untyped-def]
        return start(packet) >= 0

    return there


def _not_there(start: Any) -> Callable[[Any], Any]:
    def not_there(packet):  # type: ignore[no-untyped-def]
        return start(packet) < 0

    return not_there


if PURE:

    class _Layer:
        def __init__(self, packet: p.Packet, name: str) -> None:
            self._packet, self._name = packet, name

        def __bool__(self) -> bool:
            return bool(f.STARTS[self._name](self._packet) >= 0)

        def __getattr__(self, name: str) -> Any:
            if name not in f.LAYER_ATTRIBUTES[self._name]:
                raise AttributeError(f"{self._name} has no field {name!r}")
            return comparable(f"{self._name}.{name}", f.LAYER_ATTRIBUTES[self._name][name](self._packet))

        def __setattr__(self, name: str, value: Any) -> None:
            if name in ("_packet", "_name"):
                object.__setattr__(self, name, value)
            elif name in WRITERS[self._name]:
                WRITERS[self._name][name](self._packet, value)
            else:
                raise AttributeError(f"{self._name} has no field {name!r} to set")

    def _layer_of(name: str) -> property:
        return property(lambda packet: _Layer(packet, name))

    def _register() -> None:
        given: dict[str, Any] = {name: property(function) for name, function in f.PACKET_ATTRIBUTES.items()}
        given |= {**{name: _layer_of(name) for name in f.STARTS}, **f.METHODS}
        given |= {"__getitem__": item, "__len__": captured_length}
        for name, attribute in given.items():
            setattr(p.Packet, name, attribute)

    _register()

else:

    def _make_view(kind: Any) -> Any:
        @intrinsic
        def view(typing, packet):  # type: ignore[no-untyped-def]
            return kind(packet), lambda context, builder, signature, arguments: arguments[0]

        return view

    def _layer(view: Any) -> Callable[[Any], Any]:
        return lambda packet: view(packet)

    def _always(function: Any) -> Any:
        return lambda packet: function

    def _with_offset(function: Any) -> Any:
        return lambda packet, offset: function if isinstance(offset, types.Integer) else None

    def _item(packet, index):  # type: ignore[no-untyped-def]
        return item if isinstance(packet, p.model.PacketType) and isinstance(index, types.Integer) else None

    def _only(kind: Any, function: Any) -> Any:
        return lambda packet: function if isinstance(packet, kind) else None

    @extends_numba
    def _register() -> None:
        for name, function in f.PACKET_ATTRIBUTES.items():
            extending.overload_attribute(p.model.PacketType, name)(_always(function))
        for name, method in f.METHODS.items():
            extending.overload_method(p.model.PacketType, name)(_with_offset(method))
        for name, kind in p.model.layer_types.items():
            extending.overload_attribute(p.model.PacketType, name)(_always(_layer(_make_view(kind))))
            for field, function in f.LAYER_ATTRIBUTES[name].items():
                extending.overload_attribute(type(kind), field)(_always(function))
            extending.overload(bool)(_only(type(kind), _there(f.STARTS[name])))
            extending.overload(operator.not_)(_only(type(kind), _not_there(f.STARTS[name])))
        extending.overload(len)(lambda packet: captured_length if isinstance(packet, p.model.PacketType) else None)
        extending.overload(operator.getitem)(_item)
