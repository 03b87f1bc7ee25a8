"""What happens in a second, from the counters at two moments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from wirecap.observe.counters import Counters, QueueCounters

SORTS = ("queue", "rate", "bits", "depth", "drops", "offloaded")


@dataclass
class QueueRates:
    """A receive queue.  Rates are in packets a second but for ``bits``; depth: chunks waiting for its consumer.

    to: packets a second that other consumers take, by their number.
    """

    counters: QueueCounters
    depth: int
    received: float
    bits: float
    dropped: float
    offloaded: float
    to: dict[int, float]


@dataclass
class Rates:
    """A capture between two moments, ``seconds`` apart; 0 if there is only one."""

    now: Counters
    seconds: float
    queues: list[QueueRates]
    written_bytes: float
    sent: list[float] = field(default_factory=list)

    @property
    def received(self) -> float:
        return sum(each.received for each in self.queues)

    def of_interface(self, interface: str) -> list[QueueRates]:
        return [each for each in self.queues if each.counters.interface == interface]

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``: the counters, with rates beside them."""
        found = asdict(self.now)
        for row, rates in zip(found["queues"], self._in_order(), strict=True):
            row["depth"], row["dropped"] = rates.depth, rates.counters.dropped
            row["per_second"] = {
                "received": rates.received, "bits": rates.bits, "dropped": rates.dropped, "offloaded": rates.offloaded
            }  # fmt: skip
        found["per_second"] = {"received": self.received, "written_bytes": self.written_bytes}
        found["measured_s"] = self.seconds
        return found

    def _in_order(self) -> list[QueueRates]:
        by_place = {id(each.counters): each for each in self.queues}
        return [by_place[id(each)] for each in self.now.queues]


def between(before: Counters | None, now: Counters) -> Rates:
    """The rates from ``before`` to ``now``; zeros if there is no earlier state of the same capture."""
    same = before is not None and before.pid == now.pid and before.started_ns == now.started_ns
    seconds = (now.time_ns - before.time_ns) * 1e-9 if before and same else 0.0
    per = 1 / seconds if seconds > 0 else 0.0
    earlier = before.queues if before and per else now.queues
    queues = [_of_queue(one, other, now, per) for one, other in zip(earlier, now.queues, strict=True)]
    written = (now.disk.bytes - before.disk.bytes) * per if before and per and now.disk and before.disk else 0.0
    outputs = before.outputs if before and per else now.outputs
    sent = [(other.forwarded - one.forwarded) * per for one, other in zip(outputs, now.outputs, strict=True)]
    return Rates(now, seconds, queues, written, sent)


def _of_queue(before: QueueCounters, now: QueueCounters, capture: Counters, per: float) -> QueueRates:
    consumer = now.consumer
    to = {int(who): (packets - before.offloaded_to.get(who, 0)) * per for who, packets in now.offloaded_to.items()}
    return QueueRates(
        counters=now,
        depth=capture.consumers[consumer].depth if 0 <= consumer < len(capture.consumers) else 0,
        received=(now.received - before.received) * per,
        bits=8 * (now.received_bytes - before.received_bytes) * per,
        dropped=(now.dropped - before.dropped) * per,
        offloaded=(now.offloaded - before.offloaded) * per,
        to={who: rate for who, rate in to.items() if rate > 0},
    )


def ordered(queues: Iterable[QueueRates], by: str) -> list[QueueRates]:
    """The queues by name and number, or the largest first."""
    rows = sorted(queues, key=lambda each: (each.counters.interface, each.counters.queue))
    keys = {
        "rate": lambda each: each.received, "bits": lambda each: each.bits, "depth": lambda each: each.depth,
        "drops": lambda each: each.counters.dropped, "offloaded": lambda each: each.counters.offloaded,
    }  # fmt: skip
    return rows if by not in keys else sorted(rows, key=keys[by], reverse=True)
