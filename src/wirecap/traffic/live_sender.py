"""Sending from inside the kernel: the packets lie in a BPF map, a test run's live frames take them from there.

The fastest way there is without special hardware (traffic/liveframes.py tells what it needs), and one queue: a
veth's other end gets what is sent on CPU c on its queue c modulo queues.  What the interface took is counted
by a veth's own counters; where a driver has none, the frames that the program redirected count.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import SystemCallError
from wirecap.kernels import pacing as p
from wirecap.kernels import send_live as k
from wirecap.linux import asm, bpf, netlink, syscall
from wirecap.traffic import live_program
from wirecap.traffic.batch import Batch
from wirecap.traffic.liveframes import FRAME_MAX, PIECE, Held, taken_by
from wirecap.traffic.sender import Macs, Run
from wirecap.traffic.tx_queues import stalled

RING_BYTES = 1 << 25
"""Room for a batch of the longest packets (8,192 of 3.5 KiB)."""
BATCH = 64
"""Frames that a test run handles at once; at a rate PACED_BATCH, so that no packet waits long for the others."""
PACED_BATCH = 32
PACED_PIECE = 4096
"""Runs of one system call at a rate, some of which only wait."""
SLEEP_NS = 300_000
"""A pause from which on the thread sleeps instead of letting the program wait."""
LOOK_NS = 50_000_000
"""From one look at the interface to the next: a look takes as long as some hundred packets."""
_ROOM_S = 0.05


class LiveSender:
    """Sends from the calling thread's namespace, frames of up to ``longest`` bytes, on the CPU of its thread."""

    def __init__(self, interface: str, longest: int, paced: bool, macs: Macs) -> None:
        self._interface, self._longest, self._paced = interface, min(longest, FRAME_MAX), paced
        self.run = Run(paced, macs)
        self.control = self.run.control
        self._pack = np.zeros(k.PACK_WORDS, np.int64)
        self._room = threading.Condition()
        self._staged = self._goal = 0
        value_bytes = RING_BYTES + k.HEAD_BYTES + self._longest
        self._ring = bpf.Map(bpf.ARRAY, value_bytes, 1, bpf.MMAPABLE, name="wirecap_frames")
        self._words = bpf.Map(bpf.ARRAY, live_program.CONTROL_BYTES, 1, bpf.MMAPABLE, name="wirecap_live")
        self._octets: NDArray[np.uint8] = np.frombuffer(self._ring.mapped(), np.uint8)
        self._shared: NDArray[np.int64] = np.frombuffer(self._words.mapped(), np.int64)
        index = netlink.interface(interface).index
        code = live_program.program(index, self._ring.fd, self._words.fd, RING_BYTES, self._longest, paced)
        self._program = bpf.Program(asm.assemble(code), "wirecap_replay")
        self._held = Held(self._program)
        self._frame = bytes(self._longest)
        self._taken_before = taken_by(self._interface)
        self._pinned = False
        self._looked_ns = self._refused = 0
        self.way = "in-kernel live frames (BPF_PROG_TEST_RUN)"

    def kernels(self) -> list[Any]:
        return [k.pack]

    def stage(self, batch: Batch) -> tuple[int, int, NDArray[np.int64]]:
        first = 0
        while first < batch.n and not self.control[p.STOP]:
            before, now = first, self._pack
            first = int(
                k.pack(
                    self._octets, RING_BYTES, batch.arena, batch.address, batch.length, batch.due, first, batch.n, now,
                    self.control, self.run.addresses,
                )
            )  # fmt: skip
            self._staged += first - before
            self._shared[live_program.LIMIT] = self._staged
            if first < batch.n:
                with self._room:
                    self._room.wait(_ROOM_S)
        return first, int(self._pack[k.HEAD]), batch.due

    def send(self, staged: tuple[int, int, NDArray[np.int64]]) -> None:
        count, head, due = staged
        if not self._pinned:  # the CPU chooses the queue at the other end: one CPU keeps the order
            os.sched_setaffinity(0, {syscall.libc.sched_getcpu()})
            self._pinned = True
        first = self._goal
        self._goal += count
        while (done := int(self._shared[live_program.SENT])) < self._goal and not self.control[p.STOP]:
            if self._paced:
                self._rest(int(due[done - first]))
                self._test_run(PACED_PIECE, PACED_BATCH)
            else:
                self._test_run(min(int(self._shared[live_program.LIMIT]) - done, PIECE), BATCH)
            self.control[p.LATEST_NS] = self._shared[live_program.LATEST]
            self.control[p.LAST_NS] = self._shared[live_program.LAST] if self._paced else time.monotonic_ns()
            if time.monotonic_ns() - self._looked_ns > LOOK_NS:
                self._look()
        self._pack[k.TAIL] = head
        with self._room:
            self._room.notify()

    def start(self, now_ns: int) -> None:
        self.run.start(now_ns)
        self._shared[live_program.START] = now_ns

    def _rest(self, due_ns: int) -> None:
        pause = due_ns + int(self.control[p.START_NS]) - time.monotonic_ns()
        if pause > SLEEP_NS:
            time.sleep(min(pause - SLEEP_NS, 50_000_000) / 1e9)

    def _test_run(self, count: int, batch: int) -> None:
        try:
            self._program.run_live(self._frame, count, min(batch, count))
        except SystemCallError as error:
            if error.errno != errno.EINTR:
                raise stalled(self._interface, error.errno, self.completed() - self.refused()) from None

    def _look(self) -> None:
        """Raise where the interface has gone down: the test run itself says nothing of it."""
        self._looked_ns = time.monotonic_ns()
        if self._taken_before is None or not self.completed():
            return
        taken, up = self.completed() - self.refused(), netlink.is_up(self._interface)
        if not up or not taken:
            raise stalled(self._interface, errno.EOPNOTSUPP if up else errno.ENETDOWN, taken)

    def finish(self) -> None:
        """Nothing is left to wait for: a test run returns when its frames are handed over."""
        self._look()

    def completed(self) -> int:
        return int(self._shared[live_program.SENT] - self._shared[live_program.FAULTS])

    def per_queue(self) -> dict[int, int]:
        return {}

    def refused(self) -> int:
        taken = taken_by(self._interface)
        if self._taken_before is not None and taken is not None:  # an interface that is gone counts no more
            self._refused = self.completed() - (taken - self._taken_before)
        return self._refused

    def close(self) -> None:
        self._held.close()
        for part in (self._program, self._ring, self._words):
            part.close()
