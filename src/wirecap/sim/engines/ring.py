"""How the engines run whose buffer is a ring (kernels/sim_ring.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wirecap.kernels import sim_ring as k
from wirecap.kernels.sim_arrivals import NEVER
from wirecap.sim.engines.base import SLICE, Engine, check_clock
from wirecap.sim.load import Load
from wirecap.sim.result import QueueResult, Result
from wirecap.sim.workload import PS, Words, Workload

KERNELS = (k.begin, k.run)
ALL = NEVER


@dataclass(frozen=True)
class Ring:
    """Places of a queue, and who empties them.

    A handler takes up to ``batch_most`` packets at once, and ``sync_ps`` longer than they cost.  With descriptors the
    kernel takes ``kernel_ps`` to copy each packet from one of them into a place.
    """

    places: int
    batch_most: int = 1
    sync_ps: int = 0
    descriptors: int = 0
    kernel_ps: int = 0


def simulate_ring(
    engine: Engine, ring: Ring, drops: Mapping[str, int], workload: Workload, load: Load, seed: int, transmit_ps: int
) -> Result:
    """Every packet through such an engine; drops: each name's counter.

    Queues that share a wire run together, others one after the other: then each is alone in the loop of events.
    """
    queues = range(len(workload.queues))
    packet_ps = float(load.costs.max()) + ring.kernel_ps + transmit_ps * len(queues)
    check_clock((ring.places + ring.descriptors) * packet_ps + 2 * ring.sync_ps)
    found: list[QueueResult] = []
    ended = 0
    for part in [queues] if transmit_ps else [queues[number : number + 1] for number in queues]:
        words = _run(ring, workload, part, load, seed, transmit_ps)
        ended = max(ended, int(words[:, k.ENDED_PS].max()))
        for row in words.tolist():
            lost = {name: row[counter] for name, counter in drops.items()}
            found.append(
                QueueResult(row[k.SEEN], row[k.DELIVERED], 0, row[k.FORWARDED], lost, float(row[k.BUSY_PS]) / PS)
            )
    return Result(engine.name, engine.label, engine.settings, found, ended / PS)


def _run(ring: Ring, workload: Workload, part: range, load: Load, seed: int, transmit_ps: int) -> Words:
    runs = [workload.queues[number] for number in part]
    most = max(1, *(queue.packets for queue in runs))  # no more places than that are needed
    places, copying = (max(1, min(size, most)) for size in (ring.places, ring.descriptors))
    settings = np.zeros(k.SETTING_WORDS, np.int64)
    settings[[k.PLACES, k.BATCH_MOST, k.SYNC_PS]] = ring.places, ring.batch_most, ring.sync_ps
    settings[[k.DESCRIPTORS, k.KERNEL_PS]] = ring.descriptors, ring.kernel_ps
    settings[[k.TRANSMIT_PS, k.SEED, k.FIRST_QUEUE]] = transmit_ps, seed, part.start
    rings = k.Rings(
        Workload(workload.name, tuple(runs)).arrivals(), settings, load.costs,
        np.zeros((len(part), k.QUEUE_WORDS), np.int64), np.zeros((len(part), places), np.int64),
        np.zeros((len(part), copying), np.int64), np.zeros(len(part) * places if transmit_ps else 1, np.int64),
        np.zeros(2, np.int64), np.full((k.KINDS, len(part)), NEVER, np.int64),
    )  # fmt: skip
    k.begin(rings)
    while k.run(rings, SLICE) == SLICE:
        pass
    words: Words = rings.queues
    return words
