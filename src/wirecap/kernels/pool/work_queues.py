"""Work queues, which pass chunk slots between threads: several producers, one consumer, never full.

All queues of an engine share one int64 array.  A queue is ``base``, the index of its header, followed by a
power of two of places, at least as many as there are slots: a chunk has one owner at a time, so a push
always finds room.

    base + TAIL      next ticket, for producers               (own cache line)
    base + HEAD      next place to read, for the consumer     (own cache line)
    base + WAITING   while the consumer sleeps, a futex: how it sleeps     (own cache line)
    base + PLACES    the places: 0 = empty, else slot + 1

Which ordering each word needs (bench/interleaving.py shows what goes wrong without it):

    TAIL      read-modify-write, as producers share it
    PLACES    release store by push, acquire load by pop: they carry all that was written about the chunk; emptying one
              needs none, as it is used again only once its slot came home
    HEAD      none: written by the consumer; others only estimate depths with it
    WAITING   a fence between storing it and looking at TAIL in wait, and one between adding to TAIL and looking at
              it in push
"""

from __future__ import annotations

import numpy as np

from wirecap.kernels.base.atomics import compare_swap, fence, fetch_add, load, store
from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import i64, none, words
from wirecap.kernels.base.libc import futex_wait, futex_wake

TAIL, HEAD, WAITING, PLACES = 0, 8, 16, 24
EMPTY = -1
EMPTY_HANDED, HOLDING = 1, 2  # a sleeping consumer has nothing to do, or holds chunks until their time has come


def allocate_work_queues(queues: int, slots: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(work_queues, bases, mask): the array, the base of each queue, and the number of places minus 1."""
    places = 1 << max(3, (slots - 1).bit_length())
    stride = PLACES + places
    return np.zeros(queues * stride, np.int64), np.arange(queues, dtype=np.int64) * stride, places - 1


@inline
def push(work_queues, base, mask, slot):
    """Append a slot, and wake the consumer if it is asleep."""
    ticket = fetch_add(work_queues, base + TAIL, 1)
    store(work_queues, base + PLACES + (ticket & mask), slot + 1)
    fence()  # store the place before reading WAITING; wait() does the reverse
    asleep = load(work_queues, base + WAITING)
    if asleep and compare_swap(work_queues, base + WAITING, asleep, 0):
        futex_wake(work_queues, base + WAITING)


@inline
def pop(work_queues, base, mask):
    """Take the oldest slot, or EMPTY.  Only the consumer may call it."""
    head = work_queues[base + HEAD]
    place = base + PLACES + (head & mask)
    slot = load(work_queues, place) - 1
    if slot >= 0:
        store(work_queues, place, 0)
        store(work_queues, base + HEAD, head + 1)
    return slot


@inline
def depth(work_queues, base):
    """How many slots are queued; any thread may ask."""
    head = load(work_queues, base + HEAD)
    return load(work_queues, base + TAIL) - head


@inline
def wait(work_queues, base, how, timeout_ns, scratch):
    """Sleep until something is pushed, for at most timeout_ns; may return early.  For the consumer.

    how: EMPTY_HANDED or HOLDING.
    """
    store(work_queues, base + WAITING, how)
    fence()
    if depth(work_queues, base) == 0:
        futex_wait(work_queues, base + WAITING, how, timeout_ns, scratch)
    store(work_queues, base + WAITING, 0)


@inline
def is_idle(work_queues, base):
    """Whether the consumer sleeps because it has nothing to do; any thread may ask."""
    return load(work_queues, base + WAITING) == EMPTY_HANDED


@inline
def wake(work_queues, base):
    """Wake the consumer without giving it anything, so that it checks the stop word."""
    store(work_queues, base + WAITING, 0)
    futex_wake(work_queues, base + WAITING)


@kernel(none(words, i64))
def wake_consumer(work_queues, base):
    """``wake`` for callers in Python."""
    wake(work_queues, base)
