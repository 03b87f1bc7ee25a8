"""WireCAP in basic and in advanced mode: a pool of R chunks of M cells behind every queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from wirecap.config.capture import PoolConfig, check_threshold
from wirecap.errors import UsageError
from wirecap.kernels.sim import wirecap_model as k
from wirecap.kernels.sim.arrivals import NEVER
from wirecap.sim.handler_cost import HandlerCost
from wirecap.sim.models.model import RING, SLICE, Model, check_clock, check_ring
from wirecap.sim.result import QueueResult, Result
from wirecap.sim.workload import PS, Workload

CAPTURE_PS = 1_000_000
"""The capture thread's time per chunk, that of a system call; it has its own core [text], and a chunk of 256 takes
17 us to fill at 14.88 Mp/s, so the value does not matter [derived]."""
TIMEOUT_PS = 1_000_000_000
"""When a partial chunk is handed over if the capture queue is empty: after 1 ms, the live engine's default."""
AWAY_MOST = 10_000


@dataclass(frozen=True)
class WireCap(Model):
    """WireCAP-B-(M,R) or, with ``advanced``, WireCAP-A-(M,R,T).

    groups: buddy groups, as lists of queues; none: one group of all queues.  away_percent: how much longer a chunk
    takes with another queue's handler (lost core affinity); 0, as the paper gives no figure.
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
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({"advanced": False}, {"advanced": True})
    """Both modes: what buddies gain is the point of the comparison."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ring(self.ring)
        _ = self.pool  # checks M and R
        check_threshold(self.T)
        if self.timeout_ps < 1:
            raise UsageError("the timeout must be above 0", "write it as timeout=1ms")
        if self.away_percent > AWAY_MOST:
            raise UsageError(f"away_percent is too large: {self.away_percent}", f"use at most {AWAY_MOST}")
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

    def check(self, workload: Workload, cost: HandlerCost, transmit_ps: int = 0) -> None:
        queues = len(workload.queues)
        if any(queue >= queues for group in self.groups for queue in group):
            raise UsageError(
                f"a buddy group names a queue that does not exist: there are {queues}",
                f"number the queues from 0 to {queues - 1}",
            )
        check_clock(self._left_ps(workload, cost, transmit_ps))

    def simulate(self, workload: Workload, cost: HandlerCost, *, seed: int = 1, transmit_ps: int = 0) -> Result:
        self.check(workload, cost, transmit_ps)
        world = self._world(workload, cost, seed, transmit_ps)
        k.begin(world)
        while k.run(world, SLICE) == SLICE:
            pass
        words = world.queues
        received = [runs.packets for runs in workload.queues]
        queues = [self._queue(received[number], words[number]) for number in range(len(words))]
        settings = {**self.settings, "pool_bytes": self.pool.bytes(len(queues))}
        return Result(self.name, self.label, settings, queues, int(words[:, k.ENDED_PS].max()) / PS)

    def _left_ps(self, workload: Workload, cost: HandlerCost, transmit_ps: int) -> float:
        """An upper bound: everything in the pools waits for a single handler of another queue, then for the wire."""
        packets = min(self.M * self.R * len(workload.queues), workload.packets)
        chunks = min(self.R * len(workload.queues), workload.packets)
        packet_ps = float(cost.costs.max()) * (1 + self.away_percent / 100) + transmit_ps
        return packets * packet_ps + chunks * (self.chunk_ps + self.capture_ps) + self.timeout_ps

    @staticmethod
    def _queue(received: int, words: Any) -> QueueResult:
        drops = {"pool_exhausted": int(words[k.EXHAUSTED]), "capture_late": int(words[k.LATE])}
        return QueueResult(
            received, int(words[k.DELIVERED]), int(words[k.OFFLOADED]), int(words[k.FORWARDED]), drops,
            float(words[k.BUSY_PS]) / PS, int(words[k.DEEPEST]),
        )  # fmt: skip

    def _world(self, workload: Workload, cost: HandlerCost, seed: int, transmit_ps: int) -> k.World:
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
        for group in self.groups or (tuple(range(queues)),):
            for queue in group:
                words[queue, k.BUDDIES] = len(group)
                members[queue, : len(group)] = group
        return k.World(
            workload.arrivals(), settings, cost.costs, words, chunks, np.zeros(queues, np.int64), members,
            np.full(k.KINDS * queues, NEVER, np.int64), np.full((1, 2), k.NONE, np.int64),
        )  # fmt: skip
