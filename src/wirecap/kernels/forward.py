"""A handler thread that sends: its chunks go from the handlers onto wires, the cells that were not sent go home.

A handler drops a packet by making its captured length 0.
"""

from __future__ import annotations

from numba import types

from wirecap.kernels.atomics import compare_swap, load, prefetch
from wirecap.kernels.handle import (
    CHAIN,
    CLOSED,
    PROCESS,
    TIMED_OUT,
    WAIT_NS,
    admit,
    next_slot,
    run_chain,
)
from wirecap.kernels.jit import i64, inline, kernel, table, words
from wirecap.kernels.libc import monotonic_ns, sleep_ns
from wirecap.kernels.pool import COUNT, HOME, KEPT, POOL, SLOT_WORDS, STATE, recycle
from wirecap.kernels.rings import RINGS
from wirecap.kernels.route import PATIENCE_NS, REORDERED, UNSENT, choose
from wirecap.kernels.wires import (
    FULL,
    PATIENT,
    TX_MASK,
    WIRE_WORDS,
    WIRES,
    acquire,
    collect,
    drive,
    give_up,
    in_transmission,
    place,
    publish,
    room,
    try_acquire,
)

SENT = -1  # what a packet's choice is when it is on its wire

LINE_BYTES = 64  # of the cache
PAUSE_NS = 50_000
TENDING_NS = 200_000


@inline
def warm(arena, address, length):
    """Ask for a packet's first bytes: in copy mode the kernel reads them soon, one packet after the other."""
    prefetch(arena, address)
    if length > LINE_BYTES:
        prefetch(arena, address + LINE_BYTES)


@inline
def fill(pool, rings, wires, w, slot, begin, choice):
    """Put a chunk's packets for a wire on it, from packet ``begin`` on, as many as fit; the first that did not."""
    kept = pool.meta[slot * SLOT_WORDS + KEPT]
    free = room(wires, w)
    placed = 0
    i = begin
    while i < kept:
        if choice[i] == w:
            if placed == free:
                break
            warm(pool.arena, pool.address[slot, i], i64(pool.captured[slot, i]))
            place(rings, wires, w, placed, pool.address[slot, i], i64(pool.captured[slot, i]))
            choice[i] = SENT
            placed += 1
        i += 1
    if placed:
        publish(rings, wires, w, pool.meta[slot * SLOT_WORDS + HOME], placed)
    return i


@inline
def put(pool, rings, wires, w, slot, sending, choice, scratch):
    """Send a chunk's packets for one wire; those that found no room within PATIENCE_NS are UNSENT."""
    b = w * WIRE_WORDS
    kept = pool.meta[slot * SLOT_WORDS + KEPT]
    acquire(wires, w, scratch)
    collect(pool, rings, wires, w)
    if in_transmission(wires, w) * 2 <= wires.words[b + TX_MASK] + 1:
        wires.words[b + PATIENT] = 1
    at = 0
    deadline = 0
    while True:
        at = fill(pool, rings, wires, w, slot, at, choice)
        drive(pool, rings, wires, w)
        if at == kept:
            break
        if room(wires, w):
            continue
        now = monotonic_ns(scratch)
        if deadline == 0:
            deadline = now + sending[PATIENCE_NS]
        if now >= deadline or wires.words[b + PATIENT] == 0:
            wires.words[b + PATIENT] = 0
            break
        sleep_ns(PAUSE_NS, scratch)
    for i in range(at, kept):
        if choice[i] == w:
            choice[i] = UNSENT
            wires.counts[w, pool.meta[slot * SLOT_WORDS + HOME], FULL] += 1
    give_up(wires, w)


@inline
def in_order(pool, wires, slot, home):
    """False when a chunk that was captured later has been sent before this one."""
    sequence = load(pool.meta, slot * SLOT_WORDS + STATE) >> 2
    while True:
        ahead = load(wires.order, home)
        if sequence < ahead:
            return False
        if compare_swap(wires.order, home, ahead, sequence + 1):
            return True


@inline
def send(pool, rings, wires, consumer, slot, sending, choice, wanted, scratch):
    """Send a chunk's packets and recycle it, with the cells that were not sent."""
    m = slot * SLOT_WORDS
    home, kept, count = pool.meta[m + HOME], pool.meta[m + KEPT], pool.meta[m + COUNT]
    left = 0
    if kept:
        choose(pool, wires, consumer, slot, sending, choice, wanted)
        late = not in_order(pool, wires, slot, home)
        for w in range(wanted.size):
            if wanted[w]:
                put(pool, rings, wires, w, slot, sending, choice, scratch)
        for i in range(kept):
            if choice[i] == UNSENT:
                pool.address[slot, left] = pool.address[slot, i]
                left += 1
        if late:
            wires.tallies[consumer, home, REORDERED] += kept - left
    for i in range(kept, count):
        pool.address[slot, left] = pool.address[slot, i]
        left += 1
    pool.meta[m + COUNT] = left
    recycle(pool, slot, load(pool.meta, m + STATE) >> 2)


@inline
def tend(pool, rings, wires):
    """Look after cells in transmission while there is nothing else to do; True while there are any."""
    busy = False
    for w in range(wires.counts.shape[0]):
        if in_transmission(wires, w) and try_acquire(wires, w):
            drive(pool, rings, wires, w)
            give_up(wires, w)
            busy = busy or in_transmission(wires, w) > 0
    return busy


@inline
def forward_chunk(
    pool, rings, wires, consumer, slot, select, select_state, chain, states, settings, sending, choice, wanted, failure,
    scratch,
):  # fmt: skip
    """Filter a chunk, run the row of handlers over it, send it; True when a handler failed and that ends the run."""
    kept = admit(pool, consumer, slot, select, select_state)
    if run_chain(pool, slot, kept, chain, states, settings, failure):
        return True
    send(pool, rings, wires, consumer, slot, sending, choice, wanted, scratch)
    return False


@kernel(i64(POOL, RINGS, WIRES, i64, PROCESS, words, CHAIN, table, words, words, words, words, words, words))
def forward_loop(
    pool, rings, wires, consumer, select, select_state, chain, states, settings, sending, choice, wanted, failure,
    scratch,
):  # fmt: skip
    """``handler_loop`` of a thread that sends what the handlers leave; 0 when the engine closed, 1 on a failure.

    sending: int64 (4,): QUEUE_BY, OUTPUT_BY, PATIENCE_NS, NEXT.  choice: scratch int64 (M,); wanted: scratch
    int64 (W,).  The others are handler_loop's.
    """
    busy = False
    while True:
        slot = next_slot(pool, consumer, TENDING_NS if busy else WAIT_NS, scratch)
        if slot == CLOSED:
            return 0
        if slot == TIMED_OUT:
            busy = tend(pool, rings, wires)
            continue
        busy = True
        if forward_chunk(
            pool, rings, wires, consumer, slot, select, select_state, chain, states, settings, sending, choice, wanted,
            failure, scratch,
        ):  # fmt: skip
            return 1


@kernel(types.void(POOL, RINGS, WIRES, i64, i64, words, words, words, words))
def send_on(pool, rings, wires, consumer, slot, sending, choice, wanted, scratch):
    """``send`` for handlers in Python."""
    send(pool, rings, wires, consumer, slot, sending, choice, wanted, scratch)


@kernel(types.boolean(POOL, RINGS, WIRES))
def tend_wires(pool, rings, wires):
    """``tend`` for callers in Python."""
    return tend(pool, rings, wires)
