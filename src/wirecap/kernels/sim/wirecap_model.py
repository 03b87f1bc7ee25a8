"""WireCAP in virtual time: follows what happens to chunks, and counts packets without visiting them.

Nothing between two of the events below can change where a packet goes, so a chunk of M packets costs the same
few events whatever M is.  tests/sim compares this with a version that visits every packet.

    FULL: a packet fills its chunk        DUE: a partial chunk has waited long enough
    CAPTURED: the capture thread hands a chunk to a capture queue and attaches a free one
    DONE: a handler is done with a chunk    SENT: a forwarded chunk has left, its cells are free

Events at the same instant happen in the order SENT, DONE, CAPTURED, FULL, DUE, lower queues first: what frees a
cell comes before what needs one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from wirecap.kernels.base.jit import inline_always, kernel
from wirecap.kernels.base.kinds import i64, none, record, table, words
from wirecap.kernels.pool.offload_policy import choose_capture_queue
from wirecap.kernels.sim.arrivals import ARRIVALS, NEVER, skip, skip_before, time_of
from wirecap.kernels.sim.handler_cost import work

NONE = -1

# words of the settings
M, R, T, ADVANCED, ATTACHED_MOST, CAPTURE_PS, TIMEOUT_PS, CHUNK_PS, TRANSMIT_PS, SEED, AWAY_PERCENT = range(11)
SETTING_WORDS = 12

# words of a queue: its pool, its capture thread, its handler; then its counters
FREE, ATTACHED, PENDING, OVERDUE, SPARE, JOBS, JOBS_LAST, WAITING, WAITING_LAST, SERVED = range(10)
BUDDIES, SEEN = 10, 11  # members of its group; packets that have arrived so far, including lost ones
DELIVERED, OFFLOADED, FORWARDED, EXHAUSTED, LATE, DEEPEST, BUSY_PS, ENDED_PS = range(12, 20)
QUEUE_WORDS = 20

# words of a chunk: the next chunk in its list, its home queue, the number of its first packet, how many it has
LINK, HOME, FIRST, COUNT = range(4)

# kinds of events; kind * Q + queue is the event's index
SENT, DONE, CAPTURED, FULL, DUE, KINDS = range(6)


class World(NamedTuple):
    """Everything a simulation changes, for Q queues with R chunks each."""

    arrivals: Any
    settings: Any  # int64 (SETTING_WORDS,)
    costs: Any  # int64: see handler_cost.work
    queues: Any  # int64 (Q, QUEUE_WORDS)
    chunks: Any  # int64 (Q * R, 4)
    depths: Any  # int64 (Q,): chunks waiting in each capture queue
    members: Any  # int64 (Q, Q): row q starts with the BUDDIES members of queue q's group
    at: Any  # int64 (KINDS * Q,): when each event happens next, in ps
    transmit: Any  # int64 (1, 2): first and last chunk on the wire


WORLD = record(World, ARRIVALS, words, words, table, table, words, table, words, table)


@kernel(i64(WORLD, i64))
def run(world, limit):
    """Run until nothing is left to happen, or for ``limit`` events; returns how many there were."""
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
                world.at[FULL * queues + q] = time_of(world.arrivals, q, world.settings[M], NEVER)
        else:
            sent(world, now)
    return limit


@kernel(none(WORLD))
def begin(world):
    """Schedule the first events of every queue; call it once, before ``run``."""
    for q in range(world.queues.shape[0]):
        begin_chunk(world, q)


@inline_always
def append(world, rows, row, head, chunk):
    """Append a chunk to the list with its head in rows[row, head], its tail in the next word; True if it was empty."""
    world.chunks[chunk, LINK] = NONE
    empty = rows[row, head] == NONE
    if empty:
        rows[row, head] = chunk
    else:
        world.chunks[rows[row, head + 1], LINK] = chunk
    rows[row, head + 1] = chunk
    return empty


@inline_always
def begin_chunk(world, q):
    """Schedule when the chunk now being filled will be full, and when it will have waited long enough.

    Packets that arrive after that are looked for only then, since most partial chunks are handed over at that point.
    """
    queues = world.queues.shape[0]
    full, due = NEVER, NEVER
    if world.queues[q, ATTACHED]:
        first = time_of(world.arrivals, q, 1, NEVER)
        if first != NEVER:
            due = first + world.settings[TIMEOUT_PS]
            full = time_of(world.arrivals, q, world.settings[M], due)
    world.at[FULL * queues + q], world.at[DUE * queues + q] = full, due


@inline_always
def flush(world, q, now, before):
    """Hand over the partial chunk, with the packets that arrived before ``before``."""
    detach(world, q, now, skip_before(world.arrivals, q, before))


@inline_always
def detach(world, q, now, count):
    """The filled chunk leaves the ring for the capture thread, which takes chunks in turn."""
    queues, settings = world.queues, world.settings
    chunk = queues[q, SPARE]
    queues[q, SPARE] = world.chunks[chunk, LINK]
    world.chunks[chunk, FIRST], world.chunks[chunk, COUNT] = queues[q, SEEN], count
    queues[q, SEEN] += count
    queues[q, OVERDUE] = 0
    queues[q, ATTACHED] -= 1
    queues[q, PENDING] += 1
    if append(world, queues, q, JOBS, chunk):
        world.at[CAPTURED * world.queues.shape[0] + q] = now + settings[CAPTURE_PS]
    begin_chunk(world, q)


@inline_always
def captured(world, q, now):
    """The capture thread is done with a chunk: it goes to a capture queue, and a free one onto the ring."""
    queues, settings = world.queues, world.settings
    chunk = queues[q, JOBS]
    queues[q, JOBS] = world.chunks[chunk, LINK]
    queues[q, PENDING] -= 1
    consumer = q
    if settings[ADVANCED]:
        consumer = choose_capture_queue(q, world.depths, world.members[q], queues[q, BUDDIES], settings[R], settings[T])
    attach(world, q, now)
    at = CAPTURED * world.queues.shape[0] + q
    world.at[at] = now + settings[CAPTURE_PS] if queues[q, JOBS] != NONE else NEVER
    append(world, queues, consumer, WAITING, chunk)
    world.depths[consumer] += 1
    if queues[consumer, SERVED] == NONE:
        take_next(world, consumer, now)
    queues[consumer, DEEPEST] = max(queues[consumer, DEEPEST], world.depths[consumer])


@inline_always
def attach(world, q, now):
    """Put a free chunk onto the ring, if there is one and room for it; packets that arrived meanwhile are lost."""
    queues = world.queues
    if queues[q, FREE] == 0 or queues[q, ATTACHED] + queues[q, PENDING] >= world.settings[ATTACHED_MOST]:
        return
    starved = queues[q, ATTACHED] == 0
    if starved:
        lost = skip_before(world.arrivals, q, now)
        queues[q, LATE] += lost
        queues[q, SEEN] += lost
    queues[q, FREE] -= 1
    queues[q, ATTACHED] += 1
    if starved:
        begin_chunk(world, q)


@inline_always
def take_next(world, c, now):
    """An idle handler takes the next chunk of its capture queue, if there is one."""
    queues, settings, at = world.queues, world.settings, DONE * world.queues.shape[0] + c
    chunk = queues[c, WAITING]
    queues[c, SERVED] = chunk
    if chunk == NONE:
        world.at[at] = NEVER
        return
    queues[c, WAITING] = world.chunks[chunk, LINK]
    world.depths[c] -= 1
    home = world.chunks[chunk, HOME]
    cost = work(world.costs, settings[SEED], home, world.chunks[chunk, FIRST], world.chunks[chunk, COUNT])
    if home != c:
        cost += cost // 100 * settings[AWAY_PERCENT] + cost % 100 * settings[AWAY_PERCENT] // 100  # within 63 bits
    cost += settings[CHUNK_PS]
    queues[c, BUSY_PS] += cost
    world.at[at] = now + cost
    if world.depths[c] == 0 and queues[c, OVERDUE]:
        flush(world, c, now, now)


@inline_always
def done(world, c, now):
    """A chunk has been handled: count it for its home queue, and send it out or home."""
    chunk = world.queues[c, SERVED]
    home, count = world.chunks[chunk, HOME], world.chunks[chunk, COUNT]
    world.queues[home, DELIVERED] += count
    world.queues[c, ENDED_PS] = now
    if home != c:
        world.queues[home, OFFLOADED] += count
    if world.settings[TRANSMIT_PS] == 0:
        recycle(world, chunk, now)
    else:
        if append(world, world.transmit, 0, 0, chunk):
            world.at[SENT] = now + count * world.settings[TRANSMIT_PS]
    take_next(world, c, now)


@inline_always
def sent(world, now):
    """The first chunk on the wire has left; the next one starts."""
    chunk = world.transmit[0, 0]
    home = world.chunks[chunk, HOME]
    world.queues[home, FORWARDED] += world.chunks[chunk, COUNT]
    world.queues[home, ENDED_PS] = now
    following = world.chunks[chunk, LINK]
    world.transmit[0, 0] = following
    world.at[SENT] = NEVER
    if following != NONE:
        world.at[SENT] = now + world.chunks[following, COUNT] * world.settings[TRANSMIT_PS]
    recycle(world, chunk, now)


@inline_always
def recycle(world, chunk, now):
    """A chunk is free again in its home pool; a ring that needs one gets it at once."""
    home, queues = world.chunks[chunk, HOME], world.queues
    if queues[home, ATTACHED] == 0 and queues[home, FREE] == 0:
        lost = skip_before(world.arrivals, home, now)
        queues[home, EXHAUSTED] += lost
        queues[home, SEEN] += lost
    world.chunks[chunk, LINK] = queues[home, SPARE]
    queues[home, SPARE] = chunk
    queues[home, FREE] += 1
    attach(world, home, now)
