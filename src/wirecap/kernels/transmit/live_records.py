"""Lay packets out for the program that fills live frames (traffic/live_frames.py): records in a ring of bytes.

A record is its length (uint32), where the next one begins (uint32), when it is due (int64, ns after the start), and
the packet's bytes; it begins at a multiple of 8 and never wraps around: a record of
length 0 says that the next one lies elsewhere.
"""

from __future__ import annotations

from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, i64, words
from wirecap.kernels.base.unaligned import store32, store64
from wirecap.kernels.transmit.frames import FRAMES, copy_frame

HEAD_BYTES = 16

# words of ``pack``: bytes laid out and bytes given back since the start
HEAD, TAIL = range(2)
PACK_WORDS = 2


@inline
def header(ring, at, length, following, due):
    store32(ring, at, length)
    store32(ring, at + 4, following)
    store64(ring, at + 8, due)


@kernel(i64(byte_array, i64, FRAMES, i64, i64, words, i64, byte_array))
def pack(ring, size, frames, first, n, state, which, addresses):
    """Lay out packets first to n-1 of a batch as long as there is room; the number of the next one.

    ring: uint8, of which ``size`` bytes (a power of two) are used; state: int64 (PACK_WORDS,); which, addresses: the
    Ethernet addresses to put in (kernels/transmit/frames.py).
    """
    for i in range(first, n):
        count = i64(frames.length[i])
        need = (HEAD_BYTES + count + 7) & ~7
        at = state[HEAD] & (size - 1)
        skipped = size - at if at + need + HEAD_BYTES > size else 0
        if state[HEAD] + skipped + need - state[TAIL] > size - HEAD_BYTES:
            return i
        if skipped:
            header(ring, at, 0, 0, 0)
            at = 0
        header(ring, at, count, at + need, frames.due[i])
        copy_frame(ring, at + HEAD_BYTES, frames.arena, frames.address[i], count, which, addresses, 0)
        state[HEAD] += skipped + need
    return n
