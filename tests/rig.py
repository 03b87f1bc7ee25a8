"""What tests of the engine share: an in-process NIC with packets to inject, and a limit of time for every test.

Import ``time_limit`` in a conftest.py to give each of a folder's tests LIMIT_S seconds.
"""

from __future__ import annotations

import errno
import faulthandler
import os
import secrets
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from wirecap.config.capture import CaptureConfig, WriteConfig
from wirecap.config.specs import HandlerSpec, QueueSpec
from wirecap.engine.accounting import QueueCounts
from wirecap.engine.engine import Application, Engine, ThreadLayout
from wirecap.handlers.handler import Selection
from wirecap.handlers.pipeline import Pipeline
from wirecap.kernels.pool import pool as k
from wirecap.kernels.xdp import rings as r
from wirecap.lab.testbed import Testbed
from wirecap.linux import netns
from wirecap.run import build
from wirecap.source.memory import MemorySource
from wirecap.source.rings import ATTACHED
from wirecap.source.source import CaptureSettings, Source
from wirecap.traffic import synthetic as frames

PATIENCE = float(os.environ.get("WIRECAP_TEST_PATIENCE", "1"))
"""By how much tests wait longer: more than 1 in an emulated machine."""
LIMIT_S = round(120 * PATIENCE)


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """A test that hangs fails: by a signal where Python still runs, else by the end of the whole run."""

    def fail(*_: object) -> None:
        pytest.fail(f"not done after {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(LIMIT_S)
    faulthandler.dump_traceback_later(LIMIT_S + 60, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """Wait for something to be true and return it; fail where it does not come."""
    end = time.monotonic() + timeout_s * PATIENCE
    while not (result := condition()):
        if time.monotonic() > end:
            pytest.fail(f"did not happen within {timeout_s:g} s")
        time.sleep(0.002 * PATIENCE)
    return result


@contextmanager
def leaves_no_thread() -> Iterator[None]:
    """Every thread that is started within ends soon after; those that Python only met, and never forgets, are none."""
    before = set(threading.enumerate())

    def left() -> list[threading.Thread]:
        started = set(threading.enumerate()) - before
        return [thread for thread in started if type(thread).__name__ != "_DummyThread"]

    yield
    end = time.monotonic() + 30
    while left():
        assert time.monotonic() < end, left()
        time.sleep(0.002 * PATIENCE)


def cpu_seconds(pid: int) -> float:
    """What a running process has used: how far it has come, however busy the machine is."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Nobody:
    """An application whose chunks the test takes itself: a consumer per queue, no threads."""

    def __init__(self, consumers: int | None = None, writers: int = 0) -> None:
        self.consumers, self.writers = consumers, writers

    def layout(self, queues: int) -> ThreadLayout:
        consumers = self.consumers or queues
        return ThreadLayout([queue % consumers for queue in range(queues)], consumers, self.writers, threads=False)

    def kernels(self) -> list[Any]:
        return []

    def compile(self, tell: Callable[[str], None]) -> None: ...

    def open(self, engine: Engine) -> None: ...

    def run(self, engine: Engine, consumer: int) -> None: ...

    def close(self, engine: Engine) -> None: ...

    def account(self, engine: Engine, queue: int, counts: QueueCounts) -> None: ...


class Rig:
    """An engine on a memory NIC; ``with`` starts it and stops it in any case."""

    def __init__(
        self, application: Application | None = None, queues: int = 1, M: int = 8, R: int = 8, cell: int = 2048,
        ring: int | None = None, timeout_ns: int = 1_000_000, large: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        self.source = MemorySource(queues, M * R, cell, ring, large=large)
        self.application = application or Pipeline([], None)
        build.prepare(self.source, self.application)
        settings = CaptureSettings(timeout_ns=timeout_ns)
        self.engine = Engine(self.source, self.application, M=M, R=R, settings=settings, **options)
        self._attached = min(M * R, ring or ATTACHED)

    def __enter__(self) -> Rig:
        self.engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(give_up=True)
        self.source.close()

    def inject(self, queue: int, packets: Sequence[bytes], timestamps: Sequence[int] | None = None) -> None:
        """Packets arrive on a queue, timestamped now if not said otherwise."""
        data = np.frombuffer(b"".join(packets) or b"\0", np.uint8).copy()
        sizes = np.array([len(packet) for packet in packets], np.int64)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)[: len(packets)]
        times = np.full(len(packets), time.time_ns()) if timestamps is None else np.array(timestamps)
        self.source.inject(queue, data, starts, sizes, times.astype(np.int64))

    def inject_copies(self, queue: int, count: int, size: int = 60) -> None:
        """``count`` packets of ``size`` zeros arrive at once."""
        zeros = np.zeros(count, np.int64)
        self.source.inject(queue, np.zeros(size, np.uint8), zeros, zeros + size, zeros + time.time_ns())

    def room(self, queue: int = 0) -> int:
        """How many packets of one cell would find one now: what the NIC sees in the queue's fill ring."""
        words = self.engine.pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
        halves = self.source.rings.halves
        return (int(halves[words[r.FILL_PRODUCER]]) - int(halves[words[r.FILL_CONSUMER]])) & 0xFFFFFFFF

    def stop(self, give_up: bool = False) -> None:
        if not self.engine.stopped:
            asked = threading.Event()
            if give_up:
                asked.set()
            self.engine.stop(asked)

    def done(self, packets: int) -> None:
        """Wait until so many packets have ended one way or the other."""
        until(lambda: self.ended() >= packets or self.engine.failure())
        failure = self.engine.failure()
        if failure:
            raise failure

    def at_home(self) -> None:
        """Wait until as many cells as at the beginning are attached again: delivered packets still have some."""
        words = self.engine.pool.queues
        until(lambda: (words[r.SUBMITTED :: k.QUEUE_WORDS] - words[k.TAKEN :: k.QUEUE_WORDS] == self._attached).all())

    def ended(self) -> int:
        summary = self.engine.summary()
        return summary.total("delivered") + summary.total("filtered_out") + summary.total("dropped")

    @property
    def delivered(self) -> int:
        return self.engine.summary().total("delivered")

    def drops(self) -> dict[str, int]:
        """Packets by the reason that they were dropped for, where there are any."""
        return {name: count for name, count in self.engine.summary().drops().items() if count}


class Gate:
    """A handler that keeps each chunk until ``let_go``; ``sizes`` has the packets of each chunk that it took."""

    def __init__(self) -> None:
        import wirecap
        from wirecap.handlers.table import bind

        self.sizes: list[int] = []
        self._go = threading.Semaphore(0)

        @wirecap.chunk_handler
        def keeps(chunk: Any) -> None:
            self.sizes.append(len(chunk))
            self._go.acquire()

        self.handler = bind(keeps)

    def let_go(self, chunks: int = 1) -> None:
        self._go.release(chunks)


def check_identity(engine: Engine, received: int | None = None) -> None:
    """received = delivered + filtered_out + dropped for each queue, and no drop without a known name."""
    assert engine.stopped
    summary = engine.summary()
    for queue in summary.queues:
        assert "unaccounted" not in queue.drops, queue
        assert all(count >= 0 for count in queue.drops.values()), queue
        assert queue.pending == 0
        assert queue.received == queue.delivered + queue.filtered_out + queue.dropped, queue
    if received is not None:
        assert summary.total("received") == received
    assert summary.refused_recycles == 0


def free_port() -> int:
    """A port of this host that nobody listens on, of those that the kernel gives to nobody else meanwhile."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)  # the kernel's own begin at 32768; the tests' dice are alike
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def counted(number: int, size: int = 60) -> bytes:
    """A packet that carries its number in its first 8 bytes."""
    return number.to_bytes(8, "big") + bytes(size - 8)


def selection_of(expression: str) -> Selection:
    """A filter as threads apply it, for Ethernet."""
    from wirecap.filters.metadata import Link
    from wirecap.filters.native import LinkFilters, NativeFilter

    filters = LinkFilters(expression, [Link(1)])
    return Selection(NativeFilter.process, filters.states([Link(1)]), filters)


class Packet(NamedTuple):
    """A packet in a file."""

    timestamp: int
    """Ticks of the file since the epoch: ns in pcapng and nanosecond pcap, us in pcap."""
    interface: int
    data: bytes
    original: int


PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)


def pcap_records(count: int, first: int = 0) -> bytes:
    """Records of a pcap file: packets of 60 bytes, numbered in the first of them."""
    numbers = range(first, first + count)
    return b"".join(struct.pack("<4IQ", 1_700_000_000 + n, 0, 60, 60, n) + bytes(52) for n in numbers)


def read_pcapng(path: Path) -> list[Packet]:
    """Enhanced packet blocks of one little-endian section (draft-ietf-opsawg-pcapng), every block whole."""
    whole, at, found = path.read_bytes(), 0, []
    while at < len(whole):
        kind, size = struct.unpack_from("<II", whole, at)
        assert size % 4 == 0
        assert size >= 12
        assert struct.unpack_from("<I", whole, at + size - 4)[0] == size
        if kind == 6:
            interface, high, low, captured, original = struct.unpack_from("<5I", whole, at + 8)
            data = whole[at + 28 : at + 28 + captured]
            found.append(Packet(high << 32 | low, interface, data, original))
        at += size
    assert at == len(whole)
    return found


def packets_so_far(path: Path) -> int:
    """Packets of a pcapng file that is being written; -1 while it is not there, or ends within a block."""
    try:
        return len(read_pcapng(path))
    except (AssertionError, OSError, struct.error):
        return -1


def read_pcap(path: Path) -> list[Packet]:
    """Records of a little-endian pcap file (draft-ietf-opsawg-pcap), every record whole."""
    data, at, found = path.read_bytes(), 24, []
    ticks = {0xA1B2C3D4: 10**6, 0xA1B23C4D: 10**9}[struct.unpack_from("<I", data)[0]]
    while at < len(data):
        seconds, fraction, captured, original = struct.unpack_from("<4I", data, at)
        found.append(Packet(seconds * ticks + fraction, 0, data[at + 16 : at + 16 + captured], original))
        assert fraction < ticks
        assert len(found[-1].data) == captured
        at += 16 + captured
    return found


def captured(child: Any, what: str = "captured") -> int:
    """How many packets a running ``wirecap capture`` says that it has captured, when it is asked; or ``received``."""

    def said() -> list[int]:
        lines = (line.split() for line in child.output.splitlines())
        return [int(words[0]) for words in lines if words[1:3] in (["packets", what], ["packet", what])]

    before = len(said())

    def answered() -> bool:
        os.kill(child.pid, signal.SIGUSR1)
        time.sleep(0.05)
        return len(said()) > before

    until(answered)
    return said()[-1]


class LiveRig:
    """A capture on a testbed's interfaces, run in this process; ``with`` starts it and stops it in any case."""

    def __init__(
        self, bed: Testbed, *sources: str, write: WriteConfig | None = None, handlers: Sequence[str] = (),
        source: Source | None = None, application: Application | None = None, **config: Any,
    ) -> None:  # fmt: skip
        self.config = CaptureConfig(
            sources=tuple(QueueSpec.parse(text) for text in sources or (bed.nics[0].inside,)),
            handlers=tuple(HandlerSpec.parse(text) for text in handlers), netns=bed.name, **config,
        )  # fmt: skip
        self.source = source or build.source_of(self.config, write)
        self.application = application or build.application_of(self.config, write, self.source)
        build.prepare(self.source, self.application)
        self.engine = build.engine_of(self.config, self.source, self.application)

    def __enter__(self) -> LiveRig:
        try:
            netns.call(self.config.netns, self.engine.start)
        except BaseException:
            self.source.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(give_up=True)
        self.source.close()

    stop = Rig.stop
    done = Rig.done
    ended = Rig.ended
    drops = Rig.drops
    delivered = Rig.delivered


class Wire:
    """Sends frames from a testbed's outside, one after the other, through a packet socket."""

    def __init__(self, interface: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.bind((interface, 0))

    def send(self, frames: Iterable[bytes]) -> None:
        with on_one_cpu():
            for frame in frames:
                send_one(self._socket, frame)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


@contextmanager
def on_one_cpu() -> Iterator[None]:
    """For this thread: frames of a sender that moves to another CPU overtake each other in the kernel's backlogs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[os.getpid() % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def send_one(sender: socket.socket, frame: bytes) -> None:
    """Send until the other end has it: a backlog that is full of other tests' packets is no fault (Linux 6.7 tells)."""
    end = time.monotonic() + 60
    while True:
        try:
            sender.send(frame)
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS or time.monotonic() > end:
                raise
        time.sleep(0.001)


def flow_frames(count: int, size: int = 60, first: int = 0) -> list[bytes]:
    """UDP frames of different flows, numbered in the 8 bytes from offset 42."""
    return [
        frames.udp(size, source_port=1024 + number % 60_000)[:42] + counted(number, size - 42)
        for number in range(first, first + count)
    ]


def number_of(frame: bytes) -> int:
    return int.from_bytes(frame[42:50], "big")
