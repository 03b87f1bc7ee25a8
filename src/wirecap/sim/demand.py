"""What a capture is planned for: the traffic, and what a handler can do."""

from __future__ import annotations

from dataclasses import dataclass

from wirecap.errors import UsageError
from wirecap.sim.workload import wire_rate_pps

LINKS_BPS = (1e6, 4e11)
QUEUES_MOST = 64
FCS_BYTES = 4
"""Of a frame on the wire, but not of a captured packet."""


@dataclass(frozen=True)
class Demand:
    """What is asked of a capture.

    worst_share: the largest part of the packets that one queue gets.  burst_packets: how many packets come at
    ``burst_pps`` (None: the link's rate).  handler_pps: what one handler thread does.  mean_pps: over a long
    time, 0 where only bursts matter.
    """

    link_bps: float
    frame_bytes: int
    queues: int
    worst_share: float
    burst_packets: int
    handler_pps: float
    burst_pps: float | None = None
    mean_pps: float = 0.0
    drops_critical: bool = True
    cell_bytes: int = 2048

    def __post_init__(self) -> None:
        if not LINKS_BPS[0] <= self.link_bps <= LINKS_BPS[1]:
            raise UsageError(f"a link of {self.link_bps:g} bit/s", "a link has 1Mbps to 400Gbps")
        if not 64 <= self.frame_bytes <= 16_384:
            raise UsageError(
                f"frames of {self.frame_bytes} bytes", "a frame has 64 to 16384, its check sequence included"
            )
        if not 1 <= self.queues <= QUEUES_MOST:
            raise UsageError(f"{self.queues} queues", f"it plans for 1 to {QUEUES_MOST}")
        if not 1 / self.queues - 1e-9 <= self.worst_share <= 1:
            least = f"{100 / self.queues:.3g} % (all alike)"
            raise UsageError(
                f"a worst queue with {100 * self.worst_share:g} % of the packets", f"it has {least} to 100 %"
            )
        if self.burst_packets < 1 or not self.rate_pps >= 1 or not 1 <= self.handler_pps <= 1e12:
            raise UsageError(
                "a burst, its rate and a handler's rate are 1 or more", "give --burst 100k --handler-rate 38844"
            )
        if not self.rate_pps <= self.link_pps * 1.001 or not 0 <= self.mean_pps <= self.link_pps * 1.001:
            raise UsageError(
                f"the link carries {self.link_pps:,.0f} frames of {self.frame_bytes} bytes a second",
                "take a lower rate, shorter frames or a faster link",
            )
        if self.mean_pps > self.rate_pps * 1.001:
            raise UsageError(
                f"a mean of {self.mean_pps:,.0f} p/s is more than the burst's {self.rate_pps:,.0f} p/s",
                "a burst is faster than the mean: raise --burst-rate",
            )

    @property
    def link_pps(self) -> float:
        """Frames a second that fill the link."""
        return wire_rate_pps(self.link_bps, self.frame_bytes)

    @property
    def rate_pps(self) -> float:
        """The rate of a burst."""
        return self.link_pps if self.burst_pps is None else self.burst_pps

    @property
    def worst_pps(self) -> float:
        """What the worst queue gets of a burst."""
        return self.rate_pps * self.worst_share

    @property
    def shares(self) -> tuple[float, ...]:
        """The worst queue's part of the packets, and what each other queue gets of the rest."""
        others = self.queues - 1
        return (self.worst_share, *[max(0.0, 1 - self.worst_share) / max(1, others)] * others)
