"""Plans whose rates change with time: the border router's traffic, packet by packet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.kernels import toeplitz
from wirecap.traffic import border_router
from wirecap.traffic import flows as f
from wirecap.traffic.batch import PACKETS, Batch, NotSent
from wirecap.traffic.steering import Rss
from wirecap.traffic.synthetic import Builder, Sizes

FLOWS_A_BUCKET = 8
SLICE_NS = round(border_router.SLICE_S * 1e9)


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
        rates = border_router.bucket_rates()
        totals = np.floor(np.cumsum(rates * border_router.SLICE_S, axis=0) + 1e-9).astype(np.int64)
        self._counts = np.diff(totals, axis=0, prepend=0)
        self._limit = int(totals[-1].sum()) if count is None else min(count, int(totals[-1].sum()))
        self._duration_ns = duration_ns or len(rates) * SLICE_NS
        self._done = 0
        self._stopped = False

    def kernels(self) -> list[Any]:
        return [*self._builder.kernels(), toeplitz.choose_queues]

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
    found: list[list[f.Flow]] = [[] for _ in range(border_router.BUCKETS)]
    rss = Rss(border_router.BUCKETS)
    step, first = 4096, 0
    while any(len(row) < FLOWS_A_BUCKET for row in found):
        flows = [f.flow_of(number) for number in range(first, first + step)]
        headers = f.headers_of(flows)
        size = headers.octets.shape[1]
        buckets = rss.choose(headers.octets.ravel(), np.arange(step) * size, np.full(step, size, np.uint32), step)
        for flow, bucket in zip(flows, buckets.tolist(), strict=True):
            if len(found[bucket]) < FLOWS_A_BUCKET:
                found[bucket].append(flow)
        first += step
    return found
