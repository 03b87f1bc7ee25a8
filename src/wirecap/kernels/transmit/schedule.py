"""Which packets are sent, and when, of a file or of queues with rates: times are ns after the start."""

from __future__ import annotations

import math

from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, f64, fractions, i64, lengths, none, words
from wirecap.kernels.base.unaligned import load16, swap16
from wirecap.kernels.transmit.frames import FRAMES

# counts of ``admit``
TOO_LONG, TOO_SHORT, CUT = range(3)
COUNTS = 4

# words of ``schedule``
MODE, PACKETS, BITS, ORIGIN_NS, OFFSET_NS, LAST_NS, RATE, BURST, EXTRA_BITS, MOST_GAP_NS, PAUSED_NS, PER = range(12)
SCHEDULE_WORDS = 12
RECORDED, AT_PPS, AT_BPS, TOPSPEED = range(4)
NO_ORIGIN = -(1 << 63)

_SECOND = 1_000_000_000
_EXACT = 9_000_000_000  # times _SECOND it still fits int64


@inline
def tag_bytes(arena, start):
    """A VLAN tag does not count against the MTU (IEEE 802.3, envelope frames)."""
    kind = swap16(load16(arena, start + 12))
    return 4 if kind == 0x8100 or kind == 0x88A8 else 0


@kernel(i64(byte_array, words, lengths, lengths, words, words, i64, words, i64, words))
def admit(arena, address, captured, original, timestamp, queue, n, mtu, header, counts):
    """Keep the packets that their interface can send; how many they are.

    The rows (address int64, captured and original uint32, timestamp int64 ns, queue int64) are compacted; mtu: int64
    bytes, of each queue's interface; header: bytes of its link layer, 14 for Ethernet; counts: int64 (COUNTS,), what
    was left out by reason, and CUT: packets that are kept, of which the file has not all bytes.
    """
    kept = 0
    for i in range(n):
        length, most = i64(captured[i]), mtu[queue[i]] + header
        if length < max(header, 1):
            counts[TOO_SHORT] += 1
            continue
        if length > most and not (header and length <= most + tag_bytes(arena, address[i])):
            counts[TOO_LONG] += 1
            continue
        counts[CUT] += length < i64(original[i])
        address[kept], captured[kept], original[kept] = address[i], captured[i], original[i]
        timestamp[kept], queue[kept] = timestamp[i], queue[i]
        kept += 1
    return kept


@inline
def parts(amount, per_second):
    """amount / per_second in whole ns; exact below 9 G a second, to the nearest ns above."""
    whole, rest = amount // per_second * _SECOND, amount % per_second
    if per_second <= _EXACT:
        return whole + rest * _SECOND // per_second
    return whole + i64(f64(rest) / f64(per_second) * 1e9 + 0.5)


@inline
def gap_bound(due, state):
    """Shorten the gap before this packet to MOST_GAP_NS, for it and for all after it."""
    if state[MOST_GAP_NS] > 0 and due - state[LAST_NS] > state[MOST_GAP_NS]:
        state[OFFSET_NS] -= due - state[LAST_NS] - state[MOST_GAP_NS]
        return state[LAST_NS] + state[MOST_GAP_NS]
    return due


@kernel(none(words, lengths, i64, words, f64, words))
def schedule(timestamp, length, n, state, speed, due):
    """due[i]: when packet i is to be sent, int64 ns after the start; never before the packet ahead of it.

    timestamp: int64 (n,) ns; length: uint32 (n,) bytes; state: int64 (SCHEDULE_WORDS,), goes on from batch to batch.
    RECORDED: as the timestamps tell, ``speed`` times as fast, the first at OFFSET_NS.  AT_PPS: RATE packets in PER s,
    AT_BPS: RATE bits a second, BURST packets at once, all PAUSED_NS later; a packet counts EXTRA_BITS more than its own
    bits.
    """
    mode, rate = state[MODE], state[RATE]
    for i in range(n):
        if mode == RECORDED:
            if state[ORIGIN_NS] == NO_ORIGIN:
                state[ORIGIN_NS] = timestamp[i]
            passed = timestamp[i] - state[ORIGIN_NS]
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


@inline
def tick_of(number, per_tick):
    """The first tick that is not before frame ``number`` of a queue."""
    return i64(math.ceil(number / per_tick))


@inline
def next_tick(goal, done, per_tick):
    """The first tick at which a queue has a frame left; -1 where none has."""
    first = -1
    for q in range(goal.size):
        if done[q] < goal[q]:
            tick = tick_of(done[q], per_tick[q])
            if first < 0 or tick < first:
                first = tick
    return first


@kernel(i64(words, words, fractions, i64, lengths, i64, FRAMES))
def schedule_queues(goal, done, per_tick, tick_ns, length, stride, frames):
    """Fill ``frames`` with those that come next of all queues; how many there are, 0 when all were scheduled.

    goal, done: int64 (Q,), frames of each queue, in all and scheduled so far; per_tick: float64 (Q,), frames that it
    sends in tick_ns.  Frame k of a queue is due at the first tick that is not before k / per_tick.  Its packet is row q
    of the arena, where rows are ``stride`` bytes apart; length: uint32 (Q,) bytes.
    """
    n = 0
    while n < frames.queue.size:
        tick = next_tick(goal, done, per_tick)
        if tick < 0:
            break
        for q in range(goal.size):
            while done[q] < goal[q] and tick_of(done[q], per_tick[q]) <= tick and n < frames.queue.size:
                frames.address[n], frames.length[n] = q * stride, length[q]
                frames.due[n], frames.queue[n] = tick * tick_ns, q
                done[q] += 1
                n += 1
    return n
