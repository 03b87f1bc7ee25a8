"""When packets are sent: as recorded, at a rate, or as fast as possible."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.kernels.transmit import schedule as k

ETHERNET_OVERHEAD_BYTES = 24
"""Preamble and start delimiter 8, check sequence 4, gap between packets 12 (IEEE 802.3)."""
MOST_PER = 1_000_000
"""A rate is a fraction with this denominator at the most: 10^12 packets of it still fit int64."""


@dataclass(frozen=True)
class Timing:
    """One of: ``speed`` times as fast as recorded, ``pps`` packets a second, ``bps`` bits a second, or none of them.

    burst: packets that are sent at once, at the mean rate; overhead_bytes: what a packet takes of the bit rate
    besides its own bytes; most_gap_ns: the longest pause of a recording that is kept.
    """

    speed: float | None = None
    pps: float | None = None
    bps: int | None = None
    burst: int = 1
    overhead_bytes: int = 0
    most_gap_ns: int | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.speed, self.pps, self.bps) if value is not None]
        if len(given) > 1:
            raise UsageError("more than one speed is given", "use only one of --speed, --pps, --rate and --topspeed")
        if given and not given[0] > 0:
            raise UsageError(
                f"the speed must be above 0, not {given[0]:g}", "use --topspeed to send as fast as possible"
            )
        if self.pps is not None and not self.exact_pps:
            raise UsageError(
                f"the rate is too low: {self.pps:g} packets per second", f"use at least one packet in {MOST_PER:,} s"
            )
        if self.burst < 1:
            raise UsageError(f"unsupported burst size: {self.burst} packets", "use 1 or more")

    @property
    def exact_pps(self) -> Fraction:
        """``pps`` as it was written in decimals, which a float is only near to."""
        return Fraction(self.pps or 0).limit_denominator(MOST_PER)

    @property
    def paced(self) -> bool:
        return self.speed is not None or self.pps is not None or self.bps is not None


class Schedule:
    """Times for the packets of one plan, batch after batch."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self._state = state = np.zeros(k.SCHEDULE_WORDS, np.int64)
        state[k.MODE] = (
            k.RECORDED if timing.speed is not None
            else k.AT_PPS if timing.pps is not None
            else k.AT_BPS if timing.bps is not None
            else k.TOPSPEED
        )  # fmt: skip
        state[k.RATE], state[k.PER] = timing.exact_pps.as_integer_ratio() if timing.pps else (timing.bps or 0, 1)
        state[k.BURST] = timing.burst
        state[k.EXTRA_BITS] = 8 * timing.overhead_bytes
        state[k.MOST_GAP_NS] = timing.most_gap_ns or 0
        self.restart()

    def kernels(self) -> list[Any]:
        return [k.schedule]

    def restart(self, pause_ns: int = 0) -> None:
        """A recording begins, right after the last packet of the one before, or ``pause_ns`` later."""
        self._state[k.ORIGIN_NS] = k.NO_ORIGIN
        self._state[k.PAUSED_NS] += pause_ns
        if self._state[k.MODE] == k.RECORDED:
            self._state[k.OFFSET_NS] = self._state[k.LAST_NS] + pause_ns

    def apply(self, timestamp: NDArray[np.int64], length: NDArray[np.uint32], n: int) -> NDArray[np.int64]:
        """When n packets with these timestamps (ns) and lengths (bytes) are due: int64 (n,) ns after the start."""
        due = np.empty(n, np.int64)
        k.schedule(timestamp, length, n, self._state, self.timing.speed or 1.0, due)
        return due
