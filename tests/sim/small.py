"""Small random situations, full of coincidences, for what has to give identical counts."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np

from wirecap.kernels.sim.handler_cost import QUANTILES, work
from wirecap.sim.handler_cost import HandlerCost
from wirecap.sim.workload import Runs, Workload, times_of

plain_work = getattr(work, "py_func", work)


@st.composite
def runs(draw):
    start, parts = 0, []
    for _ in range(draw(st.integers(0, 5))):
        start += draw(st.integers(0, 30))
        interval, count = draw(st.integers(0, 6)), draw(st.integers(1, 20))
        parts.append((start, interval, count))
        start += interval * (count - 1)
    return (
        Runs.of(*(np.array(column, np.int64) for column in zip(*parts, strict=True))) if parts else Runs.of([], [], [])
    )


@st.composite
def workloads(draw, most_queues=4):
    return Workload("random", tuple(draw(st.lists(runs(), min_size=1, max_size=most_queues))))


@st.composite
def loads(draw):
    costs = [draw(st.integers(1, 40))]
    if draw(st.booleans()):
        costs = draw(st.lists(st.integers(1, 60), min_size=QUANTILES // 512, max_size=QUANTILES // 512)) * 512
    return HandlerCost("random", np.array(costs, np.int64))


def times(workload: Workload) -> list[list[int]]:
    return [times_of(queue).tolist() for queue in workload.queues]


def cost_of(cost: HandlerCost, seed: int):
    """costs(queue, number) -> ps."""
    return lambda queue, number: int(plain_work(cost.costs, seed, queue, number, 1))
