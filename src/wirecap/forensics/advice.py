"""What would have held a loss: the smallest R and, in advanced mode, T, found by simulating the recorded arrivals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from wirecap.config.capture import MAX_R, PoolConfig
from wirecap.errors import WirecapError
from wirecap.sim import handler_cost
from wirecap.sim.models import WireCap
from wirecap.sim.models.model import RING
from wirecap.sim.plan import ATTACHED_MOST
from wirecap.sim.simulate import Tell, simulate
from wirecap.sim.workload import PS, Runs, Workload

THRESHOLDS = (80, 60, 50, 30, 20, 10)
"""Values of T that are tried, beside the one in use: a high one keeps packets on their core."""
CHUNKS_MOST = 400_000
"""The longest recording that is simulated, in chunks: about a second for each try."""
LESS = 0.95
"""A share of the advised R that is shown to be too little."""
LEAST = PoolConfig.least_chunks
MS_PS = PS // 1000


@dataclass(frozen=True)
class Setting:
    """A capture's pools, as far as the simulator knows them."""

    M: int
    R: int
    T: int
    advanced: bool
    ring: int | None = None
    """Cells that are kept attached, if that was asked for."""


@dataclass(frozen=True)
class Advice:
    """The smallest R with which the simulated recording loses nothing, and what is lost with 5 % less."""

    setting: Setting
    peak: int
    """The most packets that would have waited in a queue at once."""
    less: int
    """5 % less than that R; below 2 there is no such pool."""
    lost_with_less: int
    lost_as_it_was: int
    """Packets that the simulation loses with the R that the capture had."""


def workload(arrivals: NDArray[np.int32]) -> Workload:
    """Packets of each millisecond, evenly spread over it: int32 (queues, milliseconds)."""
    start = np.arange(arrivals.shape[1], dtype=np.int64) * MS_PS
    queues = [Runs.of(start, MS_PS // np.maximum(row, 1), row) for row in arrivals.astype(np.int64)]
    return Workload("recorded", tuple(queues))


def peak(arrivals: NDArray[np.int32], rate_pps: float) -> int:
    """The most packets that wait at once if none is lost: int32 (milliseconds,) at so many handled in a second."""
    balance = np.cumsum(arrivals - rate_pps / 1000)
    lowest = np.minimum.accumulate(np.minimum(balance, 0))
    return int(np.ceil((balance - lowest).max(initial=0)))


def lost(setting: Setting, packets: Workload, rate_pps: float, tell: Tell | None = None) -> int:
    """Packets that the model of WireCAP loses with these pools."""
    cells = setting.M * setting.R
    ring = max(RING, min(cells, setting.ring or max(ATTACHED_MOST, 2 * setting.M)))
    model = WireCap(setting.M, setting.R, setting.T, setting.advanced, ring)
    result = simulate(model, packets, handler_cost.rate(rate_pps), tell=tell)
    return sum(queue.dropped for queue in result.queues)


def advise(setting: Setting, arrivals: NDArray[np.int32], rate_pps: float, tell: Tell | None = None) -> Advice | None:
    """The smallest R that holds the arrivals, int32 (queues, milliseconds), and T if the mode is advanced.

    rate_pps: what a handler thread did.  None if that is not known, the recording is too long, or no R is enough.
    tell: called for each kernel that has to be compiled.
    """
    if rate_pps < 1 or not arrivals.size or arrivals.sum() / setting.M > CHUNKS_MOST:
        return None
    packets = workload(arrivals)

    def losing(T: int, R: int) -> int:
        return lost(replace(setting, R=R, T=T), packets, rate_pps, tell)

    most = max(peak(row, rate_pps) for row in arrivals)
    try:
        best: tuple[int, int] | None = None
        for T in dict.fromkeys((setting.T, *THRESHOLDS)) if setting.advanced else (setting.T,):
            R = _smallest(partial(losing, T), -(-most // setting.M) + 4, best[0] if best else MAX_R)
            if R is not None and (best is None or best[0] > R):
                best = R, T
        if best is None:
            return None
        R, T = best
        while (less := min(R - 1, int(R * LESS))) >= LEAST and not losing(T, less):
            R = less  # with buddies, more chunks may lose more: go on below
        wanted = losing(T, less) if less >= LEAST else 0
        return Advice(replace(setting, R=R, T=T), most, less, wanted, losing(setting.T, setting.R))
    except WirecapError:  # beyond what the simulator takes
        return None


def _smallest(losing: Callable[[int], int], guess: int, limit: int) -> int | None:
    """An R of at most ``limit`` that loses nothing while one less loses something; None if there is none."""
    high = max(LEAST, min(guess, limit))
    while losing(high):
        if high >= limit:
            return None
        high = min(limit, high * 2)
    low = LEAST - 1
    while high - low > 1:
        middle = (low + high) // 2
        if losing(middle):
            low = middle
        else:
            high = middle
    return high
