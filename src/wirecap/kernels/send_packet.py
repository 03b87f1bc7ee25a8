"""Send a batch of packets through an AF_PACKET transmit ring: copied into slots, at their times, in order.

A slot's status says whose it is (linux/if_packet.h): the kernel sets it free when it is done with the frame, which
is what counts as completed.
"""

from __future__ import annotations

from numba import types

from wirecap.kernels.atomics import load, store
from wirecap.kernels.jit import i64, inline, kernel, lengths, octets, words
from wirecap.kernels.libc import monotonic_ns
from wirecap.kernels.pacing import (
    LAST_NS,
    LATEST_NS,
    PACED,
    POSITION,
    REWRITE,
    START_NS,
    STOP,
    UNTIL_NS,
    sleep_until,
    wait_until,
)
from wirecap.kernels.send import NAP_NS, rewrite
from wirecap.kernels.transmit import BURST, DONE, UNFINISHED, kick
from wirecap.kernels.unaligned import copy

# words of a ring
SOCKET, SLOTS, SLOT_BYTES, HEADER, SUBMITTED, COMPLETED, PENDING, REFUSED = range(8)  # REFUSED: not in the two before
RING_WORDS = 8

AVAILABLE, SEND_REQUEST, SENDING, WRONG_FORMAT = 0, 1, 2, 4  # TP_STATUS_*


@inline
def status_of(halves, ring, number):
    return i64(load(halves, (number % ring[SLOTS]) * ring[SLOT_BYTES] // 4))


@inline
def close_gap(halves, slots, ring):
    """Move what is behind the oldest slot one slot forward: the kernel refused that one and waits there for another.

    Nothing behind it was looked at yet (tpacket_snd, net/packet/af_packet.c): it is pending again.
    """
    for number in range(ring[COMPLETED] + 1, ring[SUBMITTED]):
        at = (number % ring[SLOTS]) * ring[SLOT_BYTES]
        to = ((number - 1) % ring[SLOTS]) * ring[SLOT_BYTES]
        length = halves[at // 4 + 1]
        copy(slots, to + ring[HEADER], slots, at + ring[HEADER], i64(length))
        halves[to // 4 + 1] = length
        store(halves, to // 4, types.uint32(SEND_REQUEST))
    ring[SUBMITTED] -= 1
    store(halves, (ring[SUBMITTED] % ring[SLOTS]) * ring[SLOT_BYTES] // 4, types.uint32(AVAILABLE))
    ring[REFUSED] += 1
    ring[PENDING] = ring[SUBMITTED] - ring[COMPLETED]


@inline
def settle(halves, slots, ring):
    """Count the slots that the kernel is done with; what it refused is counted apart."""
    while ring[COMPLETED] < ring[SUBMITTED]:
        status = status_of(halves, ring, ring[COMPLETED])
        if status & WRONG_FORMAT:
            close_gap(halves, slots, ring)
            return
        if status & (SEND_REQUEST | SENDING):
            return
        ring[COMPLETED] += 1


@inline
def publish(halves, slots, ring):
    """Let the kernel send what is pending, also what is behind a packet that it refuses."""
    again = True
    while again:
        ring[PENDING] = 0
        kick(ring[SOCKET])
        settle(halves, slots, ring)
        again = ring[PENDING] > 0


@inline
def publish_rest(halves, slots, ring, control, scratch):
    """``publish`` where something is pending; LAST_NS is when that was."""
    if ring[PENDING] > 0:
        publish(halves, slots, ring)
        control[LAST_NS] = monotonic_ns(scratch)


@inline
def room(halves, slots, ring, control, scratch):
    """Wait for a free slot; False at UNTIL_NS or STOP."""
    while ring[SUBMITTED] - ring[COMPLETED] == ring[SLOTS]:
        publish(halves, slots, ring)
        if ring[SUBMITTED] - ring[COMPLETED] < ring[SLOTS]:
            break
        now = monotonic_ns(scratch)
        if now >= control[UNTIL_NS] or load(control, STOP):
            return False
        sleep_until(now + NAP_NS, scratch)
    return True


@inline
def put(halves, slots, ring, arena, start, length, control, addresses):
    """Copy a packet into the next slot and give that to the kernel."""
    at = (ring[SUBMITTED] % ring[SLOTS]) * ring[SLOT_BYTES]
    copy(slots, at + ring[HEADER], arena, start, length)
    rewrite(slots, at + ring[HEADER], addresses, control[REWRITE])
    halves[at // 4 + 1] = types.uint32(length)
    store(halves, at // 4, types.uint32(SEND_REQUEST))
    ring[SUBMITTED] += 1
    ring[PENDING] += 1


@kernel(i64(lengths, octets, words, octets, words, lengths, words, i64, words, octets, words))
def send_packet(halves, slots, ring, arena, address, length, due, n, control, addresses, scratch):
    """Send packets control[POSITION] to n-1 of a batch: DONE, or UNFINISHED at UNTIL_NS or STOP.

    halves, slots: the mapped ring as uint32 and as uint8; ring: int64 (RING_WORDS,); all else as kernels/send.py's.
    """
    i = control[POSITION]
    now = monotonic_ns(scratch)
    while i < n:
        if control[PACED]:
            moment = control[START_NS] + due[i]
            if now < moment:
                publish_rest(halves, slots, ring, control, scratch)
                if not wait_until(moment, control, scratch):
                    break
                now = monotonic_ns(scratch)
            control[LATEST_NS] = max(control[LATEST_NS], now - moment)
        if not room(halves, slots, ring, control, scratch):
            break
        put(halves, slots, ring, arena, address[i], i64(length[i]), control, addresses)
        i += 1
        if ring[PENDING] == BURST:
            publish(halves, slots, ring)
            now = control[LAST_NS] = monotonic_ns(scratch)
            if now >= control[UNTIL_NS] or load(control, STOP):
                break
    publish_rest(halves, slots, ring, control, scratch)
    control[POSITION] = i
    return DONE if i == n else UNFINISHED


@kernel(i64(lengths, octets, words, words, words))
def finish_packet(halves, slots, ring, control, scratch):
    """Wait until every slot is free again: DONE, or UNFINISHED at UNTIL_NS."""
    while ring[COMPLETED] < ring[SUBMITTED]:
        publish(halves, slots, ring)
        now = monotonic_ns(scratch)
        if ring[COMPLETED] == ring[SUBMITTED]:
            break
        if now >= control[UNTIL_NS]:
            return UNFINISHED
        sleep_until(now + NAP_NS, scratch)
    return DONE
