"""States of made-up captures, for tests of those who watch."""

from __future__ import annotations

import os
from typing import Any

from wirecap.observe.counters import ConsumerCounters, Counters, QueueCounters


def queue_of(interface: str = "eth1", queue: int = 0, received: int = 0, **drops: int) -> QueueCounters:
    return QueueCounters(
        interface=interface, queue=queue, consumer=queue, received=received, received_bytes=60 * received,
        delivered=received, filtered_out=0, forwarded=0, offloaded=0, pending=0, free_chunks=90,
        slots={"free": 198, "filling": 1, "captured": 1, "recycled": 0}, drops=drops, offloaded_to={},
    )  # fmt: skip


def counters_of(*queues: QueueCounters, time_ns: int = 10**9, **more: Any) -> Counters:
    rows = list(queues) or [queue_of()]
    names = list(dict.fromkeys(each.interface for each in rows))
    return Counters(**{
        "release": "1", "pid": os.getpid(), "command": "capture", "started_ns": 1, "time_ns": time_ns, "elapsed_s": 2.0,
        "ending": False, "interfaces": names, "engine": "xdp", "mode": "advanced", "M": 256, "R": 100, "T": 60,
        "queues": rows, "consumers": [ConsumerCounters(f"handler {n}", 5, 0.5, True) for n in range(len(rows))],
        "capture_seconds": {"capture 0": 0.25}, **more,
    })  # fmt: skip
