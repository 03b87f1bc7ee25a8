"""Sums and products for hashes: the same number whatever the compiler knows of what goes in."""

from __future__ import annotations

import numpy as np

from wirecap.kernels.base.jit import inline
from wirecap.kernels.base.wrapping import plus, times
from wirecap.kernels.transmit.split import mix

ALL, LOW63 = (1 << 64) - 1, (1 << 63) - 1


def signed(word: int) -> int:
    word &= ALL
    return word - (word >> 63 << 64)


def mixed(word: int) -> int:
    word &= ALL
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        word = (word ^ word >> 33) * factor & ALL
    return (word ^ word >> 33) & LOW63


@inline
def mix_of_port(x):
    """Of a number that the compiler knows to be small, so that the sign of a product would be known, too."""
    return mix((x & 0xFFFF) + 1)


@inline
def is_below(x):
    return mix((x & 0xFFFFFFFF) + 1) >= 0


def test_what_overflows():
    dice = np.random.default_rng(1)
    for a, b in dice.integers(-(1 << 63), 1 << 63, (300, 2), dtype=np.int64):
        assert int(plus(a, b)) == signed(int(a) + int(b))
        assert int(times(a, b)) == signed(int(a) * int(b))
        assert int(mix(a)) == mixed(int(a))
        assert int(mix_of_port(a)) == mixed((int(a) & 0xFFFF) + 1)
        assert is_below(a)
