"""Traffic of the shape that the paper's figures 11 to 13 rest on: a border router's, uneven over six queues.

The trace itself was never published.  What is known of it [recalled, WireCAP, IMC 2014]: about 32 s, 5 to 6
million packets, one of six queues near 80 kp/s for a long time, the others with short bursts.  This profile has
that shape: one elephant flow, a background that is spread over 128 hash buckets, and trains of packets as bulk
transfers send them.  What is not known, the length and the number of the trains, was chosen so that the
figures' ceilings are met (docs/simulator.md).  The same numbers come out on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BUCKETS = 128
"""Entries of the 82599's RSS indirection table [public]; bucket b is served by queue b modulo the number of queues."""
SLICE_S = 0.005
SLICES = 6400
DURATION_S = SLICE_S * SLICES

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
