"""Sums and products of 64 bits that may overflow, for hashes.

Signed numbers must not: Numba tells LLVM that they never do, and it takes a mask away, or a comparison, that only
matters if they did.
"""

from __future__ import annotations

from wirecap.kernels.base.jit import PURE, inline
from wirecap.kernels.base.kinds import i64, u64

if PURE:
    _ALL = (1 << 64) - 1

    def plus(a, b):
        """a + b as the lower 64 bits of it, read as an int64."""
        total = (int(a) + int(b)) & _ALL
        return i64(total - (total >> 63 << 64))

    def times(a, b):
        """a * b as the lower 64 bits of it, read as an int64."""
        product = (int(a) * int(b)) & _ALL
        return i64(product - (product >> 63 << 64))

else:

    @inline
    def plus(a, b):
        """a + b as the lower 64 bits of it, read as an int64."""
        return i64(u64(a) + u64(b))

    @inline
    def times(a, b):
        """a * b as the lower 64 bits of it, read as an int64."""
        return i64(u64(a) * u64(b))
