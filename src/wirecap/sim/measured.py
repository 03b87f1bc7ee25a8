"""A demand from a run's summary: what the queues got, and what the handlers did."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from wirecap.errors import UsageError
from wirecap.sim.demand import FCS_BYTES

Kind = TypeVar("Kind")

OVERLOADED = ("pool_exhausted", "ring_full", "nic_ring_full", "slots_full")
"""Drops that say that a handler was too slow, not something else (docs/drops.md)."""
NOT_IN_BYTES = ("pool_exhausted", "capture_late")
"""What the packet engine lost before it knew how long it was (docs/summary.md)."""


@dataclass(frozen=True)
class Measured:
    """What a summary says; rates in packets a second, of the whole link."""

    queues: int
    worst_share: float
    mean_pps: float
    """0 where packets came from a file: as fast as it was read."""
    frame_bytes: int | None
    """With the check sequence; None where bytes were not counted."""
    handler_pps: float | None
    """What one handler did at the least; None where no queue was overloaded."""


def read(path: str) -> Measured:
    """The file of ``wirecap capture --summary-json``, or of ``wirecap simulate --json`` with one engine."""
    hint = "name the file of wirecap capture --summary-json"
    try:
        found = json.loads(Path(path).read_text())
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}", hint) from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is not JSON", hint) from None
    try:
        return _of(_only(path, found))
    except (LookupError, TypeError, ValueError):
        raise UsageError(f"{path} is no summary of a run with packets", "capture some traffic first") from None


def _only(path: str, found: Any) -> Any:
    """The summary: all of the file, or its one result."""
    if "results" not in found:
        return found
    if len(found["results"]) != 1:
        raise UsageError(f"{path} has the results of {len(found['results'])} engines", "simulate one: --engine wirecap")
    return found["results"][0]


def _of(summary: Any) -> Measured:
    rows = _typed(summary["per_queue"], list)
    duration_s = _number(summary["duration_s"], least=1e-9)
    received = [_number(row["received"]) for row in rows]
    total = _number(sum(received), least=1)
    return Measured(
        queues=len(rows),
        worst_share=max(received) / total,
        mean_pps=0.0 if summary.get("engine") == "file" else total / duration_s,
        frame_bytes=_frame_bytes(summary, total),
        handler_pps=handler_pps(summary, duration_s),
    )


def _frame_bytes(summary: dict[str, Any], total: float) -> int | None:
    """The mean of the frames whose bytes were counted."""
    if summary.get("engine") == "packet":
        total -= sum(_number(_typed(summary["packets"]["drops"], dict).get(name, 0)) for name in NOT_IN_BYTES)
    octets = _number(_typed(summary.get("bytes", {}), dict).get("received", 0))
    return max(64, round(octets / total) + FCS_BYTES) if octets and total >= 1 else None


def handler_pps(summary: dict[str, Any], duration_s: float) -> float | None:
    """What a handler thread did a second while its queue was overloaded; None where no queue was.

    At the least: it may have had nothing to do for a part of ``duration_s``.  In advanced mode all threads work for
    an overloaded queue, so that what they did is shared out among them.
    """
    rows = summary["per_queue"]
    delivered = [_number(row["delivered"]) for row in rows]
    drops = [_typed(row.get("drops", {}), dict) for row in rows]
    lost = [sum(_number(of.get(name, 0)) for name in OVERLOADED) for of in drops]
    overloaded = [done for done, late in zip(delivered, lost, strict=True) if late]
    if not overloaded or not duration_s:
        return None
    done = sum(delivered) / len(rows) if summary.get("mode") == "advanced" else max(overloaded)
    return done / duration_s


def _number(value: Any, least: float = 0) -> float:
    """A number that a counter or a clock can have."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1 << 63:
        raise ValueError
    return value


def _typed(value: Any, kind: type[Kind]) -> Kind:
    if not isinstance(value, kind):
        raise TypeError
    return value
