"""Queues of chunk ids between threads: several producers, one consumer, never full.

All queues of an engine lie in one int64 array.  A queue is ``base``, the index of its header, and a power
of two of places behind it, at least as many as there are slots: a chunk has one owner at a time, so that
a push always finds room.

    base + TAIL      next ticket, taken by producers          (own cache line)
    base + HEAD      next place to read, the consumer's       (own cache line)
    base + WAITING   1 while the consumer sleeps, a futex     (own cache line)
    base + PLACES    the places: 0 = empty, else slot + 1
"""

from __future__ import annotations

import numpy as np
from numba import types

from wirecap.kernels.atomics import compare_swap, fence, fetch_add, load, store
from wirecap.kernels.jit import i64, inline, kernel, words
from wirecap.kernels.libc import futex_wait, futex_wake

TAIL, HEAD, WAITING, PLACES = 0, 8, 16, 24
EMPTY = -1


def allocate(queues: int, slots: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(lanes, bases, mask): the array, the base of each of the queues, and places - 1."""
    places = 1 << max(3, (slots - 1).bit_length())
    stride = PLACES + places
    return np.zeros(queues * stride, np.int64), np.arange(queues, dtype=np.int64) * stride, places - 1


@inline
def push(lanes, base, mask, slot):
    """Append; wakes the consumer when it sleeps."""
    ticket = fetch_add(lanes, base + TAIL, 1)
    store(lanes, base + PLACES + (ticket & mask), slot + 1)
    fence()  # the place before the look at WAITING; wait() has the mirror image
    if load(lanes, base + WAITING) == 1 and compare_swap(lanes, base + WAITING, 1, 0):
        futex_wake(lanes, base + WAITING)


@inline
def pop(lanes, base, mask):
    """The oldest slot, or EMPTY.  Only the one consumer may call it."""
    head = lanes[base + HEAD]
    place = base + PLACES + (head & mask)
    slot = load(lanes, place) - 1
    if slot >= 0:
        store(lanes, place, 0)
        store(lanes, base + HEAD, head + 1)
    return slot


@inline
def depth(lanes, base):
    """How many slots are queued, seen from any thread."""
    head = load(lanes, base + HEAD)
    return load(lanes, base + TAIL) - head


@inline
def wait(lanes, base, timeout_ns, scratch):
    """Sleep until something is pushed, at most timeout_ns; may return early.  For the consumer."""
    store(lanes, base + WAITING, 1)
    fence()
    if depth(lanes, base) == 0:
        futex_wait(lanes, base + WAITING, 1, timeout_ns, scratch)
    store(lanes, base + WAITING, 0)


@inline
def wake(lanes, base):
    """Wake the consumer without giving it anything, so that it looks at the stop word."""
    store(lanes, base + WAITING, 0)
    futex_wake(lanes, base + WAITING)


@kernel(types.void(words, i64))
def wake_consumer(lanes, base):
    """``wake`` for callers in Python."""
    wake(lanes, base)
