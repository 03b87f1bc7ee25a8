"""The loop of a handler thread, and what a handler's kernel looks like.

``process(arena, address, captured, original, stamp, n, state)`` gets the rows of one chunk and the
thread's own int64 state; it returns 0, or the number (from 1) of the packet that it failed on.  A filter
is a ``select`` of the same signature: it moves the packets it wants to the front of the row, in order,
and returns how many they are.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.experimental.function_type import _get_wrapper_address
from numba.extending import intrinsic

from wirecap.kernels.atomics import fetch_add, load
from wirecap.kernels.jit import PURE, i64, inline, kernel, lengths, octets, table, words
from wirecap.kernels.lanes import EMPTY, pop, push, wait
from wirecap.kernels.pool import (
    ABORT,
    BUDGET,
    CLOSE,
    COUNT,
    HOME,
    KEPT,
    LANE_MASK,
    LIMIT,
    OFFLOADED,
    PHASE,
    POOL,
    SLOT_WORDS,
    STATE,
    lane,
    recycle,
)

PROCESS_SIGNATURE = i64(octets, words, lengths, lengths, words, i64, words)
PROCESS = types.FunctionType(PROCESS_SIGNATURE)

STAGES = 4  # handlers that one thread can chain
CHAIN = types.UniTuple(PROCESS, STAGES)

# words of Pool.tallies, per consumer and home queue
DELIVERED, DELIVERED_OCTETS, FILTERED, UNREAD, DELIVERED_OFFLOADED, UNREAD_OCTETS = range(6)
TALLY_WORDS = 8

# words of a handler thread's settings
KEEP_GOING, ONWARD, BY_QUEUE = range(3)

CLOSED, TIMED_OUT = -2, -1
WAIT_NS = 100_000_000


@kernel(PROCESS_SIGNATURE)
def everything(arena, address, captured, original, stamp, n, state):
    """The filter that wants every packet."""
    return n


@kernel(PROCESS_SIGNATURE)
def nothing(arena, address, captured, original, stamp, n, state):
    """The handler that does nothing: counting is the thread's own work."""
    return 0


@inline
def next_slot(pool, consumer, wait_ns, scratch):
    """Wait for a chunk: its slot; TIMED_OUT when none came in wait_ns; CLOSED when none will come."""
    base = lane(pool, consumer)
    phase = load(pool.control, PHASE)
    if phase == ABORT:
        return CLOSED
    slot = pop(pool.lanes, base, pool.control[LANE_MASK])
    if slot == EMPTY:
        if phase >= CLOSE:
            return CLOSED
        wait(pool.lanes, base, wait_ns, scratch)
        return TIMED_OUT
    return slot


@inline
def admit(pool, consumer, slot, select, select_state):
    """Filter a chunk, hold it against the packet limit (``-c``), count it; how many packets to handle."""
    m = slot * SLOT_WORDS
    count = pool.meta[m + COUNT]
    tally = pool.tallies[consumer, pool.meta[m + HOME]]
    kept = select(
        pool.arena, pool.address[slot], pool.captured[slot], pool.original[slot], pool.stamp[slot], count, select_state
    )
    tally[FILTERED] += count - kept
    if pool.control[LIMIT] > 0:
        left = max(0, pool.control[LIMIT] - fetch_add(pool.control, BUDGET, kept))
        if kept > left:
            tally[UNREAD] += kept - left
            for i in range(left, kept):
                tally[UNREAD_OCTETS] += pool.captured[slot, i]
            kept = left
    octet_count = 0
    for i in range(kept):
        octet_count += pool.captured[slot, i]
    tally[DELIVERED] += kept
    tally[DELIVERED_OCTETS] += octet_count
    if pool.meta[m + OFFLOADED]:
        tally[DELIVERED_OFFLOADED] += kept
    pool.meta[m + KEPT] = kept
    return kept


def address_of(process: Any) -> Any:
    """Where the code of a compiled kernel of PROCESS_SIGNATURE is: Numba takes 70 us to find it, so ask once."""
    return process if PURE else _get_wrapper_address(process, PROCESS_SIGNATURE)


if PURE:

    def _at(address):  # type: ignore[no-untyped-def]
        return address

else:

    @intrinsic
    def _at(typing, address):  # type: ignore[no-untyped-def]
        """The kernel at an address."""

        def generate(context, builder, signature, arguments):
            function = cgutils.create_struct_proxy(PROCESS)(context, builder)
            pointer = context.get_value_type(types.voidptr)
            function.c_addr = builder.inttoptr(arguments[0], pointer)
            function.py_addr = function.jit_addr = cgutils.get_null_value(pointer)
            return function._getvalue()

        return PROCESS(types.int64), generate


@kernel(i64(POOL, i64, i64, words, i64, words))
def next_chunk(pool, consumer, select, select_state, wait_ns, scratch):
    """For handlers in Python: wait for a chunk, admit it; slot << 32 | packets, or TIMED_OUT, or CLOSED.

    select: ``address_of`` the filter.
    """
    slot = next_slot(pool, consumer, wait_ns, scratch)
    if slot < 0:
        return slot
    return slot << 32 | admit(pool, consumer, slot, _at(select), select_state)


@inline
def pass_on(pool, slot, settings):
    """A handled chunk goes to the writer, or home."""
    if settings[ONWARD] == EMPTY:
        recycle(pool, slot, load(pool.meta, slot * SLOT_WORDS + STATE) >> 2)
    else:
        writer = settings[ONWARD] + (pool.meta[slot * SLOT_WORDS + HOME] if settings[BY_QUEUE] else 0)
        push(pool.lanes, lane(pool, writer), pool.control[LANE_MASK], slot)


@kernel(types.void(POOL, i64, words))
def hand_on(pool, slot, settings):
    """``pass_on`` for handlers in Python."""
    pass_on(pool, slot, settings)


@inline
def run_chain(pool, slot, kept, chain, states, settings, failure):
    """Run the row of handlers over a chunk's packets; True when one failed and that ends the run."""
    if kept:
        for stage in range(STAGES):
            failed = chain[stage](
                pool.arena, pool.address[slot], pool.captured[slot], pool.original[slot], pool.stamp[slot], kept,
                states[stage],
            )  # fmt: skip
            if failed:
                failure[0], failure[1], failure[2] = stage, failed - 1, slot
                failure[3] += 1
                if not settings[KEEP_GOING]:
                    return True
    return False


@kernel(i64(POOL, i64, PROCESS, words, CHAIN, table, words, words, words))
def handler_loop(pool, consumer, select, select_state, chain, states, settings, failure, scratch):
    """Take chunks, run the chain of handlers over each, pass them on; 0 when the engine closed, 1 on a failure.

    states: int64 (STAGES, words), a row per handler.  settings: KEEP_GOING (1: a failure is counted, and the
    rest of that chunk skipped for that handler), ONWARD (EMPTY: chunks are recycled; else the writer that gets
    them) and BY_QUEUE (1: the writer ONWARD + home queue).  failure: int64 (4,): stage, packet in the chunk,
    slot, failures so far.
    """
    while True:
        slot = next_slot(pool, consumer, WAIT_NS, scratch)
        if slot == CLOSED:
            return 0
        if slot == TIMED_OUT:
            continue
        kept = admit(pool, consumer, slot, select, select_state)
        if run_chain(pool, slot, kept, chain, states, settings, failure):
            return 1
        pass_on(pool, slot, settings)
