"""How long packets may lie in the RX ring before the capture thread looks again."""

from __future__ import annotations

import numpy as np
import pytest

from rig import Rig
from wirecap.kernels.base.jit import kernel, prepare
from wirecap.kernels.base.kinds import i64, words
from wirecap.kernels.pool import pool as k
from wirecap.kernels.xdp import capture_loop as loop
from wirecap.kernels.xdp import rings as r

pytestmark = pytest.mark.kernel
SHORT_NS, LONG_NS = 100_000, 500_000


@kernel(i64(k.POOL, words, words, i64, i64))
def rest(pool, mine, settings, taken, lacking):
    return loop.rest_of(pool, mine, settings, taken, lacking)


@pytest.fixture(scope="module")
def pool():
    """That of an engine with two queues, which has ended."""
    prepare([rest])
    with Rig(queues=2) as rig:
        rig.stop()
        yield rig.engine.pool


def attach(pool, *cells):
    for queue, count in enumerate(cells):
        own = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
        own[r.SUBMITTED] = own[k.TAKEN] + count
        own[k.FREE_CELLS] = 0


@pytest.mark.parametrize(
    ("lazy", "timeout_ns", "taken", "lacking", "attached", "wanted"),
    [
        (True, 1_000_000, 0, 0, (8192, 16384), LONG_NS),
        (True, 1_000_000, 64, 0, (8192, 8192), LONG_NS),
        (True, 200_000, 1, 0, (8192, 8192), 200_000),  # no longer than a chunk may fill up
        (True, 1_000, 1, 0, (8192, 8192), SHORT_NS),
        (True, 1_000_000, 65, 0, (16384, 16384), SHORT_NS),  # they come fast
        (True, 1_000_000, 1, 0, (16384, 8191), SHORT_NS),  # one of the queues could run out of cells, by a burst
        (True, 1_000_000, 1, 1, (16384, 16384), SHORT_NS),  # one waits for memory
        (False, 1_000_000, 1, 0, (16384, 16384), SHORT_NS),  # somebody waits for each packet
    ],
)
def test_longer_where_it_harms_nobody(pool, lazy, timeout_ns, taken, lacking, attached, wanted):
    settings = np.zeros(8, np.int64)
    settings[loop.TIMEOUT_NS], settings[loop.COALESCE_NS], settings[loop.LAZY] = timeout_ns, SHORT_NS, lazy
    attach(pool, *attached)
    assert rest(pool, np.arange(2), settings, taken, lacking) == wanted
