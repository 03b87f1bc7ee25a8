"""What a compiled handler may change: the packet's bytes in place, and three decisions that are carried out after it.

The packet holds the address of EDIT words in its thread's state, or 0 if packets must not be changed (a capture
writes what arrived; a file is mapped read-only).  ``packet.drop()``, ``push_vlan`` and ``pop_vlan`` only leave a
note there: while the function runs, the packet keeps its tags and its place.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from wirecap.kernels.base.jit import PURE, extends_numba, inline, intrinsic
from wirecap.kernels.base.later import cgutils, extending, imputils, ir, types
from wirecap.kernels.packet import fields as f
from wirecap.kernels.packet import headers as p
from wirecap.kernels.packet.headers import TAGS, load8, load16, load32
from wirecap.kernels.pool.large import HASH_BYTES

# the EDIT words
ALLOWED, DROPPED, TAG = range(3)
EDIT_WORDS = 3
POPPED = -1  # TAG; else the new tag's TCI + 1, 0 for none

FORBIDDEN = "only wirecap forward can change packets"
NO_BYTE = "the packet has no such byte"
NO_LAYER = "the packet has no such header"
MACS = 12  # bytes before a VLAN tag (IEEE 802.1Q)
TAG_BYTES = 4

if PURE:

    def editable(packet, state, first):  # type: ignore[no-untyped-def]
        """The packet, with permission to change it if state[first + ALLOWED] is set."""
        packet._edit = state[first:] if state[first + ALLOWED] else None
        return packet

    def allowed(packet):  # type: ignore[no-untyped-def]
        return packet._edit is not None

    def note(packet, word, value):  # type: ignore[no-untyped-def]
        packet._edit[word] = value

    def _make_store(size: int) -> Any:
        def store(packet, offset, value):  # type: ignore[no-untyped-def]
            data = (int(value) & (1 << 8 * size) - 1).to_bytes(size, "big")
            for i in range(size):
                packet._bytes[offset + i] = data[i]

        return store

else:

    @intrinsic
    def editable(typing, packet, state, first):  # type: ignore[no-untyped-def]
        """The packet, with permission to change it if state[first + ALLOWED] is set."""

        def generate(context, builder, signature, arguments):
            data = context.make_array(signature.args[1])(context, builder, arguments[1]).data
            words = builder.gep(data, [arguments[2]])
            zero = ir.Constant(ir.IntType(64), 0)
            given = builder.icmp_signed("!=", builder.load(words), zero)
            view = cgutils.create_struct_proxy(p.model.PACKET)(context, builder, arguments[0])
            view.edit = builder.select(given, builder.ptrtoint(words, ir.IntType(64)), zero)
            return view._getvalue()

        return p.model.PACKET(packet, state, types.int64), generate

    @inline
    def allowed(packet):
        return packet._edit != 0

    @intrinsic
    def note(typing, packet, word, value):  # type: ignore[no-untyped-def]
        """Set an EDIT word of a packet that may be changed."""

        def generate(context, builder, signature, arguments):
            edit = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).edit
            words = builder.inttoptr(edit, ir.IntType(64).as_pointer())
            builder.store(arguments[2], builder.gep(words, [arguments[1]]))
            return context.get_dummy_value()

        return types.void(packet, types.int64, types.int64), generate

    def _make_store(size: int) -> Any:
        """A function that stores the low ``size`` bytes of a number, big-endian and unchecked."""

        @intrinsic
        def store(typing, packet, offset, value):  # type: ignore[no-untyped-def]
            def generate(context, builder, signature, arguments):
                data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
                kind = ir.IntType(8 * size)
                field = builder.trunc(arguments[2], kind) if size < 8 else arguments[2]
                if size > 1:
                    field = builder.bswap(field)
                pointer = builder.bitcast(builder.gep(data, [arguments[1]]), kind.as_pointer())
                builder.store(field, pointer, align=1)
                return context.get_dummy_value()

            return types.void(packet, types.int64, types.int64), generate

        return store


store8, store16, store32 = (_make_store(size) for size in (1, 2, 4))


@inline
def _store48(packet, offset, value):
    store16(packet, offset, value >> 32)
    store32(packet, offset + 2, value)


_STORES = {1: store8, 2: store16, 4: store32, 6: _store48}
_LOADS = {1: load8, 2: load16, 4: load32}


def _writer(start: Any, field: f.Field) -> Callable[[Any, Any], Any]:
    """The function (packet, value) that sets a field and leaves the other bits of its bytes alone."""
    offset, width, shift, mask = field
    store, left, right = _STORES[width], max(shift, 0), max(-shift, 0)
    if mask == -1 and shift == 0:

        def write(packet, value):  # type: ignore[no-untyped-def]
            if not allowed(packet):
                raise RuntimeError(FORBIDDEN)
            at = start(packet)
            if at < 0:
                raise ValueError(NO_LAYER)
            store(packet, at + offset, value)

        return write
    load, kept = _LOADS[width], ~((mask << left) >> right)

    def write_bits(packet, value):  # type: ignore[no-untyped-def]
        if not allowed(packet):
            raise RuntimeError(FORBIDDEN)
        at = start(packet)
        if at < 0:
            raise ValueError(NO_LAYER)
        store(packet, at + offset, (load(packet, at + offset) & kept) | ((value & mask) << left) >> right)

    return write_bits


WRITERS = {
    layer: {name: _writer(f.STARTS[layer], field) for name, field in named.items() if field.bytes in _STORES}
    for layer, named in f.FIELDS.items()
}
"""layer -> field -> function (packet, value)."""


def _setter(store: Any, width: int) -> Callable[[Any, Any, Any], Any]:
    def write(packet, offset, value):  # type: ignore[no-untyped-def]
        if not allowed(packet):
            raise RuntimeError(FORBIDDEN)
        if offset < 0 or offset > packet._captured - width:
            raise IndexError(NO_BYTE)
        store(packet, offset, value)

    return write


def set_item(packet, index, value):  # type: ignore[no-untyped-def]
    """``packet[index] = value``, as for a bytearray."""
    if not allowed(packet):
        raise RuntimeError(FORBIDDEN)
    at = index + packet._captured if index < 0 else index
    if at < 0 or at >= packet._captured:
        raise IndexError(NO_BYTE)
    store8(packet, at, value)


_vlan = f.STARTS["vlan"]


def drop(packet):  # type: ignore[no-untyped-def]
    """Do not send the packet."""
    if not allowed(packet):
        raise RuntimeError(FORBIDDEN)
    note(packet, DROPPED, 1)


def push_vlan(packet, id, priority=0):  # type: ignore[no-untyped-def]
    """Send the packet with one more VLAN tag, outside any that it has."""
    if not allowed(packet):
        raise RuntimeError(FORBIDDEN)
    note(packet, TAG, ((priority & 7) << 13 | (id & 0xFFF)) + 1)


def pop_vlan(packet):  # type: ignore[no-untyped-def]
    """Send the packet without its outermost VLAN tag."""
    if not allowed(packet):
        raise RuntimeError(FORBIDDEN)
    if _vlan(packet) < 0:
        raise ValueError(NO_LAYER)
    note(packet, TAG, POPPED)


SETTERS = {"set_u8": _setter(store8, 1), "set_u16": _setter(store16, 2), "set_u32": _setter(store32, 4)}
DECISIONS: dict[str, Any] = {"drop": drop, "push_vlan": push_vlan, "pop_vlan": pop_vlan}


@inline
def carry_out(arena, address, captured, i, state, first):
    """Carry out what a handler decided about packet ``i`` of a chunk, and clear its EDIT words, state[first:].

    The bytes before a pushed tag move into the space in front of the packet, where AF_XDP leaves 256 bytes of headroom.
    So does the NIC's hash, which lies in front of them.
    """
    if state[first + DROPPED]:
        captured[i] = 0
    elif state[first + TAG] == POPPED:
        at = address[i]
        for j in range(MACS - 1, -1 - min(at, HASH_BYTES), -1):
            arena[at + j + TAG_BYTES] = arena[at + j]
        address[i] = at + TAG_BYTES
        captured[i] -= TAG_BYTES
    elif state[first + TAG]:
        at = address[i] - TAG_BYTES
        for j in range(-min(at, HASH_BYTES), MACS):
            arena[at + j] = arena[at + j + TAG_BYTES]
        arena[at + MACS], arena[at + MACS + 1] = TAGS[0] >> 8, TAGS[0] & 0xFF
        arena[at + MACS + 2] = (state[first + TAG] - 1) >> 8
        arena[at + MACS + 3] = (state[first + TAG] - 1) & 0xFF
        address[i] = at
        captured[i] += TAG_BYTES
    state[first + DROPPED] = 0
    state[first + TAG] = 0


if PURE:

    def register() -> None:
        for name, method in {**SETTERS, **DECISIONS}.items():
            setattr(p.Packet, name, method)
        setattr(p.Packet, "__setitem__", set_item)  # noqa: B010  mypy: no such method

    register()

else:

    def _lowered(kind: type, name: str, function: Any) -> None:
        @imputils.lower_setattr(kind, name)
        def lower(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            target, given = signature.args
            value = context.cast(builder, arguments[1], given, types.int64)
            context.compile_internal(builder, function, types.void(target, types.int64), (arguments[0], value))

    def _only_numbers(method: Any) -> Any:
        def choose(packet, offset, value):  # type: ignore[no-untyped-def]
            return method if isinstance(offset, types.Integer) and isinstance(value, types.Integer) else None

        return choose

    def _item(packet, index, value):  # type: ignore[no-untyped-def]
        numbers = isinstance(index, types.Integer) and isinstance(value, types.Integer)
        return set_item if isinstance(packet, p.model.PacketType) and numbers else None

    @extends_numba
    def register() -> None:
        for layer, writers in WRITERS.items():
            for name, function in writers.items():
                _lowered(type(p.model.layer_types[layer]), name, function)
        for name, method in SETTERS.items():
            extending.overload_method(p.model.PacketType, name)(_only_numbers(method))
        extending.overload_method(p.model.PacketType, "drop")(lambda packet: drop)
        extending.overload_method(p.model.PacketType, "pop_vlan")(lambda packet: pop_vlan)
        extending.overload_method(p.model.PacketType, "push_vlan")(lambda packet, id, priority=0: push_vlan)  # noqa: A006
        extending.overload(operator.setitem)(_item)
