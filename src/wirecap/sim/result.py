"""What a model did, under the same names as in a live capture's summary (docs/summary.md, docs/drops.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wirecap.errors import WirecapError


@dataclass
class QueueResult:
    """The packets of one receive queue."""

    received: int
    delivered: int
    offloaded: int = 0
    forwarded: int = 0
    drops: Mapping[str, int] = field(default_factory=dict)
    busy_s: float = 0.0
    """How long this queue's handler was busy."""
    deepest: int = 0
    """The most chunks that ever waited in its capture queue."""

    @property
    def dropped(self) -> int:
        return sum(self.drops.values())


@dataclass
class Result:
    """One run of a model on a workload."""

    model: str
    """Its name in the table of models."""
    label: str
    """Its name as the paper writes it: WireCAP-A-(256,100,60%)."""
    settings: Mapping[str, Any]
    queues: list[QueueResult]
    duration_s: float
    """Virtual time until the last packet was handled or had left."""
    nics: int = 1
    """``queues`` lists the first NIC's queues, then those of the next, and so on."""

    def __post_init__(self) -> None:
        for number, queue in enumerate(self.queues):
            if queue.received != queue.delivered + queue.dropped:
                raise WirecapError(f"simulated queue {number}: the counters do not add up", "please report it")

    def total(self, name: str) -> int:
        return sum(getattr(queue, name) for queue in self.queues)

    @property
    def drop_rate(self) -> float:
        """Dropped packets divided by received ones, 0 to 1."""
        received = self.total("received")
        return self.total("dropped") / received if received else 0.0

    def drops(self) -> dict[str, int]:
        """Dropped packets by reason, over all queues; reasons with no packets are left out."""
        names = dict.fromkeys(name for queue in self.queues for name in queue.drops)
        totals = {name: sum(queue.drops.get(name, 0) for queue in self.queues) for name in names}
        return {name: count for name, count in totals.items() if count}

    def as_dict(self) -> dict[str, Any]:
        """The summary object, plus ``simulated`` and the model's settings; simulated packets have no length."""
        per_nic = len(self.queues) // self.nics
        return {
            "engine": self.model,
            "label": self.label,
            "simulated": True,
            "queues": len(self.queues),
            **self.settings,
            "duration_s": round(self.duration_s, 9),
            "drop_rate": self.drop_rate,
            "packets": {
                "received": self.total("received"),
                "delivered": self.total("delivered"),
                "filtered_out": 0,
                "pending": 0,
                "written": 0,
                "forwarded": self.total("forwarded"),
                "offloaded": self.total("offloaded"),
                "dropped": self.total("dropped"),
                "drops": self.drops(),
            },
            "per_queue": [
                {
                    "interface": f"nic{number // per_nic}", "queue": number % per_nic,
                    "received": q.received, "delivered": q.delivered, "filtered_out": 0,
                    "pending": 0, "offloaded": q.offloaded, "dropped": q.dropped,
                    "drops": {name: count for name, count in q.drops.items() if count},
                    "busy_s": round(q.busy_s, 9), "deepest": q.deepest,
                }
                for number, q in enumerate(self.queues)
            ],
        }  # fmt: skip
