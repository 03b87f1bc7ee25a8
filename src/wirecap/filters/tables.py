"""Sets as hash tables, which native code looks into.

A table is an array of pairs (what is looked for, its number in the set), a power of two of them and at most half of
them in use; a key stands at its hash (Knuth's, by multiplication) or in the next free pair.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wirecap.filters.sets import Set

EMPTY = (1 << 64) - 1
"""No key: numbers are smaller than 2 ** 32 - 1."""
MULTIPLIER = 0x9E3779B97F4A7C15


def bits_of(keys: Set) -> int:
    """A table for these keys has 2 ** bits pairs."""
    return max(1, (2 * len(keys) - 1).bit_length())


def table_of(keys: Set) -> npt.NDArray[np.uint64]:
    """The table of a set, shape (pairs, 2)."""
    bits = bits_of(keys)
    table = np.full((1 << bits, 2), EMPTY, np.uint64)
    hashes = keys * np.uint64(MULTIPLIER) >> np.uint64(64 - bits)
    taken: set[int] = set()
    for number, (key, place) in enumerate(zip(keys.tolist(), hashes.tolist(), strict=True)):
        while place in taken:
            place = (place + 1) % (1 << bits)
        taken.add(place)
        table[place] = key, number
    return table
