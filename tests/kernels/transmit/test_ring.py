"""The AF_XDP transmit ring and the loops on it: cells go round, every answer of the kernel is counted once."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wirecap.kernels.base import jit, libc
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.pool.pool import Rings
from wirecap.kernels.transmit import paced_loop as p
from wirecap.kernels.transmit import ring as t
from wirecap.kernels.transmit import xdp_queues as x
from wirecap.kernels.transmit.frames import Frames
from wirecap.linux.af_xdp import Ring
from wirecap.source.memory import answer
from wirecap.source.wires import equip_ring
from wirecap.traffic.ring_sender import xdp_arrays

pytestmark = pytest.mark.kernel
PATIENT_NS = 60_000_000_000
CELLS, CELL = 8, 128
FRAME = bytes(range(60))


class Sender:
    """Queues of a sender with rings of its own and no kernel behind them.  first: where the rings' counters begin."""

    def __init__(self, queues: int = 1, first: int = 0) -> None:
        per_queue = 1024
        data = np.zeros(queues * per_queue, np.uint8)
        self.rings = Rings(data.view(np.int64), data.view(np.uint32), np.zeros(0, np.int64))
        self.umem = np.zeros(queues * CELLS * CELL, np.uint8)
        self.arrays = xdp_arrays(self.rings, queues, CELLS, CELL, self.umem)
        self.words = self.arrays.words.reshape(queues, t.TX_WORDS)
        for queue, words in enumerate(self.words):
            at = queue * per_queue
            tx, done = Ring(at, at + 64, at + 128, at + 256, CELLS), Ring(at + 192, at + 196, 0, at + 512, CELLS)
            equip_ring(words, -1, tx, done)
            words[t.PUT] = words[t.DONE] = first
            for counter in (words[t.TX_PRODUCER], words[t.DONE_PRODUCER], words[t.DONE_CONSUMER]):
                self.rings.halves[counter] = first
        self.control = np.zeros(p.CONTROL_WORDS, np.int64)
        jit.prepare([p.send_xdp, p.finish_xdp])

    def number(self, first: int, at: int) -> None:
        self.words[:, x.NUMBER], self.words[:, x.NUMBER_AT] = first, at

    def send(self, queue: list[int], within_ns: int = PATIENT_NS, due: list[int] | None = None) -> int:
        """A packet for each entry of ``queue``; returns what the loop did."""
        n = len(queue)
        frames = Frames(
            np.frombuffer(FRAME, np.uint8).copy(), np.zeros(n, np.int64), np.full(n, len(FRAME), np.uint32),
            np.array(due or [0] * n, np.int64), np.array(queue, np.int64),
        )  # fmt: skip
        self.control[p.PACED], self.control[p.POSITION] = bool(due), 0
        self.control[p.START_NS] = time.monotonic_ns()
        self.control[p.UNTIL_NS] = time.monotonic_ns() + within_ns
        return p.send_xdp(self.arrays, frames, n, self.control, np.zeros(12, np.uint8), libc.scratch())

    def finish(self, within_ns: int = PATIENT_NS) -> int:
        self.control[p.UNTIL_NS] = time.monotonic_ns() + within_ns
        return p.finish_xdp(self.arrays, self.control, libc.scratch())

    def counts(self) -> list[list[int]]:
        """QUEUED, SENT, REFUSED and FULL of each queue."""
        return self.arrays.counts[:, 0].tolist()

    def free(self, queue: int) -> list[int]:
        return sorted(self.arrays.free[queue, : self.words[queue, x.FREE]].tolist())


class KernelSide:
    """A thread takes frames of a sender's first queue and completes them, some turns later."""

    def __init__(self, sender: Sender, first: int) -> None:
        self.sender, self.taken = sender, first
        self.seen: list[tuple[int, int]] = []
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._complete)

    def _complete(self) -> None:
        """Frames lie in the kernel for a turn: meanwhile nobody else may have their cells."""
        words, rings = self.sender.words[0].tolist(), self.sender.rings
        held: list[int] = []
        while not self.stopped.is_set():
            for cell in held:
                place = int(rings.halves[words[t.DONE_PRODUCER]])
                rings.words[words[t.DONE_DESCRIPTORS] + (place & words[t.DONE_MASK])] = cell
                rings.halves[words[t.DONE_PRODUCER]] = (place + 1) % 2**32
            held = []
            while self.taken != rings.halves[words[t.TX_PRODUCER]] and len(held) < 3:
                at = words[t.TX_DESCRIPTORS] + (self.taken & words[t.TX_MASK]) * 2
                cell, length = rings.words[at : at + 2].tolist()
                assert cell not in held
                number = int.from_bytes(self.sender.umem[cell + 8 : cell + 16].tobytes(), "big")
                self.seen.append((number, length))
                held.append(cell)
                self.taken = (self.taken + 1) % 2**32
            time.sleep(0)

    def __enter__(self) -> KernelSide:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._thread.join()


@pytest.mark.parametrize(("first", "rate_pps"), [(0, 0.0), (2**32 - 5, 0.0), (2**32 - 5, 20_000.0)])
def test_cells_go_around_the_rings(first: int, rate_pps: float) -> None:
    """Eight cells carry 300 frames, each number once and in order, also where the rings' counters wrap at 2**32."""
    sender = Sender(first=first)
    sender.number(2**40, at=8)
    due = [int(n / rate_pps * 1e9) for n in range(300)] if rate_pps else None
    begin_ns = time.monotonic_ns()
    with KernelSide(sender, first) as side:
        assert sender.send([0] * 300, due=due) == p.DONE
        assert sender.finish() == p.DONE
        taken_ns = time.monotonic_ns() - begin_ns
    assert side.seen == [(2**40 + n, 60) for n in range(300)]
    assert sender.counts() == [[300, 300, 0, 0]]
    assert sender.free(0) == [n * CELL for n in range(CELLS)]
    if rate_pps:
        assert taken_ns >= 299 / rate_pps * 1e9


def test_loop_returns_when_told_or_when_its_time_is_over() -> None:
    """Frames that the kernel never completes do not hold the loop: it ends at UNTIL_NS, and at once when stopped."""
    sender = Sender()
    assert sender.send([0] * 100, within_ns=30_000_000) == p.UNFINISHED
    assert sender.control[p.POSITION] == 8
    assert sender.counts() == [[8, 0, 0, 0]]
    assert sender.finish(within_ns=1_000_000) == p.UNFINISHED
    sender.control[p.STOP] = 1
    assert sender.send([0] * 100, within_ns=2**62 - time.monotonic_ns()) == p.UNFINISHED
    assert sender.counts() == [[8, 0, 0, 0]]


@settings(max_examples=25 if PURE else 50, deadline=None)
@given(
    queue=st.lists(st.integers(0, 2), max_size=120), budget=st.integers(1, 40), stalls=st.integers(0, 5),
    refuses=st.integers(0, 5), first=st.sampled_from([0, 2**32 - 7]),
)  # fmt: skip
def test_every_answer_is_counted_once(queue: list[int], budget: int, stalls: int, refuses: int, first: int) -> None:
    """However few frames a call takes, and however many the NIC refuses: all frames of all queues are completed, those
    refused are counted, each once, and every cell is free again."""
    sender = Sender(3, first)
    for words in sender.words:
        answer(words, sender.rings.halves, budget, stalls, refuses)
    assert sender.send(queue) == p.DONE
    assert sender.finish() == p.DONE
    for number, (queued, sent, refused, full) in enumerate(sender.counts()):
        wanted = queue.count(number)
        numbers = ((first + n) % 2**32 for n in range(wanted))
        assert (queued, full) == (wanted, 0)
        assert refused == sum(bool(refuses) and n % refuses == 0 for n in numbers)
        assert sent == queued - refused
        assert sender.free(number) == [n * CELL for n in range(CELLS)]


def test_a_nic_that_takes_nothing_is_not_asked_for_ever() -> None:
    """EAGAIN to every call ends the loop at UNTIL_NS, with a bounded number of calls for each look at the ring."""
    sender = Sender()
    answer(sender.words[0], sender.rings.halves, 0, 0, 0)
    assert sender.send([0] * 20, within_ns=20_000_000) == p.UNFINISHED
    assert sender.counts() == [[8, 0, 0, 0]]
    looks = 20_000_000 // t.REST_NS + 3
    assert 2 <= sender.words[0, t.MEMORY_CALLS] <= looks * 2
