"""The object that users see at the end of a capture (docs/summary.md)."""

from __future__ import annotations

import time
from typing import Any

from wirecap.engine.engine import Engine


def as_dict(engine: Engine, written: int = 0, written_bytes: int = 0) -> dict[str, Any]:
    """The summary object (docs/summary.md)."""
    summary = engine.summary()
    source = engine.source
    facts = source.describe()
    drops = {name: count for name, count in summary.drops().items() if count}
    found: dict[str, Any] = {
        "engine": source.name,
        "mode": "advanced" if engine.advanced else "basic",
        "xdp_mode": facts["xdp_mode"],
        "zero_copy": facts["zero_copy"],
        "time_stamps": facts.get("time_stamps"),
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
            "pending": summary.total("pending"),
            "written": written,
            "forwarded": summary.total("forwarded"),
            "offloaded": summary.total("offloaded"),
            "dropped": summary.total("dropped"),
            "drops": drops,
        },
        "bytes": {"received": summary.total("received_bytes"), "written": written_bytes},
        "per_queue": [
            {
                "interface": q.interface, "queue": q.queue, "received": q.received, "delivered": q.delivered,
                "filtered_out": q.filtered_out, "pending": q.pending, "offloaded": q.offloaded, "dropped": q.dropped,
                "drops": {name: count for name, count in q.drops.items() if count},
            }
            for q in summary.queues
        ],
        "notes": source.notes(),
    }  # fmt: skip
    if remedies := {name: text for name, text in facts.get("remedies", {}).items() if name in drops}:
        found["remedies"] = remedies
    return found
