"""Send from inside the kernel: the fastest way there is without special hardware.

An XDP program runs on frames of the kernel's own (BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES,
Linux 5.18; Documentation/bpf/bpf_prog_run.rst) and redirects them to an interface.  A veth passes them
on only while its other end is up and has an XDP program or GRO; they arrive there on queue (number of
the sending CPU modulo queues), and that end's kernel work runs on the sender's CPU.  The test run does
not say how many frames the interface took.  A veth's own ``xdp_xmit`` counters do, but they also count what
other senders redirect to it at that time.  Where a driver has no such counters, the redirected frames count.

``LiveFrames`` sends copies of one frame.  ``LiveSender`` sends the packets of a plan: they lie in a BPF map, where
the program takes them from.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import SystemCallError, UsageError, WirecapError
from wirecap.kernels.transmit import live_records as k
from wirecap.kernels.transmit import paced_loop as p
from wirecap.kernels.transmit.live_records import HEAD_BYTES
from wirecap.linux import asm, bpf, ethtool, netlink, netns, syscall
from wirecap.linux.asm import Insn
from wirecap.traffic.batch import Batch
from wirecap.traffic.sender import Links, Macs, Run

BATCH_MAX = 256  # TEST_XDP_MAX_BATCH, net/bpf/test_run.c
PIECE = 1 << 16
"""Frames of one system call at full speed: some 25 ms, so that ``stop`` is soon seen."""
FRAME_MAX = 4096 - 256 - 320 - 112
"""Longest frame in bytes: one page less XDP_PACKET_HEADROOM, struct skb_shared_info and the test run's own head
(measured on Linux 6.18, x86-64)."""
TICK_NS = 1_000_000
LOOK_NS = 50_000_000
"""From one look at the interface to the next: a look takes as long as some hundred packets."""
NOBODY = "the far end accepted no frame"
NOBODY_HINT = "it is down, or has neither an XDP program nor GRO ('wirecap testbed up --gro')"


class LiveFrames:
    """Sends copies of ``frame`` to ``interface`` of network namespace ``namespace`` (None: the caller's).

    With ``sequence_at`` each copy carries its number, from ``first``, as 8 bytes in network order at that
    offset; with ``stamp_at`` the time when it was made, CLOCK_MONOTONIC in ns, as 8 bytes in the host's order.
    ``cpu`` pins the sending thread, and so chooses the receiving queue of a veth.  One sender per object; for
    several queues take an object and a thread for each.
    """

    def __init__(
        self,
        interface: str,
        frame: bytes,
        *,
        namespace: str | None = None,
        sequence_at: int | None = None,
        first: int = 0,
        cpu: int | None = None,
        batch: int = 64,
        stamp_at: int | None = None,
    ) -> None:
        if not 14 <= len(frame) <= FRAME_MAX:
            raise UsageError(f"unsupported frame size: {len(frame)} bytes", f"a live frame can have 14 to {FRAME_MAX}")
        for at in (sequence_at, stamp_at):
            if at is not None and not 0 <= at <= len(frame) - 8:
                raise UsageError(f"the number does not fit at offset {at}", f"it takes 8 of {len(frame)} bytes")
        if not 1 <= batch <= BATCH_MAX:
            raise UsageError(f"unsupported batch size: {batch} frames", f"use 1 to {BATCH_MAX}")
        if cpu is not None and cpu not in os.sched_getaffinity(0):
            allowed = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
            raise UsageError(f"this process cannot use CPU {cpu}", f"use one of {allowed}")
        self.interface, self.frame, self.namespace = interface, frame, namespace
        self.cpu, self.batch, self.first = cpu, batch, first
        self._index = netns.call(namespace, netlink.interface, interface).index
        self._links = netns.call(namespace, Links, [interface])
        self._counter = bpf.Map(bpf.ARRAY, 8, 1, name="wirecap_sent")
        self._counter.update(0, (first % 2**64).to_bytes(8, "little"))
        code = _copy_program(self._index, self._counter.fd, sequence_at, stamp_at)
        self._program = bpf.Program(asm.assemble(code), "wirecap_send")
        self._held = Held(self._program)
        self._stopped = False

    @property
    def attempted(self) -> int:
        """How many frames were given to the interface so far, taken or not."""
        return (int(self._counter.lookup(0)[0]) - self.first) % 2**64

    def send(self, count: int) -> int:
        """Send so many at full speed; returns how many the interface took.  Raises LinkLostError where it is lost."""
        return netns.call(self.namespace, self._send, count, 0.0, 0)

    def send_paced(self, count: int, rate_pps: float, burst: int | None = None) -> int:
        """Send so many at a mean rate, in bursts of ``burst`` (default: 1 ms' worth); returns how many were taken."""
        if rate_pps <= 0:
            raise UsageError(f"unsupported rate: {rate_pps} packets per second", "it must be above 0")
        size = burst or max(1, round(rate_pps * TICK_NS / 1e9))
        return netns.call(self.namespace, self._send, count, float(rate_pps), size)

    def stop(self) -> None:
        """End a ``send`` that another thread is in, within some 25 ms."""
        self._stopped = True

    def close(self) -> None:
        """Give the kernel's program and counter back."""
        self._held.close()
        self._program.close()
        self._counter.close()
        self._links.close()

    def __enter__(self) -> LiveFrames:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, count: int, rate_pps: float, burst: int) -> int:
        taken_before, attempted_before = taken_by(self.interface), self.attempted
        goal = attempted_before + count
        self._stopped = False
        start = look = time.monotonic_ns()
        with _pinned(self.cpu):
            while (left := goal - self.attempted) > 0 and not self._stopped:
                if rate_pps:
                    due = start + round((self.attempted - attempted_before) / rate_pps * 1e9)
                    time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
                self._run(min(left, burst or PIECE))
                if time.monotonic_ns() > look:
                    look = time.monotonic_ns() + LOOK_NS
                    if lost := self._links.lost():
                        raise lost.after(self._taken(taken_before, attempted_before))
        taken = self._taken(taken_before, attempted_before)
        if taken < self.attempted - attempted_before and (lost := self._links.lost()):
            raise lost.after(taken)
        if count > 0 and not taken and not self._stopped:
            raise SystemCallError(f"{self.interface}: {NOBODY}", errno.EOPNOTSUPP, NOBODY_HINT)
        return taken

    def _taken(self, taken_before: int | None, attempted_before: int) -> int:
        """How many the interface took since then; all that were attempted where it does not count them."""
        if taken_before is None:
            return self.attempted - attempted_before
        return max(0, (taken_by(self.interface) or 0) - taken_before)

    def _run(self, count: int) -> None:
        try:
            self._program.run_live(self.frame, count, min(self.batch, count))
        except SystemCallError as error:
            if error.errno == errno.EINVAL:
                raise SystemCallError(error.message, error.errno, "they need Linux 5.18") from None
            if error.errno != errno.EINTR:  # a signal: the counter says how far it came
                raise


def _copy_program(ifindex: int, counter: int, sequence_at: int | None, stamp_at: int | None) -> list[Insn]:
    """Count, write the number and the time into the frame, redirect.  Registers: r6 = struct xdp_md, r2 = number."""
    program: list[Insn] = [
        ("mov_reg", 6, 1, 0, 0),
        ("ld_map_value", 3, 0, 0, counter),
        ("ldxdw", 2, 3, 0, 0),
        ("mov_reg", 4, 2, 0, 0),
        ("add_imm", 4, 0, 0, 1),
        ("stxdw", 3, 4, 0, 0),  # one sender: no atomic needed
    ]
    if sequence_at is not None:
        program += [("be64", 2, 0, 0, 64), *_write(2, sequence_at)]
    if stamp_at is not None:
        program += [("call", 0, 0, 0, bpf.HELPERS["ktime_get_ns"]), *_write(0, stamp_at)]
    program += [
        ("label", "send"),
        ("mov_imm", 1, 0, 0, ifindex),
        ("mov_imm", 2, 0, 0, 0),
        ("call", 0, 0, 0, bpf.HELPERS["redirect"]),
        ("exit", 0, 0, 0, 0),
    ]
    return program


def _write(register: int, at: int) -> list[Insn]:
    """Write a register into the frame, where there is room for it."""
    return [
        ("ldxw", 5, 6, 0, 0),  # xdp_md.data
        ("ldxw", 3, 6, 4, 0),  # xdp_md.data_end
        ("mov_reg", 4, 5, 0, 0),
        ("add_imm", 4, 0, 0, at + 8),
        ("jgt_reg", 4, 3, "send", 0),
        ("stxdw", 5, register, at, 0),
    ]


def taken_by(interface: str) -> int | None:
    """A veth's count of redirected frames; None for a driver that does not count them."""
    counters = ethtool.statistics(interface)
    sent = [value for name, value in counters.items() if name.endswith("_xdp_xmit")]
    return sum(sent) if sent else None


class Held:
    """A program, attached where no packet ever is: on the loopback interface of a nameless namespace.

    A test run adds its program to the kernel's XDP dispatcher and removes it again, and waits for RCU both
    times (24 ms, bpf_dispatcher_change_prog); a program that is attached anywhere is there already.
    """

    def __init__(self, program: bpf.Program) -> None:
        self._link: bpf.Link | None = None
        try:
            self._link, self._namespace = netns.call_in_new(lambda: program.attach(1, bpf.XDP_SKB_MODE))
        except SystemCallError:
            pass  # no CAP_SYS_ADMIN: every call is 24 ms longer

    def close(self) -> None:
        if self._link:
            self._link.close()
            os.close(self._namespace)
            self._link = None


@contextmanager
def _pinned(cpu: int | None) -> Iterator[None]:
    """The calling thread on one CPU, for a while."""
    if cpu is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


CURSOR, SENT, FAULTS, LIMIT, START, LAST, LATEST = range(7)
"""Words of the control map: where the next record is, frames redirected, frames that could not be filled, the number
of frames after which nothing is sent, the moment that times count from; and at a rate, when the
last frame was sent and the largest delay of one, in ns."""
CONTROL_BYTES = 64

_DATA, _DATA_END = 0, 4  # struct xdp_md, linux/bpf.h
_FRAME, _CONTROL, _PLACE, _RECORD = 6, 7, 8, 9  # registers


def replay_program(ifindex: int, ring: int, control: int, size: int, longest: int, paced: bool) -> list[Insn]:
    """ring, control: fds of the two arrays; size: bytes of the ring; longest: bytes of the frames of the run.

    paced: a run before the record's time drops its frame, so that the test run's own loop does the waiting.
    """
    code: list[Insn] = [
        ("mov_reg", _FRAME, 1, 0, 0),
        ("ld_map_value", _CONTROL, 0, 0, control),
        ("ldxdw", 1, _CONTROL, 8 * SENT, 0),
        ("ldxdw", 2, _CONTROL, 8 * LIMIT, 0),
        ("jge_reg", 1, 2, "drop", 0),
        ("ldxdw", _PLACE, _CONTROL, 8 * CURSOR, 0),
        *_record(ring, size),
        ("ldxw", 1, _RECORD, 0, 0),
        ("jne_imm", 1, 0, "found", 0),
        ("ldxw", _PLACE, _RECORD, 4, 0),
        *_record(ring, size),
        ("label", "found"),
    ]
    if paced:
        code += [
            ("call", 0, 0, 0, bpf.HELPERS["ktime_get_ns"]),
            ("ldxdw", 1, _RECORD, 8, 0),
            ("ldxdw", 2, _CONTROL, 8 * START, 0),
            ("add_reg", 1, 2, 0, 0),
            ("jlt_reg", 0, 1, "drop", 0),
            ("stxdw", _CONTROL, 0, 8 * LAST, 0),
            ("sub_reg", 0, 1, 0, 0),
            ("ldxdw", 1, _CONTROL, 8 * LATEST, 0),
            ("jge_reg", 1, 0, "fill", 0),
            ("stxdw", _CONTROL, 0, 8 * LATEST, 0),
            ("label", "fill"),
        ]
    code += [
        ("ldxw", _PLACE, _RECORD, 0, 0),
        ("ldxw", 1, _FRAME, _DATA_END, 0),
        ("ldxw", 3, _FRAME, _DATA, 0),
        ("sub_reg", 1, 3, 0, 0),
        ("mov_reg", 2, _PLACE, 0, 0),
        ("sub_reg", 2, 1, 0, 0),  # every frame begins with the longest length: it only ever shrinks
        ("mov_reg", 1, _FRAME, 0, 0),
        ("call", 0, 0, 0, bpf.HELPERS["xdp_adjust_tail"]),
        ("jne_imm", 0, 0, "fault", 0),
        ("jlt_imm", _PLACE, 0, "fault", 1),
        ("jgt_imm", _PLACE, 0, "fault", longest),
        ("mov_reg", 1, _FRAME, 0, 0),
        ("mov_imm", 2, 0, 0, 0),
        ("mov_reg", 3, _RECORD, 0, 0),
        ("add_imm", 3, 0, 0, HEAD_BYTES),
        ("mov_reg", 4, _PLACE, 0, 0),
        ("call", 0, 0, 0, bpf.HELPERS["xdp_store_bytes"]),
        ("jne_imm", 0, 0, "fault", 0),
        *_next(SENT),
        ("mov_imm", 1, 0, 0, ifindex),
        ("mov_imm", 2, 0, 0, 0),
        ("call", 0, 0, 0, bpf.HELPERS["redirect"]),
        ("exit", 0, 0, 0, 0),
        ("label", "fault"),
        *_next(FAULTS),
        ("ldxdw", 1, _CONTROL, 8 * SENT, 0),
        ("add_imm", 1, 0, 0, 1),
        ("stxdw", _CONTROL, 1, 8 * SENT, 0),
        ("label", "drop"),
        ("mov_imm", 0, 0, 0, bpf.XDP_DROP),
        ("exit", 0, 0, 0, 0),
    ]
    return code


def _record(ring: int, size: int) -> list[Insn]:
    """_RECORD = the record at _PLACE; the mask lets the verifier see that it lies in the ring."""
    return [
        ("and_imm", _PLACE, 0, 0, (size - 1) & ~7),
        ("ld_map_value", _RECORD, 0, 0, ring),
        ("add_reg", _RECORD, _PLACE, 0, 0),
    ]


def _next(counter: int) -> list[Insn]:
    """Go on to the next record; one sender: no atomic is needed."""
    return [("ldxw", 1, _RECORD, 4, 0), ("stxdw", _CONTROL, 1, 8 * CURSOR, 0), *_count(counter)]


def _count(counter: int) -> list[Insn]:
    return [
        ("ldxdw", 1, _CONTROL, 8 * counter, 0),
        ("add_imm", 1, 0, 0, 1),
        ("stxdw", _CONTROL, 1, 8 * counter, 0),
    ]


RING_BYTES = 1 << 25
"""Room for a batch of the longest packets (8,192 of 3.5 KiB)."""
BATCH = 64
"""Frames that a test run handles at once; at a rate PACED_BATCH, so that no packet waits long for the others."""
PACED_BATCH = 32
PACED_PIECE = 4096
"""Runs of one system call at a rate, some of which only wait."""
SLEEP_NS = 300_000
"""A pause from which on the thread sleeps instead of letting the program wait."""
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
        self._words = bpf.Map(bpf.ARRAY, CONTROL_BYTES, 1, bpf.MMAPABLE, name="wirecap_live")
        self._bytes: NDArray[np.uint8] = np.frombuffer(self._ring.mapped(), np.uint8)
        self._shared: NDArray[np.int64] = np.frombuffer(self._words.mapped(), np.int64)
        index = netlink.interface(interface).index
        code = replay_program(index, self._ring.fd, self._words.fd, RING_BYTES, self._longest, paced)
        self._program = bpf.Program(asm.assemble(code), "wirecap_replay")
        self._held = Held(self._program)
        self._frame = bytes(self._longest)
        self.links = Links([interface])
        self._taken_before = taken_by(self._interface)
        self._pinned = False
        self._looked_ns = self._taken = self._in_time = 0
        self.way = "in-kernel live frames (BPF_PROG_TEST_RUN)"

    def kernels(self) -> list[Any]:
        return [k.pack]

    def stage(self, batch: Batch) -> tuple[int, int, NDArray[np.int64]]:
        first, frames, which = 0, batch.frames(), int(self.control[p.REWRITE])
        while first < batch.n and not self.control[p.STOP]:
            before = first
            first = int(k.pack(self._bytes, RING_BYTES, frames, first, batch.n, self._pack, which, self.run.addresses))
            self._staged += first - before
            self._shared[LIMIT] = self._staged
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
        while (done := int(self._shared[SENT])) < self._goal and not self.control[p.STOP]:
            if self._paced:
                self._rest(int(due[done - first]))
                self._test_run(PACED_PIECE, PACED_BATCH)
            else:
                self._test_run(min(int(self._shared[LIMIT]) - done, PIECE), BATCH)
            self.control[p.LATEST_NS] = self._shared[LATEST]
            self.control[p.LAST_NS] = self._shared[LAST] if self._paced else time.monotonic_ns()
            if time.monotonic_ns() - self._looked_ns > LOOK_NS:
                self._look()
        self._pack[k.TAIL] = head
        with self._room:
            self._room.notify()

    def start(self, now_ns: int) -> None:
        self.run.start(now_ns)
        self._shared[START] = now_ns

    def _rest(self, due_ns: int) -> None:
        pause = due_ns + int(self.control[p.START_NS]) - time.monotonic_ns()
        if pause > SLEEP_NS:
            time.sleep(min(pause - SLEEP_NS, 50_000_000) / 1e9)

    def _test_run(self, count: int, batch: int) -> None:
        try:
            self._program.run_live(self._frame, count, min(batch, count))
        except SystemCallError as error:
            if error.errno != errno.EINTR:
                reason, sent = os.strerror(error.errno).lower(), self.completed() - self.refused()
                raise WirecapError(f"{self._interface}: {reason}, after {sent} packets were sent") from None

    def _look(self) -> None:
        """Raise where the interface takes nothing any more: the test run itself says nothing of it."""
        self._looked_ns = time.monotonic_ns()
        completed, lost = self.completed(), self.links.lost()
        if lost:
            raise lost.after(completed - self.refused())
        self._in_time = completed
        if completed and self.refused() == completed:
            raise WirecapError(f"{self._interface}: {NOBODY}", NOBODY_HINT)

    def finish(self) -> None:
        """Nothing is left to wait for: a test run returns when its frames are handed over."""
        self._look()

    def completed(self) -> int:
        return int(self._shared[SENT])

    def unfinished(self) -> int:
        return 0

    def per_queue(self) -> dict[int, int]:
        return {}

    def per_interface(self) -> dict[str, int]:
        return {}

    def refused(self) -> int:
        """Frames that the interface did not take, as it counts them.

        One that does not count, or is gone: those since the last look that found it well; and those not filled.
        """
        completed, taken = self.completed(), taken_by(self._interface)
        if self._taken_before is None:
            since = completed - self._in_time if self.links.lost() else 0
            return min(completed, max(since, int(self._shared[FAULTS])))
        if taken is not None:
            self._taken = taken - self._taken_before
        return max(0, completed - self._taken)

    def close(self) -> None:
        self._held.close()
        for part in (self._program, self._ring, self._words, self.links):
            part.close()
