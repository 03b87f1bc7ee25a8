"""Frames with launch times: what lies in front of each, what its descriptor says, and what stamps come back."""

from __future__ import annotations

import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wirecap.kernels.base import jit, libc
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.pool.pool import Rings
from wirecap.kernels.transmit import launch_queues as k
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
FRAME = bytes(range(100, 160))
ORIGIN = 1_700_000_000_000_000_007


class Nic:
    """Queues with rings of their own, and this test in the place of the driver behind them."""

    def __init__(self, queues: int = 1) -> None:
        per_queue = 1024
        data = np.zeros(queues * per_queue, np.uint8)
        self.rings = Rings(data.view(np.int64), data.view(np.uint32), np.zeros(0, np.int64))
        self.umem = np.full(queues * CELLS * CELL, 0xEE, np.uint8)
        self.arrays = xdp_arrays(self.rings, queues, CELLS, CELL, self.umem, k.METADATA_BYTES)
        self.words = self.arrays.words.reshape(queues, t.TX_WORDS)
        for queue, words in enumerate(self.words):
            at = queue * per_queue
            tx, done = Ring(at, at + 64, at + 128, at + 256, CELLS), Ring(at + 192, at + 196, 0, at + 512, CELLS)
            equip_ring(words, -1, tx, done)
        self.words[:, k.ORIGIN] = ORIGIN
        self.control = np.zeros(p.CONTROL_WORDS, np.int64)
        jit.prepare([p.send_launch, p.finish_launch])

    def send(self, due: list[int], queue: list[int] | None = None) -> int:
        n = len(due)
        frames = Frames(
            np.frombuffer(FRAME, np.uint8).copy(), np.zeros(n, np.int64), np.full(n, len(FRAME), np.uint32),
            np.array(due, np.int64), np.array(queue or [0] * n, np.int64),
        )  # fmt: skip
        self.control[p.POSITION] = 0
        self.control[p.UNTIL_NS] = time.monotonic_ns() + PATIENT_NS
        return p.send_launch(self.arrays, frames, n, self.control, np.zeros(24, np.uint8), libc.scratch())

    def finish(self) -> int:
        self.control[p.UNTIL_NS] = time.monotonic_ns() + PATIENT_NS
        return p.finish_launch(self.arrays, self.control, libc.scratch())

    def descriptors(self, queue: int = 0) -> list[tuple[int, int, int]]:
        """Address, length and options of what lies in a TX ring, as the kernel reads them (struct xdp_desc)."""
        words = self.words[queue]
        raw = self.rings.words[words[t.TX_DESCRIPTORS] :].tobytes()
        return [struct.unpack_from("<QII", raw, 16 * n) for n in range(int(words[t.PUT] - words[t.DONE]))]

    def cell(self, address: int, queue: int = 0) -> bytes:
        """A cell from its beginning to the end of the frame at ``address``."""
        at = queue * CELLS * CELL + address
        return self.umem[at - k.METADATA_BYTES : at + len(FRAME)].tobytes()

    def complete(self, stamps: list[int], queue: int = 0) -> None:
        """The driver has sent the first frames of a ring that nothing was completed of; 0: without a stamp."""
        words, rings = self.words[queue], self.rings
        for number, (stamp, (address, _, _)) in enumerate(zip(stamps, self.descriptors(queue), strict=False)):
            at = queue * CELLS * CELL + address - k.METADATA_BYTES
            self.umem[at + 8 : at + 16] = np.frombuffer(struct.pack("<Q", stamp), np.uint8)  # completion.tx_timestamp
            rings.words[words[t.DONE_DESCRIPTORS] + number] = address
        rings.halves[words[t.DONE_PRODUCER]] = len(stamps)

    def stamps(self, queue: int = 0) -> list[int]:
        """How many there were, and the earliest, latest and sum of what they say."""
        return self.words[queue, [k.STAMPED, k.EARLIEST, k.LATEST, k.SUM]].tolist()

    def free(self, queue: int = 0) -> list[int]:
        return sorted(self.arrays.free[queue, : self.words[queue, x.FREE]].tolist())


def test_metadata_is_what_the_kernel_reads() -> None:
    """Byte by byte: flags for a stamp and a launch time, an empty field for the stamp, the launch time; then the frame
    as it was; a descriptor that has the option XDP_TX_METADATA and the frame's address and length."""
    nic = Nic()
    assert nic.send([0, 1_000_000_000]) == p.DONE
    found = nic.descriptors()
    assert [(address % CELL, length, options) for address, length, options in found] == [(24, 60, 2)] * 2
    for (address, _, _), due in zip(found, (0, 10**9), strict=True):
        assert nic.cell(address) == struct.pack("<QHHIQ", 5, 0, 0, 0, ORIGIN + due) + FRAME


def test_a_cell_that_is_used_again_has_no_old_stamp() -> None:
    """The kernel finds the field empty, or a frame without a stamp would have that of another one."""
    nic = Nic()
    assert nic.send([0]) == p.DONE
    nic.complete([ORIGIN + 9])
    assert nic.finish() == p.DONE
    assert nic.send([5]) == p.DONE
    assert nic.stamps() == [1, 9, 9, 9]
    address = int(nic.rings.words[nic.words[0, t.TX_DESCRIPTORS] + 2])
    assert nic.cell(address) == struct.pack("<QQQ", 5, 0, ORIGIN + 5) + FRAME


def test_stamps_are_compared_with_launch_times() -> None:
    """Early and late ones count; frames that the NIC had no room to stamp do not; every cell is free again."""
    nic = Nic(2)
    due = [0, 1000, 2000, 3000, 4000]
    assert nic.send(due, [0, 0, 1, 0, 0]) == p.DONE
    nic.complete([ORIGIN + 40, 0, ORIGIN + 2990, ORIGIN + 4125])
    nic.complete([0], 1)
    assert nic.finish() == p.DONE
    assert nic.stamps() == [3, -10, 125, 155]
    assert nic.stamps(1) == [0, 0, 0, 0]
    assert nic.arrays.counts[:, 0].tolist() == [[4, 4, 0, 0], [1, 1, 0, 0]]
    assert nic.free() == nic.free(1) == [n * CELL + k.METADATA_BYTES for n in range(CELLS)]


@settings(max_examples=25 if PURE else 50, deadline=None)
@given(queue=st.lists(st.integers(0, 1), max_size=60), budget=st.integers(1, 12), refuses=st.integers(0, 5))
def test_cells_go_around_as_without_launch_times(queue: list[int], budget: int, refuses: int) -> None:
    """However few frames a call takes, and whatever is refused: all are completed, counted once, and cells are free."""
    nic = Nic(2)
    for words in nic.words:
        answer(words, nic.rings.halves, budget, 0, refuses)
    assert nic.send([0] * len(queue), queue) == p.DONE
    assert nic.finish() == p.DONE
    for number, (queued, sent, refused, _) in enumerate(nic.arrays.counts[:, 0].tolist()):
        assert queued == sent + refused == queue.count(number)
        assert nic.free(number) == [n * CELL + k.METADATA_BYTES for n in range(CELLS)]
    assert nic.words[:, k.STAMPED].tolist() == [0, 0]
