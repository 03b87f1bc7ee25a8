"""The end of a forwarding pipeline: what handlers leave goes onto the wires of the outgoing NICs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.config.forward import OUTPUTS_BY, QUEUES_BY, ForwardConfig
from wirecap.engine.accounting import QueueCounts
from wirecap.engine.engine import Engine
from wirecap.kernels.base import libc
from wirecap.kernels.forward import forward_loop as f
from wirecap.kernels.forward import route as r
from wirecap.kernels.forward import wires as k
from wirecap.kernels.transmit import ring as t
from wirecap.source.wires import WireTable

FLUSH_S = 1.0
"""How long cells in transmission may stand still at the end before they are given up."""


class Forwarder:
    """Sends on the wires of ``table``; an engine has one."""

    tending_ns = f.TENDING_NS
    """How long a thread waits for a chunk while frames are in transmission."""

    def __init__(self, table: WireTable, config: ForwardConfig) -> None:
        self.table, self.config = table, config
        self.arrays: k.Wires = table.arrays(1, 1)

    def kernels(self, in_python: bool) -> list[Any]:
        return [*([f.send_on, f.finish_chunk] if in_python else [f.forward_loop]), f.tend_wires]

    def open(self, engine: Engine, consumers: int) -> None:
        self.arrays = self.table.arrays(len(engine.source.queues), consumers)

    def outlet(self, M: int) -> f.Outlet:
        """A handler thread's own outlet."""
        sending = np.zeros(4, np.int64)
        sending[r.QUEUE_BY] = QUEUES_BY.index(self.config.queue_by)
        sending[r.OUTPUT_BY] = OUTPUTS_BY.index(self.config.output_by)
        sending[r.PATIENCE_NS] = self.config.patience_ns
        return f.Outlet(self.arrays, sending, np.zeros(M, np.int64), np.zeros(len(self.table.places), np.int64))

    def finish(self, engine: Engine, consumer: int, slot: int) -> None:
        """Finish a chunk's checksums, for handlers in Python."""
        f.finish_chunk(engine.pool, consumer, slot, self.arrays)

    def send(self, engine: Engine, consumer: int, slot: int, outlet: f.Outlet) -> None:
        """``send`` for handlers in Python."""
        f.send_on(engine.pool, engine.source.rings, consumer, slot, outlet, libc.scratch())

    def tend(self, engine: Engine) -> bool:
        """Look after cells in transmission while no chunk arrives; True while there are any."""
        return bool(f.tend_wires(engine.pool, engine.source.rings, self.arrays))

    def flush(self, engine: Engine) -> None:
        """Wait, after the last chunk, until nothing is in transmission or nothing moves any more."""
        left, moved_at = -1, time.monotonic()
        while self.tend(engine):
            now = int(self._in_transmission().sum())
            if now != left:
                left, moved_at = now, time.monotonic()
            elif time.monotonic() - moved_at > FLUSH_S:
                return
            time.sleep(0.0005)

    def _in_transmission(self) -> NDArray[np.int64]:
        """Cells in transmission on each wire."""
        words = self.table.words
        difference: NDArray[np.int64] = words[:, t.PUT] - words[:, t.DONE]
        return difference

    def forwarded(self, queue: int) -> int:
        """Packets of a home queue that the kernel has completed and did not refuse."""
        counts = self.arrays.counts[:, queue].sum(axis=0)
        return int(counts[t.SENT])

    def reordered(self) -> int:
        """Packets sent after a chunk of the same receive queue that was captured later."""
        return int(self.arrays.tallies[:, :, r.REORDERED].sum())

    def lost(self, queue: int) -> dict[str, int]:
        """Delivered packets of a home queue that were not sent, by name."""
        counts = self.arrays.counts[:, queue].sum(axis=0)
        tally = self.arrays.tallies[:, queue].sum(axis=0)
        return {
            "by_handler": int(tally[r.DISCARDED]),
            "tx_too_long": int(tally[r.TOO_LONG]),
            "tx_ring_full": int(counts[t.FULL]),
            "tx_refused": int(counts[t.REFUSED]),
        }

    def account(self, engine: Engine, queue: int, counts: QueueCounts) -> None:
        """Only packets that were sent are delivered; the others are dropped, by name."""
        given = counts.delivered
        lost = self.lost(queue)
        counts.delivered = counts.forwarded = self.forwarded(queue)
        counts.drops |= lost
        if engine.stopped:
            lost["tx_unfinished"] = counts.drops["tx_unfinished"] = self.unfinished(queue)
            if engine.failure():  # packets that the failed thread was working on
                counts.drops["handler_failed"] = given - counts.forwarded - sum(lost.values())

    def report(self, summary: dict[str, Any]) -> None:
        """Add to the summary object what only a forwarder knows."""
        summary["packets"]["reordered"] = self.reordered()
        summary["packets"]["checksums_finished"] = int(self.arrays.tallies[:, :, r.FINISHED].sum())
        summary["outputs"] = self.outputs()
        summary["directions"] = self._directions(summary["per_queue"])

    def _directions(self, per_queue: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What came on each interface, and how much of that was sent on: a row for each way through."""
        rows: dict[tuple[str, ...], dict[str, Any]] = {}
        for queue, row in enumerate(per_queue):
            near, far = row["interface"], self.table.targets(queue)
            found = rows.setdefault((near, *far), {"from": near, "to": far, "received": 0, "forwarded": 0})
            found["received"] += row["received"]
            found["forwarded"] += self.forwarded(queue)
        return list(rows.values())

    def unfinished(self, queue: int) -> int:
        """Packets of a home queue that are still in transmission."""
        counts = self.arrays.counts[:, queue].sum(axis=0)
        return int(counts[t.QUEUED] - counts[t.SENT] - counts[t.REFUSED])

    def outputs(self) -> list[dict[str, Any]]:
        """What was sent where: a row per wire."""
        rows = []
        for wire, (name, queue) in enumerate(self.table.places):
            counts = self.arrays.counts[wire].sum(axis=0)
            drops = {"tx_ring_full": int(counts[t.FULL]), "tx_refused": int(counts[t.REFUSED])}
            rows.append({
                "interface": name, "queue": queue,
                "forwarded": int(counts[t.SENT]),
                "drops": {name: count for name, count in drops.items() if count},
            })  # fmt: skip
        return rows
