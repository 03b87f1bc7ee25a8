"""Plans of synthetic traffic: the same packets for the same seed, on every machine."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.kernels import synthesis as k
from wirecap.traffic import flows as f
from wirecap.traffic.batch import PACKETS, Batch, NotSent
from wirecap.traffic.steering import Rss
from wirecap.traffic.timing import Schedule, Timing

IMIX = ((60, 7.0), (590, 4.0), (1514, 1.0))
"""The "simple IMIX": IP packets of 40, 576 and 1,500 bytes, 7 to 4 to 1; a frame has 14 bytes more, 60 at least."""
_RANGE = re.compile(r"([0-9]+)-([0-9]+)")
_MOST_BYTES = 65_535

Sizes = tuple[tuple[int, float], ...]


def parse_sizes(text: str) -> Sizes:
    """``60``, ``imix``, ``64-1500`` (each alike) or ``60:7,590:4`` (with weights): bytes without check sequence."""
    forms = "write it as 60, imix, 64-1500 or 60:7,590:4,1514:1"
    if text.lower() == "imix":
        return IMIX
    found: list[tuple[int, float]] = []
    for part in text.split(","):
        size, _, weight = part.partition(":")
        between = _RANGE.fullmatch(size.strip())
        try:
            first, last = (int(between[1]), int(between[2])) if between else (int(size), int(size))
            share = float(weight) if weight else 1.0
        except ValueError:
            raise UsageError(f"--size {text}: {part!r} is no frame size", forms) from None
        if not 14 <= first <= last <= _MOST_BYTES or not 0 < share < 1e9:
            raise UsageError(f"--size {text}: {part!r} cannot be", f"sizes are 14 to {_MOST_BYTES}, weights above 0")
        found += [(size, share / (last - first + 1)) for size in range(first, last + 1)]
    return tuple(found)


def at_least(shortest: int, sizes: Sizes) -> Sizes:
    """The sizes, those below ``shortest`` bytes made that long: IPv6 and a VLAN tag do not fit 60 bytes."""
    return tuple((max(size, shortest), weight) for size, weight in sizes)


class Builder:
    """Batches of frames, each batch's bytes in a stretch of memory that is used again once it was sent."""

    def __init__(self, headers: f.Headers, sizes: Sizes, mtu: int, seed: int) -> None:
        shortest, longest = min(size for size, _ in sizes), max(size for size, _ in sizes)
        tag = int(headers.facts[0, k.NETWORK]) - 14
        if shortest < headers.longest:
            raise UsageError(f"a frame of {shortest} bytes", f"its headers take {headers.longest}")
        if longest - 14 - tag > mtu:
            raise UsageError(
                f"frames of {longest} bytes are longer than the MTU of {mtu} allows", f"at most {mtu + 14 + tag}"
            )
        self._headers = headers
        self._sizes = np.array([size for size, _ in sizes], np.int64)
        self._size_edges = f.edges(np.array([weight for _, weight in sizes]))
        self._key = seed
        self._free: deque[NDArray[np.uint8]] = deque()
        self._room = PACKETS * longest

    def kernels(self) -> list[Any]:
        return [k.draw_packets, k.build]

    def draw(self, first: int, n: int, flow_edges: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Flow, int64 (n,), and length, uint32 (n,) bytes, of packets from number ``first`` on."""
        flow, length = np.empty(n, np.int64), np.empty(n, np.uint32)
        k.draw_packets(self._key, first, n, flow_edges, self._size_edges, self._sizes, flow, length)
        return flow, length

    def batch(
        self, first: int, flow: NDArray[np.int64], length: NDArray[np.uint32], due: NDArray[np.int64],
        queue: NDArray[np.int64],
    ) -> Batch:  # fmt: skip
        arena = self._free.popleft() if self._free else np.zeros(self._room, np.uint8)
        address = np.empty(len(flow), np.int64)
        k.build(arena, address, length, flow, first, len(flow), self._headers.octets, self._headers.facts)
        return Batch(len(flow), arena, address, length, due, queue, release=lambda: self._free.append(arena))


@dataclass(frozen=True)
class Traffic:
    """What to generate.  shares: of the queues, by position; without them RSS chooses a flow's queue."""

    sizes: Sizes = ((60, 1.0),)
    flows: int = 1
    zipf: float = 0.0
    ipv6: bool = False
    vlan: int | None = None
    seed: int = 1
    shares: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.flows <= f.MOST_FLOWS:
            raise UsageError(f"{self.flows} flows", f"there are 1 to {f.MOST_FLOWS}")
        if not 0 <= self.zipf <= 10:
            raise UsageError(f"a Zipf exponent of {self.zipf:g}", "0 is uniform, 1 is usual")


class Synthetic:
    """``count`` packets of one kind of traffic (None: without end), on ``queues`` queues."""

    def __init__(
        self, traffic: Traffic, timing: Timing, mtu: int, *, count: int | None = None, duration_ns: int | None = None,
        queues: int = 1, rss: Rss | None = None,
    ) -> None:  # fmt: skip
        if traffic.shares is not None and len(traffic.shares) != queues:
            raise UsageError(f"{len(traffic.shares)} shares for {queues} queues", "give one for each of --queues")
        self.paced, self.queues, self.not_sent = timing.paced, queues, NotSent()
        flows = max(traffic.flows, queues) if traffic.shares is not None else traffic.flows
        headers = f.headers_of([f.flow_of(number) for number in range(flows)], traffic.ipv6, traffic.vlan)
        self._builder = Builder(headers, traffic.sizes, mtu, traffic.seed)
        self._flow_edges = f.edges(f.shares(flows, traffic.zipf, traffic.shares))
        self._queue_of = queues_of(headers, queues, rss) if traffic.shares is None else np.arange(flows) % queues
        self._schedule, self._count, self._duration_ns = Schedule(timing), count, duration_ns
        self._done = 0
        self._stopped = False

    def kernels(self) -> list[Any]:
        return [*self._builder.kernels(), *self._schedule.kernels()]

    def close(self) -> None:
        self._stopped = True

    def batches(self) -> Iterator[Batch]:
        while not self._stopped and self._done != self._count:
            n = PACKETS if self._count is None else min(PACKETS, self._count - self._done)
            flow, length = self._builder.draw(self._done, n, self._flow_edges)
            due = self._schedule.apply(np.zeros(n, np.int64), length, n)
            if self._duration_ns is not None:
                n = int(np.searchsorted(due, self._duration_ns))
                self._stopped = n < len(due)
            if n == 0:
                return
            flow, length, due = flow[:n], length[:n], due[:n]
            batch = self._builder.batch(self._done, flow, length, due, self._queue_of[flow])
            self._done += n
            batch.share = self._share(int(due[-1]))
            yield batch

    def _share(self, due_ns: int) -> float | None:
        """How much is handed out: by the count or by the duration, whichever ends first."""
        ends = [self._done / self._count] if self._count else []
        if self._duration_ns:
            ends.append(due_ns / self._duration_ns)
        return max(ends, default=None)


def queues_of(headers: f.Headers, queues: int, rss: Rss | None) -> NDArray[np.int64]:
    """The queue of each flow, as RSS chooses it: int64 (flows,)."""
    flows, size = headers.octets.shape
    if queues == 1 or rss is None:
        return np.zeros(flows, np.int64)
    return rss.choose(headers.octets.ravel(), np.arange(flows) * size, np.full(flows, size, np.uint32), flows)
