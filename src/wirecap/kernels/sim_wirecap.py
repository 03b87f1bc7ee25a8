"""WireCAP in virtual time: what happens to chunks; the packets in between are counted, not visited.

Nothing between two events below can change where a packet goes, so that a chunk of M packets costs the
same few events whatever M is.  tests/sim holds this against a version that visits every packet.

    FULL: a packet fills its chunk        DUE: a partial chunk has waited its time
    CAPTURED: the capture thread hands a chunk to a capture queue and attaches a free one
    DONE: a handler is through with a chunk    SENT: a forwarded chunk has left, its cells are free

Events at one instant go in the order SENT, DONE, CAPTURED, FULL, DUE, lower queues first: what frees a cell
comes before what needs one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from wirecap.kernels.jit import i64, inline, kernel, table, words
from wirecap.kernels.policy import choose
from wirecap.kernels.sim_arrivals import ARRIVALS, NEVER, skip, skip_before, time_of
from wirecap.kernels.sim_work import work

NONE = -1

# words of the settings
M, R, T, ADVANCED, ATTACHED_MOST, CAPTURE_PS, TIMEOUT_PS, CHUNK_PS, TRANSMIT_PS, SEED, AWAY_PERCENT = range(11)
SETTING_WORDS = 12

# words of a queue: its pool, its capture thread, its handler; then its counters
FREE, ATTACHED, PENDING, OVERDUE, SPARE, JOBS, JOBS_LAST, WAITING, WAITING_LAST, SERVED = range(10)
TAKEN, DELIVERED, OFFLOADED, FORWARDED, EXHAUSTED, LATE, CHUNKS, PARTIAL, DEEPEST, OFFLOADED_CHUNKS = range(10, 20)
BUSY_PS, ENDED_PS = 20, 21
QUEUE_WORDS = 24

# words of a chunk: its list's next chunk, whose it is, its first packet's number, how many it has
LINK, HOME, FIRST, COUNT = range(4)

# kinds of events; kind * Q + queue is the event's place
SENT, DONE, CAPTURED, FULL, DUE, KINDS = range(6)


class World(NamedTuple):
    """Everything a simulation changes; Q queues with R chunks each."""

    arrivals: Any
    settings: Any  # int64 (SETTING_WORDS,)
    costs: Any  # int64: sim_work.work
    queues: Any  # int64 (Q, QUEUE_WORDS)
    chunks: Any  # int64 (Q * R, 4)
    depths: Any  # int64 (Q,): chunks waiting in each capture queue
    members: Any  # int64 (Q, 1 + Q): row q = the buddy group of queue q: how many, then who
    at: Any  # int64 (KINDS * Q,): when each event is next, in ps
    transmit: Any  # int64 (2,): first and last chunk on the wire


WORLD = types.NamedTuple((ARRIVALS, words, words, table, table, words, table, words, words), World)


@kernel(i64(WORLD, i64))
def run(world, limit):
    """Run until nothing is left to happen, or for ``limit`` events; how many there were."""
    queues = world.queues.shape[0]
    for events in range(limit):
        event, now = 0, world.at[0]
        for i in range(1, world.at.size):
            if world.at[i] < now:
                event, now = i, world.at[i]
        if now == NEVER:
            return events
        kind, q = event // queues, event % queues
        if kind == FULL:
            skip(world.arrivals, q, world.settings[M])
            detach(world, q, now, world.settings[M])
        elif kind == CAPTURED:
            captured(world, q, now)
        elif kind == DONE:
            done(world, q, now)
        elif kind == DUE:
            world.at[event] = NEVER
            if world.depths[q] == 0:
                flush(world, q, now, now + 1)
            else:
                world.queues[q, OVERDUE] = 1
        else:
            sent(world, now)
    return limit


@kernel(types.void(WORLD))
def begin(world):
    """Foresee the first events of every queue; once, before ``run``."""
    for q in range(world.queues.shape[0]):
        begin_chunk(world, q)


@inline
def append(world, words, head, tail, chunk):
    """Put a chunk at the end of the list whose ends are words[head] and words[tail]; true when it was empty."""
    world.chunks[chunk, LINK] = NONE
    empty = words[head] == NONE
    if empty:
        words[head] = chunk
    else:
        world.chunks[words[tail], LINK] = chunk
    words[tail] = chunk
    return empty


@inline
def begin_chunk(world, q):
    """Foresee when the chunk that is now filled will be full, and when it will have waited long enough."""
    queues = world.queues.shape[0]
    full, due = NEVER, NEVER
    if world.queues[q, ATTACHED]:
        full = time_of(world.arrivals, q, world.settings[M])
        first = time_of(world.arrivals, q, 1)
        if first != NEVER:
            due = first + world.settings[TIMEOUT_PS]
    world.at[FULL * queues + q], world.at[DUE * queues + q] = full, due


@inline
def flush(world, q, now, before):
    """Hand over the partial chunk with what arrived before the time ``before``."""
    detach(world, q, now, skip_before(world.arrivals, q, before))


@inline
def detach(world, q, now, count):
    """The filled chunk leaves the ring for the capture thread, which takes them in turn."""
    queue, settings = world.queues[q], world.settings
    chunk = queue[SPARE]
    queue[SPARE] = world.chunks[chunk, LINK]
    world.chunks[chunk, FIRST], world.chunks[chunk, COUNT] = queue[TAKEN], count
    queue[TAKEN] += count
    queue[OVERDUE] = 0
    queue[ATTACHED] -= 1
    queue[PENDING] += 1
    queue[CHUNKS] += 1
    if count < settings[M]:
        queue[PARTIAL] += 1
    if append(world, queue, JOBS, JOBS_LAST, chunk):
        world.at[CAPTURED * world.queues.shape[0] + q] = now + settings[CAPTURE_PS]
    begin_chunk(world, q)


@inline
def captured(world, q, now):
    """The capture thread is through with a chunk: to a capture queue with it, and a free one onto the ring."""
    queue, settings = world.queues[q], world.settings
    chunk = queue[JOBS]
    queue[JOBS] = world.chunks[chunk, LINK]
    queue[PENDING] -= 1
    consumer = q
    if settings[ADVANCED]:
        members = world.members[q]
        consumer = choose(q, world.depths, members[1:], members[0], settings[R], settings[T])
    if consumer != q:
        queue[OFFLOADED_CHUNKS] += 1
    attach(world, q, now)
    at = CAPTURED * world.queues.shape[0] + q
    world.at[at] = now + settings[CAPTURE_PS] if queue[JOBS] != NONE else NEVER
    taker = world.queues[consumer]
    append(world, taker, WAITING, WAITING_LAST, chunk)
    world.depths[consumer] += 1
    if taker[SERVED] == NONE:
        take_next(world, consumer, now)
    taker[DEEPEST] = max(taker[DEEPEST], world.depths[consumer])


@inline
def attach(world, q, now):
    """Put a free chunk onto the ring where there is one and room for it; what came meanwhile was lost."""
    queue = world.queues[q]
    if queue[FREE] == 0 or queue[ATTACHED] + queue[PENDING] >= world.settings[ATTACHED_MOST]:
        return
    starved = queue[ATTACHED] == 0
    if starved:
        queue[LATE] += skip_before(world.arrivals, q, now)
    queue[FREE] -= 1
    queue[ATTACHED] += 1
    if starved:
        begin_chunk(world, q)


@inline
def take_next(world, c, now):
    """An idle handler takes the next chunk of its capture queue, if there is one."""
    taker, settings, at = world.queues[c], world.settings, DONE * world.queues.shape[0] + c
    chunk = taker[WAITING]
    taker[SERVED] = chunk
    if chunk == NONE:
        world.at[at] = NEVER
        return
    taker[WAITING] = world.chunks[chunk, LINK]
    world.depths[c] -= 1
    home = world.chunks[chunk, HOME]
    cost = work(world.costs, settings[SEED], home, world.chunks[chunk, FIRST], world.chunks[chunk, COUNT])
    if home != c:
        cost += cost * settings[AWAY_PERCENT] // 100
    cost += settings[CHUNK_PS]
    taker[BUSY_PS] += cost
    world.at[at] = now + cost
    if world.depths[c] == 0 and taker[OVERDUE]:
        flush(world, c, now, now)


@inline
def done(world, c, now):
    """A chunk is handled: counted for its home queue, and on its way out or home."""
    chunk = world.queues[c, SERVED]
    home, count = world.chunks[chunk, HOME], world.chunks[chunk, COUNT]
    world.queues[home, DELIVERED] += count
    world.queues[c, ENDED_PS] = now
    if home != c:
        world.queues[home, OFFLOADED] += count
    if world.settings[TRANSMIT_PS] == 0:
        recycle(world, chunk, now)
    else:
        world.queues[home, FORWARDED] += count
        if append(world, world.transmit, 0, 1, chunk):
            world.at[SENT] = now + count * world.settings[TRANSMIT_PS]
    take_next(world, c, now)


@inline
def sent(world, now):
    """The first chunk on the wire has left; the next one begins."""
    chunk = world.transmit[0]
    following = world.chunks[chunk, LINK]
    world.transmit[0] = following
    world.at[SENT] = NEVER
    if following != NONE:
        world.at[SENT] = now + world.chunks[following, COUNT] * world.settings[TRANSMIT_PS]
    recycle(world, chunk, now)


@inline
def recycle(world, chunk, now):
    """A chunk is free again, in its home pool; a ring that is short gets it at once."""
    home = world.chunks[chunk, HOME]
    queue = world.queues[home]
    if queue[ATTACHED] == 0 and queue[FREE] == 0:
        queue[EXHAUSTED] += skip_before(world.arrivals, home, now)
    world.chunks[chunk, LINK] = queue[SPARE]
    queue[SPARE] = chunk
    queue[FREE] += 1
    attach(world, home, now)
