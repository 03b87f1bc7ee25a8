"""The four verbs on a receive queue's two kernel rings: reserve, submit (fill), peek, release (RX).

All rings of an engine are mapped side by side into one region, which is viewed as int64 and as uint32 words; a
queue's words in Pool.queues say where its rings are.  Producer and consumer are the kernel's free-running uint32
counters (Linux: Documentation/networking/af_xdp.rst); ours are int64 and are wrapped when stored.

A producer is stored with release and loaded with acquire: it carries the descriptors before it, and a consumer that
they have been read.  An exchanged descriptor needs more: the fence in ``freshen``.
"""

from __future__ import annotations

from wirecap.kernels.base.atomics import fence, load, store
from wirecap.kernels.base.jit import inline
from wirecap.kernels.base.kinds import u32
from wirecap.kernels.base.libc import kick
from wirecap.kernels.pool.pool import FREE_CELLS, QUEUE_WORDS, RING_WORDS, TAKEN

# words of a home queue in Pool.queues: indices of uint32 words, except *_DESCRIPTORS: of int64 words
(
    FILL_PRODUCER, FILL_CONSUMER, FILL_FLAGS, FILL_DESCRIPTORS, FILL_MASK,
    RX_PRODUCER, RX_CONSUMER, RX_DESCRIPTORS, RX_MASK,
    SOCKET,  # file descriptor, or -1 for the memory NIC
    SUBMITTED,  # cells put on the fill ring so far; SUBMITTED - TAKEN = attached
    TARGET,  # how many to keep attached
    CELL_MASK,  # address & mask = where its cell begins
    IN_ORDER,  # 1 if the kernel uses attached cells in the order of the fill ring (copy mode)
    FRESH,  # the fill ring's entries before this one have been exchanged or are out of reach
    DISPUTED, DISPUTED_END,  # entries where we do not know yet whether the kernel saw the exchange
    SHORT,  # 1 while the pool has fewer free cells than the target asks for
    LOST_SEEN, LOST_EXHAUSTED, LOST_LATE,  # packets that found no attached cell: noticed so far, and by cause
    LEDGER,  # index of the queue's words in Rings.ledger
    NO_TIMESTAMPS,  # 1 if the ledger has no timestamps: the capture thread takes the time
    MEMORY_STATISTICS,  # index of the memory NIC's counters among the int64 words
    REACH,  # entries of the fill ring ahead of the last known packet that are left alone
    UNPUBLISHED,  # cells that the kernel may have filled but not published: those of a few NAPI polls of 64 packets
    STALLED,  # 1 while the next packet waits for large-packet memory
) = range(RING_WORDS, RING_WORDS + 27)  # fmt: skip

NEED_WAKEUP = 1  # XDP_RING_NEED_WAKEUP
ADMITTED, LOST, OFFERED, TIMESTAMPS = 0, 1, 8, 16  # words of a queue in the ledger, as in linux/xdp_program.py
CONTINUED = 1 << 32  # XDP_PKT_CONTD, in a descriptor's second word: the packet goes on in the next one
REACH_CELLS, UNPUBLISHED_CELLS = 1024, 256
"""REACH and UNPUBLISHED where packets take one cell, or two now and then."""
REACH_LARGE, UNPUBLISHED_LARGE = 8192, 4096
"""Where a poll's 64 packets may all be of 64 KiB, which is 37 cells."""


@inline
def peek(pool, rings, q):
    """How many packets are in the RX ring."""
    return (load(rings.halves, pool.queues[q + RX_PRODUCER]) - pool.queues[q + TAKEN]) & 0xFFFFFFFF


@inline
def release(pool, rings, q):
    """Tell the kernel that all packets up to TAKEN have been read."""
    store(rings.halves, pool.queues[q + RX_CONSUMER], wrap(pool.queues[q + TAKEN]))


@inline
def submit(pool, rings, queue):
    """Attach free cells up to the target; the most recently freed go where the kernel will use them soonest."""
    q = queue * QUEUE_WORDS
    queues = pool.queues
    attached = queues[q + SUBMITTED] - queues[q + TAKEN]
    top = queues[q + FREE_CELLS]
    wanted = queues[q + TARGET] - attached
    queues[q + SHORT] = 1 if wanted > top else 0
    # The kernel publishes its consumer index late: never overwrite entries that it may still read.
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
    """Exchange cells on top of the free stack, still in cache, for attached ones that have not been used for long.

    The fill ring is first in, first out: with many cells attached, every packet would get a cell that has dropped
    out of cache and TLB.  So the entries REACH ahead of the kernel get the hot cells, and the cold ones end up on
    top of the stack, to be attached after all others.  They are a reserve that moves along with the kernel, and is
    used only while the capture thread is late.

    The n-th packet takes the n-th entry.  An exchange is certain if the kernel was still not near the entry
    afterwards; otherwise the whole batch is disputed: the old cells wait at the far end of the stack's memory until
    ``settle`` sees which cells came back with packets.  Returns how many cells are disputed.
    """
    q = queue * QUEUE_WORDS
    queues, cells = pool.queues, pool.free_cells
    base, mask, top = queues[q + FILL_DESCRIPTORS], queues[q + FILL_MASK], queues[q + FREE_CELLS]
    first = max(queues[q + TAKEN] + peek(pool, rings, q) + queues[q + REACH], queues[q + FRESH])
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
    if queues[q + TAKEN] + peek(pool, rings, q) + queues[q + UNPUBLISHED] <= first:
        return 0
    for i in range(count):
        cells[queue, cells.shape[1] - count + i] = cells[queue, top - 1 - i]
    queues[q + FREE_CELLS] = top - count
    queues[q + DISPUTED], queues[q + DISPUTED_END] = first, first + count
    return count


@inline
def settle(pool, rings, queue, published):
    """Free the cells of disputed entries that the kernel did not use; ``published``: packets received so far."""
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
    """Count, by cause, the packets since the last call that found no cell on offer.

    exhausted: the pool had no cell left to attach at the last check; otherwise the capture thread was late.
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
    return u32(counter & 0xFFFFFFFF)
