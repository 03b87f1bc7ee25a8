"""The models whose buffer is a ring: DNA, NETMAP and PF_RING, and how kernels/sim/ring_model.py is run for them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from wirecap.errors import UsageError
from wirecap.kernels.sim import ring_model as k
from wirecap.kernels.sim.arrivals import NEVER
from wirecap.sim.handler_cost import HandlerCost
from wirecap.sim.models.model import RING, RING_RANGE, SLICE, Model, check_clock, check_ring
from wirecap.sim.result import QueueResult, Result
from wirecap.sim.workload import PS, Words, Workload

ALL = NEVER
SYNC_PS = 1_000_000
"""A system call and a poll of the ring: about a microsecond [derived]."""
SLOTS = 4096
"""PF_RING's default today; in 2014 perhaps 10,240 [public]."""
KERNEL_PS = 600_000
"""Kernel work and copy per packet: 0.3-0.8 us at 2.4 GHz [derived]; a little above the middle, for the copy."""


@dataclass(frozen=True)
class Ring:
    """The places of a queue, and who empties them.

    A handler takes up to ``batch_most`` packets at once, in ``sync_ps`` more than they cost.  If there are descriptors,
    the kernel takes ``kernel_ps`` to copy each packet from one of them into a place.
    """

    places: int
    batch_most: int = 1
    sync_ps: int = 0
    descriptors: int = 0
    kernel_ps: int = 0


@dataclass(frozen=True)
class RingBufferModel(Model):
    """A model of an engine whose buffer is a ring."""

    kernels: ClassVar[Sequence[Any]] = (k.begin, k.run)
    drops: ClassVar[Mapping[str, int]]
    """The counter for each drop name."""

    @property
    @abstractmethod
    def places(self) -> Ring:
        """A queue's ring."""

    def check(self, workload: Workload, cost: HandlerCost, transmit_ps: int = 0) -> None:
        ring = self.places
        packet_ps = float(cost.costs.max()) + ring.kernel_ps + transmit_ps * len(workload.queues)
        check_clock((ring.places + ring.descriptors) * packet_ps + 2 * ring.sync_ps)

    def simulate(self, workload: Workload, cost: HandlerCost, *, seed: int = 1, transmit_ps: int = 0) -> Result:
        """Queues that share a wire run together, others one after the other, each alone in the event loop."""
        self.check(workload, cost, transmit_ps)
        queues = range(len(workload.queues))
        found: list[QueueResult] = []
        ended = 0
        for part in [queues] if transmit_ps else [queues[number : number + 1] for number in queues]:
            words = _run(self.places, workload, part, cost, seed, transmit_ps)
            ended = max(ended, int(words[:, k.ENDED_PS].max()))
            for row in words.tolist():
                lost = {name: row[counter] for name, counter in self.drops.items()}
                found.append(
                    QueueResult(row[k.SEEN], row[k.DELIVERED], 0, row[k.FORWARDED], lost, float(row[k.BUSY_PS]) / PS)
                )
        return Result(self.name, self.label, self.settings, found, ended / PS)


def _run(ring: Ring, workload: Workload, part: range, cost: HandlerCost, seed: int, transmit_ps: int) -> Words:
    runs = [workload.queues[number] for number in part]
    most = max(1, *(queue.packets for queue in runs))  # more places than packets are never needed
    places, copying = (max(1, min(size, most)) for size in (ring.places, ring.descriptors))
    settings = np.zeros(k.SETTING_WORDS, np.int64)
    settings[[k.PLACES, k.BATCH_MOST, k.SYNC_PS]] = ring.places, ring.batch_most, ring.sync_ps
    settings[[k.DESCRIPTORS, k.KERNEL_PS]] = ring.descriptors, ring.kernel_ps
    settings[[k.TRANSMIT_PS, k.SEED, k.FIRST_QUEUE]] = transmit_ps, seed, part.start
    rings = k.RingModel(
        Workload(workload.name, tuple(runs)).arrivals(), settings, cost.costs,
        np.zeros((len(part), k.QUEUE_WORDS), np.int64), np.zeros((len(part), places), np.int64),
        np.zeros((len(part), copying), np.int64), np.zeros(len(part) * places if transmit_ps else 1, np.int64),
        np.zeros(2, np.int64), np.full((k.KINDS, len(part)), NEVER, np.int64),
    )  # fmt: skip
    k.begin(rings)
    while k.run(rings, SLICE) == SLICE:
        pass
    words: Words = rings.queues
    return words


@dataclass(frozen=True)
class Dna(RingBufferModel):
    """DNA (Type II): the NIC's ring, mapped into the process, is the only buffer.

    No copies, no kernel work; a slot is free as soon as its packet has been handled or has left [public].
    """

    ring: int = RING

    name: ClassVar[str] = "dna"
    label: ClassVar[str] = "DNA"
    drops: ClassVar[Mapping[str, int]] = {"ring_full": k.FULL}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ring(self.ring)

    @property
    def places(self) -> Ring:
        return Ring(self.ring)


@dataclass(frozen=True)
class Netmap(RingBufferModel):
    """NETMAP (Type II): like DNA, but slots come back only at a sync call, and one stays empty.

    A batch is whatever is in the ring at a sync; its slots are free at the next one [public].
    """

    ring: int = RING
    sync_ps: int = SYNC_PS

    name: ClassVar[str] = "netmap"
    label: ClassVar[str] = "NETMAP"
    forwards: ClassVar[bool] = False
    """Its sync calls did not work per queue [text]."""
    drops: ClassVar[Mapping[str, int]] = {"ring_full": k.FULL}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ring(self.ring)

    @property
    def places(self) -> Ring:
        return Ring(self.ring - 1, ALL, self.sync_ps)


@dataclass(frozen=True)
class PfRing(RingBufferModel):
    """PF_RING (Type I): the kernel copies every packet out of the NIC's ring, on the handler's own core.

    The kernel works before the handler does; copies wait in a ring of slots [public].
    """

    ring: int = RING
    slots: int = SLOTS
    kernel_ps: int = KERNEL_PS

    name: ClassVar[str] = "pf_ring"
    label: ClassVar[str] = "PF_RING"
    drops: ClassVar[Mapping[str, int]] = {"nic_ring_full": k.NIC_FULL, "slots_full": k.FULL}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ring(self.ring)
        if not 1 <= self.slots <= RING_RANGE[1]:
            raise UsageError(
                f"unsupported number of slots: {self.slots}", f"use 1 to {RING_RANGE[1]}; PF_RING has {SLOTS}"
            )
        if self.kernel_ps < 1:
            raise UsageError("the kernel's time per packet must be above 0", "write it as kernel=600ns")

    @property
    def places(self) -> Ring:
        return Ring(self.slots, descriptors=self.ring, kernel_ps=self.kernel_ps)
