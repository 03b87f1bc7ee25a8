"""The simulator's bus: which share of the packets it moves, and when that changes.

The bus is a server with room for what it moves in ``held_ps``.  What comes is taken as a flow: a run's packets come
at its rate, those that have no rate (one alone, or several at an instant) at once.  So the steps are as few as the
runs, however long these are.  While the room is full, the bus moves what it can, the same share of every queue's.
"""

from __future__ import annotations

from numba import types

from wirecap.kernels.jit import i64, inline, kernel, words
from wirecap.kernels.sim_arrivals import ARRIVALS, CURSOR_WORDS, NEVER, RUN

STEPS, NOW, BACKLOG_PS = range(3)  # words of the state; it begins with one step, the share 1 from 0 on
STATE_WORDS = 4
STEPS_OF_A_RUN, STEPS_MORE = 6, 4  # at the most: a run changes what comes twice, three steps each time

shares = types.float64[::1]


@inline
def step(state, edges, share, at, value):
    """From ``at`` on this share passes."""
    last = state[STEPS] - 1
    if share[last] != value:
        edges[last + 1], share[last + 1] = at, value
        state[STEPS] += 1


@kernel(i64(ARRIVALS, words, i64, i64, words, shares, i64))
def run(arrivals, state, place_ps, held_ps, edges, share, limit):
    """Run until nothing is left to come, or for ``limit`` changes of what comes; how many there were.

    place_ps: what a packet takes; edges: int64, share: float64, (STEPS_OF_A_RUN * runs + STEPS_MORE,): from edges[i]
    on share[i] of what comes passes.
    """
    for changes in range(limit):
        now, following, load, sudden = state[NOW], NEVER, 0.0, 0.0
        for q in range(arrivals.first.size - 1):
            run, last = arrivals.cursor[q * CURSOR_WORDS + RUN], arrivals.first[q + 1]
            while run < last and arrivals.start[run] <= now:
                start, size = arrivals.start[run], arrivals.size[run]
                until = start
                if size > 1:
                    until += size * arrivals.interval[run]
                    if run + 1 < last:
                        until = min(until, arrivals.start[run + 1])
                if until > now:
                    load += float(size) * place_ps / (until - start)
                    following = min(following, until)
                    break
                if until == start:
                    sudden += float(size) * place_ps
                run += 1
            if run < last and arrivals.start[run] > now:
                following = min(following, arrivals.start[run])
            arrivals.cursor[q * CURSOR_WORDS + RUN] = run
        begin = now
        if sudden:
            room = float(held_ps - state[BACKLOG_PS])
            step(state, edges, share, now, min(1.0, room / sudden))
            state[BACKLOG_PS] += int(min(room, sudden))
            begin = now + 1
        if load > 1:
            full = (held_ps - state[BACKLOG_PS]) / (load - 1)
            if begin + full < following:
                if full:
                    step(state, edges, share, begin, 1.0)
                step(state, edges, share, begin + int(full), 1 / load)
                state[BACKLOG_PS] = held_ps
            else:
                step(state, edges, share, begin, 1.0)
                state[BACKLOG_PS] += int((following - now) * (load - 1))
        else:
            if load:
                step(state, edges, share, begin, 1.0)
            if following != NEVER:
                state[BACKLOG_PS] = max(0, state[BACKLOG_PS] - int((following - now) * (1 - load)))
        if following == NEVER:
            return changes
        state[NOW] = following
    return limit
