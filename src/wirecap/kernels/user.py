"""A user's per-packet function as a kernel of PROCESS_SIGNATURE: compiled for it, cached by its text.

The function is called through Numba's calling convention, so that an exception is a status here and not
something that unwinds a thread without the GIL; a pointer to what was raised goes to the state's words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

import wirecap.kernels.attributes  # noqa: F401  what may stand behind "packet."
from wirecap.kernels import user_cache
from wirecap.kernels.edit import ALLOWED, DROPPED, EDIT_WORDS, TAG, carry_out, editable
from wirecap.kernels.handle import PROCESS_SIGNATURE
from wirecap.kernels.jit import PURE
from wirecap.kernels.packet import PACKET, at
from wirecap.kernels.raised import forget, keep
from wirecap.kernels.record import Record

# The words of a thread's state: address of the user's own record; link type; 1 to count failures and go on;
# how many there were; what the first one raised (kernels/raised.py); leave to change packets, and what was decided
# on the current one (kernels/edit.py); the options.
RECORD, LINK, KEEP_GOING, FAILURES, RAISED, EDIT = range(6)
OPTIONS = EDIT + EDIT_WORDS

UNKNOWN_LINK = -1

AHEAD = 16
"""Packets between the one that is asked for and the one that is handled: a fetch from memory takes as long."""

FETCHED = (12, 40)
"""Bytes of a packet that most handlers look at: the EtherType, and the ports of TCP or UDP over IPv4."""


class ReturnedError(Exception):
    """A handler returns something; of which type is the text."""


def option_words(values: list[Any]) -> list[int]:
    """Options (bool, int, float) as the state's words."""
    return [int(np.float64(value).view(np.int64)) if isinstance(value, float) else int(value) for value in values]


def compile_user(function: Callable[..., Any]) -> Any:
    """The user's function for Numba: exceptions as Python has them, indices checked."""
    options = {"nogil": True, "boundscheck": True, "error_model": "python", "forceinline": True}
    return function if PURE else numba.njit(**options)(function)


def signature(kind: np.dtype[Any], options: list[Any]) -> tuple[Any, ...]:
    """The argument types of a user's function: packet, state, options."""
    return (PACKET, numba.from_dtype(kind), *(numba.typeof(value) for value in options))


def build_process(user: Any, kind: np.dtype[Any], options: list[Any]) -> Any:
    """The kernel (not yet compiled) that calls ``user(packet, state, *options)`` for each packet of a chunk."""
    call = _call_python(user, kind, options) if PURE else _call_compiled(user, kind, options)

    def process(arena, address, captured, original, stamp, n, state):  # type: ignore[no-untyped-def]
        for i in range(min(n, AHEAD)):
            fetch(arena, address[i])
        for i in range(n):
            if i + AHEAD < n:
                fetch(arena, address[i + AHEAD])
            if captured[i] == 0 and state[EDIT + ALLOWED]:
                continue  # an earlier handler dropped it
            packet = at(arena, address[i], np.int64(captured[i]), np.int64(original[i]), stamp[i], state[LINK])
            error = call(editable(packet, state, EDIT), state)
            if state[EDIT + DROPPED] | state[EDIT + TAG]:
                carry_out(arena, address, captured, i, state, EDIT)
            if error:
                state[FAILURES] += 1
                if state[FAILURES] == 1:
                    state[RAISED] = error
                else:
                    forget(error)
                if not state[KEEP_GOING]:
                    return i + 1
        return 0

    return process if PURE else numba.njit(nogil=True)(process)


def _described(kind: np.dtype[Any]) -> list[tuple[str, str, int]]:
    return [(name, str(field[0]), field[1]) for name, field in (kind.fields or {}).items()]


def compile_process(process: Any, user: Any, kind: np.dtype[Any], options: list[Any], tell: Callable[[], None]) -> None:
    """Compile, or load what was compiled before; ``tell`` is called before anything takes time.

    Raises what Numba
    raises where the user's function does not compile, ReturnedError where it returns something.
    """
    if PURE or process.signatures:
        return
    digest = user_cache.digest_of(user, _described(kind), [type(value).__name__ for value in options])
    store = user_cache.Store(digest) if digest else None
    if store:
        process._cache = store
    if not (store and store.path.exists()):
        tell()
        arguments = signature(kind, options)
        user.compile(arguments)
        returned = user.overloads[arguments].signature.return_type
        if returned != types.none:
            raise ReturnedError(str(returned))
    process.compile(PROCESS_SIGNATURE)
    process.disable_compile()


def _call_python(user: Any, kind: np.dtype[Any], options: list[Any]) -> Callable[[Any, Any], int]:
    def call(packet, state):  # type: ignore[no-untyped-def]
        given = [type(value)(_option(word, value)) for word, value in zip(state[OPTIONS:], options, strict=False)]
        try:
            user(packet, Record(int(state[RECORD]), kind), *given)
        except Exception as error:
            return keep(error)
        return 0

    return call


def _option(word: Any, like: Any) -> Any:
    return np.int64(word).view(np.float64) if isinstance(like, float) else word


def _call_compiled(user: Any, kind: np.dtype[Any], options: list[Any]) -> Any:
    arguments = signature(kind, options)

    @intrinsic
    def call(typing, packet, state):  # type: ignore[no-untyped-def]
        user.compile(arguments)
        result = user.overloads[arguments]

        def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
            context.add_linking_libs([result.library])
            words = context.make_array(signature.args[1])(context, builder, values[1]).data

            def word(number: int) -> Any:
                return builder.load(builder.gep(words, [ir.Constant(ir.IntType(64), number)]))

            record = builder.inttoptr(word(RECORD), context.get_value_type(arguments[1]))
            given = [values[0], record]
            for number, one in enumerate(arguments[2:]):
                raw = word(OPTIONS + number)
                given.append(
                    builder.bitcast(raw, ir.DoubleType()) if one == types.float64
                    else context.cast(builder, raw, types.int64, one)
                )  # fmt: skip
            status, _ = context.call_internal_no_propagate(builder, result.fndesc, result.signature, given)
            pointer = builder.ptrtoint(status.excinfoptr, ir.IntType(64))
            return builder.select(status.is_error, pointer, ir.Constant(ir.IntType(64), 0))

        return types.int64(packet, state), generate

    return call


if PURE:

    def fetch(arena, address):  # type: ignore[no-untyped-def]
        """Nothing to ask for."""

else:

    @intrinsic
    def fetch(typing, arena, address):  # type: ignore[no-untyped-def]
        """Ask for the cache lines that a packet's headers lie in."""

        def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
            data = context.make_array(signature.args[0])(context, builder, values[0]).data
            half, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [pointer, half, half, half])
            prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            for offset in FETCHED:
                place = builder.gep(data, [builder.add(values[1], ir.Constant(ir.IntType(64), offset))])
                builder.call(prefetch, [place, *(ir.Constant(half, word) for word in (0, 3, 1))])
            return context.get_dummy_value()

        return types.void(arena, types.int64), generate
