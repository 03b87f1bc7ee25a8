"""The ring-buffer pool's promise: a burst is held back whole as long as it fits R x M cells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from rig import Rig, check_identity, until
from wirecap.config.capture import WriteConfig
from wirecap.handlers.handler import Handler
from wirecap.handlers.pipeline import Pipeline
from wirecap.handlers.pkt_handler import Paced
from wirecap.handlers.write import Writer
from wirecap.kernels.base import libc
from wirecap.kernels.base.atomics import load
from wirecap.kernels.base.jit import PURE, kernel
from wirecap.kernels.base.libc import sleep_ns
from wirecap.kernels.pool.handler_loop import PROCESS_SIGNATURE
from wirecap.kernels.pool.pool import TAKEN
from wirecap.kernels.xdp.rings import SUBMITTED

pytestmark = pytest.mark.kernel

M, R = 16, 20


@kernel(PROCESS_SIGNATURE)
def wait_at_gate(arena, address, captured, original, timestamp, n, state):
    """Hold the chunk until state[0] is set."""
    while load(state, 0) == 0:
        sleep_ns(1_000_000, state[8:])
    return 0


class Gate(Handler):
    """A handler that takes its first chunk and does nothing with it until it is opened."""

    name = "gate"
    process = staticmethod(wait_at_gate)

    def state(self, consumer: int) -> np.ndarray:
        return np.concatenate([np.zeros(8, np.int64), libc.scratch()])


def open_gates(pipeline: Pipeline) -> None:
    for states in pipeline.states:
        states[0, 0] = 1


@contextmanager
def opened_at_the_end(pipeline: Pipeline) -> Iterator[None]:
    """Whatever the test does, its threads end."""
    try:
        yield
    finally:
        open_gates(pipeline)


@pytest.mark.parametrize("packets", [1, 15, 16, 17, 160, 319, 320])
def test_burst_that_fits_is_captured_whole(packets):
    """P <= R x M packets at once into a handler of 20,000 packets a second: every one is delivered."""
    with Rig(Pipeline([Paced(20_000)]), M=M, R=R) as rig:
        rig.inject_copies(0, packets)
        rig.done(packets)
        rig.stop()
        check_identity(rig.engine, received=packets)
        assert rig.delivered == packets


@pytest.mark.parametrize("packets", [321, 400, 1000])
@pytest.mark.parametrize("advanced", [False, True])
def test_burst_that_does_not_fit_loses_exactly_the_rest(packets, advanced):
    """P > R x M packets before the handler is done with one: R x M are delivered, the rest is pool_exhausted."""
    pipeline = Pipeline([Gate()])
    with Rig(pipeline, queues=2, M=M, R=R, advanced=advanced) as rig, opened_at_the_end(pipeline):
        rig.inject_copies(0, packets)
        open_gates(pipeline)
        rig.done(packets)
        rig.stop()
        check_identity(rig.engine, received=packets)
        assert rig.delivered == M * R
        assert rig.drops() == {"pool_exhausted": packets - M * R}


@pytest.mark.parametrize("size", [1, 3, 16, 50])
def test_pool_behind_a_short_ring_fills_to_the_last_cell(size):
    """With 64 cells attached and a handler that does nothing, all R x M cells fill up, however packets come."""
    pipeline = Pipeline([Gate()])
    with Rig(pipeline, M=M, R=R, ring=64) as rig, opened_at_the_end(pipeline):
        counts, queue = rig.source.counts, rig.engine.pool.queues
        sent = 0
        while sent < M * R:
            part = min(size, M * R - sent)
            rig.inject_copies(0, part)
            sent += part
            until(lambda: counts(rig.engine.pool, 0).in_ring == 0)
            left = min(64, M * R - sent)
            until(lambda left=left: queue[SUBMITTED] - queue[TAKEN] == left)
        rig.inject_copies(0, 7)
        until(lambda: rig.drops())
        assert rig.drops() == {"pool_exhausted": 7}
        open_gates(pipeline)
        rig.done(M * R + 7)
        until(lambda: queue[SUBMITTED] - queue[TAKEN] == 64)  # the cells are back
        rig.inject_copies(0, 40)
        rig.done(M * R + 47)
        rig.stop()
        check_identity(rig.engine, received=M * R + 47)
        assert rig.delivered == M * R + 40


def test_short_ring_that_nobody_refills_is_not_called_an_exhausted_pool():
    """What a burst loses to a short ring while the pool has cells is named capture_late."""
    with Rig(M=M, R=R, ring=64) as rig:
        sent = 0

        def lost() -> bool:
            """A thread that stands still while it injects leaves the capture thread the time to refill the ring."""
            nonlocal sent
            rig.inject_copies(0, 100)
            sent += 100
            rig.done(sent)
            rig.at_home()
            return bool(rig.drops())

        until(lambda: lost() or PURE)  # as plain Python the packets do not come at once
        rig.stop()
        check_identity(rig.engine, received=sent)
        drops = rig.drops()
        assert set(drops) <= {"capture_late"}
        assert PURE or 0 < drops["capture_late"] <= 36


@pytest.mark.parametrize("advanced", [False, True])
def test_uneven_load(advanced):
    """All on one of four queues: what is above T percent of R goes to the others in advanced mode, else nothing."""
    pipeline = Pipeline([Gate()])
    with Rig(pipeline, queues=4, M=M, R=R, advanced=advanced, T=50) as rig, opened_at_the_end(pipeline):
        for _ in range(20):
            rig.inject_copies(0, 16)
            until(lambda: rig.source.counts(rig.engine.pool, 0).in_ring == 0)
        until(lambda: sum(rig.engine.depths()) + sum(c > 0 for c in taken(rig)) == 20)
        open_gates(pipeline)
        rig.done(320)
        rig.stop()
        check_identity(rig.engine, received=320)
        summary = rig.engine.summary()
        assert rig.delivered == 320
        offloaded = summary.queues[0].offloaded
        home = 1 + 11  # at the handler, and a queue that is just longer than T percent of R
        assert offloaded in ([(20 - home) * 16, (21 - home) * 16] if advanced else [0])
        assert rig.engine.pool.tallies[1:, 0, 0].sum() == offloaded


def taken(rig: Rig) -> list[int]:
    """Packets that each handler thread has taken."""
    return rig.engine.pool.tallies[:, :, 0].sum(axis=1).tolist()


def test_buddy_groups_are_apart():
    """Chunks go to queues of their own group only, and nowhere where a writer takes them all."""
    pipeline = Pipeline([Gate()])
    with Rig(
        pipeline, queues=4, M=M, R=R, advanced=True, T=1, groups=[[0, 2], [1, 3]]
    ) as rig, opened_at_the_end(pipeline):  # fmt: skip
        for _ in range(12):
            rig.inject_copies(0, 16)
            until(lambda: rig.source.counts(rig.engine.pool, 0).in_ring == 0)
        open_gates(pipeline)
        rig.done(192)
        assert taken(rig)[1::2] == [0, 0]
        assert min(taken(rig)[::2]) > 0
        rig.stop()
        check_identity(rig.engine, received=192)


@pytest.mark.parametrize("per_queue", [False, True])
def test_buddy_groups_of_a_writer_alone(tmp_path, per_queue):
    """Groups change nothing where no handler could take a buddy's chunks."""
    writer = Writer(WriteConfig(path=str(tmp_path / "out"), per_queue=per_queue))
    with Rig(Pipeline([], writer), queues=4, M=M, R=R, advanced=True, T=1, groups=[[0, 2], [1], [3]]) as rig:
        for queue in range(4):
            rig.inject_copies(queue, 160)
        rig.done(640)
        rig.stop()
        check_identity(rig.engine, received=640)
        assert writer.packets_written == 640
        assert rig.engine.summary().total("offloaded") == 0
