"""The types in a kernel's signature: what they are called, without Numba, which is imported only to compile.

``i64(byte_array, words)`` is the signature of a kernel that takes two arrays and returns an int64;
``i64(value)`` in a kernel is a conversion.  Everything that is added to an index is int64, because Numba turns
a mix of int64 and uint64 into a float.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Signature(NamedTuple):
    """What a kernel returns and takes."""

    result: Scalar
    arguments: tuple[Kind, ...]


class Scalar:
    """A number, or nothing."""

    def __init__(self, name: str) -> None:
        self.name = name
        """Its name in NumPy and in Numba; "none" for nothing."""

    def __call__(self, *arguments: Any) -> Any:
        """A signature for types; the number converted for a number."""
        if len(arguments) == 1 and not isinstance(arguments[0], Kind):
            return getattr(np, self.name)(arguments[0])
        return Signature(self, arguments)

    def __repr__(self) -> str:
        return self.name


class Array(NamedTuple):
    """A C-contiguous, writable NumPy array."""

    element: Scalar
    dimensions: int


class Record(NamedTuple):
    """A named tuple: the class, and what its fields hold."""

    make: Any
    fields: tuple[Kind, ...]


Kind = Scalar | Array | Record

none = Scalar("none")
boolean = Scalar("bool_")
u8, u32, u64 = Scalar("uint8"), Scalar("uint32"), Scalar("uint64")
i32, i64, f64 = Scalar("int32"), Scalar("int64"), Scalar("float64")

byte_array, byte_table = Array(u8, 1), Array(u8, 2)
words, table, tables = Array(i64, 1), Array(i64, 2), Array(i64, 3)
lengths, lengths_table = Array(u32, 1), Array(u32, 2)
fractions = Array(f64, 1)


def record(make: Any, *fields: Kind) -> Record:
    """The type of a named tuple of this class."""
    assert len(fields) == len(make._fields), f"{make.__name__} has {len(make._fields)} fields"
    return Record(make, fields)
