"""Users' handlers in a running engine: compiled, per chunk and per packet, alone and in a row."""

from __future__ import annotations

import struct
import threading
from pathlib import Path

import dpkt
import numba
import numpy as np
import pytest

import wirecap
from rig import Rig, check_identity, until
from wirecap.config.capture import WriteConfig
from wirecap.errors import WirecapError
from wirecap.handlers.pipeline import Pipeline
from wirecap.handlers.table import bind
from wirecap.handlers.write import Writer

pytestmark = pytest.mark.kernel


def udp(port: int, size: int = 60) -> bytes:
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, size - 14, 0, 0, 64, 17, 0, b"\xc0\0\2\1", b"\xc0\0\2\2")
    return (bytes(12) + b"\x08\0" + ip + struct.pack("!HHHH", 4000, port, size - 34, 0)).ljust(size, b"\0")


def pipeline(*handlers, **options) -> Pipeline:
    return Pipeline([bind(handler) for handler in handlers], **options)


def results(application: Pipeline) -> list:
    return [row["result"] for row in application.results()]


def failure_of(rig: Rig) -> WirecapError:
    """Wait for the handler that ends the run."""
    until(lambda: not rig.engine.running())
    rig.stop()
    failure = rig.engine.failure()
    assert isinstance(failure, WirecapError)
    return failure


@wirecap.handler(state={"ports": (np.int64, 65536), "bytes": np.int64, "longest": np.uint16, "mean": np.float64})
def by_port(packet, state):
    state.ports[packet.udp.dst_port] += 1
    state.bytes += packet.length
    state.longest = max(state.longest, packet.length)
    state.mean += 0.5


def test_threads_count_apart_and_are_merged():
    """Each queue's thread has a record of its own; the result is the sum of each field over all threads."""
    application = pipeline(by_port)
    with Rig(application, queues=4) as rig:
        for queue in range(4):
            rig.inject(queue, [udp(1000 + queue, 60 + queue)] * 10 * (queue + 1))
        rig.done(100)
        rig.stop()
        check_identity(rig.engine, 100)
    [result] = results(application)
    assert {port: int(count) for port, count in enumerate(result["ports"]) if count} == {
        1000: 10, 1001: 20, 1002: 30, 1003: 40,
    }  # fmt: skip
    assert result["bytes"] == sum((60 + queue) * 10 * (queue + 1) for queue in range(4))
    assert result["longest"] == 60 + 61 + 62 + 63
    assert result["mean"] == 50.0


def test_merge_of_the_users_own():
    """merge gets the records of all threads, and its answer is the result."""

    @wirecap.handler(state={"longest": np.int64}, merge=lambda threads: [int(state.longest) for state in threads])
    def longest(packet, state):
        state.longest = max(state.longest, packet.length)

    application = pipeline(longest)
    with Rig(application, queues=2) as rig:
        rig.inject(0, [udp(1, 70), udp(1, 90)])
        rig.inject(1, [udp(1, 80)])
        rig.done(3)
        rig.stop()
    assert results(application) == [[90, 80]]


def test_counters_without_a_declaration():
    """A handler without a declared state has an int64 counter for each name that it uses, in their order."""

    @wirecap.handler
    def odd(packet, state):
        if packet.udp.dst_port % 2:
            state.odd += 1
        else:
            state.even += 1
        state.odd += 0

    application = pipeline(odd)
    with Rig(application) as rig:
        rig.inject(0, [udp(port) for port in range(1, 12)])
        rig.done(11)
        rig.stop()
    assert list(results(application)[0].items()) == [("odd", 6), ("even", 5)]


def test_each_run_begins_at_zero():
    """A handler is used in one capture after the other; no state is left over."""

    @wirecap.handler
    def count(packet, state):
        state.packets += 1

    for packets in (3, 5):
        application = pipeline(count)
        with Rig(application) as rig:
            rig.inject(0, [udp(1)] * packets)
            rig.done(packets)
            rig.stop()
        assert results(application) == [{"packets": packets}]


def test_helpers_and_options():
    """A handler calls the user's own compiled functions, and has options of three types."""

    @numba.njit
    def wanted(packet, port):
        return packet.udp.dst_port == port

    @wirecap.handler
    def select(packet, state, port=53, twice=False, factor=1.5):
        if wanted(packet, port):
            state.found += 2 if twice else 1
            if factor * 2.0 == 5.0:
                state.factor += 1

    for options, expected in (({}, (1, 0)), ({"port": "0x50", "twice": "yes", "factor": "2.5"}, (4, 2))):
        application = Pipeline([bind(select, options)])
        with Rig(application) as rig:
            rig.inject(0, [udp(53), udp(80), udp(80)])
            rig.done(3)
            rig.stop()
        assert results(application) == [dict(zip(("found", "factor"), expected, strict=True))]


@wirecap.handler
def picky(packet, state):
    state.before += 1
    if packet.udp.dst_port == 13:
        raise ValueError("thirteen")
    state.after += 1


def test_exception_ends_the_run_with_the_packets_place():
    """The error names handler, packet of its chunk, interface, queue, time, exception and the user's line."""
    application = pipeline(picky)
    with Rig(application, queues=2, M=8) as rig:
        rig.inject(1, [udp(1), udp(2), udp(13), udp(4)], [10**18 + number for number in range(4)])
        failure = failure_of(rig)
        check_identity(rig.engine, 4)
    place = rig.source.queues[1]
    line = next(
        n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if 'ValueError("thirteen")' in text
    )
    assert failure.message == (
        f"handler picky failed on packet 2 of a chunk of {place.interface} queue 1 at 2001-09-09"
        f" 01:46:40.000000002 UTC: ValueError: thirteen ({__file__}, line {line})"
    )
    assert "--keep-going" in failure.hint
    assert failure.exit_status == 1
    assert results(application) == [{"before": 3, "after": 2}]


def test_keep_going_skips_the_packet_only():
    """With keep_going the packet that fails is counted and skipped, the rest of its chunk is handled."""
    application = pipeline(picky, keep_going=True)
    with Rig(application, queues=2, M=8) as rig:
        for queue in range(2):
            rig.inject(queue, [udp(1), udp(13), udp(2), udp(13), udp(13), udp(3)])
        rig.done(12)
        rig.stop()
        check_identity(rig.engine, 12)
    assert application.results() == [{"name": "picky", "result": {"before": 12, "after": 6}, "failures": 6}]


def test_index_and_division_fail_as_in_python():
    """An index outside an array, a byte outside the packet and a division by zero raise, and are caught by name."""

    @wirecap.handler(state={"few": (np.int64, 4), "n": np.int64})
    def careless(packet, state):
        port = packet.udp.dst_port
        if port == 1:
            state.few[port * 4] += 1
        elif port == 2:
            state.n += packet[port * 100]
        elif port == 3:
            state.n //= port - 3
        state.n += 1

    for port, name in ((1, "IndexError"), (2, "IndexError"), (3, "ZeroDivisionError")):
        with Rig(pipeline(careless)) as rig:
            rig.inject(0, [udp(port)])
            failure = failure_of(rig)
        assert f": {name}: " in failure.message
        assert __file__ in failure.message
    with Rig(application := pipeline(careless, keep_going=True)) as rig:
        rig.inject(0, [udp(port) for port in (1, 2, 3, 4)])
        rig.done(4)
        rig.stop()
    assert application.results()[0]["failures"] == 3


def test_chunk_handler():
    """A chunk handler gets every packet once, as views that end with the call, on its queue's thread."""
    kept, threads = [], set()

    @wirecap.chunk_handler(state={"bytes": np.int64, "packets": np.int64})
    def sizes(chunk, state):
        state.bytes += chunk.lengths.sum()
        state.packets += len(chunk)
        kept.append((chunk, [bytes(packet) for packet in chunk]))
        threads.add(threading.current_thread().name)

    application = pipeline(sizes)
    with Rig(application, queues=2, M=8) as rig:
        for queue in range(2):
            rig.inject(queue, [udp(number, 60 + number) for number in range(20)])
        rig.done(40)
        rig.stop()
    assert results(application) == [{"bytes": 2 * sum(range(60, 80)), "packets": 40}]
    assert sorted(packet for _, packets in kept for packet in packets) == sorted(
        2 * [udp(number, 60 + number) for number in range(20)]
    )
    assert len(threads) == 2
    with pytest.raises(ValueError, match="released"):
        kept[0][0].lengths  # noqa: B018


def test_packet_handler():
    """A callback gets each packet's time and bytes, in the queue's order; no state, no result."""
    seen = []

    def show(timestamp_ns, data):
        seen.append((timestamp_ns, data))

    application = pipeline(show)
    packets = [udp(number) for number in range(30)]
    with Rig(application, M=8) as rig:
        rig.inject(0, packets, range(100, 130))
        rig.done(30)
        rig.stop()
    assert seen == list(zip(range(100, 130), packets, strict=True))
    assert results(application) == [None]


@pytest.mark.parametrize("keep_going", [False, True])
def test_exception_in_python(keep_going):
    """A callback's exception ends the run with the packet's place and the user's line, or is skipped and counted."""
    seen = []

    @wirecap.packet_handler(state={"n": np.int64})
    def fussy(timestamp_ns, data, state):
        if timestamp_ns == 2:
            raise KeyError("two")
        seen.append(timestamp_ns)
        state.n += 1

    application = pipeline(fussy, keep_going=keep_going)
    with Rig(application, M=8) as rig:
        rig.inject(0, [udp(1)] * 5, range(5))
        if keep_going:
            rig.done(5)
            rig.stop()
            assert seen == [0, 1, 3, 4]
            assert application.results() == [{"name": "fussy", "result": {"n": 4}, "failures": 1}]
        else:
            failure = failure_of(rig)
            assert failure.message.startswith("handler fussy failed on packet 2 of a chunk of ")
            assert "1970-01-01 00:00:00.000000002 UTC: KeyError: 'two'" in failure.message
            assert __file__ in failure.message
            assert seen == [0, 1]
        check_identity(rig.engine, 5)


def test_exception_in_a_chunk_handler():
    """A chunk handler that fails is named with the chunk; with keep_going the next chunk is handled."""

    def fussy(chunk):
        if chunk.timestamps[0] == 0:
            raise RuntimeError
        seen.extend(chunk.timestamps.tolist())

    seen: list[int] = []
    with Rig(pipeline(fussy), M=4) as rig:
        rig.inject(0, [udp(1)] * 8, range(8))
        assert "handler fussy failed on a chunk of " in failure_of(rig).message
    with Rig(application := pipeline(fussy, keep_going=True), M=4) as rig:
        rig.inject(0, [udp(1)] * 8, range(8))
        rig.done(8)
        rig.stop()
    assert seen[-4:] == [4, 5, 6, 7]
    assert application.results()[0]["failures"] == 1


def test_a_row_of_all_kinds(tmp_path):
    """Compiled and Python handlers and the writer work on the same packets, in the order of the row."""
    order = []

    def first(chunk):
        order.extend(("first", timestamp) for timestamp in chunk.timestamps.tolist())

    def last(timestamp_ns, data):
        order.append(("last", timestamp_ns))

    path = tmp_path / "row.pcap"
    writer = Writer(WriteConfig(path=str(path), format="pcap"))
    application = pipeline(first, picky, last, writer=writer)
    with Rig(application, M=4) as rig:
        rig.inject(0, [udp(1)] * 4, [1000, 2000, 3000, 4000])
        rig.done(4)
        rig.stop()
    timestamps = [1000, 2000, 3000, 4000]
    assert order == [("first", timestamp) for timestamp in timestamps] + [
        ("last", timestamp) for timestamp in timestamps
    ]
    assert results(application) == [None, {"before": 4, "after": 4}, None]
    with path.open("rb") as file:
        assert [data for _, data in dpkt.pcap.Reader(file)] == [udp(1)] * 4


def test_what_follows_a_failure_is_not_called():
    """A handler that fails ends the row: those behind it do not see the chunk."""
    seen = []

    def before(chunk):
        seen.append("before")

    def behind(chunk):
        seen.append("behind")

    with Rig(pipeline(before, picky, behind), M=4) as rig:
        rig.inject(0, [udp(13)])
        failure_of(rig)
    assert seen == ["before"]


@pytest.mark.parametrize("keep_going", [False, True])
def test_a_capture_writes_what_arrived(keep_going):
    """A handler that sets a field or a byte ends the capture, or is counted and skipped; the packet stays as it was."""

    @wirecap.handler
    def wrong(packet, state):
        packet.ip.ttl = 3
        state.packets += 1

    application = pipeline(wrong, keep_going=keep_going)
    with Rig(application) as rig:
        rig.inject(0, [udp(1, 70)] * 3)
        if keep_going:
            rig.done(3)
            rig.stop()
            assert application.results()[0]["failures"] == 3
        else:
            assert "only wirecap forward can change packets" in str(failure_of(rig))
    assert results(application) == [{"packets": 0}]


def test_a_handler_that_exits():
    """sys.exit() in a handler in Python is a failure like any other, with the packet's place."""

    def leaving(timestamp_ns, data):
        raise SystemExit(3)

    with Rig(pipeline(wirecap.packet_handler(leaving)), M=8) as rig:
        rig.inject(0, [udp(1)] * 5, range(5))
        failure = failure_of(rig)
        assert "failed on packet 0 of a chunk of " in failure.message
        assert "SystemExit: 3" in failure.message
        check_identity(rig.engine, 5)
