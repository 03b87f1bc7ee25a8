"""Send a batch of packets through AF_XDP: each copied into a cell of its queue, at its time, in order.

Rings and queues are those of kernels/transmit.py.  A packet counts when the kernel has completed it.  Packets
that are due at once share a system call, up to BURST of them.
"""

from __future__ import annotations

from numba import types

from wirecap.kernels.atomics import load, store
from wirecap.kernels.jit import i64, inline, kernel, lengths, octets, table, words
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
from wirecap.kernels.transmit import (
    BURST,
    COMPLETED,
    DONE,
    FREE,
    LENGTH,
    MASK,
    SOCKET,
    SUBMITTED,
    TX_DESCRIPTORS,
    TX_PRODUCER,
    UMEM,
    UNFINISHED,
    collect,
    kick,
)
from wirecap.kernels.unaligned import copy

PENDING = LENGTH  # of a queue: descriptors that the kernel has not been told of (here each has a length of its own)
TX_CONSUMER = 14
NAP_NS = 20_000
_KICKS = 8

TO_DESTINATION, TO_SOURCE = 1, 2  # bits of REWRITE


@inline
def rewrite(octet, place, addresses, which):
    """Put other Ethernet addresses (uint8 (12,): destination, source) into a frame."""
    if which & TO_DESTINATION:
        for k in range(6):
            octet[place + k] = addresses[k]
    if which & TO_SOURCE:
        for k in range(6, 12):
            octet[place + k] = addresses[k]


@inline
def publish(rings, halves, queue, free):
    """Show the kernel what is pending, let it take that, and take completed cells back."""
    producer = (i64(halves[queue[TX_PRODUCER]]) + queue[PENDING]) & 0xFFFFFFFF
    queue[SUBMITTED] += queue[PENDING]
    queue[PENDING] = 0
    store(halves, queue[TX_PRODUCER], types.uint32(producer))
    for _ in range(_KICKS):
        kick(queue[SOCKET])
        if i64(load(halves, queue[TX_CONSUMER])) == producer:
            break
    collect(rings, halves, queue, free)


@inline
def publish_all(rings, halves, queues, free, control, scratch):
    """``publish`` for every queue; LAST_NS is when something was handed to the kernel."""
    published = False
    for q in range(queues.shape[0]):
        if queues[q, PENDING] > 0:
            publish(rings, halves, queues[q], free[q])
            published = True
    if published:
        control[LAST_NS] = monotonic_ns(scratch)


@inline
def room(rings, halves, queue, free, control, scratch):
    """Wait for a free cell; False at UNTIL_NS or STOP."""
    while queue[FREE] == 0:
        publish(rings, halves, queue, free)
        if queue[FREE] > 0:
            break
        now = monotonic_ns(scratch)
        if now >= control[UNTIL_NS] or load(control, STOP):
            return False
        sleep_until(now + NAP_NS, scratch)
    return True


@inline
def put(rings, halves, umem, queue, free, arena, start, length, control, addresses):
    """Copy a packet into a free cell and describe it in the TX ring."""
    cell = free[queue[FREE] - 1]
    queue[FREE] -= 1
    copy(umem, queue[UMEM] + cell, arena, start, length)
    rewrite(umem, queue[UMEM] + cell, addresses, control[REWRITE])
    place = i64(halves[queue[TX_PRODUCER]]) + queue[PENDING]
    at = queue[TX_DESCRIPTORS] + (place & queue[MASK]) * 2
    rings[at] = cell
    rings[at + 1] = length
    queue[PENDING] += 1


@kernel(i64(words, lengths, octets, table, table, octets, words, lengths, words, words, i64, words, octets, words))
def send_xdp(rings, halves, umem, queues, free, arena, address, length, due, chosen, n, control, addresses, scratch):
    """Send packets control[POSITION] to n-1 of a batch: DONE, or UNFINISHED at UNTIL_NS or STOP.

    rings, halves, umem, queues, free: as in kernels/transmit.py; arena: uint8; address: int64 (n,) offsets in the
    arena; length: uint32 (n,) bytes; due: int64 (n,) ns after START_NS, where PACED; chosen: int64 (n,) rows of
    queues; addresses: uint8 (12,) for REWRITE.  LATEST_NS is the largest delay so far, LAST_NS when the last packet
    was handed to the kernel.
    """
    i = control[POSITION]
    now = monotonic_ns(scratch)
    while i < n:
        if control[PACED]:
            moment = control[START_NS] + due[i]
            if now < moment:
                publish_all(rings, halves, queues, free, control, scratch)
                if not wait_until(moment, control, scratch):
                    break
                now = monotonic_ns(scratch)
            control[LATEST_NS] = max(control[LATEST_NS], now - moment)
        queue = queues[chosen[i]]
        if queue[FREE] == 0 and not room(rings, halves, queue, free[chosen[i]], control, scratch):
            break
        put(rings, halves, umem, queue, free[chosen[i]], arena, address[i], i64(length[i]), control, addresses)
        i += 1
        if queue[PENDING] == BURST:
            publish(rings, halves, queue, free[chosen[i - 1]])
            now = control[LAST_NS] = monotonic_ns(scratch)
            if now >= control[UNTIL_NS] or load(control, STOP):
                break
    publish_all(rings, halves, queues, free, control, scratch)
    control[POSITION] = i
    return DONE if i == n else UNFINISHED


@kernel(i64(words, lengths, table, table, words, words))
def finish_xdp(rings, halves, queues, free, control, scratch):
    """Wait for all completions: DONE, or UNFINISHED at UNTIL_NS."""
    while True:
        missing = 0
        for q in range(queues.shape[0]):
            if queues[q, SUBMITTED] > queues[q, COMPLETED]:
                publish(rings, halves, queues[q], free[q])
            missing += queues[q, SUBMITTED] - queues[q, COMPLETED]
        if missing == 0:
            return DONE
        now = monotonic_ns(scratch)
        if now >= control[UNTIL_NS]:
            return UNFINISHED
        sleep_until(now + NAP_NS, scratch)
