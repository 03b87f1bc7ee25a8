"""Lay packets out for the program that fills live frames (traffic/live_program.py): records in a ring of octets.

A record is its length (uint32), where the next one begins (uint32), when it is due (int64, ns after the start), and
the packet's octets; it begins at a multiple of 8 and never wraps around: a record of
length 0 says that the next one lies elsewhere.
"""

from __future__ import annotations

from wirecap.kernels.jit import i64, inline, kernel, lengths, octets, words
from wirecap.kernels.pacing import REWRITE
from wirecap.kernels.send import rewrite
from wirecap.kernels.unaligned import copy, store32, store64

HEAD_BYTES = 16

# words of ``pack``: octets laid out and octets given back since the start
HEAD, TAIL = range(2)
PACK_WORDS = 2


@inline
def header(ring, at, length, following, due):
    store32(ring, at, length)
    store32(ring, at + 4, following)
    store64(ring, at + 8, due)


@kernel(i64(octets, i64, octets, words, lengths, words, i64, i64, words, words, octets))
def pack(ring, size, arena, address, length, due, first, n, state, control, addresses):
    """Lay out packets first to n-1 of a batch as long as there is room; the number of the next one.

    ring: uint8, of which ``size`` octets (a power of two) are used; arena, address, length, due: a batch's
    (kernels/send.py); state: int64 (PACK_WORDS,); control[REWRITE], addresses: Ethernet addresses to put in.
    """
    for i in range(first, n):
        count = i64(length[i])
        need = (HEAD_BYTES + count + 7) & ~7
        at = state[HEAD] & (size - 1)
        skipped = size - at if at + need + HEAD_BYTES > size else 0
        if state[HEAD] + skipped + need - state[TAIL] > size - HEAD_BYTES:
            return i
        if skipped:
            header(ring, at, 0, 0, 0)
            at = 0
        header(ring, at, count, at + need, due[i])
        copy(ring, at + HEAD_BYTES, arena, address[i], count)
        rewrite(ring, at + HEAD_BYTES, addresses, control[REWRITE])
        state[HEAD] += skipped + need
    return n
