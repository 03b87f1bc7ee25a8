"""Models whose buffer is a ring, in virtual time, packet by packet: DNA and NETMAP (Type II), PF_RING (Type I).

    SENT: a forwarded packet has left          DONE: a handler is done with what it took
    COPIED: the kernel, if it copies, is done with a packet          ARRIVED: a packet arrives

Events at the same instant happen in this order, lower queues first.  A packet that finds every place taken is lost; a
place is free again once its packet has been handled or, when forwarding, has left on the wire that all queues share.
If the kernel copies, packets wait for it in the NIC's descriptors, and a queue's handler works only while none are
waiting, because both run on its core.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from wirecap.kernels.base.jit import inline, inline_always, kernel
from wirecap.kernels.base.kinds import i64, none, record, table, words
from wirecap.kernels.sim.arrivals import ARRIVALS, NEVER, skip, skip_before, time_of
from wirecap.kernels.sim.handler_cost import work

# words of the settings: places of a queue; the most packets that a handler takes at once, and what that costs on top
# of the packets' own costs; the NIC's descriptors, 0 if nothing is copied, and how long a copy takes
PLACES, BATCH_MOST, SYNC_PS, DESCRIPTORS, KERNEL_PS, TRANSMIT_PS, SEED, FIRST_QUEUE = range(8)
SETTING_WORDS = 8

# words of a queue: places taken, packets waiting in them and the first of those; what its handler took, and how long
# that still takes after the kernel's work; packets to copy and the first of those; how many arrived; then its counters
KEPT, WAITING, OLDEST, TAKEN, LEFT_PS, COPYING, NEXT_COPY, SEEN = range(8)
DELIVERED, FORWARDED, FULL, NIC_FULL, BUSY_PS, ENDED_PS = range(8, 14)
QUEUE_WORDS = 16

WIRE_FIRST, WIRE_LENGTH = 0, 1  # words of the wire's state

SENT, DONE, COPIED, ARRIVED, KINDS = range(5)


class RingModel(NamedTuple):
    """Everything a simulation changes; Q queues."""

    arrivals: Any
    settings: Any  # int64 (SETTING_WORDS,)
    costs: Any  # int64: see handler_cost.work
    queues: Any  # int64 (Q, QUEUE_WORDS)
    places: Any  # int64 (Q, n): the cost of the packet waiting in each place
    copying: Any  # int64 (Q, n): the costs of the packets waiting for the kernel
    wire: Any  # int64 (n,): the queues of the packets waiting for the wire
    wire_state: Any  # int64 (2,)
    at: Any  # int64 (KINDS, Q): when each event happens next, in ps; SENT has one for all queues


RINGS = record(RingModel, ARRIVALS, words, words, table, table, table, words, words, table)


@kernel(i64(RINGS, i64))
def run(rings, limit):
    """Run until nothing is left to happen, or for ``limit`` events; returns how many there were."""
    queues = rings.queues.shape[0]
    for events in range(limit):
        kind, q, now = SENT, 0, rings.at[SENT, 0]
        for other in range(DONE, KINDS):
            for i in range(queues):
                if rings.at[other, i] < now:
                    kind, q, now = other, i, rings.at[other, i]
        if now == NEVER:
            return events
        if kind == ARRIVED:
            arrived(rings, q, now)
        elif kind == DONE:
            done(rings, q, now)
        elif kind == COPIED:
            copied(rings, q, now)
        else:
            sent(rings, now)
    return limit


@kernel(none(RINGS))
def begin(rings):
    """Schedule every queue's first packet; call it once, before ``run``."""
    for q in range(rings.queues.shape[0]):
        rings.at[ARRIVED, q] = time_of(rings.arrivals, q, 1, NEVER)


@inline
def turned(place, size):
    """Wrap a place that may lie beyond the end of a ring of ``size``."""
    return place if place < size else place - size


@inline_always
def arrived(rings, q, now):
    """A packet arrives; if it finds no place, it is lost, as are all that arrive before one can be free."""
    queues, settings, at = rings.queues, rings.settings, rings.at
    descriptors = settings[DESCRIPTORS]
    if descriptors and queues[q, COPYING] == descriptors:
        lost = skip_before(rings.arrivals, q, at[COPIED, q])
        queues[q, NIC_FULL] += lost
        queues[q, SEEN] += lost
    elif not descriptors and queues[q, KEPT] == settings[PLACES]:
        lost = skip_before(rings.arrivals, q, min(at[SENT, 0], at[DONE, q]))
        queues[q, FULL] += lost
        queues[q, SEEN] += lost
    else:
        cost = work(rings.costs, settings[SEED], settings[FIRST_QUEUE] + q, queues[q, SEEN], 1)
        queues[q, SEEN] += 1
        skip(rings.arrivals, q, 1)
        if descriptors:
            begin_copy(rings, q, now, cost)
        else:
            keep(rings, q, cost)
            if queues[q, TAKEN] == 0:
                take(rings, q, now)
    at[ARRIVED, q] = time_of(rings.arrivals, q, 1, NEVER)


@inline_always
def begin_copy(rings, q, now, cost):
    """A packet waits for the kernel, which takes precedence over the handler."""
    queues, at, size = rings.queues, rings.at, rings.copying.shape[1]
    rings.copying[q, turned(queues[q, NEXT_COPY] + queues[q, COPYING], size)] = cost
    queues[q, COPYING] += 1
    if queues[q, COPYING] == 1:
        at[COPIED, q] = now + rings.settings[KERNEL_PS]
        if queues[q, TAKEN]:
            queues[q, LEFT_PS] = at[DONE, q] - now
            at[DONE, q] = NEVER


@inline_always
def copied(rings, q, now):
    """A copy finds a place, or none; after the last copy the handler resumes."""
    queues, at = rings.queues, rings.at
    cost = rings.copying[q, queues[q, NEXT_COPY]]
    queues[q, NEXT_COPY] = turned(queues[q, NEXT_COPY] + 1, rings.copying.shape[1])
    queues[q, COPYING] -= 1
    if queues[q, KEPT] == rings.settings[PLACES]:
        queues[q, FULL] += 1
    else:
        keep(rings, q, cost)
    if queues[q, COPYING]:
        at[COPIED, q] = now + rings.settings[KERNEL_PS]
        return
    at[COPIED, q] = NEVER
    if queues[q, TAKEN]:
        at[DONE, q] = now + queues[q, LEFT_PS]
    else:
        take(rings, q, now)


@inline
def keep(rings, q, cost):
    """A packet takes a place."""
    queues = rings.queues
    rings.places[q, turned(queues[q, OLDEST] + queues[q, WAITING], rings.places.shape[1])] = cost
    queues[q, WAITING] += 1
    queues[q, KEPT] += 1


@inline
def take(rings, q, now):
    """An idle handler takes what is waiting, if anything."""
    queues, settings = rings.queues, rings.settings
    count = min(queues[q, WAITING], settings[BATCH_MOST])
    queues[q, TAKEN] = count
    if count == 0:
        rings.at[DONE, q] = NEVER
        return
    cost, oldest, size = settings[SYNC_PS], queues[q, OLDEST], rings.places.shape[1]
    for _ in range(count):
        cost += rings.places[q, oldest]
        oldest = turned(oldest + 1, size)
    queues[q, OLDEST] = oldest
    queues[q, WAITING] -= count
    queues[q, BUSY_PS] += cost
    rings.at[DONE, q] = now + cost


@inline_always
def done(rings, q, now):
    """The handler has finished what it took: the places are free, or the packets wait for the wire."""
    queues, state = rings.queues, rings.wire_state
    count = queues[q, TAKEN]
    queues[q, DELIVERED] += count
    queues[q, ENDED_PS] = now
    if rings.settings[TRANSMIT_PS] == 0:
        queues[q, KEPT] -= count
    else:
        for _ in range(count):
            rings.wire[turned(state[WIRE_FIRST] + state[WIRE_LENGTH], rings.wire.size)] = q
            state[WIRE_LENGTH] += 1
        if rings.at[SENT, 0] == NEVER:
            rings.at[SENT, 0] = now + rings.settings[TRANSMIT_PS]
    take(rings, q, now)


@inline_always
def sent(rings, now):
    """The first packet on the wire has left; the next one starts."""
    queues, state = rings.queues, rings.wire_state
    q = rings.wire[state[WIRE_FIRST]]
    state[WIRE_FIRST] = turned(state[WIRE_FIRST] + 1, rings.wire.size)
    state[WIRE_LENGTH] -= 1
    queues[q, KEPT] -= 1
    queues[q, FORWARDED] += 1
    queues[q, ENDED_PS] = now
    rings.at[SENT, 0] = now + rings.settings[TRANSMIT_PS] if state[WIRE_LENGTH] else NEVER
