"""WireCAP in basic and in advanced mode: a pool of R chunks of M cells behind every queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from wirecap.config import PoolConfig, check_threshold
from wirecap.errors import UsageError
from wirecap.kernels import sim_wirecap as k
from wirecap.kernels.sim_arrivals import NEVER
from wirecap.sim.engines.base import RING, SLICE, Engine, check_clock, check_ring
from wirecap.sim.load import Load
from wirecap.sim.result import QueueResult, Result
from wirecap.sim.workload import PS, Workload

CAPTURE_PS = 1_000_000
"""What the capture thread takes for a chunk: a system call's time; it has a core of its own [text], and a chunk of 256
takes 17 us to fill at 14.88 Mp/s, so that the value does not matter [derived]."""
TIMEOUT_PS = 1_000_000_000
"""When a partial chunk is handed over, if the capture queue is empty: 1 ms, as the live engine's default."""
AWAY_MOST = 10_000


@dataclass(frozen=True)
class WireCap(Engine):
    """WireCAP-B-(M,R), or with ``advanced`` WireCAP-A-(M,R,T).

    groups: buddy groups, lists of queues; none: one group of all.  away_percent: how much longer a chunk takes at
    another queue's handler (lost core affinity), 0 as the paper gives no figure.
    """

    M: int = 256
    R: int = 100
    T: int = 60
    advanced: bool = False
    ring: int = RING
    capture_ps: int = CAPTURE_PS
    timeout_ps: int = TIMEOUT_PS
    chunk_ps: int = 0
    away_percent: int = 0
    groups: tuple[tuple[int, ...], ...] = ()

    name: ClassVar[str] = "wirecap"
    kernels: ClassVar[Sequence[Any]] = (k.begin, k.run)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ring(self.ring)
        _ = self.pool  # checks M and R
        check_threshold(self.T)
        if self.timeout_ps < 1:
            raise UsageError("a timeout of 0", "a partial chunk waits for some time: 1ms")
        if self.away_percent > AWAY_MOST:
            raise UsageError(f"away_percent is {self.away_percent}", f"it is {AWAY_MOST} at the most")
        members = [queue for group in self.groups for queue in group]
        if len(members) != len(set(members)):
            raise UsageError("a queue is in two buddy groups", "write it as groups=0-2+3-5")

    @property
    def label(self) -> str:
        pool = f"{self.M},{self.R}"
        return f"WireCAP-A-({pool},{self.T}%)" if self.advanced else f"WireCAP-B-({pool})"

    @property
    def pool(self) -> PoolConfig:
        return PoolConfig(self.M, self.R)

    @property
    def settings(self) -> dict[str, Any]:
        found = super().settings
        return {"mode": "advanced" if found.pop("advanced") else "basic", **found}

    def simulate(self, workload: Workload, load: Load, *, seed: int = 1, transmit_ps: int = 0) -> Result:
        check_clock(self._left_ps(workload, load, transmit_ps))
        world = self._world(workload, load, seed, transmit_ps)
        k.begin(world)
        while k.run(world, SLICE) == SLICE:
            pass
        words = world.queues
        received = [runs.packets for runs in workload.queues]
        queues = [self._queue(received[number], words[number]) for number in range(len(words))]
        settings = {**self.settings, "pool_bytes": self.pool.bytes(len(queues))}
        return Result(self.name, self.label, settings, queues, int(words[:, k.ENDED_PS].max()) / PS)

    def _left_ps(self, workload: Workload, load: Load, transmit_ps: int) -> float:
        """At the most: all that the pools hold waits for one handler, which is not at home, and then for the wire."""
        packets = min(self.M * self.R * len(workload.queues), workload.packets)
        chunks = min(self.R * len(workload.queues), workload.packets)
        packet_ps = float(load.costs.max()) * (1 + self.away_percent / 100) + transmit_ps
        return packets * packet_ps + chunks * (self.chunk_ps + self.capture_ps) + self.timeout_ps

    @staticmethod
    def _queue(received: int, words: Any) -> QueueResult:
        drops = {"pool_exhausted": int(words[k.EXHAUSTED]), "capture_late": int(words[k.LATE])}
        return QueueResult(
            received, int(words[k.DELIVERED]), int(words[k.OFFLOADED]), int(words[k.FORWARDED]), drops,
            float(words[k.BUSY_PS]) / PS, int(words[k.DEEPEST]),
        )  # fmt: skip

    def _world(self, workload: Workload, load: Load, seed: int, transmit_ps: int) -> k.World:
        queues = len(workload.queues)
        attached_most = min(self.R, max(1, self.ring // self.M))
        settings = np.zeros(k.SETTING_WORDS, np.int64)
        settings[[k.M, k.R, k.T, k.ADVANCED, k.ATTACHED_MOST]] = self.M, self.R, self.T, self.advanced, attached_most
        settings[[k.CAPTURE_PS, k.TIMEOUT_PS, k.CHUNK_PS]] = self.capture_ps, self.timeout_ps, self.chunk_ps
        settings[[k.TRANSMIT_PS, k.SEED, k.AWAY_PERCENT]] = transmit_ps, seed, self.away_percent
        words = np.zeros((queues, k.QUEUE_WORDS), np.int64)
        words[:, k.ATTACHED], words[:, k.FREE] = attached_most, self.R - attached_most
        words[:, [k.JOBS, k.JOBS_LAST, k.WAITING, k.WAITING_LAST, k.SERVED]] = k.NONE
        words[:, k.SPARE] = np.arange(queues) * self.R
        chunks = np.zeros((queues * self.R, 4), np.int64)
        chunks[:, k.HOME] = np.repeat(np.arange(queues), self.R)
        chunks[:, k.LINK] = np.arange(1, queues * self.R + 1)
        chunks[self.R - 1 :: self.R, k.LINK] = k.NONE
        members = np.zeros((queues, queues), np.int64)
        if any(queue >= queues for group in self.groups for queue in group):
            raise UsageError(f"a buddy group has a queue beyond the {queues} that there are", "they begin with 0")
        for group in self.groups or (tuple(range(queues)),):
            for queue in group:
                words[queue, k.BUDDIES] = len(group)
                members[queue, : len(group)] = group
        return k.World(
            workload.arrivals(), settings, load.costs, words, chunks, np.zeros(queues, np.int64), members,
            np.full(k.KINDS * queues, NEVER, np.int64), np.full((1, 2), k.NONE, np.int64),
        )  # fmt: skip
