"""What happened when, in bounded memory: nothing is counted twice or forgotten, however long it takes."""

from __future__ import annotations

import numpy as np
import pytest

from wirecap.forensics.series import POINTS, RECENT_MS, SPREAD_MOST, UNKNOWN, History, Recent, by_millisecond

MONTH_MS = 30 * 24 * 3600 * 1000


def test_chunks_are_spread_over_their_time():
    """A chunk's packets are in its milliseconds, evenly; all of them, also of chunks within one."""
    first, last, packets = np.array([0, 5, 10]), np.array([0, 8, 12]), np.array([7, 256, 2])
    ms, counts = by_millisecond(first, last, packets)
    found = np.bincount(ms, counts)
    assert found[0] == 7
    assert found[5:9].tolist() == [64] * 4
    assert found[10:13].sum() == 2
    assert counts.sum() == packets.sum()


def test_a_chunk_of_years():
    """Packets of a file may lie years apart: they are spread over some milliseconds of that, not over each."""
    ms, counts = by_millisecond(np.array([5]), np.array([5 + 1000 * MONTH_MS]), np.array([9000]))
    assert (counts.sum(), ms[0], ms[-1], len(ms)) == (9000, 5, 5 + 1000 * MONTH_MS, SPREAD_MOST)


def test_the_last_half_minute():
    """What is recent is known by the millisecond; what is older is forgotten, and never counted as something else."""
    recent = Recent(2)
    for now in range(0, 3 * RECENT_MS, 997):
        recent.advance(now)
        recent.add(1, np.array([now, max(0, now - 3)]), np.array([5, 1]))
    last = now
    assert recent.first_ms == last + 1 - RECENT_MS
    known = recent.between(recent.first_ms, last + 1)
    wanted = [at for at in range(0, last + 1, 997) if at >= recent.first_ms]
    assert known[1][[at - recent.first_ms for at in wanted]].tolist() == [5] * len(wanted)
    assert known[1].sum() == 6 * len(wanted)
    assert not known[0].any()


def test_a_pause_longer_than_the_memory():
    """After a pause nothing of what was before is left."""
    recent = Recent(1)
    recent.advance(10)
    recent.add(0, np.array([3]), np.array([9]))
    recent.advance(10 + 5 * RECENT_MS)
    assert not recent.between(recent.first_ms, recent.first_ms + RECENT_MS).any()


@pytest.mark.parametrize("step", [3, 7_777_777])
def test_a_run_of_months_takes_the_memory_of_a_short_one(step):
    """Points get wider, sums stay sums and peaks peaks; there are never more than POINTS."""
    history = History()
    end = min(MONTH_MS, 2_000 * step)
    total = 0
    for now in range(0, end, step):
        history.reach(now)
        history.add("arrived 0", np.array([now]), np.array([2]))
        history.peak("depth 0", np.array([now]), np.array([now // step % 100]))
        total += 2
    (arrived,), (depth,) = history.named("arrived ").values(), history.named("depth ").values()
    assert POINTS // 2 <= history.points <= POINTS
    assert len(arrived) == len(depth) == history.points
    assert arrived.sum() == total
    assert depth.max() == 99
    assert history.points * history.width_ms >= end - step


def test_what_nobody_looked_at_is_unknown():
    """A peak of which nothing was seen is not called 0."""
    history = History()
    history.reach(10)
    history.peak("depth 0", np.array([4]), np.array([0]))
    assert history.named("depth ")["0"].tolist() == [UNKNOWN] * 4 + [0] + [UNKNOWN] * 6
