"""The capture side of fill and RX rings: what is attached, when, and why packets were lost."""

from __future__ import annotations

import pytest

from rig import Nobody, Rig
from wirecap.kernels import pool as k
from wirecap.kernels import rings as r
from wirecap.kernels.jit import i64, kernel, prepare
from wirecap.kernels.pool import POOL
from wirecap.kernels.rings import RINGS, adapt, submit

MS = 1_000_000


@kernel(i64(POOL, RINGS, i64))
def submit_one(pool, rings, queue):
    return submit(pool, rings, queue)


@kernel(i64(POOL, i64, i64, i64))
def adapt_one(pool, q, left, now):
    adapt(pool, q, left, now)
    return pool.queues[q + r.TARGET]


@pytest.fixture
def rig():
    """Queue 0 of a NIC with 4,096 cells; at most 1,024 of them attached."""
    rig = Rig(Nobody(), M=64, R=64, ring=1024)
    prepare([submit_one, adapt_one])
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


def test_attached_depth_grows_at_once_and_shrinks_slowly():
    """Calm windows shrink the target by an eighth each; one narrow escape takes it to the top, and it is held there."""
    rig = Rig(Nobody(), M=64, R=1024)
    words = rig.engine.pool.queues[: k.QUEUE_WORDS]
    most, least = int(words[r.TARGET_MOST]), int(words[r.TARGET_LEAST])
    assert words[r.TARGET] == most > 2 * least
    now = 10_000 * MS

    def look(left, after_ns, packets=None):
        nonlocal now
        now += after_ns
        words[k.TAKEN] += most if packets is None else packets
        return adapt_one(rig.engine.pool, 0, left, now)

    def calm_down():
        target = int(words[r.TARGET])
        while target > least:
            smaller = look(target - 1, r.WINDOW_NS + MS)
            assert smaller in (target, max(target - target // 8, least))
            target = smaller
        assert look(least, r.WINDOW_NS + MS) == least

    held_ns = []
    for _ in range(2):
        calm_down()
        assert look(least // 4, MS) == least
        assert look(least // 4 - 1, MS) == most
        escape = now
        while look(most - 1, r.WINDOW_NS) == most:
            pass
        held_ns.append(now - escape)
    assert r.HOLD_NS <= held_ns[0] < held_ns[1] <= r.HOLD_MOST_NS
    assert look(most // 2, 10 * r.WINDOW_NS) == look(most // 2, 10 * r.WINDOW_NS)  # half used: it stays
    calm_down()
    assert look(least, r.WINDOW_NS + MS, packets=most // 2) == least  # enough packets for few cells to pay
    assert look(least, r.WINDOW_NS + MS, packets=most // 2 - 1) == most  # a quiet queue has them all


def test_cells_and_rings_of_two_queues_do_not_meet():
    """Every queue has its own cells, its own rings and its own counters in the memory NIC."""
    rig = Rig(Nobody(), queues=3, M=4, R=4)
    pool, source = rig.engine.pool, rig.source
    source.start()
    for queue in range(3):
        rig.inject_copies(queue, 5 + queue, size=100 + queue)
    for queue in range(3):
        counts = source.counts(pool, queue)
        assert (counts.received, counts.received_octets) == (5 + queue, (5 + queue) * (100 + queue))
        assert counts.in_ring == 5 + queue
        assert pool.queues[queue * k.QUEUE_WORDS + k.FREE_CELLS] == 0
