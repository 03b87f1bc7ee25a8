"""Engines whose buffer is the NIC's ring, in virtual time, packet by packet: DNA and NETMAP (Type II).

Both have one handler per queue and lose a packet that finds no free slot.  They differ in when a slot
is free again: with DNA as soon as its packet is handled, with NETMAP when the next sync call gives back
all slots of the batch that was handled since the last one; and NETMAP keeps one slot always empty.
"""

from __future__ import annotations

from wirecap.kernels.jit import i64, kernel, words
from wirecap.kernels.sim_arrivals import ARRIVALS
from wirecap.kernels.sim_work import work

TAKEN, DELIVERED, LOST, BUSY_PS, ENDED_PS = range(5)  # words of the counters
COUNTER_WORDS = 8


@kernel(i64(ARRIVALS, i64, words, i64, words, words))
def dna(arrivals, queue, costs, seed, leaves, counters):
    """All packets of one queue; how many there were.

    leaves: int64 (D,) zeros: when the packet that last lay in each slot was handled, in ps; its size is the
    ring's.  A slot whose packet is handled at the instant of an arrival is free for it.
    """
    total, taken, slots = 0, 0, leaves.size
    free_at = 0  # when the handler is through with what it has
    slot = 0
    for run in range(arrivals.first[queue], arrivals.first[queue + 1]):
        start, interval = arrivals.start[run], arrivals.interval[run]
        for i in range(arrivals.size[run]):
            now = start + i * interval
            if leaves[slot] <= now:
                cost = work(costs, seed, queue, taken, 1)
                free_at = max(free_at, now) + cost
                leaves[slot] = free_at
                slot = slot + 1 if slot + 1 < slots else 0
                taken += 1
                counters[BUSY_PS] += cost
        total += arrivals.size[run]
    counters[TAKEN] = counters[DELIVERED] = taken
    counters[LOST] = total - taken
    counters[ENDED_PS] = free_at
    return total


@kernel(i64(ARRIVALS, i64, words, i64, i64, i64, words))
def netmap(arrivals, queue, costs, seed, slots, sync_ps, counters):
    """All packets of one queue; how many there were.

    slots: the ring's size less one.  A sync call takes ``sync_ps``, at the end of which the handled batch's
    slots are free and everything that lies in the ring is the next batch; a handler that finds nothing sleeps
    until a packet comes.  A sync that ends at the instant of an arrival comes before it.
    """
    total, taken = 0, 0
    batch, waiting = 0, 0  # packets that are being handled, and that came since the last sync
    sync_at = 0  # when the next sync ends, if a batch is being handled
    for run in range(arrivals.first[queue], arrivals.first[queue + 1]):
        start, interval = arrivals.start[run], arrivals.interval[run]
        for i in range(arrivals.size[run]):
            now = start + i * interval
            while batch and sync_at <= now:
                counters[DELIVERED] += batch
                counters[ENDED_PS] = sync_at
                batch, waiting = waiting, 0
                if batch:
                    cost = work(costs, seed, queue, taken - batch, batch) + sync_ps
                    counters[BUSY_PS] += cost
                    sync_at += cost
            if batch + waiting == slots:
                continue
            taken += 1
            if batch:
                waiting += 1
            else:  # wakes the handler
                batch = 1
                cost = work(costs, seed, queue, taken - 1, 1) + sync_ps
                counters[BUSY_PS] += cost
                sync_at = now + cost
        total += arrivals.size[run]
    if batch:
        counters[ENDED_PS] = sync_at
    if waiting:
        counters[ENDED_PS] += work(costs, seed, queue, taken - waiting, waiting) + sync_ps
    counters[TAKEN], counters[DELIVERED], counters[LOST] = taken, taken, total - taken
    return total
