"""The offload decision: one pure function, which the live engine and the simulator both call."""

from __future__ import annotations

from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import i64, words


@inline
def choose_capture_queue(home, depths, members, count, capacity, threshold):
    """The capture queue that gets the chunk: ``home`` or, above the threshold, the shortest in its group.

    home: index of the home capture queue; depths: chunks waiting in every capture queue, int64;
    members: indices of the buddy group in the first ``count`` entries, int64; capacity: R, in chunks;
    threshold: T, in percent of R.  Only a queue shorter than the home queue is worth losing core affinity
    for; among equally short queues the lowest index wins.  Source: WireCAP (IMC 2014), sections on
    buddy-group-based offloading and on the choice of T.
    """
    own = depths[home]
    if own * 100 <= threshold * capacity:
        return home
    best, shortest = home, own
    for i in range(count):
        member = members[i]
        if depths[member] < shortest or (depths[member] == shortest and best != home and member < best):
            best, shortest = member, depths[member]
    return best


@kernel(i64(i64, words, words, i64, i64, i64))
def decide(home, depths, members, count, capacity, threshold):
    """``choose`` for callers in Python."""
    return choose_capture_queue(home, depths, members, count, capacity, threshold)
