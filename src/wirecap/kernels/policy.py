"""The offload decision: one pure function, called by the live engine and by the simulator."""

from __future__ import annotations

from wirecap.kernels.jit import i64, inline, kernel, words


@inline
def choose(home, depths, members, count, capacity, threshold):
    """The capture queue that gets the chunk: ``home`` or, above the threshold, the shortest of its group.

    home: index of the home capture queue; depths: chunks waiting in every capture queue, int64;
    members: indices of the buddy group, its first ``count`` entries, int64; capacity: R, in chunks;
    threshold: T, in percent of R.  Only a queue that is shorter than the home queue is worth the lost
    core affinity; of equally short ones the lowest index is taken.  Source: WireCAP (IMC 2014), sections
    on buddy-group-based offloading and on the choice of T.
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
    return choose(home, depths, members, count, capacity, threshold)
