"""The end of a pipeline that sends: what handlers leave goes onto the wires of the outgoing NICs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wirecap.forward_config import OUTPUTS_BY, QUEUES_BY, ForwardConfig
from wirecap.kernels import forward as f
from wirecap.kernels import libc
from wirecap.kernels import route as r
from wirecap.kernels import wires as k
from wirecap.kernels.direct import direct_forward_loop
from wirecap.source.wires import WireTable

if TYPE_CHECKING:
    from wirecap.engine.engine import Engine

FLUSH_S = 1.0
"""At the end, how long cells in transmission may stand still before they are given up."""


@dataclass
class Sender:
    """A handler thread's own part: how it chooses, and its scratch words."""

    sending: NDArray[np.int64]
    choice: NDArray[np.int64]
    wanted: NDArray[np.int64]


class Forwarder:
    """Sends on the wires of ``table``; one for an engine."""

    def __init__(self, table: WireTable, config: ForwardConfig) -> None:
        self.table, self.config = table, config
        self.arrays: k.Wires = table.arrays(1, 1)

    def kernels(self, in_python: bool, direct: bool) -> list[Any]:
        loop = direct_forward_loop if direct else f.forward_loop
        return [f.send_on if in_python else loop, f.tend_wires]

    def open(self, engine: Engine, consumers: int) -> None:
        self.arrays = self.table.arrays(len(engine.source.queues), consumers)

    def sender(self, M: int) -> Sender:
        sending = np.zeros(4, np.int64)
        sending[r.QUEUE_BY] = QUEUES_BY.index(self.config.queue_by)
        sending[r.OUTPUT_BY] = OUTPUTS_BY.index(self.config.output_by)
        sending[r.PATIENCE_NS] = self.config.patience_ns
        return Sender(sending, np.zeros(M, np.int64), np.zeros(len(self.table.places), np.int64))

    def send(self, engine: Engine, consumer: int, slot: int, sender: Sender) -> None:
        """``send`` for handlers in Python."""
        f.send_on(
            engine.pool, engine.source.rings, self.arrays, consumer, slot, sender.sending, sender.choice,
            sender.wanted, libc.scratch(),
        )  # fmt: skip

    def tend(self, engine: Engine) -> bool:
        """Look after cells in transmission while no chunk comes; True while there are any."""
        return bool(f.tend_wires(engine.pool, engine.source.rings, self.arrays))

    def flush(self, engine: Engine) -> None:
        """After the last chunk: until nothing is in transmission, or nothing moves any more."""
        left, moved_at = -1, time.monotonic()
        while self.tend(engine):
            now = int(self._in_transmission().sum())
            if now != left:
                left, moved_at = now, time.monotonic()
            elif time.monotonic() - moved_at > FLUSH_S:
                return
            time.sleep(0.0005)

    def _in_transmission(self) -> NDArray[np.int64]:
        """Cells on each wire."""
        words = self.table.words
        difference: NDArray[np.int64] = words[:, k.PUT] - words[:, k.DONE]
        return difference

    def forwarded(self, queue: int) -> int:
        """Packets of a home queue that the kernel has completed and did not refuse."""
        counts = self.arrays.counts[:, queue].sum(axis=0)
        return int(counts[k.COMPLETED] - counts[k.REFUSED])

    def reordered(self) -> int:
        """Packets that were sent after a chunk of their receive queue that was captured later."""
        return int(self.arrays.tallies[:, :, r.REORDERED].sum())

    def lost(self, queue: int) -> dict[str, int]:
        """Delivered packets of a home queue that were not sent, by name."""
        counts = self.arrays.counts[:, queue].sum(axis=0)
        tally = self.arrays.tallies[:, queue].sum(axis=0)
        return {
            "by_handler": int(tally[r.DISCARDED]),
            "tx_too_long": int(tally[r.TOO_LONG]),
            "tx_ring_full": int(counts[k.FULL]),
            "tx_refused": int(counts[k.REFUSED]),
        }

    def unfinished(self, queue: int) -> int:
        """Packets of a home queue that are in transmission."""
        counts = self.arrays.counts[:, queue].sum(axis=0)
        return int(counts[k.QUEUED] - counts[k.COMPLETED])

    def outputs(self) -> list[dict[str, Any]]:
        """What went out where: a row for each wire."""
        rows = []
        for wire, (name, queue) in enumerate(self.table.places):
            counts = self.arrays.counts[wire].sum(axis=0)
            drops = {"tx_ring_full": int(counts[k.FULL]), "tx_refused": int(counts[k.REFUSED])}
            rows.append({
                "interface": name, "queue": queue,
                "forwarded": int(counts[k.COMPLETED] - counts[k.REFUSED]),
                "drops": {name: count for name, count in drops.items() if count},
            })  # fmt: skip
        return rows
