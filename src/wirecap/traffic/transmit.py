"""Send on chosen transmit queues, each at a rate of its own, through AF_XDP.

What is sent on queue q of a veth arrives on queue q of its other end, and that end's kernel work runs in
the sender's thread.  A frame counts when the kernel has completed it, not when it was handed in.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import SystemCallError, UsageError
from wirecap.kernels import jit, libc
from wirecap.kernels import transmit as k
from wirecap.linux import memory, netlink, netns, xsk
from wirecap.traffic.priority import first_in_line
from wirecap.traffic.sender import dropped

CELLS = 256
"""Cells, and ring entries, of a queue."""
CELL_BYTES = (2048, 4096)
TICK_NS = 500_000
SLICE_NS = 200_000_000
"""How long the compiled loop runs before Python may see a signal."""
STALLED_S = 3.0
_PASSING = (errno.EAGAIN, errno.EBUSY, errno.ENOBUFS)  # af_xdp.rst, net/xdp/xsk.c: come again

Rates = Mapping[int, float]


class Transmitter:
    """Sends copies of ``frame`` on the transmit queues ``queues`` of an interface.

    frame: one frame, or one for each queue; namespace: where the interface is (None: the caller's);
    sequence_at: each frame carries its number, counted per queue from ``first``, as 8 bytes in network order at
    that offset.  One ``send`` at a time.  preferred: while it sends at a rate its thread comes before others
    (SCHED_FIFO, where the system allows it), so that a busy machine does not make it late.
    """

    def __init__(
        self, interface: str, frame: bytes | Mapping[int, bytes], queues: Sequence[int], *,
        namespace: str | None = None, sequence_at: int | None = None, first: int = 0, tick_ns: int = TICK_NS,
        preferred: bool = False,
    ) -> None:  # fmt: skip
        self.interface, self.namespace, self.queues = interface, namespace, tuple(queues)
        frames = [frame[queue] for queue in queues] if isinstance(frame, Mapping) else [frame] * len(queues)
        self._cell = _check(self.queues, frames, sequence_at)
        self.refused = 0
        """Frames of the last ``send`` that the interface dropped: completed, but not sent.  A veth drops what
        its other end has no room for.  Other senders' are counted too."""
        self._umem = memory.cells(len(queues) * CELLS * self._cell)
        self._region = memory.Region(len(queues) * 4 * 8192)
        self._words = np.zeros((len(queues), k.QUEUE_WORDS), np.int64)
        self._free = np.zeros((len(queues), CELLS), np.int64)
        self._control = np.zeros(k.CONTROL_WORDS, np.int64)
        self._control[k.TICK_NS] = tick_ns
        self._control[k.NUMBER_AT] = -1 if sequence_at is None else sequence_at
        self._words[:, k.NUMBER] = first
        self._preferred = preferred
        self._sockets: list[xsk.Socket] = []
        jit.prepare([k.transmit])
        try:
            netns.call(namespace, self._open, frames)
        except BaseException:
            self.close()
            raise

    def _open(self, frames: list[bytes]) -> None:
        facts = netlink.interface(self.interface)
        if not facts.up:
            raise UsageError(f"{facts.name} is down", f"set it up first: ip link set {facts.name} up")
        if max(self.queues) >= facts.tx_queues:
            last = facts.tx_queues - 1
            there = f"queues 0-{last}" if last else "queue 0 only"
            raise UsageError(f"{facts.name} has no transmit queue {max(self.queues)}", f"it has {there}")
        for number, queue in enumerate(self.queues):
            self._open_queue(number, queue, facts.index, frames[number])

    def _open_queue(self, number: int, queue: int, ifindex: int, frame: bytes) -> None:
        size = CELLS * self._cell
        cells: NDArray[np.uint8] = self._umem[number * size : (number + 1) * size]
        cells.reshape(CELLS, self._cell)[:, : len(frame)] = np.frombuffer(frame, np.uint8)
        sender = xsk.Socket(self._region)
        self._sockets.append(sender)
        sender.register(cells, self._cell)
        sender.ring(xsk.FILL_RING, 64)  # the kernel wants one; it stays empty
        done = sender.ring(xsk.COMPLETION_RING, CELLS)
        tx = sender.ring(xsk.TX_RING, CELLS)
        try:
            sender.bind(ifindex, queue, xsk.NEED_WAKEUP)
        except SystemCallError as error:
            hint = "another AF_XDP socket has the queue: stop its owner" if error.errno == errno.EBUSY else error.hint
            raise SystemCallError(f"{self.interface} queue {queue}: {error.message}", error.errno, hint) from None
        words = self._words[number]
        words[k.TX_PRODUCER], words[k.TX_DESCRIPTORS] = tx.producer // 4, tx.descriptors // 8
        words[k.DONE_PRODUCER], words[k.DONE_CONSUMER] = done.producer // 4, done.consumer // 4
        words[k.DONE_DESCRIPTORS], words[k.MASK] = done.descriptors // 8, CELLS - 1
        words[k.SOCKET], words[k.LENGTH], words[k.FREE], words[k.UMEM] = sender.fd, len(frame), CELLS, number * size
        self._free[number] = np.arange(CELLS)[::-1] * self._cell

    def send(self, rates_pps: Rates, duration_s: float | None = None, count: int | None = None) -> dict[int, int]:
        """Send for so many seconds, or so many frames in all; the frames completed, by queue.

        rates_pps: packets a second of each queue that is to send; ``float('inf')`` is full speed.  With
        ``count`` the queues get frames in proportion to their rates (all alike at full speed).
        """
        goals = _goals(rates_pps, duration_s, count)
        strange = sorted(set(goals) - set(self.queues))
        if strange:
            opened = ", ".join(map(str, self.queues))
            raise UsageError(f"no transmit queue {strange[0]} was opened", f"opened: {opened}")
        per_ns = np.array([rates_pps.get(queue, 1.0) / 1e9 for queue in self.queues])
        per_ns[np.isinf(per_ns)] = 0.0
        self._words[:, [k.SUBMITTED, k.COMPLETED]] = 0
        self._words[:, k.GOAL] = [goals.get(queue, 0) for queue in self.queues]
        before = netns.call(self.namespace, dropped, self.interface)
        with first_in_line() if self._preferred and per_ns.all() else nullcontext():
            self._run(per_ns)
        self.refused = netns.call(self.namespace, dropped, self.interface) - before
        return self.completed()

    def completed(self) -> dict[int, int]:
        """Frames completed by the current or last ``send``, by queue."""
        return {queue: int(self._words[i, k.COMPLETED]) for i, queue in enumerate(self.queues)}

    def stop(self) -> None:
        """End a ``send`` that another thread is in."""
        self._control[k.STOP] = 1

    def _run(self, per_ns: NDArray[np.float64]) -> None:
        octets = self._region.octets
        rings, halves, scratch = octets.view(np.int64), octets.view(np.uint32), libc.scratch()
        control, words = self._control, self._words
        control[k.STOP] = 0
        control[k.START_NS] = time.monotonic_ns()
        last, moved_at = -1, time.monotonic()
        while True:
            control[k.UNTIL_NS] = time.monotonic_ns() + SLICE_NS
            if control[k.STOP]:
                words[:, k.GOAL] = words[:, k.SUBMITTED]  # what the kernel has will be completed, no more follows
                control[k.STOP] = 0
            if k.transmit(rings, halves, self._umem, words, self._free, per_ns, control, scratch) == k.DONE:
                return
            done = int(words[:, k.COMPLETED].sum())
            if done != last or int(words[:, k.SUBMITTED].sum()) == done:
                last, moved_at = done, time.monotonic()
            else:
                self._explain(done, time.monotonic() - moved_at)

    def _explain(self, done: int, stalled_s: float) -> None:
        """Nothing moves: raise what the kernel says, unless it may pass."""
        code = max(sender.send_error() for sender in self._sockets)
        if code in (0, *_PASSING) and stalled_s < STALLED_S:
            return
        hint = "set it up and send again" if code == errno.ENETDOWN else ""
        reason = os.strerror(code) if code else "no frame was completed for a while"
        raise SystemCallError(f"{self.interface}: {reason}, after {done} frames", code, hint)

    def close(self) -> None:
        for sender in self._sockets:
            sender.close()
        self._region.close()

    def __enter__(self) -> Transmitter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def shares(total_pps: float, of: Mapping[int, float]) -> dict[int, float]:
    """A total rate spread over queues in proportion to the weights ``of``: packets a second, by queue."""
    whole = sum(of.values())
    return {queue: total_pps * weight / whole for queue, weight in of.items()}


def _check(queues: Sequence[int], frames: Sequence[bytes], sequence_at: int | None) -> int:
    """The size of a cell that holds every frame; UsageError for what cannot be."""
    if not queues or min(queues) < 0 or len(set(queues)) < len(queues):
        raise UsageError(f"transmit queues {', '.join(map(str, queues)) or 'none'}", "each once, from 0, at least one")
    shortest, longest = min(map(len, frames)), max(map(len, frames))
    if shortest < 14 or longest > CELL_BYTES[-1]:
        wrong = shortest if shortest < 14 else longest
        raise UsageError(f"a frame of {wrong} bytes", f"it has 14 to {CELL_BYTES[-1]}")
    if sequence_at is not None and not 0 <= sequence_at <= shortest - 8:
        raise UsageError(f"no 8 bytes at offset {sequence_at}", f"the frame has {shortest}")
    return next(size for size in CELL_BYTES if longest <= size)


def _goals(rates_pps: Rates, duration_s: float | None, count: int | None) -> dict[int, int]:
    """Frames for each queue; what is left over from rounding goes to the lowest queues."""
    if any(not rate > 0 for rate in rates_pps.values()) or not rates_pps:
        raise UsageError("a rate is above 0", "leave out the queues that are not to send")
    if (duration_s is None) == (count is None):
        raise UsageError("either a duration or a count", "send(rates, duration_s=30) or send(rates, count=1000)")
    unbounded = np.isinf(list(rates_pps.values()))
    if count is None:
        if unbounded.any():
            raise UsageError("full speed has no number of frames", "give a count")
        return {queue: max(1, round(rate * (duration_s or 0))) for queue, rate in rates_pps.items()}
    if unbounded.any() and not unbounded.all():
        raise UsageError("some queues at full speed, some at a rate", "give all of them a rate, or none")
    weights = dict.fromkeys(rates_pps, 1.0) if unbounded.all() else rates_pps
    parts = {queue: int(part) for queue, part in shares(count, weights).items()}
    for queue in sorted(parts)[: count - sum(parts.values())]:
        parts[queue] += 1
    return parts
