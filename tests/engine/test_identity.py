"""received = delivered + filtered_out + the named drops, however a run goes and ends."""

from __future__ import annotations

import resource
import threading
import time
from io import BytesIO
from itertools import product

import dpkt
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from rig import Gate, Rig, check_identity, counted, leaves_no_thread, selection_of, until
from wirecap.config.capture import WriteConfig
from wirecap.errors import UsageError
from wirecap.handlers.handler import Handler
from wirecap.handlers.pipeline import Pipeline
from wirecap.handlers.pkt_handler import Paced
from wirecap.handlers.write import Writer
from wirecap.kernels.base.jit import PURE, kernel
from wirecap.kernels.pool.handler_loop import PROCESS_SIGNATURE

pytestmark = pytest.mark.kernel

MANY = 2_000 if PURE else 50_000


@kernel(PROCESS_SIGNATURE)
def fail_at(arena, address, captured, original, timestamp, n, state):
    """Fail on the packet number state[0] that this thread sees; state[1] counts them."""
    for i in range(n):
        state[1] += 1
        if state[1] == state[0]:
            return i + 1
    return 0


class FailsAt(Handler):
    name = "fails"
    process = staticmethod(fail_at)

    def __init__(self, packet: int) -> None:
        self._packet = packet

    def state(self, consumer: int) -> np.ndarray:
        return np.array([self._packet, 0], np.int64)


def shower(rig: Rig, queues: int, count: int, burst: int = 50) -> threading.Thread:
    """Packets on all queues from another thread, until it is done or nobody listens."""

    def send():
        for _ in range(0, count, burst * queues):
            for queue in range(queues):
                rig.inject_copies(queue, burst)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("queues", "threads", "advanced"), [(1, None, False), (4, 1, False), (3, 2, True), (3, None, True)]
)
def test_all_is_delivered_where_there_is_room(queues, threads, advanced):
    """Bursts that fit the pool are delivered whole, whichever threads serve the queues."""
    with Rig(queues=queues, M=16, R=8, capture_threads=threads, advanced=advanced) as rig:
        total = 0
        for _ in range(10):
            for queue in range(queues):
                rig.inject_copies(queue, 100)
            total += 100 * queues
            rig.done(total)
            rig.at_home()
        rig.stop()
        check_identity(rig.engine, received=total)
        assert rig.delivered == total
        summary = rig.engine.summary()
        assert [queue.delivered_bytes for queue in summary.queues] == [60 * 1000] * queues
        assert [queue.received_bytes for queue in summary.queues] == [60 * 1000] * queues


@pytest.mark.parametrize("give_up", [False, True])
@pytest.mark.parametrize(("threads", "advanced"), [(1, False), (None, True)])
def test_stop_in_the_middle_of_traffic(threads, advanced, give_up):
    """A stop while packets arrive, orderly or in haste, accounts for each of them."""
    with Rig(queues=3, M=16, R=8, capture_threads=threads, advanced=advanced) as rig:
        sender = shower(rig, 3, 100 * MANY)
        until(lambda: rig.delivered > 500)
        rig.stop(give_up)
        check_identity(rig.engine)
        if not give_up:
            assert "unread_at_stop" not in rig.drops()
        sender.join(60)


def test_giving_up_names_what_was_not_read():
    """A second SIGINT leaves what slow handlers did not get to as unread_at_stop."""
    with Rig(Pipeline([Paced(4)]), queues=2, M=8, R=8) as rig:
        for queue in range(2):
            rig.inject_copies(queue, 60)
        until(lambda: rig.delivered)
        rig.stop(give_up=True)
        check_identity(rig.engine, received=120)
        assert rig.drops() == {"unread_at_stop": 120 - rig.delivered}


def test_packets_that_no_capture_thread_took():
    """What still lies in the RX ring when all is aborted is unread_at_stop too."""
    with Rig(queues=2, M=8, R=8) as rig:
        rig.engine.abandon()
        until(lambda: not rig.engine.running())
        for queue in range(2):
            rig.inject_copies(queue, 10 + queue)
        rig.stop()
        check_identity(rig.engine, received=21)
        assert rig.drops() == {"unread_at_stop": 21}


@pytest.mark.parametrize("limit", [1, 7, 100, 150])
def test_packet_limit(limit):
    """-c delivers exactly so many over all queues; the others are named unread_at_stop."""
    with Rig(queues=3, M=16, R=8, limit=limit) as rig:
        for queue in range(3):
            rig.inject_copies(queue, 100)
        until(lambda: not rig.engine.running())
        rig.stop()
        check_identity(rig.engine, received=300)
        assert rig.delivered == limit
        assert rig.drops() == {"unread_at_stop": 300 - limit}


def test_filter():
    """What the filter does not want is filtered_out, per queue; the limit counts what it wants."""
    wanted = b"\xff" * 6 + bytes(54)
    with Rig(Pipeline([], selection=selection_of("ether broadcast")), queues=2, M=16, R=8, limit=50) as rig:
        for queue in range(2):
            rig.inject(queue, [wanted if i % 3 == 0 else bytes(60) for i in range(90)])
        until(lambda: not rig.engine.running())
        rig.stop()
        check_identity(rig.engine, received=180)
        assert rig.delivered == 50
        assert rig.engine.summary().total("filtered_out") == 120
        assert rig.drops() == {"unread_at_stop": 10}


@pytest.mark.parametrize(("advanced", "writing"), list(product([False, True], [False, True])))
def test_failing_handler(tmp_path, advanced, writing):
    """A handler that fails ends the run with its name; what was not handled is named."""
    writer = Writer(WriteConfig(path=str(tmp_path / "out.pcapng"))) if writing else None
    with Rig(Pipeline([FailsAt(100)], writer), queues=2, M=16, R=8, advanced=advanced) as rig:
        for _ in range(3):
            for queue in range(2):
                rig.inject_copies(queue, 100)
        until(lambda: not rig.engine.running())
        rig.stop()
        check_identity(rig.engine, received=600)
        assert "fails" in str(rig.engine.failure())
        assert rig.delivered >= 99


@pytest.mark.parametrize("packet", [1, 100])
def test_packets_behind_the_one_that_failed_are_not_delivered(packet):
    """What a handler got to before it failed is delivered; the packet itself and those behind it are not."""
    with Rig(Pipeline([FailsAt(packet)]), M=16, R=16) as rig:
        rig.inject_copies(0, 150)
        until(lambda: not rig.engine.running())
        rig.stop()
        check_identity(rig.engine, received=150)
        assert rig.delivered == packet - 1
        assert rig.engine.summary().queues[0].delivered_bytes == 60 * (packet - 1)
        assert rig.drops() == {"unread_at_stop": 151 - packet}


def test_failing_handler_that_keeps_going():
    """With --keep-going every packet is delivered all the same."""
    with Rig(Pipeline([FailsAt(5)], keep_going=True), queues=2, M=16, R=8) as rig:
        for queue in range(2):
            rig.inject_copies(queue, 100)
        rig.done(200)
        rig.stop()
        check_identity(rig.engine, received=200)
        assert rig.engine.failure() is None
        assert rig.delivered == 200


@pytest.fixture
def limited():
    """From its call on files of this process end at so many bytes, as on a full disk; so do kernels compiled then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("rate", "per_queue", "advanced"),
    [(None, False, False), (None, True, False), (200_000, False, False), (200_000, True, True)],
)
def test_file_that_cannot_grow(limited, tmp_path, rate, per_queue, advanced):
    """A writer that fails half-way ends the run; the files hold whole packets, as many as the summary says."""
    writer = Writer(WriteConfig(path=str(tmp_path / "out.pcap"), format="pcap", per_queue=per_queue))
    handlers = [Paced(rate)] if rate else []
    with Rig(Pipeline(handlers, writer), queues=2, M=16, R=8, advanced=advanced) as rig:
        file_limit, sent = 100_000, 0
        limited(file_limit)

        def has_ended() -> bool:
            nonlocal sent
            for queue in range(2):
                rig.inject_copies(queue, 60, size=1000)
            sent += 120
            return not rig.engine.running()

        until(has_ended, 30)
        rig.inject_copies(0, 60)
        rig.stop()
        check_identity(rig.engine, received=sent + 60)
        assert "File too large" in str(rig.engine.failure())
        paths = list(tmp_path.iterdir())
        assert all(path.stat().st_size <= file_limit for path in paths)
        in_files = [len(list(dpkt.pcap.Reader(BytesIO(path.read_bytes())))) for path in paths]
        assert sum(in_files) == writer.packets_written
        assert max(in_files) >= (file_limit - 24) // 1016 - 1
        assert writer.packets_written <= rig.delivered


@pytest.mark.parametrize(("advanced", "offered"), [(False, 3), (True, 3)])
def test_exhausted_pool(advanced, offered):
    """More packets than cells, with a handler that takes none of them: R x M are kept, the rest is named."""
    gate = Gate()
    with Rig(Pipeline([gate.handler]), queues=2, M=8, R=8, advanced=advanced) as rig:
        for _ in range(offered):
            for queue in range(2):
                rig.inject_copies(queue, 64)
                time.sleep(0.01)
        rig.engine.abandon()
        gate.let_go(100)
        rig.stop(give_up=True)
        check_identity(rig.engine, received=2 * offered * 64)
        drops = rig.drops()
        assert drops.pop("pool_exhausted") == 2 * (offered - 1) * 64
        assert drops == {"unread_at_stop": 2 * 64 - rig.delivered}


def test_oversize_packets():
    """Packets longer than a cell are named, and cost no cell."""
    with Rig(queues=1, M=8, R=8) as rig:
        for _ in range(20):
            rig.inject(0, [counted(1), bytes(1792), bytes(1793), bytes(9000), counted(2)])
            rig.done(5)
        rig.done(100)
        rig.stop()
        check_identity(rig.engine, received=100)
        assert rig.drops() == {"oversize": 40}
        assert rig.delivered == 60


@given(
    queues=st.integers(1, 4), M=st.integers(1, 9), R=st.integers(2, 6), threads=st.sampled_from([None, 1, 2]),
    advanced=st.booleans(), limit=st.sampled_from([0, 0, 5, 60]), give_up=st.booleans(),
    ring=st.sampled_from([None, 4]), rate=st.sampled_from([None, 20_000]),
    bursts=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 70), st.sampled_from([60, 1792, 1793])), max_size=12),
)  # fmt: skip
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_run(queues, M, R, threads, advanced, limit, give_up, ring, rate, bursts):
    """Any shape of engine, any bursts, any end: nothing is unaccounted for."""
    application = Pipeline([Paced(rate)] if rate else [])
    with Rig(
        application, queues, M, R, ring=ring, capture_threads=threads, advanced=advanced, limit=limit
    ) as rig:  # fmt: skip
        sent = 0
        for queue, count, size in bursts:
            rig.inject_copies(queue % queues, count, size)
            sent += count
        rig.stop(give_up)
        check_identity(rig.engine, received=sent)
        if limit:
            assert rig.delivered <= limit


def test_a_start_that_fails_leaves_no_thread():
    """A CPU that is not there is refused, and the threads that were started before it have ended."""
    rig = Rig(Pipeline([], None), queues=2, cpus=((100_000,),))
    with leaves_no_thread(), pytest.raises(UsageError, match="CPU 100000"):
        rig.engine.start()
