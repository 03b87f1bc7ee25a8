"""How Python calls compiled code: arguments as a block of words, through ctypes, without the GIL.

A number is a word of the block.  An array is the address of its object, a named tuple the words of its fields: the
code looks into NumPy's objects by itself, which takes nanoseconds, and refuses one that it was not compiled for.
"""

from __future__ import annotations

import ctypes
import inspect
import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from wirecap.kernels.base.kinds import Array, Kind, Record, Scalar, Signature, boolean, none

_LAYOUT = {"int64": "q", "uint64": "Q", "uint32": "Q", "float64": "d"}
ENTRY = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p, ctypes.c_void_p)
"""call(words, problem) -> result.  words[0]: the address of NumPy's array class.

If the result is FAILED, the word ``problem`` says why unless it is still 0: it is the number (from 1) of an array that
does not fit, or the address of the description of an exception.  All calls of a kernel share the word, so that a call
that goes well does not pay for one: if two fail at once, only what they say may be mixed up.
"""
FAILED = -0x7A11ED0FACA11000
"""A result that calls rarely have."""


ELEMENT_MASK = 0xFFFFFFFF_00FF00FF
"""Of the word after a dtype's class: kind (a character), byte order, number; without its other character and flags."""


def element_word(element: np.dtype[Any]) -> int:
    """The word of a dtype's object by which it is known (PyArray_Descr of NumPy's ndarraytypes.h)."""
    return ctypes.c_uint64.from_address(id(element) + object.__basicsize__ + 8).value & ELEMENT_MASK


class Raised(ctypes.Structure):
    """Numba's description of an exception (excinfo_t in numba/core/callconv.py)."""

    _fields_ = (
        ("text", ctypes.c_void_p), ("size", ctypes.c_int32), ("arguments", ctypes.c_void_p),
        ("unwrap", ctypes.c_void_p), ("dynamic", ctypes.c_int32),
    )  # fmt: skip


def raised_at(address: int) -> tuple[Any, Any, Any]:
    """(class, arguments, place) of the exception that is described there."""
    info = Raised.from_address(address)
    kind, arguments, place = pickle.loads(ctypes.string_at(info.text, info.size))
    return kind, arguments, place


def leaves(kind: Kind) -> list[Scalar | Array]:
    """What the words of a value are."""
    return [leaf for field in kind.fields for leaf in leaves(field)] if isinstance(kind, Record) else [kind]


def _words(kind: Kind, value: str) -> list[str]:
    """Python expressions for the words of a value, itself an expression."""
    if isinstance(kind, Array):
        return [f"_id({value})"]
    if isinstance(kind, Scalar):
        return [value]
    if all(isinstance(field, Array) for field in kind.fields):
        return [f"*_map(_id, {value})"]
    return [word for i, field in enumerate(kind.fields) for word in _words(field, f"{value}[{i}]")]


def caller(function: Callable[..., Any], signature: Signature, address: int) -> Callable[..., Any]:
    """What calls the code at ``address``, of type ENTRY; its parameters are the function's.

    Raises TypeError for arguments that do not fit the signature.
    """
    call: Callable[..., Any] = binder(function, signature, address, 0)()
    return call


def binder(function: Callable[..., Any], signature: Signature, address: int, arrays: int) -> Callable[..., Any]:
    """A function that gets the first ``arrays`` arguments, all of them arrays, and returns what takes the others.

    That is for arrays which are the same in many calls: they are packed only once, and kept.
    """
    names = list(inspect.signature(function).parameters)
    kinds = [leaf for kind in signature.arguments for leaf in leaves(kind)]
    layout = "".join("P" if isinstance(kind, Array) else _LAYOUT[kind.name] for kind in kinds[arrays:])
    rest = list(zip(signature.arguments, names, strict=True))[arrays:]
    given = [word for kind, name in rest for word in _words(kind, name)]
    result = {boolean: "bool(_value)", none: "None"}.get(signature.result, "_value")
    problem = ctypes.c_size_t()
    known: dict[str, Any] = {
        "_pack": struct.Struct(layout).pack, "_pack_arrays": struct.Struct("P" * (1 + arrays)).pack,
        "_array": id(np.ndarray), "_id": id, "_map": map, "_entry": ENTRY(address), "_FAILED": FAILED,
        "_problem": problem, "_place": ctypes.addressof(problem), "_Misfit": struct.error,
        "_misfit": lambda error: TypeError(f"{function.__qualname__}: {error}"),
        "_explain": lambda what: _problem(function, kinds, what), "_name": function.__qualname__,
    }  # fmt: skip
    exec(_CALL.format(parameters=", ".join(names[arrays:]), words=", ".join(given), result=result), known)
    made: Callable[..., Any] = known["_bind"]
    return made


_CALL = """
def _bind(*_arrays):
    _begin = _pack_arrays(_array, *_map(_id, _arrays))
    def call({parameters}):
        try:
            _value = _entry(_begin + _pack({words}), _place)
        except _Misfit as _error:
            raise _misfit(_error) from None
        if _value == _FAILED and _problem:
            _what, _problem.value = _problem.value, 0
            raise _explain(_what)
        return {result}
    call.__qualname__, call.arrays = _name, _arrays
    return call
"""
"""One function for all of a call, made as namedtuple makes its own: three of them would take a third of a us more."""


def _problem(function: Callable[..., Any], kinds: list[Scalar | Array], problem: int) -> BaseException:
    """The exception for what a call's ``problem`` says."""
    arrays = [kind for kind in kinds if isinstance(kind, Array)]
    if problem <= len(arrays):
        wanted = arrays[problem - 1]
        return TypeError(
            f"{function.__qualname__}: array {problem} of its arguments is not a C-contiguous, writable array of "
            f"{wanted.element} in {wanted.dimensions} dimensions"
        )
    kind, arguments, _ = raised_at(problem)
    raised: BaseException = kind(*(arguments or ()))
    return raised
