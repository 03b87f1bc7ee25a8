"""AF_PACKET transmit rings, with the verbs of kernels/transmit/xdp_queues.py: one for each interface, packets copied
into slots.

A slot's status says whose it is (linux/if_packet.h): the kernel sets it free when it is done with the frame, which
is what counts as completed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from wirecap.kernels.base.atomics import load, store
from wirecap.kernels.base.jit import inline
from wirecap.kernels.base.kinds import byte_array, i64, lengths, record, u32, words
from wirecap.kernels.base.libc import sendto
from wirecap.kernels.base.unaligned import copy
from wirecap.kernels.transmit.frames import ADDRESS_BYTES, copy_frame

# words of a ring
(
    SOCKET, SLOTS, SLOT_BYTES, HEADER,
    BASE,  # where its memory begins, in bytes
    PUT, COMPLETED, PENDING,
    REFUSED,  # not in the two before
    HELD_BACK,  # how often the interface dropped a frame that the kernel kept for another try
) = range(10)  # fmt: skip
RING_WORDS = 10

AVAILABLE, SEND_REQUEST, SENDING, WRONG_FORMAT = 0, 1, 2, 4  # TP_STATUS_*
ENOBUFS = 105


class PacketRings(NamedTuple):
    """The mapped rings and their words."""

    halves: Any  # uint32
    slots: Any  # uint8: the same memory
    words: Any  # int64 (Q * RING_WORDS,)


PACKET_RINGS = record(PacketRings, lengths, byte_array, words)


@inline
def count(rings):
    """How many rings there are: the kernel chooses the queue of an interface."""
    return rings.words.size // RING_WORDS


@inline
def pending(rings, q):
    """Frames that were put and not flushed."""
    return rings.words[q * RING_WORDS + PENDING]


@inline
def unfinished(rings, q):
    """Frames that were put and are not completed."""
    return rings.words[q * RING_WORDS + PUT] - rings.words[q * RING_WORDS + COMPLETED]


@inline
def is_full(rings, q):
    """True while the kernel is not done with any slot."""
    return unfinished(rings, q) == rings.words[q * RING_WORDS + SLOTS]


@inline
def place_of(rings, q, number):
    """Where the slot of frame ``number`` begins, in bytes."""
    b, words = q * RING_WORDS, rings.words
    return words[b + BASE] + (number % words[b + SLOTS]) * words[b + SLOT_BYTES]


@inline
def put(rings, q, frames, i, which, addresses):
    """Copy packet i of ``frames`` into the next slot and give that to the kernel."""
    b, words = q * RING_WORDS, rings.words
    at, length = place_of(rings, q, words[b + PUT]), i64(frames.length[i])
    copy_frame(
        rings.slots, at + words[b + HEADER], frames.arena, frames.address[i], length, which, addresses,
        q * ADDRESS_BYTES,
    )  # fmt: skip
    rings.halves[at // 4 + 1] = u32(length)
    store(rings.halves, at // 4, u32(SEND_REQUEST))
    words[b + PUT] += 1
    words[b + PENDING] += 1


@inline
def close_gap(rings, q):
    """Move what is behind the oldest slot one slot forward: the kernel refused that one and waits there for another.

    Nothing behind it was looked at yet (tpacket_snd, net/packet/af_packet.c): it is pending again.
    """
    halves, slots, b, words = rings.halves, rings.slots, q * RING_WORDS, rings.words
    for number in range(words[b + COMPLETED] + 1, words[b + PUT]):
        at, to = place_of(rings, q, number), place_of(rings, q, number - 1)
        length = halves[at // 4 + 1]
        copy(slots, to + words[b + HEADER], slots, at + words[b + HEADER], i64(length))
        halves[to // 4 + 1] = length
        store(halves, to // 4, u32(SEND_REQUEST))
    words[b + PUT] -= 1
    store(halves, place_of(rings, q, words[b + PUT]) // 4, u32(AVAILABLE))
    words[b + REFUSED] += 1
    words[b + PENDING] = words[b + PUT] - words[b + COMPLETED]


@inline
def complete(rings, q):
    """Count the slots that the kernel is done with; what it refused is counted apart."""
    b, words = q * RING_WORDS, rings.words
    while words[b + COMPLETED] < words[b + PUT]:
        status = i64(load(rings.halves, place_of(rings, q, words[b + COMPLETED]) // 4))
        if status & WRONG_FORMAT:
            close_gap(rings, q)
            return
        if status & (SEND_REQUEST | SENDING):
            return
        words[b + COMPLETED] += 1


@inline
def flush(rings, q):
    """Let the kernel send what is pending, also what is behind a packet that it refuses.

    A frame that the driver drops stays with ENOBUFS in its slot, as the first one to be tried again.
    """
    b, again = q * RING_WORDS, True
    while again:
        rings.words[b + PENDING] = 0
        if sendto(rings.words[b + SOCKET]) == ENOBUFS:
            rings.words[b + HELD_BACK] += 1
        complete(rings, q)
        again = rings.words[b + PENDING] > 0
