"""Arrays of memory whose address a kernel was given as a number, as the words of a handler's state give it.

``peek`` and ``poke`` read and write an element whose index is known not to be negative, which Numba otherwise looks at
each time.  A bounds-checked run checks them.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from wirecap.kernels.base.jit import CHECKED, PURE, inline, intrinsic
from wirecap.kernels.base.later import Later, cgutils, types

arrayobj: Any = Later("numba.np.arrayobj")


def _plain(ctype: Any, dtype: type) -> Any:
    def view(address, size):  # type: ignore[no-untyped-def]
        return np.frombuffer((ctype * int(size)).from_address(int(address)), dtype)

    return view


def _compiled(element: str) -> Any:
    @intrinsic
    def view(typing_context, address, size):  # type: ignore[no-untyped-def]
        kind = types.Array(getattr(types, element), 1, "C")
        itemsize = kind.dtype.bitwidth // 8

        def generate(context, builder, signature, arguments):
            array = context.make_array(kind)(context, builder)
            word = context.get_value_type(types.intp)
            pointer = builder.inttoptr(arguments[0], array.data.type)
            step = context.get_constant(types.intp, itemsize)
            arrayobj.populate_array(
                array, pointer, shape=cgutils.pack_array(builder, [arguments[1]], word),
                strides=cgutils.pack_array(builder, [step], word), itemsize=step, meminfo=None,
            )  # fmt: skip
            return array._getvalue()

        return kind(types.int64, types.int64), generate

    return view


words_at: Any = _plain(ctypes.c_int64, np.int64) if PURE else _compiled("int64")
"""(address, size) -> int64 (size,); the memory must outlive its use."""
lengths_at: Any = _plain(ctypes.c_uint32, np.uint32) if PURE else _compiled("uint32")
"""The same for uint32."""


if PURE or CHECKED:

    @inline
    def peek(array, index):
        return array[index]

    @inline
    def poke(array, index, value):
        array[index] = value

else:

    def _element(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
        return builder.gep(context.make_array(kind)(context, builder, array).data, [index], inbounds=True)

    @intrinsic
    def peek(typing_context, array, index):  # type: ignore[no-untyped-def]
        """array[index]"""

        def generate(context, builder, signature, arguments):
            return builder.load(_element(context, builder, signature.args[0], *arguments))

        return array.dtype(array, types.int64), generate

    @intrinsic
    def poke(typing_context, array, index, value):  # type: ignore[no-untyped-def]
        """array[index] = value"""

        def generate(context, builder, signature, arguments):
            builder.store(arguments[2], _element(context, builder, signature.args[0], *arguments[:2]))
            return context.get_dummy_value()

        return types.void(array, types.int64, array.dtype), generate
