"""The four verbs on a receive queue's two kernel rings: reserve, submit (fill), peek, release (RX).

All rings of an engine are mapped side by side into one region, seen as int64 and as uint32 words; a
queue's words in Pool.queues say where its rings are.  Producer and consumer are the kernel's free-running
uint32 counters (Linux: Documentation/networking/af_xdp.rst); ours are int64 and wrapped when stored.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from wirecap.kernels.atomics import fence, load, store
from wirecap.kernels.jit import inline, lengths, words
from wirecap.kernels.libc import kick
from wirecap.kernels.pool import FREE_CELLS, QUEUE_WORDS, RING_WORDS, TAKEN

# words of a home queue in Pool.queues: indices of uint32 words, except *_DESCRIPTORS: of int64 words
(
    FILL_PRODUCER, FILL_CONSUMER, FILL_FLAGS, FILL_DESCRIPTORS, FILL_MASK,
    RX_PRODUCER, RX_CONSUMER, RX_DESCRIPTORS, RX_MASK,
    SOCKET,  # file descriptor, or -1 for the memory NIC
    SUBMITTED,  # cells ever put on the fill ring; SUBMITTED - TAKEN = attached
    TARGET,  # how many to keep attached
    CELL_MASK,  # address & mask = where its cell begins
    IN_ORDER,  # 1 where the kernel uses attached cells in the order of the fill ring (copy mode)
    FRESH,  # the fill ring's entries before this one were exchanged, or are out of reach
    DISPUTED, DISPUTED_END,  # entries of which it is open whether the kernel saw the exchange
    SHORT,  # 1 while the pool had fewer free cells than the target wanted
    LOST_SEEN, LOST_EXHAUSTED, LOST_LATE,  # packets that found no attached cell: seen so far, and why
    LEDGER,  # index of the queue's words in Rings.ledger
    UNSTAMPED,  # 1 where the ledger has no stamps: the capture thread gives the time
    MEMORY_STATISTICS,  # index of the memory NIC's counters among the int64 words
) = range(RING_WORDS, RING_WORDS + 24)  # fmt: skip

NEED_WAKEUP = 1  # XDP_RING_NEED_WAKEUP
HEADROOM_BYTES = 256  # XDP_PACKET_HEADROOM
ADMITTED, LOST, OFFERED, STAMPS = 0, 1, 8, 16  # words of a queue in the ledger, as linux/xdp_program.py has them
REACH = 1024  # entries of the fill ring ahead of the last known packet that are left as they are
UNPUBLISHED = 256  # packets that the kernel may have received before it tells: a few NAPI polls of 64


class Rings(NamedTuple):
    """The mapped rings and the ledger, as words."""

    words: Any  # int64: descriptors
    halves: Any  # uint32: the same memory; producers, consumers, flags
    ledger: Any  # int64: what the XDP program and the capture thread tell each other; a stamp for each RX entry


RINGS = types.NamedTuple((words, lengths, words), Rings)


@inline
def peek(pool, rings, q):
    """How many packets lie in the RX ring."""
    return (load(rings.halves, pool.queues[q + RX_PRODUCER]) - pool.queues[q + TAKEN]) & 0xFFFFFFFF


@inline
def release(pool, rings, q):
    """Tell the kernel that all packets up to TAKEN were read."""
    store(rings.halves, pool.queues[q + RX_CONSUMER], wrap(pool.queues[q + TAKEN]))


@inline
def submit(pool, rings, queue):
    """Attach free cells up to the target; the most recently freed go where the kernel takes them soonest."""
    q = queue * QUEUE_WORDS
    queues = pool.queues
    attached = queues[q + SUBMITTED] - queues[q + TAKEN]
    top = queues[q + FREE_CELLS]
    wanted = queues[q + TARGET] - attached
    queues[q + SHORT] = 1 if wanted > top else 0
    # The kernel publishes its consumer late: never run over entries that it may still read.
    unread = (queues[q + SUBMITTED] - load(rings.halves, queues[q + FILL_CONSUMER])) & 0xFFFFFFFF
    count = min(wanted, top, queues[q + FILL_MASK] + 1 - unread)
    if count <= 0:
        return 0
    if queues[q + IN_ORDER] and queues[q + DISPUTED] == queues[q + DISPUTED_END]:
        count -= freshen(pool, rings, queue, count)
        top = queues[q + FREE_CELLS]
    base, mask, place = queues[q + FILL_DESCRIPTORS], queues[q + FILL_MASK], queues[q + SUBMITTED]
    for i in range(count):
        rings.words[base + ((place + i) & mask)] = pool.free_cells[queue, top - 1 - i]
    queues[q + FREE_CELLS] = top - count
    queues[q + SUBMITTED] = place + count
    store(rings.halves, queues[q + FILL_PRODUCER], wrap(place + count))
    if queues[q + IN_ORDER]:
        store(rings.ledger, queues[q + LEDGER] + OFFERED, place + count)
    if queues[q + SOCKET] >= 0 and load(rings.halves, queues[q + FILL_FLAGS]) & NEED_WAKEUP:
        kick(queues[q + SOCKET])
    return count


@inline
def freshen(pool, rings, queue, count):
    """Exchange cells on top of the free stack, still in cache, for attached ones that have long not been used.

    The fill ring is first in, first out: with many cells attached every packet would meet a cell that fell out
    of cache and TLB.  So the entries REACH ahead of the kernel get the hot cells, and the cold ones end on top
    of the stack, to be attached behind all others.  They are a reserve that moves on and is only used while the
    capture thread is late.

    The n-th packet takes the n-th entry.  An entry is exchanged for certain when the kernel was not near it
    after the exchange; otherwise the whole batch is disputed: the old cells wait at the far end of the stack's
    memory until ``settle`` sees which cells came back with packets.  Returns how many cells are disputed.
    """
    q = queue * QUEUE_WORDS
    queues, cells = pool.queues, pool.free_cells
    base, mask, top = queues[q + FILL_DESCRIPTORS], queues[q + FILL_MASK], queues[q + FREE_CELLS]
    first = max(queues[q + TAKEN] + peek(pool, rings, q) + REACH, queues[q + FRESH])
    count = min(count, queues[q + SUBMITTED] - first)
    if count <= 0:
        return 0
    for i in range(count):
        at = base + ((first + i) & mask)
        cold = rings.words[at]
        store(rings.words, at, cells[queue, top - 1 - i])
        cells[queue, top - 1 - i] = cold
    queues[q + FRESH] = first + count
    fence()
    if queues[q + TAKEN] + peek(pool, rings, q) + UNPUBLISHED <= first:
        return 0
    for i in range(count):
        cells[queue, cells.shape[1] - count + i] = cells[queue, top - 1 - i]
    queues[q + FREE_CELLS] = top - count
    queues[q + DISPUTED], queues[q + DISPUTED_END] = first, first + count
    return count


@inline
def settle(pool, rings, queue, published):
    """Free the cells of disputed entries that the kernel did not take; ``published``: packets received so far."""
    q = queue * QUEUE_WORDS
    queues, cells = pool.queues, pool.free_cells
    while queues[q + DISPUTED] < min(queues[q + DISPUTED_END], published):
        entry = queues[q + DISPUTED]
        hot = rings.words[queues[q + FILL_DESCRIPTORS] + (entry & queues[q + FILL_MASK])]
        cold = cells[queue, cells.shape[1] - queues[q + DISPUTED_END] + entry]
        taken = rings.words[queues[q + RX_DESCRIPTORS] + (entry & queues[q + RX_MASK]) * 2]
        cells[queue, queues[q + FREE_CELLS]] = cold if (taken ^ hot) & queues[q + CELL_MASK] == 0 else hot
        queues[q + FREE_CELLS] += 1
        queues[q + DISPUTED] = entry + 1


@inline
def count_lost(pool, rings, q, exhausted):
    """Packets for which no cell was offered since the last look, booked by cause.

    exhausted: the pool had no cell left to attach when it was last looked at; otherwise the capture thread
    came late.
    """
    queues = pool.queues
    lost = load(rings.ledger, queues[q + LEDGER] + LOST)
    if lost > queues[q + LOST_SEEN]:
        cause = LOST_EXHAUSTED if exhausted else LOST_LATE
        queues[q + cause] += lost - queues[q + LOST_SEEN]
        queues[q + LOST_SEEN] = lost


@inline
def wrap(counter):
    """The kernel's uint32 view of one of our counters."""
    return types.uint32(counter & 0xFFFFFFFF)
