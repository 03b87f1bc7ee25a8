"""The loop of a capture thread: RX rings in, chunks out, cells back onto the fill rings."""

from __future__ import annotations

from numba import types

from wirecap.kernels.atomics import load
from wirecap.kernels.jit import inline, kernel, words
from wirecap.kernels.lanes import EMPTY, depth
from wirecap.kernels.libc import monotonic_ns, poll_in, realtime_ns, sleep_ns
from wirecap.kernels.pool import (
    ABORT,
    CLOCK_OFFSET,
    CONSUMER,
    DRAIN,
    FILL_COUNT,
    FILL_SINCE,
    FILL_SLOT,
    FREE_CELLS,
    PHASE,
    POOL,
    QUEUE_WORDS,
    TAKEN,
    hand_over,
    lane,
    open_slot,
    reclaim,
    spare_slots,
    take_cells,
)
from wirecap.kernels.rings import (
    LEDGER,
    RINGS,
    RX_DESCRIPTORS,
    RX_MASK,
    SHORT,
    STAMPS,
    SUBMITTED,
    UNSTAMPED,
    count_lost,
    peek,
    release,
    settle,
    submit,
)

BATCH = 1024  # packets of one queue before its cells are replaced and the next queue has its turn
IDLE_MS = 100
SHORT_IDLE_MS = 1
LONGER = 5  # times COALESCE_NS
BACKLOG = 4  # chunks that wait for a handler
BRIDGING = 8192  # attached cells: 0.5 ms at 16 Mp/s

# words of a capture thread's settings
TIMEOUT_NS, COALESCE_NS, WAIT_FD = range(3)


@inline
def take(pool, rings, queue, count, clock, depths):
    """Move ``count`` packets from the RX ring into slots; full ones are handed over.  How many were moved.

    clock: 0 to take the XDP program's stamps, else the time to give all of them.
    """
    q = queue * QUEUE_WORDS
    queues, size = pool.queues, pool.address.shape[1]
    base, mask, place = queues[q + RX_DESCRIPTORS], queues[q + RX_MASK], queues[q + TAKEN]
    stamps, offset = queues[q + LEDGER] + STAMPS, load(pool.control, CLOCK_OFFSET)
    done = 0
    while done < count:
        slot = queues[q + FILL_SLOT]
        if slot == EMPTY:
            slot = open_slot(pool, queue)
            if slot == EMPTY:
                break
            queues[q + FILL_SLOT] = slot
        filled = queues[q + FILL_COUNT]
        part = min(count - done, size - filled)
        for i in range(part):
            entry = (place + done + i) & mask
            at = base + entry * 2
            pool.address[slot, filled + i] = rings.words[at]
            pool.captured[slot, filled + i] = rings.words[at + 1] & 0xFFFFFFFF
            pool.stamp[slot, filled + i] = clock if clock else rings.ledger[stamps + entry] + offset
        done += part
        queues[q + FILL_COUNT] = filled + part
        if filled + part == size:
            flush(pool, queue, depths)
    queues[q + TAKEN] = place + done
    return done


@inline
def flush(pool, queue, depths):
    """Hand over the slot that is being filled, as full as it is."""
    q = queue * QUEUE_WORDS
    hand_over(pool, queue, pool.queues[q + FILL_SLOT], pool.queues[q + FILL_COUNT], depths)
    pool.queues[q + FILL_SLOT] = EMPTY
    pool.queues[q + FILL_COUNT] = 0


@inline
def flush_rest(pool, mine, depths):
    """Hand over every slot that is being filled; how many there were."""
    count = 0
    for i in range(mine.size):
        if pool.queues[mine[i] * QUEUE_WORDS + FILL_COUNT]:
            flush(pool, mine[i], depths)
            count += 1
    return count


@inline
def turn(pool, rings, queue, now, timeout_ns, depths, scratch):
    """One look at one queue; how much happened (packets taken + chunks that came back)."""
    q = queue * QUEUE_WORDS
    queues = pool.queues
    exhausted = queues[q + FREE_CELLS] == 0
    returned = reclaim(pool, queue, True)
    if pool.returned.size:
        returned += take_cells(pool, queue)
    available = peek(pool, rings, q)
    left = queues[q + SUBMITTED] - queues[q + TAKEN] - available
    if left == 0 or queues[q + SHORT]:
        count_lost(pool, rings, q, exhausted)
    taken = 0
    settle(pool, rings, queue, queues[q + TAKEN] + available)
    if available:
        if queues[q + FILL_COUNT] == 0:
            queues[q + FILL_SINCE] = now
        first = queues[q + TAKEN]
        clock = realtime_ns(scratch) if load(queues, q + UNSTAMPED) else 0
        taken = take(pool, rings, queue, min(available, BATCH), clock, depths)
        if queues[q + TAKEN] != first:
            release(pool, rings, q)
    submit(pool, rings, queue)
    if queues[q + FILL_COUNT] and now - queues[q + FILL_SINCE] >= timeout_ns:
        to_come = queues[q + FREE_CELLS] + queues[q + SUBMITTED] - queues[q + TAKEN]
        if depth(pool.lanes, lane(pool, queues[q + CONSUMER])) == 0 and spare_slots(pool, queue, to_come):
            flush(pool, queue, depths)
    return taken + returned


@kernel(types.void(POOL, RINGS, words, words, words, words))
def capture_loop(pool, rings, mine, settings, depths, scratch):
    """Serve the home queues ``mine`` until the engine drains or aborts.

    settings: TIMEOUT_NS (a partial chunk is handed over after it), COALESCE_NS (sleep after a turn that
    found packets, so that the next one finds many; LONGER while handlers are behind), WAIT_FD (readable when a
    queue has packets).  depths: scratch int64 (C,); scratch: libc.scratch().
    """
    while True:
        phase = load(pool.control, PHASE)
        if phase == ABORT:
            book_lost(pool, rings, mine)
            return
        now = monotonic_ns(scratch)
        happened = 0
        waiting = 0
        for i in range(mine.size):
            happened += turn(pool, rings, mine[i], now, settings[TIMEOUT_NS], depths, scratch)
            q = mine[i] * QUEUE_WORDS
            waiting += pool.queues[q + FILL_COUNT] + pool.queues[q + SHORT]
        if phase >= DRAIN and happened == 0 and drained(pool, rings, mine):
            flush_rest(pool, mine, depths)
            book_lost(pool, rings, mine)
            return
        if happened >= BATCH:  # more may be waiting
            continue
        if happened:
            sleep_ns(settings[COALESCE_NS] * (LONGER if is_ahead(pool, mine) else 1), scratch)
        else:
            awake = waiting or phase >= DRAIN or settings[WAIT_FD] < 0  # nothing wakes a thread without a socket
            poll_in(settings[WAIT_FD], SHORT_IDLE_MS if awake else IDLE_MS, scratch)


@inline
def is_ahead(pool, mine):
    """True while sleeping longer keeps nobody waiting: handlers have chunks to work on, the kernel has cells.

    A wake-up takes some 10 us of a CPU that a busy handler thread may share, on a virtual machine most of all.  An
    exhausted pool counts too: what comes home sooner only lets in sooner what the handler cannot take.
    """
    for i in range(mine.size):
        q = mine[i] * QUEUE_WORDS
        if depth(pool.lanes, lane(pool, pool.queues[q + CONSUMER])) < BACKLOG:
            return False
        if pool.queues[q + SUBMITTED] - pool.queues[q + TAKEN] < BRIDGING and pool.queues[q + FREE_CELLS]:
            return False
    return True


@inline
def drained(pool, rings, mine):
    """True when no RX ring of ``mine`` holds a packet."""
    for i in range(mine.size):
        if peek(pool, rings, mine[i] * QUEUE_WORDS):
            return False
    return True


@inline
def book_lost(pool, rings, mine):
    """The last look at what was lost, before the thread ends."""
    for i in range(mine.size):
        q = mine[i] * QUEUE_WORDS
        count_lost(pool, rings, q, pool.queues[q + FREE_CELLS] == 0)
