"""The capture side of fill and RX rings: what is attached, when, and why packets were lost."""

from __future__ import annotations

import numpy as np
import pytest

from rig import Nobody, Rig
from wirecap.kernels.base.jit import kernel, prepare
from wirecap.kernels.base.kinds import i64, none
from wirecap.kernels.pool import pool as k
from wirecap.kernels.pool.pool import POOL, RINGS
from wirecap.kernels.xdp import rings as r
from wirecap.kernels.xdp.rings import settle, submit


@kernel(i64(POOL, RINGS, i64))
def submit_one(pool, rings, queue):
    return submit(pool, rings, queue)


@kernel(none(POOL, RINGS, i64))
def settle_one(pool, rings, published):
    settle(pool, rings, 0, published)


@pytest.fixture
def rig():
    """Queue 0 of a NIC with 4,096 cells; at most 1,024 of them attached."""
    rig = Rig(Nobody(), M=64, R=64, ring=1024)
    prepare([submit_one])
    return rig


def words_of(rig):
    return rig.engine.pool.queues[: k.QUEUE_WORDS]


def test_the_most_recently_freed_cells_are_attached_first(rig):
    """The fill ring gets the top of the stack, in order, up to the target and not more; the first cells at once."""
    words, pool, rings = words_of(rig), rig.engine.pool, rig.source.rings
    base = words[r.FILL_DESCRIPTORS]
    assert rings.words[base : base + 1024].tolist() == list(range(0, 1024 * 2048, 2048))
    assert rings.halves[words[r.FILL_PRODUCER]] == words[r.SUBMITTED] == 1024
    assert words[k.FREE_CELLS] == 4096 - 1024
    assert submit_one(pool, rings, 0) == 0
    top = pool.free_cells[0, : words[k.FREE_CELLS]][::-1].tolist()
    words[k.TAKEN] = rings.halves[words[r.FILL_CONSUMER]] = 10
    assert submit_one(pool, rings, 0) == 10
    assert rings.words[base + 1024 : base + 1034].tolist() == top[:10]
    assert rings.halves[words[r.FILL_PRODUCER]] == words[r.SUBMITTED] == 1034
    assert words[k.FREE_CELLS] == 4096 - 1034


def test_entries_that_the_kernel_may_still_read_are_not_overwritten(rig):
    """However late the kernel publishes its consumer, no more entries are out than the fill ring has."""
    words, pool, rings = words_of(rig), rig.engine.pool, rig.source.rings
    entries = int(words[r.FILL_MASK]) + 1
    words[k.TAKEN] = words[r.SUBMITTED]
    while submit_one(pool, rings, 0):
        words[k.TAKEN] = words[r.SUBMITTED]  # every packet came, but the consumer's publication did not
        assert words[r.SUBMITTED] <= entries
    assert words[r.SUBMITTED] == entries
    rings.halves[words[r.FILL_CONSUMER]] = 10
    assert submit_one(pool, rings, 0) == 10


def test_counters_go_around_32_bits(rig):
    """Producers and consumers are the kernel's uint32; a queue works on past 2^32 packets."""
    words, pool, rings = words_of(rig), rig.engine.pool, rig.source.rings
    start = (1 << 32) - 100
    words[r.SUBMITTED] = words[k.TAKEN] = start
    for ring in (r.FILL_PRODUCER, r.FILL_CONSUMER, r.RX_PRODUCER, r.RX_CONSUMER):
        rings.halves[words[ring]] = start
    assert submit_one(pool, rings, 0) == 1024
    assert rings.halves[words[r.FILL_PRODUCER]] == 1024 - 100
    rig.source.start()
    rig.inject_copies(0, 300)
    counts = rig.source.counts(pool, 0)
    assert (counts.received, counts.in_ring, sum(counts.drops.values())) == (300, 300, 0)


@pytest.fixture
def deep():
    """A queue with 4,096 cells of which 2,048 are attached, twice the part of the fill ring that is out of reach."""
    rig = Rig(Nobody(), M=64, R=64, ring=2 * r.REACH_CELLS)
    prepare([submit_one, settle_one])
    return rig


def receive(rig, packets):
    """The kernel takes entries and packets lie in the RX ring; which cells they lie in."""
    words, rings = words_of(rig), rig.source.rings
    rig.inject_copies(0, packets)
    last = int(rings.halves[words[r.RX_PRODUCER]])
    mask = words[r.RX_MASK]
    places = words[r.RX_DESCRIPTORS] + (np.arange(last - packets, last) & mask) * 2
    return rings.words[places] & words[r.CELL_MASK]


def read(rig, packets):
    """The capture thread takes packets, and frees their cells at once."""
    words, pool, rings = words_of(rig), rig.engine.pool, rig.source.rings
    for _ in range(packets):
        at = words[r.RX_DESCRIPTORS] + (words[k.TAKEN] & words[r.RX_MASK]) * 2
        pool.free_cells[0, words[k.FREE_CELLS]] = rings.words[at]
        words[k.FREE_CELLS] += 1
        words[k.TAKEN] += 1
    rings.halves[words[r.RX_CONSUMER]] = words[k.TAKEN]


def cells_of(rig):
    """Every cell that the queue knows of, as a sorted list: free, attached, received and not read, disputed."""
    words, pool, rings = words_of(rig), rig.engine.pool, rig.source.rings
    free = pool.free_cells[0, : words[k.FREE_CELLS]].tolist()
    received = int(rings.halves[words[r.RX_PRODUCER]])
    unused = words[r.FILL_DESCRIPTORS] + (np.arange(received, words[r.SUBMITTED]) & words[r.FILL_MASK])
    unread = words[r.RX_DESCRIPTORS] + (np.arange(words[k.TAKEN], received) & words[r.RX_MASK]) * 2
    disputed = int(words[r.DISPUTED_END] - words[r.DISPUTED])
    limbo = pool.free_cells[0, pool.free_cells.shape[1] - disputed :].tolist() if disputed else []
    found = [*free, *rings.words[unused].tolist(), *rings.words[unread].tolist(), *limbo]
    return sorted(cell & int(words[r.CELL_MASK]) for cell in found)


def test_hot_cells_go_where_they_are_used_soon(deep):
    """Freed cells take the places REACH ahead of the kernel, and the cells that lay there go to the ring's end."""
    words, pool, rings = words_of(deep), deep.engine.pool, deep.source.rings
    deep.source.start()
    everything = cells_of(deep)
    base, entries = words[r.FILL_DESCRIPTORS], 2 * r.REACH_CELLS
    used = receive(deep, 100)
    read(deep, 100)
    cold = rings.words[base + 100 + r.REACH_CELLS : base + 200 + r.REACH_CELLS].tolist()
    assert submit_one(pool, rings, 0) == 100
    ahead = rings.words[base + 100 + r.REACH_CELLS : base + 200 + r.REACH_CELLS] & words[r.CELL_MASK]
    assert ahead.tolist() == used.tolist()[::-1]
    assert rings.words[base + entries : base + entries + 100].tolist() == cold
    assert cells_of(deep) == everything
    assert receive(deep, r.REACH_CELLS + 100)[-100:].tolist() == used.tolist()[::-1]


def test_a_ring_no_deeper_than_its_reach_stays_as_it_is(rig):
    """With few cells attached nothing is exchanged: freed cells go to the ring's end."""
    rig.source.start()
    used = receive(rig, 100)
    read(rig, 100)
    words, rings = words_of(rig), rig.source.rings
    assert submit_one(rig.engine.pool, rings, 0) == 100
    tail = rings.words[words[r.FILL_DESCRIPTORS] + 1024 :][:100] & words[r.CELL_MASK]
    assert tail.tolist() == used.tolist()[::-1]


@pytest.mark.parametrize("arrived", [0, 1, 150, 200])
def test_disputed_cells_are_settled_by_the_packets(deep, arrived):
    """Wherever the kernel was while entries were exchanged under it, each cell ends in exactly one place."""
    words, pool, rings = words_of(deep), deep.engine.pool, deep.source.rings
    deep.source.start()
    everything = cells_of(deep)
    receive(deep, 200)
    read(deep, 200)
    at = words[r.FILL_DESCRIPTORS] + 200 + r.REACH_CELLS
    assert submit_one(pool, rings, 0) == 200
    assert words[r.DISPUTED] == words[r.DISPUTED_END]
    # The same exchange, but the kernel had taken the first ``arrived`` of the entries before it.
    hot, cold = (
        rings.words[at : at + 200].copy(),
        rings.words[at - 200 - r.REACH_CELLS + 2 * r.REACH_CELLS :][:200].copy(),
    )
    words[r.SUBMITTED] -= 200
    rings.halves[words[r.FILL_PRODUCER]] -= 200
    pool.free_cells[0, pool.free_cells.shape[1] - 200 :] = cold
    words[r.DISPUTED], words[r.DISPUTED_END] = 200 + r.REACH_CELLS, 400 + r.REACH_CELLS
    rings.words[at : at + arrived] = cold[:arrived]
    assert submit_one(pool, rings, 0) == 200  # from the stack: nothing is exchanged while the dispute lasts
    receive(deep, r.REACH_CELLS + 150)
    rings.words[at : at + 150] = hot[:150]  # the exchange came after the kernel's read
    settle_one(pool, rings, 200 + r.REACH_CELLS + 150)
    assert words[r.DISPUTED_END] - words[r.DISPUTED] == 50
    receive(deep, 50)
    rings.words[at + 150 : at + 200] = hot[150:]
    settle_one(pool, rings, 400 + r.REACH_CELLS)
    assert words[r.DISPUTED] == words[r.DISPUTED_END]
    assert cells_of(deep) == everything


def test_cells_and_rings_of_two_queues_do_not_meet():
    """Every queue has its own cells, its own rings and its own counters in the memory NIC."""
    rig = Rig(Nobody(), queues=3, M=4, R=4)
    pool, source = rig.engine.pool, rig.source
    source.start()
    for queue in range(3):
        rig.inject_copies(queue, 5 + queue, size=100 + queue)
    for queue in range(3):
        counts = source.counts(pool, queue)
        assert (counts.received, counts.received_bytes) == (5 + queue, (5 + queue) * (100 + queue))
        assert counts.in_ring == 5 + queue
        assert pool.queues[queue * k.QUEUE_WORDS + k.FREE_CELLS] == 0
