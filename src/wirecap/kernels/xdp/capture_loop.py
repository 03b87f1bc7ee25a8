"""The loop of a capture thread: RX rings in, chunks out, cells back onto the fill rings."""

from __future__ import annotations

from wirecap.kernels.base.atomics import load
from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import i64, none, words
from wirecap.kernels.base.libc import kick, monotonic_ns, poll_in, realtime_ns, sleep_ns
from wirecap.kernels.base.unaligned import copy
from wirecap.kernels.pool.large import HASH_BYTES, MORE_CELLS, allocate
from wirecap.kernels.pool.pool import (
    ABORT,
    CLOCK_OFFSET,
    CONSUMER,
    DRAIN,
    FILL_COUNT,
    FILL_SINCE,
    FILL_SLOT,
    FREE_CELLS,
    LARGE,
    PAUSE,
    PHASE,
    POOL,
    QUEUE_WORDS,
    RINGS,
    SLOT_WORDS,
    TAKEN,
    hand_over,
    is_due,
    open_slot,
    reclaim,
    spare_slots,
    take_cells,
    work_queue,
)
from wirecap.kernels.pool.work_queues import EMPTY, depth
from wirecap.kernels.xdp.rings import (
    CONTINUED,
    LEDGER,
    NO_TIMESTAMPS,
    RX_DESCRIPTORS,
    RX_MASK,
    SHORT,
    SOCKET,
    STALLED,
    SUBMITTED,
    TIMESTAMPS,
    count_lost,
    peek,
    release,
    settle,
    submit,
)

BATCH = 1024  # packets to take from a queue before replacing its cells and moving on to the next queue
IDLE_NS, SHORT_IDLE_NS = 100_000_000, 1_000_000
LONGER = 5  # times COALESCE_NS
FEW = 64  # packets of a turn: 0.13 Mp/s where turns are 0.5 ms apart
BACKLOG = 4  # chunks waiting for a handler
BRIDGING = 8192  # attached cells: 0.5 ms at 16 Mp/s

# words of a capture thread's settings
TIMEOUT_NS, COALESCE_NS, WAIT_FD, BUSY, LAZY = range(5)


@inline
def take(pool, rings, queue, count, clock, depths):
    """Move packets from ``count`` entries of the RX ring into slots, handing over full ones; returns how many entries.

    clock: 0 to use the XDP program's timestamps, else the timestamp for all of them.  Packets of one cell go row by
    row, without a look at each; once there was one of several, each packet is looked at.
    """
    q = queue * QUEUE_WORDS
    queues, size = pool.queues, pool.address.shape[1]
    base, mask, place = queues[q + RX_DESCRIPTORS], queues[q + RX_MASK], queues[q + TAKEN]
    timestamps, offset = queues[q + LEDGER] + TIMESTAMPS, load(pool.control, CLOCK_OFFSET)
    done = 0
    longest = size
    queues[q + STALLED] = 0
    while done < count:
        slot = queues[q + FILL_SLOT]
        if slot == EMPTY:
            slot = open_slot(pool, queue)
            if slot == EMPTY:
                break
            queues[q + FILL_SLOT] = slot
            pool.meta[slot * SLOT_WORDS + LARGE] = 0
        filled = queues[q + FILL_COUNT]
        part = min(count - done, min(size - filled, longest))
        options = 0
        for i in range(part):
            entry = (place + done + i) & mask
            at = base + entry * 2
            pool.address[slot, filled + i] = rings.words[at]
            pool.captured[slot, filled + i] = rings.words[at + 1] & 0xFFFFFFFF
            pool.timestamp[slot, filled + i] = clock if clock else rings.ledger[timestamps + entry] + offset
            options |= rings.words[at + 1]
        cells = part
        if options & CONTINUED:
            if longest > 1:
                longest = 1
                continue
            cells = join(pool, rings, queue, slot, filled, place + done, count - done)
            if cells == 0:
                break
        done += cells
        queues[q + FILL_COUNT] = filled + part
        if filled + part == size:
            flush(pool, queue, depths)
    queues[q + TAKEN] = place + done
    return done


@inline
def join(pool, rings, queue, slot, row, place, count):
    """Put the packet that begins at entry ``place`` of the RX ring, and its address and length into a slot's row.

    Its cells are free then.  Returns how many they were; 0 if not all of them are among the ``count`` entries, or if
    large-packet memory has no room until chunks come home.
    """
    q = queue * QUEUE_WORDS
    queues = pool.queues
    base, mask = queues[q + RX_DESCRIPTORS], queues[q + RX_MASK]
    length, cells, options = 0, 0, CONTINUED
    while options & CONTINUED:
        if cells == count:
            return 0
        options = rings.words[base + ((place + cells) & mask) * 2 + 1]
        length += options & 0xFFFFFFFF
        cells += 1
    address = allocate(pool.arena, queues, q, length)
    if address < 0:
        queues[q + STALLED] = 1
        return 0
    to, top = address, queues[q + FREE_CELLS]
    copy(pool.arena, to - HASH_BYTES, pool.arena, rings.words[base + (place & mask) * 2] - HASH_BYTES, HASH_BYTES)
    for i in range(cells):
        at = base + ((place + i) & mask) * 2
        part = rings.words[at + 1] & 0xFFFFFFFF
        copy(pool.arena, to, pool.arena, rings.words[at], part)
        pool.free_cells[queue, top + i] = rings.words[at]
        to += part
    queues[q + FREE_CELLS] = top + cells
    queues[q + MORE_CELLS] += cells - 1
    pool.address[slot, row] = address
    pool.captured[slot, row] = length
    pool.meta[slot * SLOT_WORDS + LARGE] += 1
    return cells


@inline
def flush(pool, queue, depths):
    """Hand over the slot that is being filled, however full it is."""
    q = queue * QUEUE_WORDS
    hand_over(pool, queue, pool.queues[q + FILL_SLOT], pool.queues[q + FILL_COUNT], depths)
    pool.queues[q + FILL_SLOT] = EMPTY
    pool.queues[q + FILL_COUNT] = 0


@inline
def flush_rest(pool, mine, depths):
    """Hand over every slot that is being filled; returns how many there were."""
    count = 0
    for i in range(mine.size):
        if pool.queues[mine[i] * QUEUE_WORDS + FILL_COUNT]:
            flush(pool, mine[i], depths)
            count += 1
    return count


@inline
def turn(pool, rings, queue, now, timeout_ns, depths, scratch):
    """Serve one queue once; returns how much happened (packets taken + chunks that came back)."""
    q = queue * QUEUE_WORDS
    queues = pool.queues
    exhausted = queues[q + FREE_CELLS] == 0 or queues[q + STALLED] == 1
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
        clock = realtime_ns(scratch) if load(queues, q + NO_TIMESTAMPS) else 0
        taken = take(pool, rings, queue, min(available, BATCH), clock, depths)
        if queues[q + TAKEN] != first:
            release(pool, rings, q)
    submit(pool, rings, queue)
    # where a turn fills a chunk, the next one fills this one too: handing over many partial chunks costs 10 % of count
    if queues[q + FILL_COUNT] and taken < pool.address.shape[1] and is_due(pool, queue, now, timeout_ns):
        to_come = queues[q + FREE_CELLS] + queues[q + SUBMITTED] - queues[q + TAKEN]
        if spare_slots(pool, queue, to_come):
            flush(pool, queue, depths)
    return taken + returned


@kernel(none(POOL, RINGS, words, words, words, words))
def capture_loop(pool, rings, mine, settings, depths, scratch):
    """Serve the home queues ``mine`` until the engine pauses, drains or aborts.

    settings: TIMEOUT_NS (when to hand over a partial chunk to a busy consumer), COALESCE_NS (how long to sleep after a
    turn where packets come faster than one in that time, so that the next turn finds many; LONGER while handlers are
    behind), WAIT_FD (readable when a queue has packets), BUSY (take packets from the NIC on this CPU, without pause
    while there are any), LAZY (nobody waits for a single packet: after a turn with at most FEW, rest LONGER).  depths:
    scratch, int64 (C,); scratch: libc.scratch().
    """
    coalesce_ns, before = settings[COALESCE_NS], i64(0)
    while True:
        phase = load(pool.control, PHASE)
        if phase == ABORT or phase == PAUSE:
            book_lost(pool, rings, mine)
            return
        if settings[BUSY]:
            for i in range(mine.size):
                kick(pool.queues[mine[i] * QUEUE_WORDS + SOCKET])
        now = monotonic_ns(scratch)
        happened = taken = short = stalled = 0
        for i in range(mine.size):
            q = mine[i] * QUEUE_WORDS
            taken -= pool.queues[q + TAKEN]
            happened += turn(pool, rings, mine[i], now, settings[TIMEOUT_NS], depths, scratch)
            taken += pool.queues[q + TAKEN]
            short += pool.queues[q + SHORT]
            stalled += pool.queues[q + STALLED]
        if phase >= DRAIN and happened == 0 and drained(pool, rings, mine):
            flush_rest(pool, mine, depths)
            book_lost(pool, rings, mine)
            return
        rest_ns = rest_of(pool, mine, settings, taken, stalled + short)
        fast = stalled or taken > 1 or (taken == 1 and now - before < rest_ns) or (happened > 0 and short > 0)
        before = now
        if happened >= BATCH or (settings[BUSY] and taken > 0):  # more may be waiting
            continue
        if fast:  # not on the sockets, which are readable while a packet waits for memory
            sleep_ns(coalesce_ns * LONGER if is_ahead(pool, mine) else rest_ns, scratch)
        else:
            awake = short or phase >= DRAIN or settings[WAIT_FD] < 0  # nothing wakes a thread that has no socket
            longest_ns = SHORT_IDLE_NS if awake else IDLE_NS
            poll_in(settings[WAIT_FD], min(longest_ns, patience(pool, mine, rest_ns)), scratch)


@inline
def rest_of(pool, mine, settings, taken, lacking):
    """How long packets may lie after a turn that has taken so many, in ns: no longer than TIMEOUT_NS, if that is more
    than COALESCE_NS.  lacking: queues that wait for memory.
    """
    rest_ns = settings[COALESCE_NS]
    if settings[LAZY] and taken <= FEW and lacking == 0 and bridges(pool, mine, False):
        return max(rest_ns, min(rest_ns * LONGER, settings[TIMEOUT_NS]))
    return rest_ns


@inline
def patience(pool, mine, rest_ns):
    """How long to wait for packets, in ns: not long while a partial chunk waits for its consumer to be done."""
    longest = i64(IDLE_NS)
    for i in range(mine.size):
        q = mine[i] * QUEUE_WORDS
        if pool.queues[q + FILL_COUNT]:
            if depth(pool.work_queues, work_queue(pool, pool.queues[q + CONSUMER])) == 0:
                return rest_ns
            longest = i64(SHORT_IDLE_NS)
    return longest


@inline
def is_ahead(pool, mine):
    """Whether sleeping longer keeps nobody waiting: handlers have chunks to work on, and the kernel has cells.

    A wake-up takes some 10 us of a CPU that a busy handler thread may share, most of all on a virtual machine.
    """
    for i in range(mine.size):
        if depth(pool.work_queues, work_queue(pool, pool.queues[mine[i] * QUEUE_WORDS + CONSUMER])) < BACKLOG:
            return False
    return bridges(pool, mine, True)


@inline
def bridges(pool, mine, exhausted):
    """Whether every queue has BRIDGING cells attached, enough for a longer sleep.

    exhausted: a queue that has no free cell left counts, too: bringing cells home sooner would only let in packets that
    the handler cannot take.
    """
    for i in range(mine.size):
        q = mine[i] * QUEUE_WORDS
        attached = pool.queues[q + SUBMITTED] - pool.queues[q + TAKEN]
        if attached < BRIDGING and not (exhausted and pool.queues[q + FREE_CELLS] == 0):
            return False
    return True


@inline
def drained(pool, rings, mine):
    """Whether the RX rings of ``mine`` are all empty."""
    for i in range(mine.size):
        if peek(pool, rings, mine[i] * QUEUE_WORDS):
            return False
    return True


@inline
def book_lost(pool, rings, mine):
    """Count what was lost one last time, before the thread ends."""
    for i in range(mine.size):
        q = mine[i] * QUEUE_WORDS
        count_lost(pool, rings, q, pool.queues[q + FREE_CELLS] == 0)
