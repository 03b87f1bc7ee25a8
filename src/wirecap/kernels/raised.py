"""What a user's compiled function raised: Numba's description of it, by its address in one int64.

Under NUMBA_DISABLE_JIT=1 the number is a place, from 1, in a list of exceptions.
"""

from __future__ import annotations

import ctypes
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.callconv import excinfo_ptr_t
from numba.extending import intrinsic

from wirecap.kernels.jit import PURE

_raised: list[BaseException] = []


def keep(error: BaseException) -> int:
    """The number of an exception of plain Python."""
    _raised.append(error)
    return len(_raised)


if PURE:

    def forget(error):  # type: ignore[no-untyped-def]
        """Let go of what was raised last."""
        _raised.pop()

else:

    @intrinsic
    def forget(typing, error):  # type: ignore[no-untyped-def]
        """Free a description whose arguments were known at run time only (numba/core/callconv.py)."""

        def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
            info = builder.load(builder.inttoptr(values[0], excinfo_ptr_t))
            dynamic = builder.icmp_signed(">", builder.extract_value(info, 4), ir.Constant(ir.IntType(32), 0))
            with builder.if_then(dynamic, likely=False):
                context.nrt.free(builder, builder.extract_value(info, 2))
                context.nrt.free(builder, builder.inttoptr(values[0], ir.IntType(8).as_pointer()))
            return context.get_dummy_value()

        return types.void(types.int64), generate


class _Raised(ctypes.Structure):
    """Numba's excinfo_t (numba/core/callconv.py)."""

    _fields_ = (
        ("text", ctypes.c_void_p), ("size", ctypes.c_int32), ("arguments", ctypes.c_void_p),
        ("unwrap", ctypes.c_void_p), ("dynamic", ctypes.c_int32),
    )  # fmt: skip


def explain(kept: int, function: Callable[..., Any]) -> tuple[str, str, int]:
    """(exception's name and text, file, line) of a thread's first failure; line 0 where it is not known.

    Numba knows the line of a ``raise`` and an ``assert``, not that of an index or a division.
    """
    if PURE:
        error = _raised[kept - 1]
        code = function.__code__
        lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code is code]
        return _named(type(error), error.args), code.co_filename, lines[-1]
    info = _Raised.from_address(kept)
    kind, arguments, place = pickle.loads(ctypes.string_at(info.text, info.size))
    _, file, line = place or ("", "", 0)
    if not line or file.startswith(str(Path(__file__).parent)):
        file, line = function.__code__.co_filename, 0
    known = [argument for argument in arguments or () if isinstance(argument, (str, int, float))]
    return _named(kind, known), file, line


def _named(kind: Any, arguments: Any) -> str:
    name = kind.__name__
    return f"{name}: {', '.join(map(str, arguments))}" if arguments else name
