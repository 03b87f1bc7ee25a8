"""The counters of a run, from where they were counted to the one object that users see.

Every packet is counted once at the hook and once where it ended: delivered, filtered out, or dropped under
a name.  What the two sides do not agree on is shown as the drop ``unaccounted``, which no run may have.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wirecap.handlers.forward import Forwarder
from wirecap.handlers.pipeline import Pipeline
from wirecap.kernels import handle as h
from wirecap.kernels import lanes
from wirecap.kernels import pool as k
from wirecap.source.base import HookCounts

if TYPE_CHECKING:
    from wirecap.engine.engine import Engine


@dataclass
class QueueCounts:
    """One home queue; packets, and bytes where the name says so."""

    interface: str
    queue: int
    received: int = 0
    received_octets: int = 0
    delivered: int = 0
    delivered_octets: int = 0
    filtered_out: int = 0
    offloaded: int = 0
    forwarded: int = 0
    pending: int = 0
    """On the way through the engine; 0 once it has stopped."""
    drops: dict[str, int] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        return sum(self.drops.values())


@dataclass
class Summary:
    """All queues of a run, and what is not counted per queue."""

    queues: list[QueueCounts]
    refused_recycles: int

    def total(self, name: str) -> int:
        return sum(getattr(queue, name) for queue in self.queues)

    def drops(self) -> dict[str, int]:
        """Packets by reason, over all queues; every reason that a queue knows is there."""
        names = dict.fromkeys(name for queue in self.queues for name in queue.drops)
        return {name: sum(queue.drops.get(name, 0) for queue in self.queues) for name in names}


def summarize(engine: Engine) -> Summary:
    """Read every counter once; the hook is read first, so that a running engine never looks ahead of it."""
    pool = engine.pool
    hooks = [engine.source.counts(pool, queue) for queue in range(len(engine.source.queues))]
    queues = [_queue(engine, number, hook) for number, hook in enumerate(hooks)]
    return Summary(queues, refused_recycles=int(pool.control[k.REFUSED]))


def _queue(engine: Engine, number: int, hook: HookCounts) -> QueueCounts:
    place = engine.source.queues[number]
    tally = engine.pool.tallies[:, number, :].sum(axis=0).tolist()
    drops = dict(hook.drops)
    drops["unread_at_stop"] = tally[h.UNREAD]
    counts = QueueCounts(
        interface=place.interface, queue=place.queue,
        received=hook.received, received_octets=hook.received_octets,
        delivered=tally[h.DELIVERED], delivered_octets=tally[h.DELIVERED_OCTETS],
        filtered_out=tally[h.FILTERED] + hook.filtered, offloaded=tally[h.DELIVERED_OFFLOADED], drops=drops,
    )  # fmt: skip
    if isinstance(engine.application, Pipeline) and engine.application.forwarder:
        _sent(engine, engine.application.forwarder, number, counts)
    left = counts.received - counts.delivered - counts.filtered_out - counts.dropped
    if engine.stopped:
        waiting, waiting_octets = _in_slots(engine, number)
        waiting += hook.in_ring
        if engine.source.keeps_unread:
            counts.received -= waiting + drops.pop("unread_at_stop")
            counts.received_octets -= waiting_octets + tally[h.UNREAD_OCTETS]
        else:
            drops["unread_at_stop"] += waiting
        if left != waiting:
            drops["unaccounted"] = left - waiting
    else:
        counts.pending = left
    return counts


def _sent(engine: Engine, forwarder: Forwarder, queue: int, counts: QueueCounts) -> None:
    """Of a forwarder's packets only those that were sent are delivered; the others are dropped, by name."""
    given = counts.delivered
    counts.delivered = counts.forwarded = forwarder.forwarded(queue)
    counts.drops |= forwarder.lost(queue)
    if engine.stopped:
        counts.drops["tx_unfinished"] = forwarder.unfinished(queue)
        if engine.failure():  # what the thread that failed had in hand
            counts.drops["handler_failed"] = given - counts.forwarded - sum(
                counts.drops[name] for name in (*forwarder.lost(queue), "tx_unfinished")
            )  # fmt: skip


def _in_slots(engine: Engine, queue: int) -> tuple[int, int]:
    """Packets and bytes of a stopped engine that lie in a filling slot or in chunks that no handler took.

    Chunks on their way from a handler to a writer are delivered already.
    """
    pool = engine.pool
    words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
    stride = lanes.PLACES + int(pool.control[k.LANE_MASK]) + 1
    places = pool.lanes[: engine.layout.handlers * stride].reshape(-1, stride)[:, lanes.PLACES :]
    slots = [slot for slot in (places[places > 0] - 1).tolist() if pool.meta[slot * k.SLOT_WORDS + k.HOME] == queue]
    waiting = [(slot, int(pool.meta[slot * k.SLOT_WORDS + k.COUNT])) for slot in slots]
    waiting.append((int(words[k.FILL_SLOT]), int(words[k.FILL_COUNT])))
    octets = sum(int(pool.captured[slot, :count].sum()) for slot, count in waiting)
    return sum(count for _, count in waiting), octets


def as_dict(engine: Engine, written: int = 0, written_octets: int = 0) -> dict[str, Any]:
    """The summary object (docs/summary.md)."""
    summary = engine.summary()
    source = engine.source
    facts = source.describe()
    drops = {name: count for name, count in summary.drops().items() if count}
    found: dict[str, Any] = {
        "engine": source.engine,
        "mode": "advanced" if engine.advanced else "basic",
        "xdp_mode": facts["xdp_mode"],
        "zero_copy": facts["zero_copy"],
        "queues": len(source.queues),
        "M": engine.M,
        "R": engine.R,
        "T": engine.T,
        "pool_bytes": int(source.arena.nbytes),
        "duration_s": round((engine.ended or time.monotonic()) - engine.started, 6),
        "packets": {
            "received": summary.total("received"),
            "delivered": summary.total("delivered"),
            "filtered_out": summary.total("filtered_out"),
            "written": written,
            "forwarded": summary.total("forwarded"),
            "offloaded": summary.total("offloaded"),
            "dropped": summary.total("dropped"),
            "drops": drops,
        },
        "bytes": {"received": summary.total("received_octets"), "written": written_octets},
        "per_queue": [
            {
                "interface": q.interface, "queue": q.queue, "received": q.received, "delivered": q.delivered,
                "filtered_out": q.filtered_out, "offloaded": q.offloaded, "dropped": q.dropped,
                "drops": {name: count for name, count in q.drops.items() if count},
            }
            for q in summary.queues
        ],
    }  # fmt: skip
    if isinstance(engine.application, Pipeline) and engine.application.forwarder:
        found["packets"]["reordered"] = engine.application.forwarder.reordered()
        found["outputs"] = engine.application.forwarder.outputs()
    return found
