"""AF_XDP without capture threads and without a pool behind the ring: the paper's Type II engines."""

from __future__ import annotations

from wirecap.kernels.pool import pool as k
from wirecap.source.source import HookCounts
from wirecap.source.xdp import XdpSource


class DirectSource(XdpSource):
    """A handler takes packets straight from the ring, which is all that holds them."""

    name = "direct"
    direct = True

    def counts(self, pool: k.Pool, queue: int) -> HookCounts:
        counts = super().counts(pool, queue)
        counts.drops["ring_full"] = counts.drops.pop("pool_exhausted") + counts.drops.pop("capture_late")
        return counts
