"""Little-endian fields at any byte offset, and byte copies, each in one instruction.

A bounds-checked run assembles every field from single bytes, so that each access is checked.
Hosts are little-endian (x86-64, arm64).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wirecap.kernels.base.jit import CHECKED, inline, intrinsic
from wirecap.kernels.base.later import cgutils, ir, types


def _byte_pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


if CHECKED:

    @inline
    def load16(data, index):
        return np.int64(data[index]) | np.int64(data[index + 1]) << 8

    @inline
    def load32(data, index):
        return load16(data, index) | load16(data, index + 2) << 16

    @inline
    def load64(data, index):
        return load32(data, index) | load32(data, index + 4) << 32

    @inline
    def store32(data, index, value):
        for k in range(4):
            data[index + k] = np.uint8((value >> (8 * k)) & 0xFF)

    @inline
    def store64(data, index, value):
        for k in range(8):
            data[index + k] = np.uint8((value >> (8 * k)) & 0xFF)

    @inline
    def copy(target, to, source, start, count):
        for k in range(count):
            target[to + k] = source[start + k]

else:

    def _make_load(bits: int) -> Any:
        @intrinsic
        def load(typing_context, data, index):  # type: ignore[no-untyped-def]
            def generate(context, builder, signature, arguments):
                pointer = _byte_pointer(context, builder, signature.args[0], *arguments)
                field = builder.load(builder.bitcast(pointer, ir.IntType(bits).as_pointer()), align=1)
                return field if bits == 64 else builder.zext(field, ir.IntType(64))

            return types.int64(data, types.int64), generate

        return load

    def _make_store(bits: int) -> Any:
        @intrinsic
        def store(typing_context, data, index, value):  # type: ignore[no-untyped-def]
            def generate(context, builder, signature, arguments):
                pointer = _byte_pointer(context, builder, signature.args[0], arguments[0], arguments[1])
                field = arguments[2] if bits == 64 else builder.trunc(arguments[2], ir.IntType(bits))
                builder.store(field, builder.bitcast(pointer, ir.IntType(bits).as_pointer()), align=1)
                return context.get_dummy_value()

            return types.void(data, types.int64, types.int64), generate

        return store

    load16, load32, load64 = _make_load(16), _make_load(32), _make_load(64)
    store32, store64 = _make_store(32), _make_store(64)

    @intrinsic
    def copy(typing_context, target, to, source, start, count):  # type: ignore[no-untyped-def]
        """Copy count bytes from source[start:] to target[to:]; they must not overlap, nor count be negative."""

        def generate(context, builder, signature, arguments):
            destination = _byte_pointer(context, builder, signature.args[0], arguments[0], arguments[1])
            origin = _byte_pointer(context, builder, signature.args[2], arguments[2], arguments[3])
            cgutils.raw_memcpy(builder, destination, origin, arguments[4], 1)
            return context.get_dummy_value()

        return types.void(target, types.int64, source, types.int64, types.int64), generate


@inline
def swap16(value):
    return (value & 0xFF) << 8 | value >> 8 & 0xFF


@inline
def swap32(value):
    return (value & 0xFF) << 24 | (value & 0xFF00) << 8 | value >> 8 & 0xFF00 | value >> 24 & 0xFF


@inline
def field32(data, index, swapped):
    """The unsigned 32-bit field at data[index:], which is big-endian if swapped is not zero."""
    value = load32(data, index)
    return swap32(value) if swapped else value


@inline
def field16(data, index, swapped):
    value = load16(data, index)
    return swap16(value) if swapped else value
