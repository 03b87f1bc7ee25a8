"""How exact timestamps are, as the summary and capture files say it."""

from __future__ import annotations

from typing import Any

from wirecap.linux.xdp_program import GROUP

RESOLUTION_NS = {"packet": 1, "group": 5_000, "turn": 500_000}
"""What the clock is read for: each packet; up to GROUP packets of a NAPI poll; all that a turn of the capture thread
finds.  And by how much packets can differ from their timestamps: 99 of 100 do by less (bench/stamps.py)."""


def described(kind: str, read_for: str) -> dict[str, Any]:
    """The summary's ``time_stamps``; kind: the value of -j that they are called by."""
    return {"type": kind, "read_for": read_for, "resolution_ns": RESOLUTION_NS[read_for]}


def comment(read_for: str) -> str:
    """What a pcapng file says of an interface whose timestamps are coarser than their unit of a nanosecond, else ''."""
    if read_for == "packet":
        return ""
    readings = {
        "group": f"the clock is read for the first packet of a NAPI poll and for each {GROUP}th, later ones count on",
        "turn": "one for all packets that the capture thread finds together",
    }[read_for]
    return f"timestamps are within {RESOLUTION_NS[read_for] // 1000} us: {readings}"
