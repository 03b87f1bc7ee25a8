"""A demand from a capture's summary: what the queues got, and what the handlers did."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wirecap.errors import UsageError


@dataclass(frozen=True)
class Measured:
    """What a summary says; rates in packets a second, of the whole link."""

    queues: int
    worst_share: float
    mean_pps: float
    frame_bytes: int
    handler_pps: float | None
    """What one handler did while its queue was overloaded; None where no queue dropped for a full pool."""


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
    overloaded = [row["delivered"] / duration_s for row in rows if row.get("drops", {}).get("pool_exhausted")]
    octets = summary.get("bytes", {}).get("received", 0)
    return Measured(
        queues=len(rows),
        worst_share=busiest / total,
        mean_pps=total / duration_s,
        frame_bytes=max(64, round(octets / total) + 4),
        handler_pps=max(overloaded) if overloaded else None,
    )
