"""The AF_XDP transmit ring: reserve, submit, complete and wake, as in libxdp's xsk.h, for forwarding and for sending.

One ring is a transmit queue of a NIC: a TX ring that we fill, and a completion ring that gives the cells back.  Its
words say where the two lie in the region that an engine's or a sender's rings share (kernels/xdp/rings.py).  One
thread at a time uses a ring.  ``tx`` has the rings of one user, with at least these two fields:

words: int64 (W * TX_WORDS,), the words below, and from USER_WORDS on the user's own
counts: int64 (W, H, COUNT_WORDS), frames by the home of their cell; a sender has one home

What the kernel answers has one treatment, in ``wake``.  A full ring has one too: ``wake``, ``complete``, then ``rest``
until there is room or the time is over.
"""

from __future__ import annotations

from wirecap.kernels.base.atomics import load, store
from wirecap.kernels.base.jit import inline
from wirecap.kernels.base.kinds import i64
from wirecap.kernels.base.libc import monotonic_ns, sendto, sleep_ns
from wirecap.kernels.xdp.rings import NEED_WAKEUP, wrap

# words of a ring: indices of uint32 words, except *_DESCRIPTORS: of int64 words
(
    TX_PRODUCER, TX_FLAGS, TX_DESCRIPTORS, TX_MASK,
    DONE_PRODUCER, DONE_CONSUMER, DONE_DESCRIPTORS, DONE_MASK,  # the completion ring
    SOCKET,  # file descriptor, or -1 for the memory NIC
    PUT, DONE,  # frames ever put on the ring, and completed; PUT - DONE are in transmission
    MEMORY_BUDGET, MEMORY_STALLS, MEMORY_REFUSES, MEMORY_CALLS,  # of a memory NIC that wants to be woken
) = range(15)  # fmt: skip
USER_WORDS = 16
TX_WORDS = 32

# words of counts, frames: of those QUEUED so many were SENT and so many REFUSED by the NIC; FULL never came that far
QUEUED, SENT, REFUSED, FULL = range(4)
COUNT_WORDS = 4

BURST = 32  # frames that one system call takes, at the least (TX_BATCH_SIZE, net/xdp/xsk.c)
EAGAIN, EBUSY = 11, 16
REST_NS = 50_000


@inline
def in_transmission(tx, w):
    """Frames that were submitted and are not completed; exact for the thread that uses the ring."""
    done = load(tx.words, w * TX_WORDS + DONE)
    return load(tx.words, w * TX_WORDS + PUT) - done


@inline
def reserve(tx, w, wanted):
    """How many of ``wanted`` more descriptors there is room for."""
    return min(wanted, tx.words[w * TX_WORDS + TX_MASK] + 1 - in_transmission(tx, w))


@inline
def describe(rings, tx, w, number, address, length):
    """Write descriptor ``number`` (from 0) of those that were reserved; ``submit`` shows them to the kernel.

    length: with CONTINUED in its upper half, the options, if the frame goes on in the next descriptor.
    """
    b = w * TX_WORDS
    at = tx.words[b + TX_DESCRIPTORS] + ((tx.words[b + PUT] + number) & tx.words[b + TX_MASK]) * 2
    rings.words[at] = address
    rings.words[at + 1] = length


@inline
def submit(rings, tx, w, home, count, frames):
    """Give ``count`` descriptors, of so many frames from cells of one home, to the kernel."""
    b = w * TX_WORDS
    store(tx.words, b + PUT, tx.words[b + PUT] + count)
    tx.counts[w, home, QUEUED] += frames
    store(rings.halves, tx.words[b + TX_PRODUCER], wrap(tx.words[b + PUT]))


@inline
def complete(rings, tx, w):
    """How many frames lie in the completion ring; ``completed`` reads them, ``release`` empties it."""
    consumer = i64(rings.halves[tx.words[w * TX_WORDS + DONE_CONSUMER]])
    return (i64(load(rings.halves, tx.words[w * TX_WORDS + DONE_PRODUCER])) - consumer) & 0xFFFFFFFF


@inline
def completed(rings, tx, w, number):
    """Which entry of the region has the address of completed frame ``number`` (from 0)."""
    b = w * TX_WORDS
    consumer = i64(rings.halves[tx.words[b + DONE_CONSUMER]])
    return tx.words[b + DONE_DESCRIPTORS] + ((consumer + number) & tx.words[b + DONE_MASK])


@inline
def count_completed(tx, w, home, count, refused):
    """``count`` frames of a home were completed, ``refused`` of them were not sent."""
    tx.counts[w, home, SENT] += count - refused
    tx.counts[w, home, REFUSED] += refused


@inline
def release(rings, tx, w, count):
    """Give ``count`` entries of the completion ring back to the kernel."""
    b = w * TX_WORDS
    consumer = i64(rings.halves[tx.words[b + DONE_CONSUMER]])
    store(rings.halves, tx.words[b + DONE_CONSUMER], wrap(consumer + count))
    store(tx.words, b + DONE, tx.words[b + DONE] + count)


@inline
def wake(rings, tx, w):
    """Let the kernel take what was submitted, if it wants to be woken; 1 where the NIC refused a frame, else 0.

    0 from the kernel: it took all.  EAGAIN: it took one call's worth, or has no buffers left: it is asked again, a few
    times.  EBUSY: the NIC dropped the frame that was taken last, and the call ended there.  That frame is completed as
    if it had been sent, and its completion is the last one: count it so, and wake again.  Other errors end the attempt:
    the frames stay where they are.
    """
    done = tx.words[w * TX_WORDS + DONE_PRODUCER]
    for _ in range(in_transmission(tx, w) // BURST + 2):
        if not load(rings.halves, tx.words[w * TX_WORDS + TX_FLAGS]) & NEED_WAKEUP:
            return 0
        if in_transmission(tx, w) == complete(rings, tx, w):
            return 0
        before = load(rings.halves, done)
        fd = tx.words[w * TX_WORDS + SOCKET]
        code = sendto(fd) if fd >= 0 else take_in_memory(rings, tx, w)
        if code == EBUSY and load(rings.halves, done) != before:
            return 1
        if code != EAGAIN:
            return 0
    return 0


@inline
def rest(until_ns, scratch):
    """Before the next look at a full ring: sleep for a moment.  False at ``until_ns``."""
    if monotonic_ns(scratch) >= until_ns:
        return False
    sleep_ns(REST_NS, scratch)
    return True


@inline
def take_in_memory(rings, tx, w):
    """The kernel's part of ``wake``, by the memory NIC, as AF_XDP does it in copy mode: 0 or the errno.

    A call takes MEMORY_BUDGET frames at the most, but nothing while its number is no multiple of MEMORY_STALLS + 1;
    every MEMORY_REFUSES-th frame is refused (0: none).
    """
    b, words = w * TX_WORDS, tx.words
    first = i64(rings.halves[words[b + DONE_PRODUCER]])
    waiting = (i64(rings.halves[words[b + TX_PRODUCER]]) - first) & 0xFFFFFFFF
    words[b + MEMORY_CALLS] += 1
    budget = 0 if words[b + MEMORY_CALLS] % (words[b + MEMORY_STALLS] + 1) else words[b + MEMORY_BUDGET]
    code = EAGAIN if waiting > budget else 0
    count = 0
    while count < min(waiting, budget) and code != EBUSY:
        number = first + count
        address = rings.words[words[b + TX_DESCRIPTORS] + (number & words[b + TX_MASK]) * 2]
        rings.words[words[b + DONE_DESCRIPTORS] + (number & words[b + DONE_MASK])] = address
        count += 1
        if words[b + MEMORY_REFUSES] and number % words[b + MEMORY_REFUSES] == 0:
            code = EBUSY
    store(rings.halves, words[b + DONE_PRODUCER], wrap(first + count))
    return code
