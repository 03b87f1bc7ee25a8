"""What the demo captures on: a veth NIC of its own, or the in-process NIC where there are no privileges."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click

from wirecap.config import CaptureConfig
from wirecap.errors import WirecapError

if TYPE_CHECKING:
    from wirecap.source.base import Source

QUEUES = 4
PIECE, PIECE_S = 110, 0.001
"""Packets that the in-process NIC gets at a time: its capture thread, which nothing wakes, looks ten times a second
while none arrive, and has 16,384 cells attached for that long."""


class Nic(Protocol):
    """Something to capture on, and to send packets to: all of them reach one of its queues."""

    name: str
    namespace: str | None

    def source(self, config: CaptureConfig) -> Source: ...

    def send(self, count: int, rate_pps: float) -> None:
        """Send so many packets; returns early after ``stop``."""
        ...

    def stop(self) -> None: ...

    def close(self) -> None: ...


class VethNic:
    """The capture side of a testbed, fed by frames from inside the kernel."""

    def __init__(self, bed: str) -> None:
        from wirecap.traffic import frames
        from wirecap.traffic.liveframes import LiveFrames

        self.name = f"{bed}0"
        self.namespace: str | None = bed
        cpu = min(os.sched_getaffinity(0))  # the sending CPU chooses the receiving queue
        self._sender = LiveFrames(f"{bed}0p", frames.udp(60), sequence_at=42, cpu=cpu)

    def source(self, config: CaptureConfig) -> Source:
        from wirecap import assemble

        return assemble.source_of(config)

    def send(self, count: int, rate_pps: float) -> None:
        self._sender.send_paced(count, rate_pps)

    def stop(self) -> None:
        self._sender.stop()

    def close(self) -> None:
        self._sender.close()


class MemoryNic:
    """The in-process NIC: the same rings and the same engine, without a kernel."""

    name = "memory0"
    namespace: str | None = None
    _stopped = False

    def source(self, config: CaptureConfig) -> Source:
        from wirecap.source.memory import MemorySource

        self._source = MemorySource(QUEUES, config.pool.M * config.pool.R, config.pool.cell)
        return self._source

    def send(self, count: int, rate_pps: float) -> None:
        import numpy as np

        from wirecap.traffic import frames

        frame = np.frombuffer(bytearray(frames.udp(60)), dtype=np.uint8)
        start, sent = time.monotonic(), 0
        while sent < count and not self._stopped:
            due = min(count, sent + PIECE, int(rate_pps * (time.monotonic() - start)))
            if due > sent:
                starts, sizes = np.zeros(due - sent, np.int64), np.full(due - sent, frame.size, np.int64)
                self._source.inject(0, frame, starts, sizes, np.full(due - sent, time.time_ns(), np.int64))
                sent = due
            time.sleep(PIECE_S)

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None: ...


@contextmanager
def open_nic(memory: bool) -> Iterator[Nic]:
    """The best NIC that can be had here; a line says which, and nothing is left of it afterwards."""
    from wirecap.lab import testbed

    bed = f"wcdemo{os.getpid()}"
    try:
        nic = _in_memory("as you wished") if memory else _veth(bed)
        try:
            yield nic
        finally:
            nic.close()
    finally:
        if not memory and os.geteuid() == 0:
            testbed.down(bed)


def _veth(bed: str) -> Nic:
    from wirecap.lab import testbed

    try:
        testbed.up(bed, QUEUES)
        nic = VethNic(bed)
    except WirecapError as error:
        return _in_memory(error.message)
    click.echo(f"A veth NIC of our own, {nic.name}, with {QUEUES} receive queues.")
    return nic


def _in_memory(why: str) -> Nic:
    click.echo(f"An in-process NIC with {QUEUES} receive queues, no kernel in between ({why}).")
    return MemoryNic()
