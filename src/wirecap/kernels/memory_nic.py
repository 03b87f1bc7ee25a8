"""The kernel's side of a receive queue, for the in-process NIC: fill ring in, RX ring out."""

from __future__ import annotations

from numba import types

from wirecap.kernels.atomics import load, store
from wirecap.kernels.jit import i64, kernel, octets, words
from wirecap.kernels.pool import QUEUE_WORDS
from wirecap.kernels.rings import (
    ADMITTED,
    FILL_CONSUMER,
    FILL_DESCRIPTORS,
    FILL_MASK,
    FILL_PRODUCER,
    HEADROOM_BYTES,
    LEDGER,
    LOST,
    MEMORY_STATISTICS,
    RINGS,
    RX_CONSUMER,
    RX_DESCRIPTORS,
    RX_MASK,
    RX_PRODUCER,
    STAMPS,
    wrap,
)

HOOK_PACKETS, HOOK_OCTETS, OVERSIZE, RX_RING_FULL = range(4)  # words of a queue's statistics


@kernel(types.void(RINGS, octets, words, i64, i64, octets, words, words, words, i64))
def inject(rings, arena, queues, queue, cell_size, source, starts, sizes, stamps, count):
    """Let ``count`` packets arrive on a queue.

    source: uint8, packet i is source[starts[i] : starts[i] + sizes[i]]; stamps: int64 ns.  What does not
    fit is dropped and counted exactly as the XDP program and AF_XDP in copy mode do.
    """
    q = queue * QUEUE_WORDS
    statistics, ledger = queues[q + MEMORY_STATISTICS], queues[q + LEDGER]
    for i in range(count):
        size = sizes[i]
        rings.words[statistics + HOOK_PACKETS] += 1
        rings.words[statistics + HOOK_OCTETS] += size
        if size > cell_size - HEADROOM_BYTES:
            rings.words[statistics + OVERSIZE] += 1
            continue
        consumer = rings.halves[queues[q + FILL_CONSUMER]]
        if load(rings.halves, queues[q + FILL_PRODUCER]) == consumer:
            store(rings.ledger, ledger + LOST, rings.ledger[ledger + LOST] + 1)
            continue
        producer = i64(rings.halves[queues[q + RX_PRODUCER]])
        if (producer - load(rings.halves, queues[q + RX_CONSUMER])) & 0xFFFFFFFF > queues[q + RX_MASK]:
            rings.words[statistics + RX_RING_FULL] += 1
            continue
        cell = rings.words[queues[q + FILL_DESCRIPTORS] + (consumer & queues[q + FILL_MASK])] & -cell_size
        store(rings.halves, queues[q + FILL_CONSUMER], wrap(i64(consumer) + 1))
        address = cell + HEADROOM_BYTES
        for j in range(size):
            arena[address + j] = source[starts[i] + j]
        entry = producer & queues[q + RX_MASK]
        rings.ledger[ledger + STAMPS + entry] = stamps[i]
        rings.ledger[ledger + ADMITTED] += 1
        at = queues[q + RX_DESCRIPTORS] + entry * 2
        rings.words[at] = address
        rings.words[at + 1] = size
        store(rings.halves, queues[q + RX_PRODUCER], wrap(producer + 1))
