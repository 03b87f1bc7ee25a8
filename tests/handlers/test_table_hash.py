"""The hash of tables' keys: the same number whatever the compiler knows of a key."""

from __future__ import annotations

import numpy as np

from wirecap.kernels.base.jit import inline
from wirecap.kernels.handlers import tables

ALL, LOW63 = (1 << 64) - 1, (1 << 63) - 1


def expected(seed: int, key: tuple[int, ...]) -> int:
    mixed = seed & ALL
    for word in key:
        mixed = (mixed ^ (word & ALL)) * 0x1E3779B97F4A7C15 & ALL
        mixed ^= mixed >> 32
    mixed = mixed * 0x1E3779B97F4A7C15 & ALL
    return (mixed ^ mixed >> 31) & LOW63


@inline
def of_numbers(seed, key):
    return tables._mix(seed, (key[0], key[1], key[2]))


@inline
def of_ports(seed, key):
    """Known to the compiler to be small, and so is the seed."""
    return tables._mix(seed & 0xFFFF, (key[0] & 0xFFFF, key[1] & 0xFFFF, key[2] & 0xFFFF))


def test_products_that_overflow():
    """Keys of any sign, and keys of which is known that they have none, have the hash that the formula gives."""
    random = np.random.default_rng(1)
    for _ in range(500):
        seed = int(random.integers(-(1 << 63), 1 << 63, dtype=np.int64))
        key = random.integers(-(1 << 63), 1 << 63, 3, dtype=np.int64)
        words = tuple(key.tolist())
        assert of_numbers(np.int64(seed), key) == expected(seed, words)
        small = tuple(word & 0xFFFF for word in words)
        assert of_ports(np.int64(seed), key) == expected(seed & 0xFFFF, small)
