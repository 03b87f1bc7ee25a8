"""The kernel's side of a receive queue, for the in-process NIC: cells from the fill ring, packets onto the RX ring."""

from __future__ import annotations

from wirecap.kernels.base.atomics import load, store
from wirecap.kernels.base.jit import kernel
from wirecap.kernels.base.kinds import byte_array, i64, none, words
from wirecap.kernels.pool.large import HEADROOM_BYTES
from wirecap.kernels.pool.pool import QUEUE_WORDS, RINGS
from wirecap.kernels.xdp.rings import (
    ADMITTED,
    CONTINUED,
    FILL_CONSUMER,
    FILL_DESCRIPTORS,
    FILL_MASK,
    FILL_PRODUCER,
    LEDGER,
    LOST,
    MEMORY_STATISTICS,
    RX_CONSUMER,
    RX_DESCRIPTORS,
    RX_MASK,
    RX_PRODUCER,
    TIMESTAMPS,
    wrap,
)

HOOK_PACKETS, HOOK_BYTES, OVERSIZE, RX_RING_FULL = range(4)  # words of a queue's statistics
FLUSH = 64  # at most so many packets are taken by a NAPI poll, at whose end the kernel shows them on the RX ring


@kernel(none(RINGS, byte_array, words, i64, i64, i64, byte_array, words, words, words, i64))
def inject(rings, arena, queues, queue, cell_size, longest, source, starts, sizes, timestamps, count):
    """Make ``count`` packets arrive on a queue.

    longest: bytes of a packet that may take as many cells as it needs.
    source: uint8, packet i is source[starts[i] : starts[i] + sizes[i]]; timestamps: int64 ns.  Packets that do not
    fit are dropped and counted exactly as by the XDP program and AF_XDP in copy mode.
    """
    q = queue * QUEUE_WORDS
    statistics, ledger = queues[q + MEMORY_STATISTICS], queues[q + LEDGER]
    producer = i64(rings.halves[queues[q + RX_PRODUCER]])
    for i in range(count):
        if i % FLUSH == 0:
            store(rings.halves, queues[q + RX_PRODUCER], wrap(producer))
        size = sizes[i]
        rings.words[statistics + HOOK_PACKETS] += 1
        rings.words[statistics + HOOK_BYTES] += size
        if size > longest:
            store(rings.words, statistics + OVERSIZE, rings.words[statistics + OVERSIZE] + 1)
            continue
        room = cell_size - HEADROOM_BYTES
        cells = max(1, (size + room - 1) // room)
        consumer = i64(rings.halves[queues[q + FILL_CONSUMER]])
        if (i64(load(rings.halves, queues[q + FILL_PRODUCER])) - consumer) & 0xFFFFFFFF < cells:
            store(rings.ledger, ledger + LOST, rings.ledger[ledger + LOST] + 1)
            continue
        if (producer + cells - 1 - load(rings.halves, queues[q + RX_CONSUMER])) & 0xFFFFFFFF > queues[q + RX_MASK]:
            store(rings.words, statistics + RX_RING_FULL, rings.words[statistics + RX_RING_FULL] + 1)
            continue
        rings.ledger[ledger + TIMESTAMPS + (producer & queues[q + RX_MASK])] = timestamps[i]
        rings.ledger[ledger + ADMITTED] += cells
        for number in range(cells):
            entry = (consumer + number) & queues[q + FILL_MASK]
            address = (rings.words[queues[q + FILL_DESCRIPTORS] + entry] & -cell_size) + HEADROOM_BYTES
            first = number * room
            part = min(size - first, room)
            for j in range(part):
                arena[address + j] = source[starts[i] + first + j]
            at = queues[q + RX_DESCRIPTORS] + (producer & queues[q + RX_MASK]) * 2
            rings.words[at] = address
            rings.words[at + 1] = part | (CONTINUED if number < cells - 1 else 0)
            producer += 1
        store(rings.halves, queues[q + FILL_CONSUMER], wrap(consumer + cells))
    store(rings.halves, queues[q + RX_PRODUCER], wrap(producer))
