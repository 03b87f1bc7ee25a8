"""A sender's AF_XDP queues: each packet is copied into a free cell of its queue and sent from there.

A cell's way: free stack -> TX ring -> kernel -> completion ring -> free stack.  There are as many cells as the ring has
entries, so that a queue that has room has a free cell.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from wirecap.kernels.base.jit import inline, inline_always
from wirecap.kernels.base.kinds import byte_array, i64, record, table, tables, u8, words
from wirecap.kernels.pool.pool import RINGS
from wirecap.kernels.transmit.frames import ADDRESS_BYTES, copy_frame
from wirecap.kernels.transmit.ring import (
    TX_WORDS,
    USER_WORDS,
    complete,
    completed,
    count_completed,
    describe,
    in_transmission,
    release,
    reserve,
    submit,
    wake,
)

# words of a queue's ring that are the sender's
(
    UMEM,  # where the queue's own UMEM begins; addresses in the rings count from there
    FREE,  # cells on the free stack
    PENDING,  # frames that were put, and that the kernel has not been shown
    NUMBER, NUMBER_AT,  # the next frame's number, and where it is written into the frame; -1: nowhere
) = range(USER_WORDS, USER_WORDS + 5)  # fmt: skip
NUMBER_BYTES = 8


class XdpQueues(NamedTuple):
    """Q queues; ``tx`` of kernels/transmit/ring.py, with one home."""

    rings: Any  # Rings, without a ledger
    words: Any  # int64 (Q * TX_WORDS,)
    counts: Any  # int64 (Q, 1, COUNT_WORDS)
    free: Any  # int64 (Q, cells): stacks of free cells, as addresses in their queue's UMEM
    umem: Any  # uint8: the cells of all queues


XDP_QUEUES = record(XdpQueues, RINGS, words, tables, table, byte_array)


@inline
def count(queues):
    """How many queues there are."""
    return queues.free.shape[0]


@inline_always
def pending(queues, q):
    """Frames that were put and not flushed."""
    return queues.words[q * TX_WORDS + PENDING]


@inline
def unfinished(queues, q):
    """Frames that were put and are not completed."""
    return pending(queues, q) + in_transmission(queues, q)


@inline_always
def is_full(queues, q):
    """True while every cell of a queue is in use."""
    placed = pending(queues, q)
    return reserve(queues, q, placed + 1) == placed


@inline_always
def put(queues, q, frames, i, which, addresses):
    """Copy packet i of ``frames`` into a free cell and describe it in the TX ring."""
    b, own = q * TX_WORDS, queues.words
    own[b + FREE] -= 1
    cell = queues.free[q, own[b + FREE]]
    place, length = own[b + UMEM] + cell, i64(frames.length[i])
    copy_frame(queues.umem, place, frames.arena, frames.address[i], length, which, addresses, q * ADDRESS_BYTES)
    if own[b + NUMBER_AT] >= 0:
        for k in range(NUMBER_BYTES):
            part = own[b + NUMBER] >> (8 * (NUMBER_BYTES - 1 - k)) & 0xFF
            queues.umem[place + own[b + NUMBER_AT] + k] = u8(part)
        own[b + NUMBER] += 1
    describe(queues.rings, queues, q, own[b + PENDING], cell, length)
    own[b + PENDING] += 1


@inline
def take_back(queues, q, refused):
    """Put completed cells back onto the free stack; ``refused``: of how many of them the frame was not sent."""
    found, top = complete(queues.rings, queues, q), queues.words[q * TX_WORDS + FREE]
    for i in range(found):
        queues.free[q, top + i] = queues.rings.words[completed(queues.rings, queues, q, i)]
    queues.words[q * TX_WORDS + FREE] = top + found
    count_completed(queues, q, 0, found, refused)
    release(queues.rings, queues, q, found)


@inline
def flush(queues, q):
    """Show the kernel what is pending, let it send that, and take completed cells back."""
    submit(queues.rings, queues, q, 0, pending(queues, q), pending(queues, q))
    queues.words[q * TX_WORDS + PENDING] = 0
    while wake(queues.rings, queues, q):
        take_back(queues, q, 1)
    take_back(queues, q, 0)
