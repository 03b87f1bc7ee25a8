"""What a running capture tells about itself, several times a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters since the start of the capture.

    elapsed_s: seconds.  received, delivered, written: packets.  bytes: received bytes.  depths: chunks in
    each capture queue, at most ``R``.  drops: packets by the reason's name.
    """

    elapsed_s: float
    received: int
    delivered: int
    bytes: int
    written: int = 0
    depths: tuple[int, ...] | list[int] = ()
    R: int = 0
    drops: Mapping[str, int] = field(default_factory=dict)
