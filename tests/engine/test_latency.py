"""When a chunk is handed over: at once to a consumer that has nothing to do, full or in time to a busy one."""

from __future__ import annotations

import time

import pytest

from rig import Gate, Rig, check_identity, until
from wirecap.handlers.pipeline import Pipeline
from wirecap.kernels.pool import pool as k

pytestmark = pytest.mark.kernel

NEVER_NS, TIMEOUT_NS = 10**12, 1_000_000


def taken(rig: Rig, packets: int) -> None:
    """Wait until the capture thread has taken so many packets."""
    until(lambda: rig.engine.pool.queues[k.TAKEN] == packets)


def test_an_idle_handler_gets_a_packet_at_once():
    """A packet reaches a handler that has nothing to do, however long the timeout and however large a chunk."""
    with Rig(M=256, timeout_ns=NEVER_NS) as rig:
        for number in range(5):
            rig.inject_copies(0, 1)
            rig.done(number + 1)
        rig.stop()
        check_identity(rig.engine, received=5)


def test_a_busy_handler_gets_full_chunks_and_the_rest_when_it_is_done():
    """What arrives while a handler works fills chunks; a partial one is handed over as soon as the handler is idle."""
    gate = Gate()
    with Rig(Pipeline([gate.handler]), M=8, R=8, timeout_ns=NEVER_NS) as rig:
        rig.inject_copies(0, 1)
        until(lambda: gate.sizes == [1])
        rig.inject_copies(0, 3)
        taken(rig, 4)
        gate.let_go()
        until(lambda: gate.sizes == [1, 3])
        rig.inject_copies(0, 20)
        taken(rig, 24)
        assert rig.engine.depths() == [2]
        gate.let_go(4)
        rig.done(24)
        assert gate.sizes == [1, 3, 8, 8, 4]
        rig.stop()
        check_identity(rig.engine, received=24)


def test_the_timeout_bounds_the_wait_behind_a_busy_handler():
    """After the timeout one partial chunk waits in a busy handler's queue; the next one fills up meanwhile."""
    gate = Gate()
    with Rig(Pipeline([gate.handler]), M=8, R=8, timeout_ns=TIMEOUT_NS) as rig:
        rig.inject_copies(0, 1)
        until(lambda: gate.sizes == [1])
        rig.inject_copies(0, 2)
        until(lambda: rig.engine.depths() == [1])
        rig.inject_copies(0, 3)
        taken(rig, 6)
        end = time.monotonic_ns() + TIMEOUT_NS
        until(lambda: time.monotonic_ns() > end)
        for packets in (7, 8):  # the last one is taken in a turn that begins after the timeout
            rig.inject_copies(0, 1)
            taken(rig, packets)
        rig.inject_copies(0, 6)
        taken(rig, 14)
        gate.let_go(9)
        rig.done(14)
        assert gate.sizes == [1, 2, 8, 3]
        rig.stop()
        check_identity(rig.engine, received=14)
