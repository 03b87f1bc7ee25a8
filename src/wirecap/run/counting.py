"""Takes a running capture's counters and gauges as others may see them (observe/counters.py).

It reads words that the packet threads write in any case, and the kernel's own clock of each thread: they pay nothing.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wirecap.config.bounds import Bounds
from wirecap.config.capture import WriteConfig
from wirecap.engine.accounting import QueueCounts
from wirecap.engine.engine import Engine
from wirecap.files.retention import disk_bytes, free_bytes
from wirecap.handlers.handler import Follower
from wirecap.kernels.pool import handler_loop as h
from wirecap.kernels.pool import pool as k
from wirecap.observe.counters import (
    STATES,
    ClientCounters,
    ConsumerCounters,
    Counters,
    DiskCounters,
    OutputCounters,
    QueueCounters,
    ServingCounters,
)
from wirecap.version import __version__

if TYPE_CHECKING:
    from wirecap.handlers.forward import Forwarder

LOOK_S = 1.0
"""Seconds between two looks at the disk."""
_OF_A_THREAD = 6
"""With the complement of a thread's id three bits higher: its clock of processor time (clock_gettime(2))."""


class Counting:
    """Takes the counters of one capture, again and again.  For one thread.

    write and writer: the files, and who writes them.  forwarder: who sends packets on.
    """

    def __init__(
        self, engine: Engine, write: WriteConfig | None = None, writer: Follower | None = None,
        forwarder: Forwarder | None = None,
    ) -> None:  # fmt: skip
        self._engine, self._forwarder, self._writer = engine, forwarder, writer
        self._writing = (write, writer) if write and writer and not write.only_printed else None
        self._command = "forward" if forwarder else "serve" if writer and writer.serving else "capture"
        self.started_ns = time.time_ns() - round((time.monotonic() - engine.started) * 1e9)
        self._interfaces = list(dict.fromkeys(place.interface for place in engine.source.queues))
        self._seconds: dict[str, float] = {}
        self._space, self._looked = dict[str, int](), float("-inf")

    def __call__(self, ending: bool = False) -> Counters:
        engine = self._engine
        summary = engine.summary()
        forwarder = self._forwarder
        return Counters(
            release=__version__, pid=os.getpid(), command=self._command,
            started_ns=self.started_ns, time_ns=time.monotonic_ns(), elapsed_s=time.monotonic() - engine.started,
            ending=ending, interfaces=self._interfaces, engine=engine.source.name,
            mode="advanced" if engine.advanced else "basic", M=engine.M, R=engine.R, T=engine.T,
            queues=self._queues(summary.queues), consumers=self._consumers(), capture_seconds=self._capture_seconds(),
            outputs=[OutputCounters(**row) for row in forwarder.outputs()] if forwarder else [],
            disk=self._disk(*self._writing) if self._writing else None,
            serving=_serving(self._writer.serving_now()) if self._writer else None,
        )  # fmt: skip

    def _queues(self, counts: list[QueueCounts]) -> list[QueueCounters]:
        pool, R = self._engine.pool, self._engine.R
        slots = pool.meta.reshape(len(counts), -1, k.SLOT_WORDS)
        state = slots[:, :, k.STATE] & 3
        in_chunks = np.where(state >= k.CAPTURED, slots[:, :, k.COUNT], 0).sum(axis=1)
        words = pool.queues.reshape(len(counts), k.QUEUE_WORDS)
        held = in_chunks + words[:, k.FILL_COUNT]
        offloaded = pool.tallies[:, :, h.DELIVERED_OFFLOADED]
        return [
            QueueCounters(
                interface=each.interface, queue=each.queue, consumer=int(words[number, k.CONSUMER]),
                received=each.received, received_bytes=each.received_bytes, delivered=each.delivered,
                filtered_out=each.filtered_out, forwarded=each.forwarded, offloaded=each.offloaded,
                pending=each.pending, free_chunks=min(R, max(0, R - -(-int(held[number]) // self._engine.M))),
                slots={name: int((state[number] == at).sum()) for at, name in enumerate(STATES)},
                drops=each.drops,
                offloaded_to={
                    str(consumer): int(offloaded[consumer, number])
                    for consumer in np.flatnonzero(offloaded[:, number]).tolist()
                },
            )
            for number, each in enumerate(counts)
        ]  # fmt: skip

    def _consumers(self) -> list[ConsumerCounters]:
        engine = self._engine
        threads = engine.consuming()
        return [
            ConsumerCounters(name, depth, self._processor_seconds(name, thread), number < engine.layout.handlers)
            for number, ((name, thread), depth) in enumerate(zip(threads, engine.depths(), strict=True))
        ]

    def _capture_seconds(self) -> dict[str, float]:
        if self._engine.source.direct:  # handler threads receive by themselves
            return {}
        return {
            f"capture {number}": self._processor_seconds(f"capture {number}", thread)
            for number, (thread, _) in enumerate(self._engine.taking())
        }

    def _processor_seconds(self, name: str, thread: int) -> float:
        """Of a thread, by the kernel's count; once it has ended, what was last read."""
        if not thread:  # a program's own loop
            return 0.0
        try:
            self._seconds[name] = time.clock_gettime((~thread << 3) | _OF_A_THREAD)
        except OSError:
            pass
        return self._seconds.get(name, 0.0)

    def _disk(self, write: WriteConfig, writer: Follower) -> DiskCounters:
        if time.monotonic() - self._looked > LOOK_S:
            self._space, self._looked = self._look_at_disk(write, writer), time.monotonic()
        return DiskCounters(
            write.path, writer.packets_written, writer.bytes_written, writer.files_written, **self._space
        )

    def _look_at_disk(self, write: WriteConfig, writer: Follower) -> dict[str, int]:
        """What DiskCounters has beside what was written."""
        try:
            folder = Path(write.path).parent
            size, free = (disk_bytes(folder), free_bytes(folder)) if write.path != "-" else (-1, -1)
        except OSError:
            size = free = -1
        retention = writer.retention
        found = {"free": free, "size": size} | _bounds(retention.bounds if retention else write.bounds, size)
        if retention:
            found |= {"held": retention.held, "removed_files": retention.removed}
        return found


def _serving(found: dict[str, Any] | None) -> ServingCounters | None:
    if found is None:
        return None
    return ServingCounters(**found | {"clients": [ClientCounters(**row) for row in found["clients"]]})


def _bounds(bounds: Bounds, size: int) -> dict[str, int]:
    """What is asked for, on a disk of this size."""
    amounts = {"limit": bounds.limit, "min_free": bounds.min_free}
    found = {name: amount.of(size) for name, amount in amounts.items() if amount and size >= 0}
    return found if bounds.max_age_ns is None else found | {"max_age_ns": bounds.max_age_ns}
