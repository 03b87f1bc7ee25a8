"""The kernel's side of a receive queue, for the in-process NIC: fill ring in, RX ring out."""

from __future__ import annotations

from numba import types

from wirecap.kernels.atomics import load, store
from wirecap.kernels.jit import i64, kernel, octets, words
from wirecap.kernels.pool import QUEUE_WORDS
from wirecap.kernels.rings import (
    FILL_CONSUMER,
    FILL_DESCRIPTORS,
    FILL_MASK,
    FILL_PRODUCER,
    FILL_RING_EMPTY,
    HEADROOM_BYTES,
    MEMORY_STATISTICS,
    RINGS,
    RX_CONSUMER,
    RX_DESCRIPTORS,
    RX_MASK,
    RX_PRODUCER,
    wrap,
)

RX_DROPPED, RX_RING_FULL = 0, 3  # as in struct xdp_statistics
HOOK_PACKETS, HOOK_OCTETS = 6, 7


@kernel(types.void(RINGS, octets, words, i64, i64, octets, words, words, words, i64))
def inject(rings, arena, queues, queue, cell_size, source, starts, sizes, stamps, count):
    """Let ``count`` packets arrive on a queue.

    source: uint8, packet i is source[starts[i] : starts[i] + sizes[i]]; stamps: int64 ns.  What does not
    fit is dropped and counted exactly as AF_XDP in copy mode does.
    """
    q = queue * QUEUE_WORDS
    statistics = queues[q + MEMORY_STATISTICS]
    for i in range(count):
        size = sizes[i]
        rings.words[statistics + HOOK_PACKETS] += 1
        rings.words[statistics + HOOK_OCTETS] += size
        if size > cell_size - HEADROOM_BYTES:
            rings.words[statistics + RX_DROPPED] += 1
            continue
        consumer = rings.halves[queues[q + FILL_CONSUMER]]
        if load(rings.halves, queues[q + FILL_PRODUCER]) == consumer:
            rings.words[statistics + RX_DROPPED] += 1
            store(rings.words, statistics + FILL_RING_EMPTY, rings.words[statistics + FILL_RING_EMPTY] + 1)
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
        rings.cells[(address >> 3) - 1] = stamps[i]
        at = queues[q + RX_DESCRIPTORS] + (producer & queues[q + RX_MASK]) * 2
        rings.words[at] = address
        rings.words[at + 1] = size
        store(rings.halves, queues[q + RX_PRODUCER], wrap(producer + 1))
