"""What arrives on the receive queues of a simulated NIC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wirecap.errors import UsageError
from wirecap.kernels.sim_arrivals import CURSOR_WORDS, NEVER, RUN, Arrivals
from wirecap.traffic.border_router import Draws

Words = NDArray[np.int64]

PS = 10**12
"""Picoseconds of a second."""
LATEST_PS = NEVER // 4
"""Times up to here (26 days) leave room for what follows the last packet."""
PACKETS_MOST = 1 << 40
LISTED_MOST = 50_000_000
"""Most runs that a workload lists, and most packets where each is one: 24 bytes and more each."""

WIRE_OVERHEAD_BYTES = 20
"""Preamble and the gap to the next frame (IEEE 802.3): 8 + 12 bytes."""


@dataclass(frozen=True)
class Runs:
    """One queue's arrivals: ``count[i]`` packets from ``start[i]`` on, ``interval[i]`` apart; int64, ps."""

    start: Words
    interval: Words
    count: Words

    @classmethod
    def of(cls, start: ArrayLike, interval: ArrayLike, count: ArrayLike) -> Runs:
        """Runs without the empty ones, checked: in order of time, none before 0 or after LATEST_PS."""
        starts, intervals, counts = (
            np.ascontiguousarray(part) for part in np.broadcast_arrays(*(_whole(p) for p in (start, interval, count)))
        )
        kept = counts > 0
        runs = cls(starts[kept], intervals[kept], counts[kept])
        ends = runs.start + (runs.count - 1).astype(float) * runs.interval
        if kept.any() and (runs.start[0] < 0 or runs.interval.min() < 0 or ends.max() > LATEST_PS):
            raise _too_long()
        exact = runs.start + (runs.count - 1) * runs.interval
        if (exact[:-1] > runs.start[1:]).any():
            raise UsageError("a workload's packets are not in order of time", "sort them by their time stamps")
        if float(runs.count.sum(dtype=float)) > PACKETS_MOST:
            raise UsageError("a workload has more than 10^12 packets on a queue", "take fewer packets")
        return runs

    @classmethod
    def at(cls, times_ps: ArrayLike) -> Runs:
        """One packet at each of the times."""
        times = _whole(times_ps)
        return cls.of(times, np.zeros_like(times), np.ones_like(times))

    @property
    def packets(self) -> int:
        return int(self.count.sum())

    @property
    def last_ps(self) -> int:
        """When the last packet arrives; 0 without packets."""
        return int(self.start[-1] + (self.count[-1] - 1) * self.interval[-1]) if self.count.size else 0


def _whole(values: ArrayLike) -> Words:
    return np.atleast_1d(np.asarray(values)).astype(np.int64)


@dataclass(frozen=True)
class Workload:
    """Arrivals on each of n receive queues, and what to call them."""

    name: str
    queues: tuple[Runs, ...]

    @property
    def packets(self) -> int:
        return sum(queue.packets for queue in self.queues)

    @property
    def duration_s(self) -> float:
        """From 0 to the last arrival."""
        return max((queue.last_ps for queue in self.queues), default=0) / PS

    def arrivals(self) -> Arrivals:
        """The kernels' view, read from the start."""
        first = np.cumsum([0, *(queue.count.size for queue in self.queues)]).astype(np.int64)
        start, interval, size = (
            np.concatenate([getattr(queue, name) for queue in self.queues]) for name in ("start", "interval", "count")
        )
        cursor = np.zeros(len(self.queues) * CURSOR_WORDS, np.int64)
        cursor[RUN::CURSOR_WORDS] = first[:-1]
        return Arrivals(first, start, interval, size, cursor)


def wire_rate_pps(link_bps: float, frame_bytes: int) -> float:
    """Frames a second of so many bytes (with their check sequence) that fill a link: 14.88 M at 64 bytes, 10 Gbit/s."""
    return link_bps / 8 / (frame_bytes + WIRE_OVERHEAD_BYTES)


def interval_ps(rate_pps: float) -> int:
    """The distance of packets at a rate, to the nearest picosecond."""
    if not rate_pps > 0:
        raise UsageError(f"a rate of {rate_pps:g} packets a second", "it is above 0")
    return max(1, round(PS / rate_pps))


def even(queues: int) -> tuple[float, ...]:
    """The same share for each queue."""
    return (1 / queues,) * queues


def burst(packets: int, rate_pps: float, shares: Sequence[float] = (1.0,)) -> Workload:
    """``packets`` at a constant rate, spread over the queues in proportion to ``shares``."""
    counts = split(packets, shares)
    total = sum(shares)
    queues = []
    for number, count in enumerate(counts):
        if not count:
            queues.append(Runs.of([], [], []))
            continue
        offset = round(number * PS / rate_pps)
        queues.append(Runs.of([offset], [interval_ps(rate_pps * shares[number] / total)], [count]))
    return Workload(_named(f"{packets:,} packets at {rate_pps:,.0f} p/s", shares), tuple(queues))


def split(packets: int, shares: Sequence[float]) -> list[int]:
    """``packets`` in whole parts in proportion to ``shares``; what rounding leaves goes to the first queues."""
    if not shares or min(shares) < 0 or not sum(shares) > 0:
        raise UsageError("shares of the queues are not negative, and not all 0", "write them as 0.5,0.3,0.2")
    parts = [int(packets * share / sum(shares)) for share in shares]
    takers = [number for number, share in enumerate(shares) if share > 0]
    for step in range(packets - sum(parts)):
        parts[takers[step % len(takers)]] += 1
    return parts


def poisson(packets: int, rate_pps: float, shares: Sequence[float] = (1.0,), seed: int = 1) -> Workload:
    """Independent arrivals at a mean rate: each packet falls on a queue by chance, in proportion to ``shares``."""
    draws = Draws(seed)
    gaps = np.round(-np.log1p(-draws.take(packets)) * (PS / rate_pps))
    if gaps.sum() > LATEST_PS:
        raise _too_long()
    times = np.cumsum(gaps.astype(np.int64))
    bounds = np.cumsum(shares)
    where = np.searchsorted(bounds[:-1] / bounds[-1], draws.take(packets), side="right")
    queues = tuple(Runs.at(times[where == queue]) for queue in range(len(shares)))
    return Workload(_named(f"{packets:,} Poisson packets at {rate_pps:,.0f} p/s, seed {seed}", shares), queues)


def on_off(rate_pps: float, on_s: float, off_s: float, duration_s: float, shares: Sequence[float] = (1.0,)) -> Workload:
    """At ``rate_pps`` for ``on_s``, silent for ``off_s``, and again; the queues' phases are spread over a period."""
    on, period, duration = (round(seconds * PS) for seconds in (on_s, on_s + off_s, duration_s))
    if on < 1 or off_s < 0 or duration < 1:
        raise UsageError("an on-off workload is on for some time", "write it as onoff:rate=200k,on=10ms,off=90ms")
    if duration > LATEST_PS:
        raise _too_long()
    if len(shares) * duration > period * LISTED_MOST:
        raise UsageError(f"{duration // period:,} periods of on and off", f"at most {LISTED_MOST:,} on all queues")
    queues = []
    for number, share in enumerate(shares):
        start = np.arange(period * number // len(shares), duration, period, dtype=np.int64)
        lasts = np.minimum(on, duration - start)
        queues.append(_paced(start, lasts, lasts * (rate_pps * share / sum(shares) / PS)))
    name = f"{rate_pps:,.0f} p/s for {on_s * 1e3:g} ms, then {off_s * 1e3:g} ms nothing, {duration_s:g} s"
    return Workload(_named(name, shares), tuple(queues))


def slices(rates_pps: NDArray[np.float64], slice_s: float, name: str) -> Workload:
    """Rates that change from slice to slice of time: shape (slices, queues), packets a second."""
    edges = np.round(np.arange(len(rates_pps) + 1) * slice_s * PS).astype(np.int64)
    return Workload(name, tuple(_paced(edges[:-1], np.diff(edges), column * slice_s) for column in rates_pps.T))


def _paced(start: Words, lasts: Words, packets: NDArray[np.float64]) -> Runs:
    """So many packets from each start on, equally far apart while it lasts; fractions of packets are carried on."""
    counts = carried(packets)
    return Runs.of(start, lasts // np.maximum(counts, 1), counts)


def carried(packets: NDArray[np.float64]) -> Words:
    """Whole packets, with fractions carried on from each to the next, so that their sum is that of ``packets``."""
    totals = np.floor(np.cumsum(packets) + 1e-9).astype(np.int64)
    return np.diff(totals, prepend=0)


def _named(name: str, shares: Sequence[float]) -> str:
    """With the queues' shares, where they differ."""
    listed = "/".join(f"{100 * share / sum(shares):.3g}" for share in shares)
    return f"{name}, {listed} % on the queues" if len(set(shares)) > 1 else name


def _too_long() -> UsageError:
    return UsageError("a workload's packets arrive between 0 and 26 days", "shorten it or raise its rate")


def times_of(runs: Runs) -> Words:
    """Every packet's arrival, in ps."""
    places = np.cumsum(runs.count) - runs.count
    within = np.arange(runs.packets, dtype=np.int64) - np.repeat(places, runs.count)
    return np.repeat(runs.start, runs.count) + within * np.repeat(runs.interval, runs.count)
