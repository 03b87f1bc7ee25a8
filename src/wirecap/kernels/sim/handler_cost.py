"""What a packet costs its handler: a constant, or a draw from a distribution that depends only on the packet's number.

A draw depends on (seed, queue, packet's number among all that arrive on that queue) and on nothing else, so that
every model gets the same work whatever it loses, and a run can be repeated.
"""

from __future__ import annotations

from wirecap.kernels.base.jit import inline

QUANTILES_LOG2 = 12
QUANTILES = 1 << QUANTILES_LOG2
WORD = 0xFFFFFFFF


@inline
def scatter(value):
    """Mix 32 bits by xor-shifts and multiplications that stay within 63 bits (like Murmur's finalizer)."""
    value &= WORD
    value ^= value >> 16
    value = (value * 0x7FEB352D) & WORD
    value ^= value >> 15
    value = (value * 0x46CA68B5) & WORD
    return value ^ (value >> 16)


@inline
def work(costs, seed, queue, first, count):
    """Picoseconds for packets ``first`` to ``first + count - 1`` of a queue.

    costs: int64; one entry: the cost of every packet; QUANTILES entries: equally likely costs.
    """
    if costs.size == 1:
        return costs[0] * count
    total = 0
    key = scatter((seed & WORD) * 0x2545F491 + queue * 0x1B873593 + 1)
    for i in range(count):
        total += costs[scatter(key + scatter(first + i)) >> (32 - QUANTILES_LOG2)]
    return total
