"""A demand from a capture's summary: what the queues got, and what the handlers did."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wirecap.errors import UsageError

OVERLOADED = {"pool_exhausted", "ring_full"}
"""Drops that say that a handler was too slow, not something else (docs/drops.md)."""


@dataclass(frozen=True)
class Measured:
    """What a summary says; rates in packets a second, of the whole link."""

    queues: int
    worst_share: float
    mean_pps: float
    frame_bytes: int
    handler_pps: float | None
    """What one handler did at the least; None where no queue was overloaded."""


def read(path: str) -> Measured:
    """The file of ``wirecap capture --summary-json``."""
    try:
        summary = json.loads(Path(path).read_text())
    except OSError as error:
        hint = "name the file of wirecap capture --summary-json"
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}", hint) from None
    except ValueError:
        raise UsageError(f"{path} is not JSON", "name the file of wirecap capture --summary-json") from None
    try:
        return _of(summary)
    except (KeyError, TypeError, IndexError, ZeroDivisionError):
        raise UsageError(f"{path} is no summary of a run with packets", "capture some traffic first") from None


def _of(summary: dict[str, Any]) -> Measured:
    rows = summary["per_queue"]
    total, duration_s = summary["packets"]["received"], summary["duration_s"]
    busiest = max(row["received"] for row in rows)
    octets = summary.get("bytes", {}).get("received", 0)
    return Measured(
        queues=len(rows),
        worst_share=busiest / total,
        mean_pps=total / duration_s,
        frame_bytes=max(64, round(octets / total) + 4),
        handler_pps=handler_pps(summary, duration_s),
    )


def handler_pps(summary: dict[str, Any], duration_s: float) -> float | None:
    """What a handler thread did a second while its queue was overloaded; None where no queue was.

    At the least: it may have had nothing to do for a part of ``duration_s``.  In advanced mode all threads work for
    an overloaded queue, so that what they did is shared out among them.
    """
    rows = summary["per_queue"]
    overloaded = [row["delivered"] for row in rows if OVERLOADED & row.get("drops", {}).keys()]
    if not overloaded or not duration_s:
        return None
    done = sum(row["delivered"] for row in rows) / len(rows) if summary.get("mode") == "advanced" else max(overloaded)
    return float(done / duration_s)
