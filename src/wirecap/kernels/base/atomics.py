"""Access to words that two threads share.  A plain array load in a compiled loop may be hoisted; these never are.

All take an int64 or uint32 array and an index.  ``load`` acquires, ``store`` releases; the
read-modify-write operations and ``fence`` are sequentially consistent.  In plain Python a lock does the same.
"""

from __future__ import annotations

import threading
from typing import Any

from wirecap.kernels.base.jit import PURE, intrinsic
from wirecap.kernels.base.later import cgutils, ir, types


def _element_pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    view = context.make_array(array_type)(context, builder, array)
    return cgutils.get_item_pointer(context, builder, array_type, view, [index])


def _align(array_type: Any) -> int:
    return int(array_type.dtype.bitwidth // 8)


if PURE:
    _lock = threading.Lock()

    def load(array, index):
        return array[index]

    def store(array, index, value):
        array[index] = value

    def fetch_add(array, index, value):
        with _lock:
            before = array[index]
            array[index] = before + value
        return before

    def compare_swap(array, index, expected, value):
        with _lock:
            if array[index] != expected:
                return False
            array[index] = value
        return True

    def fence():
        with _lock:
            pass

    def prefetch(array, index):
        pass

else:

    @intrinsic
    def load(typing_context, array, index):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):
            pointer = _element_pointer(context, builder, signature.args[0], *arguments)
            return builder.load_atomic(pointer, "acquire", _align(signature.args[0]))

        return array.dtype(array, types.int64), generate

    @intrinsic
    def store(typing_context, array, index, value):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):
            pointer = _element_pointer(context, builder, signature.args[0], arguments[0], arguments[1])
            builder.store_atomic(arguments[2], pointer, "release", _align(signature.args[0]))
            return context.get_dummy_value()

        return types.void(array, types.int64, array.dtype), generate

    @intrinsic
    def fetch_add(typing_context, array, index, value):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):
            pointer = _element_pointer(context, builder, signature.args[0], arguments[0], arguments[1])
            return builder.atomic_rmw("add", pointer, arguments[2], "seq_cst")

        return array.dtype(array, types.int64, array.dtype), generate

    @intrinsic
    def compare_swap(typing_context, array, index, expected, value):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):
            pointer = _element_pointer(context, builder, signature.args[0], arguments[0], arguments[1])
            pair = builder.cmpxchg(pointer, arguments[2], arguments[3], "seq_cst", "seq_cst")
            return builder.extract_value(pair, 1)

        return types.boolean(array, types.int64, array.dtype, array.dtype), generate

    @intrinsic
    def fence(typing_context):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.void(), generate

    @intrinsic
    def prefetch(typing_context, array, index):  # type: ignore[no-untyped-def]
        """Prefetch the cache line of array[index]; any index is allowed, as nothing is read."""

        def generate(context, builder, signature, arguments):
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            address = builder.ptrtoint(data, ir.IntType(64))
            offset = builder.mul(arguments[1], ir.Constant(ir.IntType(64), _align(signature.args[0])))
            pointer = builder.inttoptr(builder.add(address, offset), ir.IntType(8).as_pointer())
            i32 = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
            builder.call(function, [pointer, ir.Constant(i32, 0), ir.Constant(i32, 3), ir.Constant(i32, 1)])
            return context.get_dummy_value()

        return types.void(array, types.int64), generate
