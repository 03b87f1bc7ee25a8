"""The loop that sends: at a rate of its own on every transmit queue, counting completions.

Each queue has an AF_XDP socket.  A cell's way: free stack -> TX ring -> kernel -> completion ring -> free
stack.  The rings of all queues are mapped into one region, as in kernels/rings.py.
"""

from __future__ import annotations

import ctypes

from numba import types

from wirecap.kernels.atomics import load, store
from wirecap.kernels.jit import PURE, i64, inline, kernel, lengths, octets, table, words
from wirecap.kernels.libc import monotonic_ns, sleep_ns

# words of a transmit queue
(
    TX_PRODUCER, TX_DESCRIPTORS,
    DONE_PRODUCER, DONE_CONSUMER, DONE_DESCRIPTORS,  # the completion ring
    MASK,  # of both rings
    SOCKET,
    UMEM,  # where the queue's own UMEM begins; the rings' addresses count from there
    FREE,  # cells on the free stack
    SUBMITTED, COMPLETED, GOAL,  # frames of this queue
    LENGTH,  # bytes of a frame
    NUMBER,  # the next frame's number
) = range(14)  # fmt: skip
QUEUE_WORDS = 16

STOP, START_NS, UNTIL_NS, TICK_NS, NUMBER_AT = range(5)
CONTROL_WORDS = 8

BURST = 32  # frames a system call takes at most (TX_BATCH_SIZE, net/xdp/xsk.c)
DONE, UNFINISHED = 0, 1
DONTWAIT = 0x40  # MSG_DONTWAIT

if PURE:
    _libc = ctypes.CDLL(None, use_errno=True)

    def kick(fd):
        _libc.sendto(int(fd), None, 0, DONTWAIT, None, 0)

else:
    _sendto = types.ExternalFunction(
        "sendto", types.int64(types.int32, types.intp, types.uint64, types.int32, types.intp, types.uint32)
    )

    @inline
    def kick(fd):
        """Let the kernel take frames from the TX ring, now and on this CPU.  What it did shows in the rings."""
        _sendto(fd, 0, 0, DONTWAIT, 0, 0)


@inline
def collect(rings, halves, queue, free):
    """Take completed frames' cells back; how many."""
    done = queue[DONE_CONSUMER]
    first = i64(halves[done])
    count = (i64(load(halves, queue[DONE_PRODUCER])) - first) & 0xFFFFFFFF
    for i in range(count):
        free[queue[FREE] + i] = rings[queue[DONE_DESCRIPTORS] + ((first + i) & queue[MASK])]
    queue[FREE] += count
    queue[COMPLETED] += count
    store(halves, done, types.uint32((first + count) & 0xFFFFFFFF))
    return count


@inline
def submit(rings, halves, umem, queue, free, count, number_at):
    """Put ``count`` frames on the TX ring, each with its number as 8 bytes in network order at ``number_at``."""
    producer = i64(halves[queue[TX_PRODUCER]])
    for i in range(count):
        cell = free[queue[FREE] - 1 - i]
        if number_at >= 0:
            place, number = queue[UMEM] + cell + number_at, queue[NUMBER] + i
            for byte in range(8):
                umem[place + byte] = types.uint8((number >> (56 - 8 * byte)) & 0xFF)
        at = queue[TX_DESCRIPTORS] + ((producer + i) & queue[MASK]) * 2
        rings[at] = cell
        rings[at + 1] = queue[LENGTH]
    queue[FREE] -= count
    queue[SUBMITTED] += count
    queue[NUMBER] += count
    store(halves, queue[TX_PRODUCER], types.uint32((producer + count) & 0xFFFFFFFF))


@inline
def serve(rings, halves, umem, queue, free, per_ns, control, now):
    """Send what is due on one queue, one system call's worth at the most; how much happened."""
    due = queue[GOAL]
    if per_ns > 0.0:
        due = min(due, i64((now - control[START_NS]) * per_ns) + 1)
    count = min(due - queue[SUBMITTED], BURST, queue[FREE])
    if count > 0:
        submit(rings, halves, umem, queue, free, count, control[NUMBER_AT])
    if queue[SUBMITTED] > queue[COMPLETED]:
        kick(queue[SOCKET])
    return max(count, 0) + collect(rings, halves, queue, free)


@kernel(i64(words, lengths, octets, table, table, types.float64[::1], words, words))
def transmit(rings, halves, umem, queues, free, per_ns, control, scratch):
    """Send until every queue's GOAL is COMPLETED (DONE), or until UNTIL_NS or STOP (UNFINISHED).

    rings, halves: the mapped rings as int64 and as uint32; umem: uint8; queues: int64 (Q, QUEUE_WORDS);
    free: int64 (Q, cells), offsets of cells in a queue's UMEM; per_ns: float64 (Q,), frames a ns, 0 for full speed;
    control: int64 (CONTROL_WORDS,).  Frame k of a queue is due at START_NS + k / per_ns; the thread sleeps to
    the next multiple of TICK_NS when nothing is.  Late frames follow in bursts, so that the mean rate is kept.
    """
    while load(control, STOP) == 0:
        now = monotonic_ns(scratch)
        if now >= control[UNTIL_NS]:
            return UNFINISHED
        happened, open_frames = 0, 0
        for i in range(queues.shape[0]):
            happened += serve(rings, halves, umem, queues[i], free[i], per_ns[i], control, now)
            open_frames += queues[i, GOAL] - queues[i, COMPLETED]
        if open_frames == 0:
            return DONE
        if happened == 0:
            tick = control[TICK_NS]
            sleep_ns(tick - (now - control[START_NS]) % tick, scratch)
    return UNFINISHED
