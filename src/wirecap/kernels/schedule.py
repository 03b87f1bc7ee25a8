"""Which packets of a file are sent, and when: rows are compacted in place, times are ns after the start."""

from __future__ import annotations

from numba import float64, types

from wirecap.kernels.jit import i64, inline, kernel, lengths, octets, words
from wirecap.kernels.unaligned import load16, swap16

# counts of ``admit``
TOO_LONG, TOO_SHORT, CUT = range(3)
COUNTS = 4

# words of ``schedule``
MODE, PACKETS, BITS, ORIGIN_NS, OFFSET_NS, LAST_NS, RATE, BURST, EXTRA_BITS, MOST_GAP_NS, PAUSED_NS, PER = range(12)
SCHEDULE_WORDS = 12
RECORDED, AT_PPS, AT_BPS, TOPSPEED = range(4)
NO_ORIGIN = -(1 << 63)

_ETHERNET_BYTES = 14
_SECOND = 1_000_000_000
_EXACT = 9_000_000_000  # times _SECOND it still fits int64


@inline
def tag_bytes(arena, start):
    """A VLAN tag does not count against the MTU (IEEE 802.3, envelope frames)."""
    kind = swap16(load16(arena, start + 12))
    return 4 if kind == 0x8100 or kind == 0x88A8 else 0


@kernel(i64(octets, words, lengths, lengths, words, i64, i64, words))
def admit(arena, address, captured, original, stamp, n, mtu, counts):
    """Keep the packets that an interface of this MTU can send; how many they are.

    The rows (address int64, captured and original uint32, stamp int64 ns) are compacted; counts: int64 (COUNTS,),
    what was left out by reason, and CUT: packets that are kept, of which the file has not all bytes.
    """
    kept = 0
    for i in range(n):
        length = i64(captured[i])
        if length < _ETHERNET_BYTES:
            counts[TOO_SHORT] += 1
            continue
        if length - _ETHERNET_BYTES > mtu and length - _ETHERNET_BYTES - tag_bytes(arena, address[i]) > mtu:
            counts[TOO_LONG] += 1
            continue
        counts[CUT] += length < i64(original[i])
        address[kept], captured[kept], original[kept], stamp[kept] = address[i], captured[i], original[i], stamp[i]
        kept += 1
    return kept


@inline
def parts(amount, per_second):
    """amount / per_second in whole ns; exact below 9 G a second, to the nearest ns above."""
    whole, rest = amount // per_second * _SECOND, amount % per_second
    if per_second <= _EXACT:
        return whole + rest * _SECOND // per_second
    return whole + i64(float64(rest) / float64(per_second) * 1e9 + 0.5)


@inline
def gap_bound(due, state):
    """Shorten the gap before this packet to MOST_GAP_NS, for it and for all after it."""
    if state[MOST_GAP_NS] > 0 and due - state[LAST_NS] > state[MOST_GAP_NS]:
        state[OFFSET_NS] -= due - state[LAST_NS] - state[MOST_GAP_NS]
        return state[LAST_NS] + state[MOST_GAP_NS]
    return due


@kernel(types.void(words, lengths, i64, words, float64, words))
def schedule(stamp, length, n, state, speed, due):
    """due[i]: when packet i is to be sent, int64 ns after the start; never before the packet ahead of it.

    stamp: int64 (n,) ns; length: uint32 (n,) bytes; state: int64 (SCHEDULE_WORDS,), goes on from batch to batch.
    RECORDED: as the stamps tell, ``speed`` times as fast, the first at OFFSET_NS.  AT_PPS: RATE packets in PER seconds,
    AT_BPS: RATE bits a second, BURST packets at once, all PAUSED_NS later; a packet counts EXTRA_BITS more than its own
    bits.
    """
    mode, rate = state[MODE], state[RATE]
    for i in range(n):
        if mode == RECORDED:
            if state[ORIGIN_NS] == NO_ORIGIN:
                state[ORIGIN_NS] = stamp[i]
            passed = stamp[i] - state[ORIGIN_NS]
            if speed != 1.0:
                passed = i64(passed / speed)
            moment = gap_bound(state[OFFSET_NS] + passed, state)
        elif mode == AT_PPS:
            moment = state[PAUSED_NS] + parts(state[PACKETS] // state[BURST] * state[BURST] * state[PER], rate)
        elif mode == AT_BPS:
            if state[PACKETS] % state[BURST] == 0:
                state[OFFSET_NS] = parts(state[BITS], rate)
            moment = state[PAUSED_NS] + state[OFFSET_NS]
        else:
            moment = 0
        state[PACKETS] += 1
        state[BITS] += i64(length[i]) * 8 + state[EXTRA_BITS]
        state[LAST_NS] = max(state[LAST_NS], moment)
        due[i] = state[LAST_NS]
