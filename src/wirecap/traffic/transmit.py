"""Send on chosen transmit queues, each at a rate of its own, through AF_XDP.

What is sent on queue q of a veth arrives on queue q of its other end, and that end's kernel work runs in
the sender's thread.  A frame counts when the kernel has completed it, not when it was handed in.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.kernels import jit, libc
from wirecap.kernels import transmit as k
from wirecap.linux import netns
from wirecap.traffic.priority import first_in_line
from wirecap.traffic.sender import dropped
from wirecap.traffic.tx_queues import CELL_BYTES, TxQueues, cell_for, stalled

CELLS = 256
"""Cells, and ring entries, of a queue."""
TICK_NS = 500_000
SLICE_NS = 200_000_000
"""How long the compiled loop runs before Python may see a signal."""

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
        cell = _check(self.queues, frames, sequence_at)
        self.refused = 0
        """Frames of the last ``send`` that the interface dropped: completed, but not sent.  A veth drops what
        its other end has no room for.  Other senders' are counted too."""
        self._control = np.zeros(k.CONTROL_WORDS, np.int64)
        self._control[k.TICK_NS] = tick_ns
        self._control[k.NUMBER_AT] = -1 if sequence_at is None else sequence_at
        self._preferred = preferred
        jit.prepare([k.transmit])
        self._tx = netns.call(namespace, TxQueues, interface, self.queues, cell, CELLS)
        self._tx.words[:, k.NUMBER] = first
        self._tx.words[:, k.LENGTH] = [len(one) for one in frames]
        for cells, one in zip(self._tx.umem.reshape(len(frames), CELLS, cell), frames, strict=True):
            cells[:, : len(one)] = np.frombuffer(one, np.uint8)

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
        self._tx.restart()
        self._tx.words[:, k.GOAL] = [goals.get(queue, 0) for queue in self.queues]
        before = netns.call(self.namespace, dropped, self.interface)
        with first_in_line() if self._preferred and per_ns.all() else nullcontext():
            self._run(per_ns)
        self.refused = netns.call(self.namespace, dropped, self.interface) - before
        return self.completed()

    def completed(self) -> dict[int, int]:
        """Frames completed by the current or last ``send``, by queue."""
        return {queue: int(self._tx.words[i, k.COMPLETED]) for i, queue in enumerate(self.queues)}

    def stop(self) -> None:
        """End a ``send`` that another thread is in."""
        self._control[k.STOP] = 1

    def _run(self, per_ns: NDArray[np.float64]) -> None:
        tx, control, scratch = self._tx, self._control, libc.scratch()
        control[k.STOP] = 0
        control[k.START_NS] = time.monotonic_ns()
        while True:
            control[k.UNTIL_NS] = time.monotonic_ns() + SLICE_NS
            if control[k.STOP]:
                tx.words[:, k.GOAL] = tx.words[:, k.SUBMITTED]  # what the kernel has will be completed, no more follows
                control[k.STOP] = 0
            if k.transmit(tx.rings, tx.halves, tx.umem, tx.words, tx.free, per_ns, control, scratch) == k.DONE:
                return
            code = tx.stuck()
            if code is not None:
                raise stalled(self.interface, code, tx.completed())

    def close(self) -> None:
        self._tx.close()

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
    return cell_for(longest)


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
