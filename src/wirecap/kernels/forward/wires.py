"""The wires of a forwarder: transmit rings that its handler threads share, each with a lock.

A wire is a transmit queue of an outgoing NIC; its rings and their verbs are those of kernels/transmit/ring.py.  Cells
on it, and how they come home: docs/ownership.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from wirecap.kernels.base.atomics import compare_swap, store
from wirecap.kernels.base.jit import inline
from wirecap.kernels.base.kinds import record, table, tables, words
from wirecap.kernels.base.libc import futex_wait, futex_wake
from wirecap.kernels.pool.pool import give_cells
from wirecap.kernels.transmit.ring import (
    DONE_DESCRIPTORS,
    DONE_MASK,
    TX_WORDS,
    USER_WORDS,
    complete,
    completed,
    count_completed,
    release,
    wake,
)

# words of a wire's ring that are the forwarder's
(
    PATIENT,  # 1 while a full ring is worth waiting for
    LONGEST,  # bytes of a frame that the NIC takes
    SPAN,  # bytes of a home queue's cells: address // SPAN is the home
    CELL,  # bytes of a cell
    LARGE_AT, LARGE_SPAN,  # where large-packet memory begins in the arena, and bytes of each home queue's
) = range(USER_WORDS, USER_WORDS + 6)  # fmt: skip
# A mutex on a cache line of its own: 0 free, 1 held, 2 held and waited for.  Compare-and-swaps acquire and release, and
# the store that gives it up while somebody waits is a release.
LOCK = 24

LOCK_WAIT_NS = 10_000_000


class Wires(NamedTuple):
    """W wires of O outgoing NICs, fed by Q home queues and C handler threads; ``tx`` of kernels/transmit/ring.py."""

    words: Any  # int64 (W * TX_WORDS,)
    counts: Any  # int64 (W, Q, COUNT_WORDS): by home queue, written under the wire's lock
    outputs: Any  # int64 (O, 1 + W): how many wires an outgoing NIC has, then which
    # int64 (Q, 4): the first outgoing NIC of a home queue, how many of them, the queue's number on its NIC, and 1 if
    # checksums of its packets may be unfinished (kernels/forward/checksum.py)
    routes: Any
    order: Any  # int64 (Q,): one more than the highest chunk sequence number that was sent
    tallies: Any  # int64 (C, Q, 4): each thread's own counters (kernels/forward/route.py)
    fragments: Any  # int64 (FRAGMENTS,): where the first fragments of datagrams went (kernels/forward/route.py)


WIRES = record(Wires, words, tables, table, table, words, tables, words)  # fmt: skip


@inline
def acquire(wires, w, scratch):
    """Take a wire's lock; sleeps while another thread has it."""
    at = w * TX_WORDS + LOCK
    if compare_swap(wires.words, at, 0, 1):
        return
    while not compare_swap(wires.words, at, 0, 2):
        compare_swap(wires.words, at, 1, 2)
        futex_wait(wires.words, at, 2, LOCK_WAIT_NS, scratch)


@inline
def try_acquire(wires, w):
    """Take a wire's lock if nobody has it."""
    return compare_swap(wires.words, w * TX_WORDS + LOCK, 0, 1)


@inline
def give_up(wires, w):
    """Release a wire's lock."""
    at = w * TX_WORDS + LOCK
    if not compare_swap(wires.words, at, 1, 0):
        store(wires.words, at, 0)
        futex_wake(wires.words, at)


@inline
def home_of(words, b, address):
    """The home queue of a cell, or of a piece of a large packet; words: of the wires, b: where this one's begin."""
    if address < words[b + LARGE_AT]:
        return address // words[b + SPAN]
    return (address - words[b + LARGE_AT]) // words[b + LARGE_SPAN]


@inline
def begins(words, b, address):
    """1 where a frame begins, 0 at a large packet's further pieces: those lie at a cell's first byte."""
    return 1 if address & (words[b + CELL] - 1) else 0


@inline
def take_home(pool, rings, wires, w, refused):
    """Send completed cells home.  refused: 1 where the NIC refused the frame that was completed last."""
    b = w * TX_WORDS
    mask = wires.words[b + DONE_MASK]
    found = complete(rings, wires, w)
    base = wires.words[b + DONE_DESCRIPTORS]
    entries = rings.words[base:]
    i = 0
    while i < found:
        first = completed(rings, wires, w, i) - base
        home = home_of(wires.words, b, entries[first])
        frames = begins(wires.words, b, entries[first])
        end = i + 1
        while end < found and home_of(wires.words, b, entries[(first + end - i) & mask]) == home:
            frames += begins(wires.words, b, entries[(first + end - i) & mask])
            end += 1
        give_cells(pool, home, entries, first, mask, end - i)
        count_completed(wires, w, home, frames, refused if end == found else 0)
        i = end
    release(rings, wires, w, found)


@inline
def drive(pool, rings, wires, w):
    """Let the kernel send what lies on a wire; completed cells go home."""
    while wake(rings, wires, w):
        take_home(pool, rings, wires, w, 1)
    take_home(pool, rings, wires, w, 0)
