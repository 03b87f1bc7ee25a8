"""Raw memory and C functions, for code that runs inside another program, where there are no arrays.

Every address, pointer and C integer is an int64.  ``text`` makes a C string of a literal; ``handles`` is the one piece
of memory that the shared object has of its own.
"""

from __future__ import annotations

from typing import Any

from wirecap.kernels.base.jit import external, intrinsic
from wirecap.kernels.base.kinds import i64
from wirecap.kernels.base.later import cgutils, ir, types

HANDLES_BYTES = 1 << 16


def _word() -> Any:
    return ir.IntType(64)


def _pointer(builder: Any, address: Any, bits: int) -> Any:
    return builder.inttoptr(address, ir.IntType(bits).as_pointer())


def _make_load(bits: int, order: str = "") -> Any:
    @intrinsic
    def load(typing_context, address):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):
            pointer = _pointer(builder, arguments[0], bits)
            value = builder.load_atomic(pointer, order, bits // 8) if order else builder.load(pointer, align=1)
            return value if bits == 64 else builder.zext(value, _word())

        return types.int64(types.int64), generate

    return load


def _make_store(bits: int, order: str = "") -> Any:
    @intrinsic
    def store(typing_context, address, value):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):
            pointer, value = _pointer(builder, arguments[0], bits), arguments[1]
            if bits != 64:
                value = builder.trunc(value, ir.IntType(bits))
            if order:
                builder.store_atomic(value, pointer, order, bits // 8)
            else:
                builder.store(value, pointer, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return store


load16, load32, load64 = _make_load(16), _make_load(32), _make_load(64)
store8, store16, store32, store64 = _make_store(8), _make_store(16), _make_store(32), _make_store(64)
acquire64, release64 = _make_load(64, "acquire"), _make_store(64, "release")


@intrinsic
def swap64(typing_context, address, expected, value):  # type: ignore[no-untyped-def]
    """Compare and swap: whether the word was as expected, and is the value now."""

    def generate(context, builder, signature, arguments):
        pair = builder.cmpxchg(_pointer(builder, arguments[0], 64), arguments[1], arguments[2], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), generate


@intrinsic
def as_int(typing_context, value):  # type: ignore[no-untyped-def]
    """A C int, of which a register holds 32 bits and then anything."""

    def generate(context, builder, signature, arguments):
        return builder.sext(builder.trunc(arguments[0], ir.IntType(32)), _word())

    return types.int64(types.int64), generate


@intrinsic
def call_back(typing_context, function, user, header, data):  # type: ignore[no-untyped-def]
    """Call a pcap_handler."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [_word()] * 3)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def text(typing_context, value):  # type: ignore[no-untyped-def]
    """The address of a C string."""
    if not isinstance(value, types.Literal):
        return None  # Numba asks once more, with the string itself
    written = value.literal_value

    def generate(context, builder, signature, arguments):
        return builder.ptrtoint(context.insert_const_string(builder.module, written), _word())

    return types.int64(value), generate


@intrinsic
def handles(typing_context):  # type: ignore[no-untyped-def]
    """The address of HANDLES_BYTES bytes, zero at first."""

    def generate(context, builder, signature, arguments):
        module, name = builder.module, "wirecap.handles"
        if name in module.globals:
            memory = module.globals[name]
        else:
            memory = cgutils.add_global_variable(module, ir.ArrayType(ir.IntType(8), HANDLES_BYTES), name)
            memory.linkage, memory.align = "common", 64
            memory.initializer = ir.Constant(memory.type.pointee, None)
        return builder.ptrtoint(memory, _word())

    return types.int64(), generate


def c_function(name: str, arguments: int) -> Any:
    """A function of the C library that returns an int or a pointer."""
    return external(name, i64(*[i64] * arguments))
