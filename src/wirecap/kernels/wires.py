"""The verbs on a wire: put (TX ring), drive (let the kernel send), collect (completion ring), and its lock.

A wire is a transmit queue of an outgoing NIC.  Its words in Wires.words say where its rings are in the region
that all rings share (kernels/rings.py).  Cells on it, and how they come home: docs/ownership.md.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from wirecap.kernels.atomics import compare_swap, load, store
from wirecap.kernels.jit import PURE, i64, inline, table, words
from wirecap.kernels.libc import futex_wait, futex_wake
from wirecap.kernels.pool import give_cells
from wirecap.kernels.rings import NEED_WAKEUP, wrap

# words of a wire: indices of uint32 words, except *_DESCRIPTORS: of int64 words
(
    TX_PRODUCER, TX_FLAGS, TX_DESCRIPTORS, TX_MASK,
    DONE_PRODUCER, DONE_CONSUMER, DONE_DESCRIPTORS, DONE_MASK,  # the completion ring
    SOCKET,  # file descriptor, or -1 for the memory NIC
    PUT, DONE,  # cells ever put on the wire, and completed; PUT - DONE are in transmission
    PATIENT,  # 1 while a full ring is worth waiting for
    LONGEST,  # bytes of a frame that the NIC takes
    SPAN,  # bytes of a home queue's cells: address // SPAN is the home
) = range(14)  # fmt: skip
LOCK = 24  # a mutex on a cache line of its own: 0 free, 1 held, 2 held and waited for
WIRE_WORDS = 32

# words of Wires.counts, packets
QUEUED, COMPLETED, FULL, REFUSED = range(4)
COUNT_WORDS = 4

BATCH = 32  # frames that one system call takes, at the least (TX_BATCH_SIZE, net/xdp/xsk.c)
DONTWAIT = 0x40  # MSG_DONTWAIT
EAGAIN, EBUSY = 11, 16
LOCK_WAIT_NS = 10_000_000


class Wires(NamedTuple):
    """W wires of O outgoing NICs, fed by Q home queues and C handler threads."""

    words: Any  # int64 (W * WIRE_WORDS,)
    counts: Any  # int64 (W, Q, COUNT_WORDS): by home queue, written under the wire's lock
    outputs: Any  # int64 (O, 1 + W): how many wires an outgoing NIC has, then which
    routes: Any  # int64 (Q, 3): the first outgoing NIC of a home queue, how many of them, the queue's number on its NIC
    order: Any  # int64 (Q,): one more than the highest chunk sequence number that was sent
    tallies: Any  # int64 (C, Q, 4): each thread's own counters (kernels/route.py)
    fragments: Any  # int64 (FRAGMENTS,): where the first fragments of datagrams went (kernels/balance.py)


WIRES = types.NamedTuple((words, types.int64[:, :, ::1], table, table, words, types.int64[:, :, ::1], words),
                         Wires)  # fmt: skip

if PURE:
    _libc = ctypes.CDLL(None, use_errno=True)

    def send_now(fd):
        """Let the kernel take frames from the TX ring, now and on this CPU; 0 or the errno."""
        return ctypes.get_errno() if _libc.sendto(int(fd), None, 0, DONTWAIT, None, 0) < 0 else 0

else:
    _sendto = types.ExternalFunction(
        "sendto", types.int64(types.int32, types.intp, types.uint64, types.int32, types.intp, types.uint32)
    )
    _errno_location = types.ExternalFunction("__errno_location", types.intp())

    @intrinsic
    def _int32_at(typing, address):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):
            half, word = ir.IntType(32), ir.IntType(64)
            return builder.sext(builder.load(builder.inttoptr(arguments[0], half.as_pointer())), word)

        return types.int64(types.intp), generate

    @inline
    def send_now(fd):
        """Let the kernel take frames from the TX ring, now and on this CPU; 0 or the errno."""
        if _sendto(fd, 0, 0, DONTWAIT, 0, 0) < 0:
            return _int32_at(_errno_location())
        return 0


@inline
def acquire(wires, w, scratch):
    """Take a wire's lock; sleeps while another thread has it."""
    at = w * WIRE_WORDS + LOCK
    if compare_swap(wires.words, at, 0, 1):
        return
    while not compare_swap(wires.words, at, 0, 2):
        compare_swap(wires.words, at, 1, 2)
        futex_wait(wires.words, at, 2, LOCK_WAIT_NS, scratch)


@inline
def try_acquire(wires, w):
    """Take a wire's lock if nobody has it."""
    return compare_swap(wires.words, w * WIRE_WORDS + LOCK, 0, 1)


@inline
def give_up(wires, w):
    """Release a wire's lock."""
    at = w * WIRE_WORDS + LOCK
    if not compare_swap(wires.words, at, 1, 0):
        store(wires.words, at, 0)
        futex_wake(wires.words, at)


@inline
def in_transmission(wires, w):
    """Cells on a wire; exact for the holder of its lock."""
    done = load(wires.words, w * WIRE_WORDS + DONE)
    return load(wires.words, w * WIRE_WORDS + PUT) - done


@inline
def room(wires, w):
    """How many more cells fit on a wire."""
    return wires.words[w * WIRE_WORDS + TX_MASK] + 1 - in_transmission(wires, w)


@inline
def place(rings, wires, w, number, address, length):
    """Write descriptor ``number`` (from 0) behind those that the kernel knows of; ``publish`` shows them to it."""
    b = w * WIRE_WORDS
    at = wires.words[b + TX_DESCRIPTORS] + ((wires.words[b + PUT] + number) & wires.words[b + TX_MASK]) * 2
    rings.words[at] = address
    rings.words[at + 1] = length  # and no options, in the upper half


@inline
def publish(rings, wires, w, home, count):
    """Give ``count`` placed descriptors, of cells of one home queue, to the kernel."""
    b = w * WIRE_WORDS
    store(wires.words, b + PUT, wires.words[b + PUT] + count)
    wires.counts[w, home, QUEUED] += count
    store(rings.halves, wires.words[b + TX_PRODUCER], wrap(wires.words[b + PUT]))


@inline
def collect(pool, rings, wires, w):
    """Send completed cells home; how many there were."""
    b = w * WIRE_WORDS
    span, mask = wires.words[b + SPAN], wires.words[b + DONE_MASK]
    first = i64(rings.halves[wires.words[b + DONE_CONSUMER]])
    count = (i64(load(rings.halves, wires.words[b + DONE_PRODUCER])) - first) & 0xFFFFFFFF
    entries = rings.words[wires.words[b + DONE_DESCRIPTORS] :]
    i = 0
    while i < count:
        home = entries[(first + i) & mask] // span
        end = i + 1
        while end < count and entries[(first + end) & mask] // span == home:
            end += 1
        give_cells(pool, home, entries, first + i, mask, end - i)
        wires.counts[w, home, COMPLETED] += end - i
        i = end
    store(rings.halves, wires.words[b + DONE_CONSUMER], wrap(first + count))
    store(wires.words, b + DONE, wires.words[b + DONE] + count)
    return count


@inline
def drive(pool, rings, wires, w):
    """Let the kernel send what lies on the wire, and collect; how many cells were completed."""
    b = w * WIRE_WORDS
    fd = wires.words[b + SOCKET]
    collected = collect(pool, rings, wires, w)
    if fd < 0:
        return collected
    calls = in_transmission(wires, w) // BATCH + 2
    while in_transmission(wires, w) and calls > 0 and load(rings.halves, wires.words[b + TX_FLAGS]) & NEED_WAKEUP:
        code = send_now(fd)
        refused = code == EBUSY and note_refused(rings, wires, w)
        collected += collect(pool, rings, wires, w)
        if not refused:
            calls -= 1
            if code != EAGAIN:
                break
    return collected


@inline
def note_refused(rings, wires, w):
    """The NIC dropped the frame that the kernel took last, and the call ended there: one frame for each EBUSY.

    It is completed like those that were sent, and its completion is the last one.  False where there is none.
    """
    b = w * WIRE_WORDS
    producer = load(rings.halves, wires.words[b + DONE_PRODUCER])
    if producer == rings.halves[wires.words[b + DONE_CONSUMER]]:
        return False
    last = (i64(producer) - 1) & wires.words[b + DONE_MASK]
    home = rings.words[wires.words[b + DONE_DESCRIPTORS] + last] // wires.words[b + SPAN]
    wires.counts[w, home, REFUSED] += 1
    return True
