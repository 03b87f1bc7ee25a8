"""A workload sent to a testbed: each packet on its queue, at its time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from wirecap.linux import netns
from wirecap.sim.demand import FCS_BYTES
from wirecap.sim.workload import Workload, times_of
from wirecap.traffic import frames
from wirecap.traffic.batch import PACKETS, Batch, NotSent
from wirecap.traffic.choose import Wish, open_sender
from wirecap.traffic.liveframes import LiveFrames
from wirecap.traffic.session import Session
from wirecap.traffic.transmit import Transmitter


@dataclass(frozen=True)
class Sent:
    """What reached the other end, in packets, and how long that took."""

    packets: int
    duration_s: float
    latest_ms: float = 0.0
    """The largest delay of a packet that had its time."""

    @property
    def rate_pps(self) -> float:
        return self.packets / self.duration_s if self.duration_s else 0.0


class WorkloadPlan:
    """The packets of a workload, all copies of one frame, in order of time (traffic.batch.Plan)."""

    paced = True

    def __init__(self, workload: Workload, frame: bytes) -> None:
        self.queues, self.not_sent = len(workload.queues), NotSent()
        times = np.concatenate([times_of(queue) for queue in workload.queues])
        where = np.concatenate([np.full(q.packets, number) for number, q in enumerate(workload.queues)])
        order = np.argsort(times, kind="stable")
        self._due, self._queue = times[order] // 1000, where[order].astype(np.int64)
        self._frame = np.frombuffer(bytearray(frame), np.uint8)
        self._stopped = False

    def kernels(self) -> list[Any]:
        return []

    def batches(self) -> Iterator[Batch]:
        for first in range(0, self._due.size, PACKETS):
            if self._stopped:
                return
            due, queue = self._due[first : first + PACKETS], self._queue[first : first + PACKETS]
            n = due.size
            address, length = np.zeros(n, np.int64), np.full(n, self._frame.size, np.uint32)
            yield Batch(n, self._frame, address, length, due.copy(), queue.copy())

    def close(self) -> None:
        self._stopped = True


def send_workload(interface: str, namespace: str | None, workload: Workload) -> Sent:
    """Every packet of the workload on its transmit queue, at its time."""
    frame = frames.udp()
    plan = WorkloadPlan(workload, frame)
    wish = Wish(tuple(range(plan.queues)), len(frame), True, workload.packets / max(workload.duration_s, 1e-9))
    sender, _ = netns.call(namespace, open_sender, interface, "xdp", wish)
    try:
        outcome = netns.call(namespace, Session(plan, sender).run)
    finally:
        sender.close()
    return Sent(outcome.sent, outcome.duration_s, outcome.latest_ns / 1e6)


def send_both(interfaces: list[str], queues: int, packets: int, frame_bytes: int) -> Sent:
    """So many packets into each interface at once, spread over its queues, as fast as AF_XDP sends them.

    frame_bytes: with the check sequence, which is not sent.
    """
    frame = frames.udp(frame_bytes - FCS_BYTES)
    rates = dict.fromkeys(range(queues), float("inf"))
    with ExitStack() as stack:
        senders = [stack.enter_context(Transmitter(name, frame, range(queues))) for name in interfaces]
        begin = time.monotonic()
        with ThreadPoolExecutor(len(senders)) as threads:
            running = [threads.submit(sender.send, rates, count=packets) for sender in senders]
            completed = sum(sum(one.result().values()) for one in running)
        duration_s = time.monotonic() - begin
        return Sent(completed - sum(sender.refused for sender in senders), duration_s)


def send_burst(interface: str, packets: int, cpu: int) -> Sent:
    """So many packets onto one queue, as fast as the kernel makes them."""
    with LiveFrames(interface, frames.udp(), sequence_at=42, cpu=cpu) as sender:
        begin = time.monotonic()
        sent = sender.send(packets)
        return Sent(sent, time.monotonic() - begin)
