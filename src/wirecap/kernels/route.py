"""Which wire a packet takes: the outgoing NIC, then its transmit queue."""

from __future__ import annotations

from wirecap.kernels.balance import BY_HOST, flow_hash
from wirecap.kernels.jit import i64, inline
from wirecap.kernels.pool import HOME, KEPT, SLOT_WORDS
from wirecap.kernels.wires import LONGEST, WIRE_WORDS, in_transmission

# words of Wires.tallies
DISCARDED, TOO_LONG, REORDERED = range(3)

# words of a thread's sending
QUEUE_BY, OUTPUT_BY, PATIENCE_NS, NEXT = range(4)
SAME, BY_HASH, LEAST = range(3)  # QUEUE_BY: which transmit queue of the NIC
BY_TURNS = BY_HOST + 1  # OUTPUT_BY: which NIC; BY_FLOW and BY_HOST are kernels/balance.py's

UNSENT = -2  # what a packet's choice is where it is no wire


@inline
def wire_of(wires, output, own, sending, hashed):
    """The wire of a NIC that a packet takes; own: the number of the queue that it came from."""
    count = wires.outputs[output, 0]
    if count == 1:
        return wires.outputs[output, 1]
    if sending[QUEUE_BY] == BY_HASH:
        return wires.outputs[output, 1 + (hashed >> 16) % count]
    if sending[QUEUE_BY] == SAME:
        return wires.outputs[output, 1 + own % count]
    best = wires.outputs[output, 1]
    for i in range(1, count):
        other = wires.outputs[output, 1 + i]
        if in_transmission(wires, other) < in_transmission(wires, best):
            best = other
    return best


@inline
def choose(pool, wires, consumer, slot, sending, choice, wanted):
    """Where each packet of a chunk goes: choice[i] is its wire, or UNSENT.  wanted: packets for each wire."""
    m = slot * SLOT_WORDS
    home = pool.meta[m + HOME]
    first, outputs, own = wires.routes[home, 0], wires.routes[home, 1], wires.routes[home, 2]
    tally = wires.tallies[consumer, home]
    hashes = sending[QUEUE_BY] == BY_HASH or (outputs > 1 and sending[OUTPUT_BY] != BY_TURNS)
    hosts_only = outputs > 1 and sending[OUTPUT_BY] == BY_HOST
    fixed = -1
    if not hashes and outputs == 1:
        fixed = wire_of(wires, first, own, sending, 0)  # one for the chunk, so that it leaves in order
    for i in range(wanted.size):
        wanted[i] = 0
    for i in range(pool.meta[m + KEPT]):
        length = i64(pool.captured[slot, i])
        choice[i] = UNSENT
        if length == 0:
            tally[DISCARDED] += 1
            continue
        wire = fixed
        if wire < 0:
            hashed = 0
            if hashes:
                hashed = flow_hash(pool.arena, pool.address[slot, i], length, hosts_only, wires.fragments)
            number = 0
            if outputs > 1:
                number = (sending[NEXT] if sending[OUTPUT_BY] == BY_TURNS else hashed & 0xFFFF) % outputs
                sending[NEXT] += 1
            wire = wire_of(wires, first + number, own, sending, hashed)
        if length > wires.words[wire * WIRE_WORDS + LONGEST]:
            tally[TOO_LONG] += 1
            continue
        choice[i] = wire
        wanted[wire] += 1
