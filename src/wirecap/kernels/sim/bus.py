"""The simulator's bus: what share of the packets it moves, and when that changes.

The bus is a server with a buffer for what it moves in ``held_ps``.  Arrivals are treated as a flow: a run's packets
arrive at its rate, and packets without a rate (a single one, or several at one instant) at once.  So there are only as
many steps as runs, however long those are.  While the buffer is full, the bus moves what it can, the same share of
every queue's packets.
"""

from __future__ import annotations

from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import fractions, i64, words
from wirecap.kernels.sim.arrivals import ARRIVALS, CURSOR_WORDS, NEVER, RUN

STEPS, NOW, BACKLOG_PS = range(3)  # words of the state; it starts with one step, a share of 1 from time 0 on
STATE_WORDS = 4
STEPS_OF_A_RUN, STEPS_MORE = 6, 4  # upper bounds: a run changes the arrivals twice, with three steps each time


@inline
def step(state, edges, share, at, value):
    """From time ``at`` on, the share ``value`` passes."""
    last = state[STEPS] - 1
    if share[last] != value:
        edges[last + 1], share[last + 1] = at, value
        state[STEPS] += 1


@kernel(i64(ARRIVALS, words, i64, i64, words, fractions, i64))
def run(arrivals, state, place_ps, held_ps, edges, share, limit):
    """Run until nothing is left to arrive, or for ``limit`` changes in the arrivals; returns how many there were.

    place_ps: the bus time per packet; edges: int64, share: float64, (STEPS_OF_A_RUN * runs + STEPS_MORE,): from
    edges[i] on, share[i] of the arriving packets pass.
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
