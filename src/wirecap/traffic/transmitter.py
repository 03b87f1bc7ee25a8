"""Copies of one frame on each of some AF_XDP queues, at a rate of its own or as fast as possible."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import numpy as np

from wirecap.errors import UsageError
from wirecap.kernels.base import jit
from wirecap.kernels.transmit import paced_loop as p
from wirecap.kernels.transmit.ring import BURST
from wirecap.kernels.transmit.schedule import schedule_queues
from wirecap.kernels.transmit.xdp_queues import NUMBER, NUMBER_AT
from wirecap.linux import netns
from wirecap.traffic.batch import Batch
from wirecap.traffic.ring_sender import CELL_BYTES, RingSender, XdpQueues, cell_for
from wirecap.traffic.sender import LinkLostError, Macs, first_in_line

STREAM_CELLS = 256
"""Cells, and ring entries, of a queue."""
TICK_NS = 500_000
BATCH = 32_768
"""Frames that are scheduled at once."""

Rates = Mapping[int, float]


class Transmitter:
    """Sends copies of ``frame`` on the transmit queues ``queues`` of an interface.

    frame: one frame, or one for each queue; namespace: where the interface is (None: the caller's);
    sequence_at: each frame carries its number, counted per queue from ``first``, as 8 bytes in network order at
    that offset.  One ``send`` at a time.  Frame k of a queue is due k / rate after the start and leaves at the
    next multiple of ``tick_ns``; late frames follow in bursts, so that the mean rate is kept.  preferred: while it
    sends at a rate its thread comes before others (SCHED_FIFO, where the system allows it), so that a busy
    machine does not make it late.
    """

    def __init__(
        self, interface: str, frame: bytes | Mapping[int, bytes], queues: Sequence[int], *,
        namespace: str | None = None, sequence_at: int | None = None, first: int = 0, tick_ns: int = TICK_NS,
        preferred: bool = False,
    ) -> None:  # fmt: skip
        self.interface, self.namespace, self.queues = interface, namespace, tuple(queues)
        frames = [frame[queue] for queue in queues] if isinstance(frame, Mapping) else [frame] * len(queues)
        cell = _check(self.queues, frames, sequence_at)
        self._length = np.array([len(one) for one in frames], np.uint32)
        self._stride = int(self._length.max())
        arena = np.frombuffer(b"".join(one.ljust(self._stride) for one in frames), np.uint8).copy()
        address, due, queue = np.zeros((3, BATCH), np.int64)
        self._batch = Batch(0, arena, address, np.zeros(BATCH, np.uint32), due, queue)
        self.refused = 0
        """Frames of the last ``send`` that the interface dropped: completed, but not sent.  A veth drops what
        its other end has no room for.  Other senders' are counted too."""
        self._tick_ns, self._preferred = tick_ns, preferred
        self._sender = netns.call(namespace, self._open, cell)
        ring = self._sender.ring
        assert isinstance(ring, XdpQueues)
        ring.words[:, NUMBER_AT] = -1 if sequence_at is None else sequence_at
        ring.words[:, NUMBER] = first
        self._before = ring.completed()
        jit.prepare([schedule_queues, *self._sender.kernels()])

    def _open(self, cell: int) -> RingSender:
        places = [(self.interface, queue) for queue in self.queues]
        sender = RingSender(XdpQueues(places, cell, STREAM_CELLS), True, Macs())
        sender.control[p.MARGIN_NS] = 0  # a tick is no moment to watch the clock for
        return sender

    def send(self, rates_pps: Rates, duration_s: float | None = None, count: int | None = None) -> dict[int, int]:
        """Send for so many seconds, or so many frames in all; the frames completed, by queue.

        rates_pps: packets a second of each queue that is to send; ``float('inf')`` is full speed.  With
        ``count`` the queues get frames in proportion to their rates (all alike at full speed).  Raises LinkLostError
        where the link is lost.
        """
        goals = _goals(rates_pps, duration_s, count)
        strange = sorted(set(goals) - set(self.queues))
        if strange:
            opened = ", ".join(map(str, self.queues))
            raise UsageError(f"transmit queue {strange[0]} was not opened", f"these were: {opened}")
        rates = np.array([rates_pps.get(queue, 1.0) for queue in self.queues])
        paced = bool(np.isfinite(rates).all())
        per_tick = rates * (self._tick_ns / 1e9) if paced else np.full(len(rates), float(BURST))  # a burst each in turn
        goal = np.array([goals.get(queue, 0) for queue in self.queues])
        done, batch = np.zeros_like(goal), self._batch
        sender, control = self._sender, self._sender.control
        self._before = sender.ring.completed()
        refused_before = sender.refused()
        control[p.STOP], control[p.PACED] = False, paced
        sender.start(time.monotonic_ns())
        try:
            with first_in_line() if self._preferred and paced else nullcontext():
                while not control[p.STOP]:
                    batch.n = schedule_queues(
                        goal, done, per_tick, self._tick_ns, self._length, self._stride, batch.frames()
                    )  # fmt: skip
                    if not batch.n:
                        break
                    sender.send(batch)
                sender.finish()
        except LinkLostError as error:
            raise error.after(sum(self.completed().values()) - sender.refused() + refused_before) from None
        self.refused = sender.refused() - refused_before
        return self.completed()

    def completed(self) -> dict[int, int]:
        """Frames completed by the current or last ``send``, by queue."""
        return dict(zip(self.queues, (self._sender.ring.completed() - self._before).tolist(), strict=True))

    def stop(self) -> None:
        """End a ``send`` that another thread is in."""
        self._sender.control[p.STOP] = 1

    def close(self) -> None:
        self._sender.close()

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
        raise UsageError(
            f"unsupported transmit queues: {', '.join(map(str, queues)) or 'none'}",
            "name at least one, each once, counted from 0",
        )
    shortest, longest = min(map(len, frames)), max(map(len, frames))
    if shortest < 14 or longest > CELL_BYTES[-1]:
        wrong = shortest if shortest < 14 else longest
        raise UsageError(f"unsupported frame size: {wrong} bytes", f"use 14 to {CELL_BYTES[-1]}")
    if sequence_at is not None and not 0 <= sequence_at <= shortest - 8:
        raise UsageError(f"the number does not fit at offset {sequence_at}", f"it takes 8 of {shortest} bytes")
    return cell_for(longest)


def _goals(rates_pps: Rates, duration_s: float | None, count: int | None) -> dict[int, int]:
    """Frames for each queue; what is left over from rounding goes to the lowest queues."""
    if any(not rate > 0 for rate in rates_pps.values()) or not rates_pps:
        raise UsageError("a rate must be above 0", "leave out queues that should not send")
    if (duration_s is None) == (count is None):
        raise UsageError("give either a duration or a count", "send(rates, duration_s=30) or send(rates, count=1000)")
    unbounded = np.isinf(list(rates_pps.values()))
    if count is None:
        if unbounded.any():
            raise UsageError("at full speed a duration does not say how many frames to send", "give a count")
        return {queue: max(1, round(rate * (duration_s or 0))) for queue, rate in rates_pps.items()}
    if unbounded.any() and not unbounded.all():
        raise UsageError("some queues have a rate and others do not", "give all of them a rate, or none")
    weights = dict.fromkeys(rates_pps, 1.0) if unbounded.all() else rates_pps
    parts = {queue: int(part) for queue, part in shares(count, weights).items()}
    for queue in sorted(parts)[: count - sum(parts.values())]:
        parts[queue] += 1
    return parts
