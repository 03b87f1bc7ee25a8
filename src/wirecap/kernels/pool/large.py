"""Large-packet memory: where a packet that the kernel put into several cells lies in one piece.

Each home queue has a stretch of it, beside its cells: a table, then units of a cell's size.  A packet takes a run of
units, and lies in it as in a cell, behind the headroom.  Runs are handed out in order, around the stretch, and become
free in any order; the oldest free ones are reused.  Only the home capture thread does either.

The table has two words per unit, at LARGE_TABLE in the arena: the first says in which unit the run begins.  For that
one the second has the run's length in units, how many of its pieces are in transmission, and whether it is free.
"""

from __future__ import annotations

from wirecap.kernels.base.jit import inline
from wirecap.kernels.base.unaligned import load64, store64

# words of a home queue in Pool.queues, at their end
LARGE_TABLE, LARGE_FIRST, LARGE_UNITS, UNIT_BYTES = range(56, 60)  # bytes of the arena where both begin; the units
LARGE_HEAD, LARGE_TAIL = 60, 61  # units handed out so far, and come back
MORE_CELLS = 62  # cells of the packets so far, minus the packets; numbers that were left out count as cells

HEADROOM_BYTES = 256  # XDP_PACKET_HEADROOM
HASH_BYTES = 8  # in front of a packet, if anywhere: the NIC's hash and its kind (linux/metadata.py)
TABLE_BYTES = 16  # per unit
LONGEST = 73_472
"""The longest packet, in bytes.  It takes 36 cells of 2 KiB.  A veth takes none that is longer (17 pages behind the
first bytes), and offloads merge up to 64 KiB."""

_FREE, _LENGTH = 1, 1 << 16  # parts of a run's word; between them its pieces in transmission, times 2


def stretch_bytes(unit: int, wanted: int) -> tuple[int, int]:
    """(bytes, units) of a queue's stretch that holds ``wanted`` bytes of packets, and some of the longest at least."""
    units = max(-(-wanted // unit), 4 * -(-(HEADROOM_BYTES + LONGEST) // unit))
    table = -(-units * TABLE_BYTES // unit)
    return (table + units) * unit, units


@inline
def allocate(arena, queues, q, size):
    """Where a packet of ``size`` bytes is to lie, or -1 while there is no room."""
    table, units = queues[q + LARGE_TABLE], queues[q + LARGE_UNITS]
    head, tail = queues[q + LARGE_HEAD], queues[q + LARGE_TAIL]
    while tail < head:
        word = load64(arena, table + (tail % units) * TABLE_BYTES + 8)
        if not word & _FREE:
            break
        tail += word // _LENGTH
    if tail == head:
        head = tail = 0
    queues[q + LARGE_HEAD], queues[q + LARGE_TAIL] = head, tail
    wanted = (HEADROOM_BYTES + size + queues[q + UNIT_BYTES] - 1) // queues[q + UNIT_BYTES]
    at = head % units
    skipped = units - at if at + wanted > units else 0
    if head + skipped + wanted - tail > units:
        return -1
    if skipped:
        store64(arena, table + at * TABLE_BYTES + 8, skipped * _LENGTH + _FREE)
        at = 0
    for unit in range(at, at + wanted):
        store64(arena, table + unit * TABLE_BYTES, at)
    store64(arena, table + at * TABLE_BYTES + 8, wanted * _LENGTH)
    queues[q + LARGE_HEAD] = head + skipped + wanted
    return queues[q + LARGE_FIRST] + at * queues[q + UNIT_BYTES] + HEADROOM_BYTES


@inline
def is_large(queues, q, address):
    """Whether an address of a queue's packets is in large-packet memory."""
    first = queues[q + LARGE_FIRST]
    return address >= first and address < first + queues[q + LARGE_UNITS] * queues[q + UNIT_BYTES]


@inline
def run_of(arena, queues, q, address):
    """Where in the arena the word of the run is that an address lies in."""
    table = queues[q + LARGE_TABLE]
    unit = (address - queues[q + LARGE_FIRST]) // queues[q + UNIT_BYTES]
    return table + load64(arena, table + unit * TABLE_BYTES) * TABLE_BYTES + 8


@inline
def free(arena, queues, q, address):
    """A packet's memory is free."""
    at = run_of(arena, queues, q, address)
    store64(arena, at, load64(arena, at) | _FREE)


@inline
def send_pieces(arena, queues, q, address, pieces):
    """A packet goes onto a wire, in so many pieces.  For the thread that has its chunk."""
    at = run_of(arena, queues, q, address)
    store64(arena, at, load64(arena, at) + 2 * pieces)


@inline
def free_piece(arena, queues, q, address):
    """A piece was sent: the last one frees the packet's memory."""
    at = run_of(arena, queues, q, address)
    word = load64(arena, at) - 2
    store64(arena, at, word if word % _LENGTH else word | _FREE)
