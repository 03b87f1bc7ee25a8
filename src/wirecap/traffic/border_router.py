"""Traffic of the shape that the paper's figures 11 to 13 rest on: a border router's, uneven over six queues.

The trace itself was never published.  What is known of it [recalled, WireCAP, IMC 2014]: about 32 s, 5 to 6
million packets, one of six queues near 80 kp/s for a long time, the others with short bursts.  This profile has
that shape: one elephant flow, a background that is spread over 128 hash buckets, and trains of packets as bulk
transfers send them.  What is not known, the length and the number of the trains, was chosen so that the
figures' ceilings are met (docs/simulator.md).  The same numbers come out on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.kernels.transmit import rss as toeplitz
from wirecap.traffic import synthetic as f
from wirecap.traffic.batch import PACKETS, Batch, NotSent
from wirecap.traffic.steering import Rss
from wirecap.traffic.synthetic import Builder, Sizes

BUCKETS = 128
"""Entries of the 82599's RSS indirection table [public]; bucket b is served by queue b modulo the number of queues."""
SLICE_S = 0.005
SLICES = 6400

ELEPHANT_PPS = 60_000.0
"""With a sixth of the rest near 80 kp/s."""
BACKGROUND_PPS = 10_000.0
TRAINS = 3_066
TRAIN_PACKETS = 1_200
TRAIN_JITTER = 7.0
"""Trains begin at equal distances, each moved by up to so many of them, and go from bucket to bucket."""
SEED = 20141105
"""The first day of IMC 2014."""


def rates(queues: int) -> NDArray[np.float64]:
    """Packets a second of each queue in each slice of SLICE_S: shape (SLICES, queues)."""
    buckets = bucket_rates()
    found = np.zeros((SLICES, queues))
    for queue in range(queues):
        found[:, queue] = buckets[:, queue::queues].sum(axis=1)
    return found


def bucket_rates() -> NDArray[np.float64]:
    """Packets a second of each hash bucket in each slice: shape (SLICES, BUCKETS); the elephant is in bucket 0."""
    draws = Draws(SEED)
    found = np.zeros((SLICES, BUCKETS))
    found[:, 0] = ELEPHANT_PPS * (0.95 + 0.1 * draws.take(SLICES))
    weights = -np.log1p(-draws.take(BUCKETS - 1)) + 0.5  # some flows are larger than others
    found[:, 1:] += BACKGROUND_PPS * weights / weights.sum() * (0.7 + 0.6 * draws.take(SLICES))[:, None]
    order = np.arange(TRAINS)
    begin = ((order + TRAIN_JITTER * draws.take(TRAINS)) * (SLICES - 1) / (TRAINS + TRAIN_JITTER)).astype(int)
    np.add.at(found, (begin, 1 + order % (BUCKETS - 1)), TRAIN_PACKETS / SLICE_S)
    return found


class Draws:
    """Numbers in [0, 1); NumPy promises the bits of PCG64 for every version, not what its Generator makes of them."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def take(self, count: int) -> NDArray[np.float64]:
        drawn: NDArray[np.float64] = (np.asarray(self._bits.random_raw(count)) >> np.uint64(11)) / float(1 << 53)
        return drawn


FLOWS_A_BUCKET = 8
SLICE_NS = round(SLICE_S * 1e9)


class BorderRouter:
    """32 s of it: flows that RSS (standard key, 128 entries in turn) puts into the profile's hash buckets.

    The elephant of bucket 0 is one flow; the packets of a bucket are equally far apart within a slice of 5 ms.
    """

    paced = True

    def __init__(
        self, queues: int, mtu: int, sizes: Sizes, seed: int = 1, count: int | None = None,
        duration_ns: int | None = None, vlan: int | None = None,
    ) -> None:  # fmt: skip
        self.queues, self.not_sent = queues, NotSent()
        chosen = flows_by_bucket()
        self._builder = Builder(f.headers_of([flow for row in chosen for flow in row], vlan=vlan), sizes, mtu, seed)
        self._alike = np.ones(1)
        rates = bucket_rates()
        totals = np.floor(np.cumsum(rates * SLICE_S, axis=0) + 1e-9).astype(np.int64)
        self._counts = np.diff(totals, axis=0, prepend=0)
        self._limit = int(totals[-1].sum()) if count is None else min(count, int(totals[-1].sum()))
        self.counted = duration_ns is None
        self._duration_ns = duration_ns or len(rates) * SLICE_NS
        self._done = 0
        self._stopped = False

    def kernels(self) -> list[Any]:
        return [*self._builder.kernels(), toeplitz.rss_queues]

    def left(self) -> int | None:
        return self._limit - self._done

    def close(self) -> None:
        self._stopped = True

    def batches(self) -> Iterator[Batch]:
        for number, counts in enumerate(self._counts):
            due, bucket = slice_times(counts, number * SLICE_NS)
            for start in range(0, len(due), PACKETS):
                n = min(PACKETS, len(due) - start, self._limit - self._done)
                n = min(n, int(np.searchsorted(due[start : start + n], self._duration_ns)))
                if n <= 0 or self._stopped:
                    return
                batch = self._batch(due[start : start + n], bucket[start : start + n])
                self._done += n
                batch.share = max(self._done / self._limit, int(batch.due[-1]) / self._duration_ns)
                yield batch

    def _batch(self, due: NDArray[np.int64], bucket: NDArray[np.int64]) -> Batch:
        numbers = np.arange(self._done, self._done + len(due))
        _, length = self._builder.draw(self._done, len(due), self._alike)
        within = np.where(bucket == 0, 0, numbers % FLOWS_A_BUCKET)
        return self._builder.batch(
            self._done, bucket * FLOWS_A_BUCKET + within, length, due, bucket % self.queues
        )  # fmt: skip


def slice_times(counts: NDArray[np.int64], begin_ns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """When each packet of a slice is due and its bucket, in order of time: int64 both."""
    bucket = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(bucket)) - np.repeat(np.cumsum(counts) - counts, counts)
    due = begin_ns + (2 * place + 1) * SLICE_NS // (2 * counts[bucket])
    order = np.argsort(due, kind="stable")
    return due[order], bucket[order]


def flows_by_bucket() -> list[list[f.Flow]]:
    """FLOWS_A_BUCKET flows for each bucket, by trying one after the other."""
    found: list[list[f.Flow]] = [[] for _ in range(BUCKETS)]
    rss = Rss(BUCKETS)
    step, first = 4096, 0
    while any(len(row) < FLOWS_A_BUCKET for row in found):
        flows = [f.flow_of(number) for number in range(first, first + step)]
        headers = f.headers_of(flows)
        size = headers.bytes.shape[1]
        buckets = rss.choose(headers.bytes.ravel(), np.arange(step) * size, np.full(step, size, np.uint32), step)
        for flow, bucket in zip(flows, buckets.tolist(), strict=True):
            if len(found[bucket]) < FLOWS_A_BUCKET:
                found[bucket].append(flow)
        first += step
    return found
