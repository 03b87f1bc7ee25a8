"""A handler thread that sends: its chunks go from the handlers onto wires, the cells that were not sent go home.

A handler drops a packet by making its captured length 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from wirecap.kernels.base.atomics import compare_swap, load, prefetch
from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import boolean, i64, none, record, words
from wirecap.kernels.base.libc import monotonic_ns
from wirecap.kernels.forward.checksum import finish_all
from wirecap.kernels.forward.route import FINISHED, PATIENCE_NS, REORDERED, UNSENT, choose_wires
from wirecap.kernels.forward.wires import (
    CELL,
    LARGE_AT,
    PATIENT,
    WIRES,
    acquire,
    drive,
    give_up,
    take_home,
    try_acquire,
)
from wirecap.kernels.pool.handler_loop import (
    CLOSED,
    INTAKE,
    TIMED_OUT,
    WAIT_NS,
    WORK,
    admit,
    run_chain,
    take,
)
from wirecap.kernels.pool.large import send_pieces
from wirecap.kernels.pool.pool import COUNT, HOME, KEPT, POOL, QUEUE_WORDS, RINGS, SLOT_WORDS, STATE, recycle
from wirecap.kernels.transmit.ring import FULL, TX_MASK, TX_WORDS, describe, in_transmission, reserve, rest, submit
from wirecap.kernels.xdp.rings import CONTINUED

SENT = -1  # what a packet's choice is when it is on its wire

LINE_BYTES = 64  # of the cache
TENDING_NS = 200_000


class Outlet(NamedTuple):
    """Where a handler thread sends its chunks, and how it chooses."""

    wires: Any  # Wires
    sending: Any  # int64 (4,): QUEUE_BY, OUTPUT_BY, PATIENCE_NS, NEXT
    choice: Any  # int64 (M,): scratch
    wanted: Any  # int64 (W,): scratch


OUTLET = record(Outlet, WIRES, words, words, words)


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
    free = reserve(wires, w, wires.words[w * TX_WORDS + TX_MASK] + 1)
    placed = frames = 0
    i = begin
    while i < kept:
        if choice[i] == w:
            pieces = pieces_of(pool, wires, w, slot, i)
            if placed + pieces > free:
                break
            warm(pool.arena, pool.address[slot, i], i64(pool.captured[slot, i]))
            if pieces == 1 and pool.address[slot, i] < wires.words[w * TX_WORDS + LARGE_AT]:
                describe(rings, wires, w, placed, pool.address[slot, i], i64(pool.captured[slot, i]))
            else:
                describe_large(pool, rings, wires, w, placed, slot, i, pieces)
            choice[i] = SENT
            placed += pieces
            frames += 1
        i += 1
    if placed:
        submit(rings, wires, w, pool.meta[slot * SLOT_WORDS + HOME], placed, frames)
    return i


@inline
def pieces_of(pool, wires, w, slot, i):
    """How many descriptors a packet takes: the kernel takes none that reaches into another cell."""
    cell = wires.words[w * TX_WORDS + CELL]
    end = (pool.address[slot, i] & (cell - 1)) + i64(pool.captured[slot, i])
    return 1 if end <= cell else (end + cell - 1) // cell


@inline
def describe_large(pool, rings, wires, w, number, slot, i, pieces):
    """Write the descriptors of a packet that lies in several cells' room, piece by piece."""
    cell = wires.words[w * TX_WORDS + CELL]
    address, left = pool.address[slot, i], i64(pool.captured[slot, i])
    q = pool.meta[slot * SLOT_WORDS + HOME] * QUEUE_WORDS
    send_pieces(pool.arena, pool.queues, q, address, pieces)
    for piece in range(pieces):
        part = min(left, cell - (address & (cell - 1)))
        left -= part
        describe(rings, wires, w, number + piece, address, part | (CONTINUED if left else 0))
        address += part


@inline
def put(pool, rings, wires, w, slot, sending, choice, scratch):
    """Send a chunk's packets for one wire; those that found no room within PATIENCE_NS are UNSENT."""
    b = w * TX_WORDS
    kept = pool.meta[slot * SLOT_WORDS + KEPT]
    acquire(wires, w, scratch)
    take_home(pool, rings, wires, w, 0)
    if in_transmission(wires, w) * 2 <= wires.words[b + TX_MASK] + 1:
        wires.words[b + PATIENT] = 1
    at = 0
    deadline = 0
    while True:
        at = fill(pool, rings, wires, w, slot, at, choice)
        drive(pool, rings, wires, w)
        if at == kept:
            break
        needed = pieces_of(pool, wires, w, slot, at)
        if reserve(wires, w, needed) == needed:
            continue
        if deadline == 0:
            deadline = monotonic_ns(scratch) + sending[PATIENCE_NS] * wires.words[b + PATIENT]
        if not rest(deadline, scratch):
            wires.words[b + PATIENT] = 0
            break
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
def send(pool, rings, consumer, slot, outlet, scratch):
    """Send a chunk's packets and recycle it, with the cells that were not sent."""
    wires, choice, wanted = outlet.wires, outlet.choice, outlet.wanted
    m = slot * SLOT_WORDS
    home, kept, count = pool.meta[m + HOME], pool.meta[m + KEPT], pool.meta[m + COUNT]
    left = 0
    if kept:
        choose_wires(pool, wires, consumer, slot, outlet.sending, choice, wanted)
        late = not in_order(pool, wires, slot, home)
        for w in range(wanted.size):
            if wanted[w]:
                put(pool, rings, wires, w, slot, outlet.sending, choice, scratch)
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
def finish_checksums(pool, consumer, slot, wires):
    """Before the handlers, which may have to update a checksum, finish those that a local stack left to its device."""
    home = pool.meta[slot * SLOT_WORDS + HOME]
    if wires.routes[home, 3]:
        kept = pool.meta[slot * SLOT_WORDS + KEPT]
        wires.tallies[consumer, home, FINISHED] += finish_all(pool.arena, pool.address[slot], pool.captured[slot], kept)


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


@kernel(i64(POOL, RINGS, i64, WORK, INTAKE, OUTLET, words))
def forward_loop(pool, rings, consumer, work, intake, outlet, scratch):
    """``handler_loop`` of a thread that sends what the handlers leave; 0 when the engine closed, 1 on a failure."""
    busy = False
    while True:
        slot = take(pool, consumer, intake, TENDING_NS if busy else WAIT_NS, scratch)
        if slot == CLOSED:
            return 0
        if slot == TIMED_OUT:
            busy = tend(pool, rings, outlet.wires)
            continue
        busy = True
        kept = admit(pool, consumer, slot, work.select, work.filters)
        finish_checksums(pool, consumer, slot, outlet.wires)
        if run_chain(pool, slot, kept, work):
            return 1
        send(pool, rings, consumer, slot, outlet, scratch)


@kernel(none(POOL, RINGS, i64, i64, OUTLET, words))
def send_on(pool, rings, consumer, slot, outlet, scratch):
    """``send`` for handlers in Python."""
    send(pool, rings, consumer, slot, outlet, scratch)


@kernel(none(POOL, i64, i64, WIRES))
def finish_chunk(pool, consumer, slot, wires):
    """``finish_checksums`` for handlers in Python."""
    finish_checksums(pool, consumer, slot, wires)


@kernel(boolean(POOL, RINGS, WIRES))
def tend_wires(pool, rings, wires):
    """``tend`` for callers in Python."""
    return tend(pool, rings, wires)
