"""Takes out of packet blocks, as ``put_packet`` made them, those that a filter wants: they are copied whole."""

from __future__ import annotations

import numpy as np

from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, i64, lengths, none, words
from wirecap.kernels.base.unaligned import copy, field32
from wirecap.kernels.file import read as at
from wirecap.kernels.file.read import block_of, scan
from wirecap.kernels.file.write import FLAGS_BYTES
from wirecap.kernels.pool.handler_loop import process_at, state_of


def scan_state(interfaces: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """What ``scan`` is to know of blocks of so many interfaces; int64 (STATE_WORDS,)."""
    state = np.zeros(at.STATE_WORDS, np.int64)
    state[at.FORMAT], state[at.FINAL], state[at.KNOWN] = at.PCAPNG, 1, interfaces
    state[at.LONGEST_BLOCK] = 1 << 31
    return state


@inline
def mark(written, address, captured, n):
    """Put each packet's epb_flags into the byte before it, where filters look for them: the highest of its length."""
    for i in range(n):
        start, total, _ = block_of(written, address[i], np.int64(captured[i]), 0)
        written[address[i] - 1] = np.uint8(field32(written, start + total - FLAGS_BYTES, 0) & 0xFF)


@inline
def unmark(written, address, n):
    for i in range(n):
        written[address[i] - 1] = 0


@kernel(
    i64(byte_array, i64, words, words, words, lengths, lengths, words, i64, words, i64, byte_array, words)
)  # fmt: skip
def sift(
    written, end, state, interfaces, address, captured, original, timestamp, select, filters, marked, out, counts
):  # fmt: skip
    """Copy the blocks in written[:end] whose packets the filter accepts to ``out``, in order; returns their bytes.

    written, out: uint8, out at least end bytes.  state: of ``scan_state``; interfaces: int64, words of each (files/
    headers.py).  The rows: scratch of equal length.  select, filters: the filter's address and its states
    (``by_interface``).  marked: 1 if the blocks have epb_flags that the filter asks for.  counts: int64 (interfaces,),
    grows by the packets accepted.
    """
    state[at.POSITION], state[at.END], state[at.STOP] = 0, end, 0
    position = 0
    while True:
        n = scan(written, state, interfaces, address, captured, original, timestamp, address.size)
        if n == 0:
            return position
        if marked:
            mark(written, address, captured, n)
        first, last = state_of(filters, state[at.INTERFACE])
        kept = process_at(select, written, address, captured, original, timestamp, n, filters[first:last])
        if marked:
            unmark(written, address, n)
        for i in range(kept):
            start, total, _ = block_of(written, address[i], np.int64(captured[i]), 0)
            copy(out, position, written, start, total)
            position += total
        counts[state[at.INTERFACE]] += kept


@kernel(none(byte_array, i64, words))
def count_interfaces(written, end, counts):
    """Add to counts, int64 (interfaces,), the packets of each interface in written[:end], enhanced packet blocks."""
    position = 0
    while position + 12 <= end:
        counts[field32(written, position + 8, 0)] += 1
        position += field32(written, position + 4, 0)
