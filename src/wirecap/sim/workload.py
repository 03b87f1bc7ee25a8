"""What arrives on the queues of a simulated NIC: bursts, Poisson and on-off traffic, a border router's or a file's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wirecap import units
from wirecap.errors import UsageError
from wirecap.files.headers import LINKTYPE_ETHERNET
from wirecap.files.reader import note_of_times, open_capture
from wirecap.kernels.base import jit
from wirecap.kernels.file import read as at
from wirecap.kernels.file.read import scan
from wirecap.kernels.sim.arrivals import CURSOR_WORDS, NEVER, RUN, Arrivals
from wirecap.traffic.border_router import SLICE_S, Draws, rates
from wirecap.traffic.steering import Rss

Words = NDArray[np.int64]

PS = 10**12
"""Picoseconds per second."""
LATEST_PS = NEVER // 4
"""The latest arrival (26 days), which leaves room on the clock for what follows the last packet."""
PACKETS_MOST = 1 << 40
LISTED_MOST = 50_000_000
"""The most runs that a workload may list, at 24 bytes or more each; a packet with its own time is a run."""

WIRE_OVERHEAD_BYTES = 20
"""Preamble plus the gap to the next frame (IEEE 802.3): 8 + 12 bytes."""


@dataclass(frozen=True)
class Runs:
    """The arrivals on one queue: ``count[i]`` packets from ``start[i]`` on, ``interval[i]`` apart; int64, ps."""

    start: Words
    interval: Words
    count: Words

    @classmethod
    def of(cls, start: ArrayLike, interval: ArrayLike, count: ArrayLike) -> Runs:
        """Make runs, leaving out empty ones; checks that they are in order of time, from 0 to LATEST_PS."""
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
            raise UsageError("the workload's packets are not in order of time", "sort them by timestamp")
        if float(runs.count.sum(dtype=float)) > PACKETS_MOST:
            raise UsageError("the workload has more than 10^12 packets on a queue", "use fewer packets")
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
        """When the last packet arrives; 0 if there are none."""
        return int(self.start[-1] + (self.count[-1] - 1) * self.interval[-1]) if self.count.size else 0


def _whole(values: ArrayLike) -> Words:
    return np.atleast_1d(np.asarray(values)).astype(np.int64)


@dataclass(frozen=True)
class Workload:
    """The arrivals on each of n receive queues, a name for them, and what is to be said of them."""

    name: str
    queues: tuple[Runs, ...]
    notes: tuple[str, ...] = ()

    @property
    def packets(self) -> int:
        return sum(queue.packets for queue in self.queues)

    @property
    def duration_s(self) -> float:
        """Time from 0 to the last arrival."""
        return max((queue.last_ps for queue in self.queues), default=0) / PS

    def arrivals(self) -> Arrivals:
        """The arrivals as the kernels see them, with the cursor at the start."""
        first = np.cumsum([0, *(queue.count.size for queue in self.queues)]).astype(np.int64)
        start, interval, size = (
            np.concatenate([getattr(queue, name) for queue in self.queues]) for name in ("start", "interval", "count")
        )
        cursor = np.zeros(len(self.queues) * CURSOR_WORDS, np.int64)
        cursor[RUN::CURSOR_WORDS] = first[:-1]
        return Arrivals(first, start, interval, size, cursor)


def wire_rate_pps(link_bps: float, frame_bytes: int) -> float:
    """Frames per second of this size (with check sequence) that fill a link: 14.88 M at 64 bytes and 10 Gbit/s."""
    return link_bps / 8 / (frame_bytes + WIRE_OVERHEAD_BYTES)


def interval_ps(rate_pps: float) -> int:
    """The time between packets at a rate, to the nearest picosecond."""
    if not rate_pps > 0:
        raise UsageError(f"the rate must be above 0, not {rate_pps:g} packets per second", "write it as 100kpps")
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
    """Split ``packets`` in proportion to ``shares``; packets left over by rounding go to the first queues."""
    if not shares or min(shares) < 0 or not sum(shares) > 0:
        raise UsageError("queue shares must not be negative, nor all 0", "write them as 0.5,0.3,0.2")
    parts = [int(packets * share / sum(shares)) for share in shares]
    takers = [number for number, share in enumerate(shares) if share > 0]
    for step in range(packets - sum(parts)):
        parts[takers[step % len(takers)]] += 1
    return parts


def poisson(packets: int, rate_pps: float, shares: Sequence[float] = (1.0,), seed: int = 1) -> Workload:
    """Independent arrivals at a mean rate: each packet lands on a random queue, in proportion to ``shares``."""
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
    """Packets at ``rate_pps`` for ``on_s``, none for ``off_s``, over and over; queues start at different phases."""
    on, period, duration = (round(seconds * PS) for seconds in (on_s, on_s + off_s, duration_s))
    if on < 1 or off_s < 0 or duration < 1:
        raise UsageError(
            "an on-off workload must be on for some time", "write it as onoff:rate=200k,on=10ms,off=90ms,duration=10s"
        )
    if duration > LATEST_PS:
        raise _too_long()
    if len(shares) * duration > period * LISTED_MOST:
        raise UsageError(
            f"too many on-off periods: {duration // period:,}",
            f"all queues together may have {LISTED_MOST:,}: use longer periods or a shorter duration",
        )
    queues = []
    for number, share in enumerate(shares):
        start = np.arange(period * number // len(shares), duration, period, dtype=np.int64)
        lasts = np.minimum(on, duration - start)
        queues.append(_paced(start, lasts, lasts * (rate_pps * share / sum(shares) / PS)))
    name = f"{rate_pps:,.0f} p/s for {on_s * 1e3:g} ms, then {off_s * 1e3:g} ms nothing, {duration_s:g} s"
    return Workload(_named(name, shares), tuple(queues))


def slices(rates_pps: NDArray[np.float64], slice_s: float, name: str) -> Workload:
    """Rates that change from one time slice to the next: shape (slices, queues), packets per second."""
    edges = np.round(np.arange(len(rates_pps) + 1) * slice_s * PS).astype(np.int64)
    return Workload(name, tuple(_paced(edges[:-1], np.diff(edges), column * slice_s) for column in rates_pps.T))


def _paced(start: Words, lasts: Words, packets: NDArray[np.float64]) -> Runs:
    """This many packets from each start on, evenly spaced over its length; fractions of packets are carried over."""
    counts = carried(packets)
    return Runs.of(start, lasts // np.maximum(counts, 1), counts)


def carried(packets: NDArray[np.float64]) -> Words:
    """Whole packets, with fractions carried over from one to the next so that the sum stays that of ``packets``."""
    totals = np.floor(np.cumsum(packets) + 1e-9).astype(np.int64)
    return np.diff(totals, prepend=0)


def _named(name: str, shares: Sequence[float]) -> str:
    """Add the queues' shares to the name, if they differ."""
    listed = "/".join(f"{100 * share / sum(shares):.3g}" for share in shares)
    return f"{name}, {listed} % on the queues" if len(set(shares)) > 1 else name


def _too_long() -> UsageError:
    return UsageError("the workload lasts longer than 26 days", "shorten it or raise its rate")


def times_of(runs: Runs) -> Words:
    """The arrival of every packet, in ps."""
    places = np.cumsum(runs.count) - runs.count
    within = np.arange(runs.packets, dtype=np.int64) - np.repeat(places, runs.count)
    return np.repeat(runs.start, runs.count) + within * np.repeat(runs.interval, runs.count)


ROW = 65_536
SPEEDS = (1e-6, 1e6)


def recorded(path: str, queues: int, speed: float = 1.0, tell: Callable[[str], None] | None = None) -> Workload:
    """The packets of a pcap or pcapng file, spread over this many queues.

    speed: how many times faster than recorded.  A packet whose timestamp goes backwards arrives together with the one
    before it.  tell: called for each kernel that has to be compiled first.
    """
    if not SPEEDS[0] <= speed <= SPEEDS[1]:
        raise UsageError(f"unsupported speed: {speed:g}", "1 is as recorded, 2 is twice as fast")
    rss = Rss(queues)
    address, timestamp = np.zeros(ROW, np.int64), np.zeros(ROW, np.int64)
    captured, original = np.zeros(ROW, np.uint32), np.zeros(ROW, np.uint32)
    timestamps, where = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    with open_capture(path) as file:
        if file.kind == "pcap":
            _check_ethernet(path, file.interfaces[0].linktype)
        jit.prepare([scan, *rss.kernels()], tell)
        while count := file.fill(address, captured, original, timestamp, ROW)[0]:
            _check_ethernet(path, file.interfaces[int(file.state[at.INTERFACE])].linktype)
            timestamps.append(timestamp[:count].copy())
            where.append(rss.choose(file.arena, address, captured, count))
            file.release(int(address[0]))
        notes = note_of_times(int(file.state[at.OUTSIDE]))
    times = np.maximum.accumulate(np.concatenate(timestamps))
    if not times.size:
        raise UsageError(f"{path} contains no packets", "use a file with packets")
    elapsed = np.round((times - times[0]) * (1000 / speed)).astype(np.int64)
    queue = np.concatenate(where)
    runs = tuple(Runs.at(elapsed[queue == number]) for number in range(queues))
    return Workload(f"{path} at {speed:g}x", runs, tuple(notes))


def _check_ethernet(path: str, linktype: int) -> None:
    if linktype != LINKTYPE_ETHERNET:
        from wirecap.filters.libpcap import link_name

        raise UsageError(
            f"{path} has {link_name(linktype)}, not Ethernet", "use a file of Ethernet frames, which RSS needs"
        )


def border_router(queues: int) -> Workload:
    """32 s of the border router's traffic (traffic/border_router.py) on this many queues."""
    return slices(rates(queues), SLICE_S, f"border router, {queues} queues")


SHARES_MOST = 4096

Options = dict[str, str]


@dataclass(frozen=True)
class Form:
    """A kind of workload: the options it needs, those it takes, an example, and what makes it."""

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    example: str
    make: Callable[[Options, Sequence[float]], Workload]


def _burst(options: Options, shares: Sequence[float]) -> Workload:
    return burst(_packets(options), _rate(options), shares)


def _poisson(options: Options, shares: Sequence[float]) -> Workload:
    packets = _packets(options)
    if packets > LISTED_MOST:
        raise UsageError(
            f"too many Poisson packets: {packets:,}", f"use at most {LISTED_MOST:,}, as the time of each is kept"
        )
    return poisson(packets, _rate(options), shares, _seed(options))


def _on_off(options: Options, shares: Sequence[float]) -> Workload:
    seconds = [units.parse_duration_ns(options[name]) / 1e9 for name in ("on", "off", "duration")]
    return on_off(_rate(options), seconds[0], seconds[1], seconds[2], shares)


def _border_router(options: Options, shares: Sequence[float]) -> Workload:
    if len(set(shares)) > 1:
        raise UsageError("the border router workload has its own shares", "use --queues instead of --share")
    return border_router(len(shares))


FORMS = {
    "burst": Form(("packets", "rate"), (), "burst:packets=1M,rate=14.88Mpps", _burst),
    "poisson": Form(("packets", "rate"), ("seed",), "poisson:packets=1M,rate=100kpps", _poisson),
    "onoff": Form(("rate", "on", "off", "duration"), (), "onoff:rate=200kpps,on=10ms,off=90ms,duration=10s", _on_off),
    "border-router": Form((), (), "border-router", _border_router),
}


def parse_workload(text: str, shares: Sequence[float]) -> Workload:
    """Parse a workload; ``shares``: what share of the packets each queue gets."""
    name, _, rest = text.partition(":")
    form = FORMS.get(name)
    if form is None:
        raise UsageError(f"unknown workload: {name!r}", f"use one of {', '.join(FORMS)}, or a file with -r")
    options: Options = {}
    for part in rest.split(",") if rest else ():
        key, equals, value = part.partition("=")
        if not equals or key not in form.needed + form.optional or key in options:
            problem = f"{key} is given twice" if key in options else f"unknown option {part!r}"
            raise UsageError(f"workload {text!r}: {problem}", f"write it as {form.example}")
        options[key] = value
    missing = [key for key in form.needed if key not in options]
    if missing:
        raise UsageError(f"workload {text!r} is missing {' and '.join(missing)}", f"write it as {form.example}")
    return form.make(options, shares)


def parse_shares(text: str) -> tuple[float, ...]:
    """``0.5,0.3,0.2``: the share of the packets that each queue gets; shares need not add up to 1."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if not 1 <= len(shares) <= SHARES_MOST or min(shares) < 0 or not 0 < sum(shares) < float("inf"):
        raise UsageError(f"{text!r} is not a list of shares", "write it as 0.5,0.3,0.2")
    return shares


def _packets(options: Options) -> int:
    packets = units.parse_count(options["packets"])
    if not 1 <= packets <= PACKETS_MOST:
        raise UsageError(f"unsupported number of packets: {packets:,}", "use 1 to 10^12")
    return packets


def _rate(options: Options) -> float:
    rate_pps = units.parse_packet_rate(options["rate"])
    if not 1 <= rate_pps <= PS:
        raise UsageError(f"unsupported rate: {rate_pps} packets per second", "use 1 p/s to 10^12 p/s")
    return rate_pps


def _seed(options: Options) -> int:
    return units.parse_count(options.get("seed", "1"))
