"""The border router's traffic (traffic/border_router.py) as a workload."""

from __future__ import annotations

from wirecap.sim.workload import Workload, slices
from wirecap.traffic import border_router


def workload(queues: int) -> Workload:
    """32 s of it on so many queues."""
    return slices(border_router.rates(queues), border_router.SLICE_S, f"border router, {queues} queues")
