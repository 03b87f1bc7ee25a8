"""The simulator's traffic: when packets arrive on each queue, as runs of evenly spaced packets, and how to read them.

A run is (start, interval, count): packets at start, start + interval, ...  A burst at a constant rate is one
run, however long; a recorded packet is a run of one.  The runs of a queue are in order of time; all times
are int64 picoseconds, so that 67.2 ns (64 bytes at 10 Gbit/s) is exact and 10^9 such packets fit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from wirecap.kernels.base.jit import inline
from wirecap.kernels.base.kinds import record, words

NEVER = (1 << 63) - 1
RUN, PLACE = 0, 1  # words of a queue's cursor: the run it is in, and how many of its packets have been read
CURSOR_WORDS = 2


class Arrivals(NamedTuple):
    """The runs of all queues, one queue after the other, and how far each queue has been read."""

    first: Any  # int64 (Q + 1,): queue q has runs first[q] to first[q + 1] - 1
    start: Any  # int64 (runs,) ps
    interval: Any  # int64 (runs,) ps
    size: Any  # int64 (runs,): packets, at least 1
    cursor: Any  # int64 (Q * CURSOR_WORDS,)


ARRIVALS = record(Arrivals, *[words] * 5)


@inline
def time_of(arrivals, queue, number, until):
    """When the ``number``-th packet from here arrives, 1 for the next; NEVER if there are fewer up to ``until``."""
    run = arrivals.cursor[queue * CURSOR_WORDS + RUN]
    place = arrivals.cursor[queue * CURSOR_WORDS + PLACE]
    end = arrivals.first[queue + 1]
    while run < end and arrivals.start[run] <= until:
        left = arrivals.size[run] - place
        if number <= left:
            time = arrivals.start[run] + (place + number - 1) * arrivals.interval[run]
            return time if time <= until else NEVER
        number -= left
        run += 1
        place = 0
    return NEVER


@inline
def skip(arrivals, queue, number):
    """Read ``number`` packets; there must be that many."""
    c = queue * CURSOR_WORDS
    run, place = arrivals.cursor[c + RUN], arrivals.cursor[c + PLACE]
    while number > 0:
        part = min(number, arrivals.size[run] - place)
        number -= part
        place += part
        if place == arrivals.size[run]:
            run += 1
            place = 0
    arrivals.cursor[c + RUN], arrivals.cursor[c + PLACE] = run, place


@inline
def skip_before(arrivals, queue, time):
    """Read the packets that arrive before ``time``; returns how many there were."""
    c = queue * CURSOR_WORDS
    run, place = arrivals.cursor[c + RUN], arrivals.cursor[c + PLACE]
    end, total = arrivals.first[queue + 1], 0
    while run < end:
        start, interval = arrivals.start[run], arrivals.interval[run]
        if start >= time:
            break
        early = arrivals.size[run]
        if interval > 0:
            early = min(early, (time - start + interval - 1) // interval)
        total += max(0, early - place)
        place = max(place, early)
        if place < arrivals.size[run]:
            break
        run += 1
        place = 0
    arrivals.cursor[c + RUN], arrivals.cursor[c + PLACE] = run, place
    return total
