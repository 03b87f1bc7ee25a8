"""The loop of a handler thread, and the signature of a handler's kernel.

``process(arena, address, captured, original, timestamp, n, state)`` gets the rows of one chunk and the
thread's own int64 state; it returns 0, or the number (from 1) of the packet that it failed on.  A filter
is a ``select`` of the same signature: it moves the packets that it accepts to the front of the row, in
order, and returns how many there are.  Interfaces of different link types have a state each, in one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from wirecap.kernels.base.atomics import fetch_add, load
from wirecap.kernels.base.jit import PURE, Kernel, compiler, inline, inline_always, intrinsic, kernel
from wirecap.kernels.base.kinds import Signature, byte_array, i64, lengths, none, record, table, words
from wirecap.kernels.base.later import cgutils, types
from wirecap.kernels.pool.pool import (
    ABORT,
    BUDGET,
    CLOSE,
    COUNT,
    HOME,
    INTERFACE,
    KEPT,
    LIMIT,
    OFFLOADED,
    PHASE,
    POOL,
    RINGS,
    SLOT_WORDS,
    STATE,
    WORK_QUEUE_MASK,
    recycle,
    work_queue,
)
from wirecap.kernels.pool.work_queues import EMPTY, EMPTY_HANDED, pop, push, wait

PROCESS_SIGNATURE = i64(byte_array, words, lengths, lengths, words, i64, words)

STAGES = 4  # handlers that one thread can chain

# words of Pool.tallies, per consumer and home queue
DELIVERED, DELIVERED_BYTES, FILTERED, UNREAD, DELIVERED_OFFLOADED, UNREAD_BYTES = range(6)
TALLY_WORDS = 8

# words of a handler thread's settings
KEEP_GOING, ONWARD, BY_QUEUE = range(3)

CLOSED, TIMED_OUT = -2, -1
WAIT_NS = 100_000_000


class Work(NamedTuple):
    """What a handler thread does with a chunk: its filter, its chain of handlers, and where the chunk goes next."""

    select: Any  # int64: the filter's address
    filters: Any  # int64 (words,): the filter's states, as by_interface lays them out
    chain: Any  # int64 (STAGES,): the handlers' addresses
    states: Any  # int64 (STAGES, words): a row per handler, the last word of which is the chunk's interface
    # int64 (4,): KEEP_GOING (1: count a failure, and that handler skips the rest of the chunk), ONWARD (EMPTY:
    # recycle chunks; else the consumer that gets them), BY_QUEUE (1: that consumer is ONWARD + home queue)
    settings: Any
    failure: Any  # int64 (4,): stage, packet in the chunk, slot, failures so far


WORK = record(Work, i64, words, words, table, words, words)


class Intake(NamedTuple):
    """Where a handler thread's chunks come from."""

    receive: Any  # int64: the address of a kernel of RECEIVE_SIGNATURE; 0: capture threads hand over chunks
    rings: Any  # Rings
    mine: Any  # int64 (queues,): the home queues to receive from
    wait_fd: Any  # int64: readable when one of those has packets
    depths: Any  # int64 (C,): scratch


INTAKE = record(Intake, i64, RINGS, words, i64, words)
RECEIVE_SIGNATURE = i64(POOL, i64, INTAKE, i64, words)


@kernel(PROCESS_SIGNATURE)
def everything(arena, address, captured, original, timestamp, n, state):
    """The filter that accepts every packet."""
    return n


@kernel(PROCESS_SIGNATURE)
def nothing(arena, address, captured, original, timestamp, n, state):
    """The handler that does nothing: the thread itself does the counting."""
    return 0


def by_interface(states: Sequence[Any]) -> Any:
    """The states of a filter in one int64 array; ``states[i]`` is that of the source's interface i.

    Its words: how many interfaces there are; for each, where its state begins and ends; the states.
    """
    different = {id(state): state for state in states}
    places, end = {}, 1 + 2 * len(states)
    for number, state in different.items():
        places[number] = (end, end + len(state))
        end += len(state)
    head = [len(states), *(word for state in states for word in places[id(state)])]
    return np.concatenate([np.array(head, np.int64), *different.values()])


NO_FILTER = np.zeros(3, np.int64)
"""The states of ``everything``."""


@inline
def state_of(filters, interface):
    """Where the state of an interface's filter begins and ends."""
    entry = 1 + 2 * interface if interface < filters[0] else 1
    return filters[entry], filters[entry + 1]


@inline
def next_slot(pool, consumer, wait_ns, scratch):
    """Wait for a chunk: returns its slot, TIMED_OUT if none came within wait_ns, or CLOSED if none will come."""
    base = work_queue(pool, consumer)
    phase = load(pool.control, PHASE)
    if phase == ABORT:
        return CLOSED
    slot = pop(pool.work_queues, base, pool.control[WORK_QUEUE_MASK])
    if slot == EMPTY:
        if phase >= CLOSE:
            return CLOSED
        wait(pool.work_queues, base, EMPTY_HANDED, wait_ns, scratch)
        return TIMED_OUT
    return slot


@inline
def admit(pool, consumer, slot, select, filters):
    """Filter a chunk, apply the packet limit (``-c``), and count; returns how many packets to handle."""
    m = slot * SLOT_WORDS
    count = pool.meta[m + COUNT]
    tally = pool.tallies[consumer, pool.meta[m + HOME]]
    first, end = state_of(filters, pool.meta[m + INTERFACE])
    kept = process_at(
        select,
        pool.arena,
        pool.address[slot],
        pool.captured[slot],
        pool.original[slot],
        pool.timestamp[slot],
        count,
        filters[first:end],
    )
    tally[FILTERED] += count - kept
    if pool.control[LIMIT] > 0:
        left = max(0, pool.control[LIMIT] - fetch_add(pool.control, BUDGET, kept))
        if kept > left:
            tally[UNREAD] += kept - left
            for i in range(left, kept):
                tally[UNREAD_BYTES] += pool.captured[slot, i]
            kept = left
    byte_count = 0
    for i in range(kept):
        byte_count += pool.captured[slot, i]
    tally[DELIVERED] += kept
    tally[DELIVERED_BYTES] += byte_count
    if pool.meta[m + OFFLOADED]:
        tally[DELIVERED_OFFLOADED] += kept
    pool.meta[m + KEPT] = kept
    return kept


def address_of(compiled: Any, signature: Any = PROCESS_SIGNATURE) -> Any:
    """The address of a compiled kernel's code; in plain Python the function itself.  The kernel must outlive its use.

    If a loop is passed a function instead, Numba looks up its code at every call, which takes 70 us.
    """
    if PURE:
        return compiled
    if isinstance(compiled, Kernel):
        return compiled.address
    found = compiled.get_compile_result(compiler().signature_of(signature))
    return found.library.get_pointer_to_function(found.fndesc.llvm_func_name)


def addresses_of(processes: Sequence[Any]) -> Any:
    """A chain of handlers, padded with ``nothing``."""
    found = [address_of(process) for process in [*processes, *[nothing] * (STAGES - len(processes))]]
    return found if PURE else np.array(found, np.int64)


def _emit_call(context: Any, builder: Any, wanted: Any, arguments: Any) -> Any:
    """Call the function at the address that is the first argument; what it raises is raised here."""
    result, kinds = wanted.return_type, wanted.args[1:]
    kind = context.call_conv.get_function_type(result, kinds)
    function = builder.inttoptr(arguments[0], kind.as_pointer())
    status, value = context.call_conv.call_function(builder, function, result, kinds, arguments[1:])
    with cgutils.if_unlikely(builder, status.is_error):
        context.call_conv.return_status_propagate(builder, status)
    return value


def _at_an_address(wanted: Signature) -> tuple[Any, Any]:
    """What an intrinsic returns that calls a function of this signature, whose address is its first argument."""
    known = compiler().signature_of(wanted)
    return known.return_type(types.int64, *known.args), _emit_call


if PURE:

    def process_at(code, arena, address, captured, original, timestamp, n, state):  # type: ignore[no-untyped-def]
        """Call a kernel of PROCESS_SIGNATURE by its ``address_of``."""
        return code(arena, address, captured, original, timestamp, n, state)

    def receive_at(code, pool, consumer, intake, wait_ns, scratch):  # type: ignore[no-untyped-def]
        """Call a kernel of RECEIVE_SIGNATURE by its ``address_of``."""
        return code(pool, consumer, intake, wait_ns, scratch)

else:

    @intrinsic
    def process_at(typing, code, arena, address, captured, original, timestamp, n, state):  # type: ignore[no-untyped-def]
        """Call a kernel of PROCESS_SIGNATURE by its ``address_of``."""
        return _at_an_address(PROCESS_SIGNATURE)

    @intrinsic
    def receive_at(typing, code, pool, consumer, intake, wait_ns, scratch):  # type: ignore[no-untyped-def]
        """Call a kernel of RECEIVE_SIGNATURE by its ``address_of``."""
        return _at_an_address(RECEIVE_SIGNATURE)


@inline_always
def take(pool, consumer, intake, wait_ns, scratch):
    """Take a chunk: by ``next_slot``, or by ``intake.receive`` if there is one."""
    if intake.receive:
        return receive_at(intake.receive, pool, consumer, intake, wait_ns, scratch)
    return next_slot(pool, consumer, wait_ns, scratch)


@kernel(i64(POOL, i64, INTAKE, i64, words, i64, words))
def next_chunk(pool, consumer, intake, select, filters, wait_ns, scratch):
    """For handlers in Python: wait for a chunk and admit it; returns slot << 32 | packets, TIMED_OUT or CLOSED.

    select: the filter's ``address_of``; filters: its states, as ``by_interface`` lays them out.
    """
    slot = take(pool, consumer, intake, wait_ns, scratch)
    if slot < 0:
        return slot
    return slot << 32 | admit(pool, consumer, slot, select, filters)


@inline
def pass_on(pool, slot, settings):
    """Pass a handled chunk on to the writer, or home."""
    if settings[ONWARD] == EMPTY:
        recycle(pool, slot, load(pool.meta, slot * SLOT_WORDS + STATE) >> 2)
    else:
        writer = settings[ONWARD] + (pool.meta[slot * SLOT_WORDS + HOME] if settings[BY_QUEUE] else 0)
        push(pool.work_queues, work_queue(pool, writer), pool.control[WORK_QUEUE_MASK], slot)


@kernel(none(POOL, i64, words))
def hand_on(pool, slot, settings):
    """``pass_on`` for handlers in Python."""
    pass_on(pool, slot, settings)


@inline_always
def run_chain(pool, slot, kept, work):
    """Run the chain of handlers over a chunk's packets; True if one failed and that ends the run."""
    if kept:
        interface, last = pool.meta[slot * SLOT_WORDS + INTERFACE], work.states.shape[1] - 1
        for stage in range(STAGES):
            work.states[stage, last] = interface
            failed = process_at(
                work.chain[stage], pool.arena, pool.address[slot], pool.captured[slot], pool.original[slot],
                pool.timestamp[slot], kept, work.states[stage],
            )  # fmt: skip
            if failed:
                failure = work.failure
                failure[0], failure[1], failure[2] = stage, failed - 1, slot
                failure[3] += 1
                if not work.settings[KEEP_GOING]:
                    return True
    return False


@inline_always
def handle_chunk(pool, consumer, slot, work):
    """Filter a chunk and run the chain of handlers over it; True if one failed and that ends the run."""
    kept = admit(pool, consumer, slot, work.select, work.filters)
    return run_chain(pool, slot, kept, work)


@kernel(i64(POOL, i64, WORK, INTAKE, words))
def handler_loop(pool, consumer, work, intake, scratch):
    """Take chunks, run the chain of handlers over each, pass them on; returns 0 when the engine closes, 1 on failure.

    ``take``, ``handle_chunk`` and ``run_chain`` are always inlined: passing records to a call copies them, which costs
    25 to 50 ns per chunk.
    """
    while True:
        slot = take(pool, consumer, intake, WAIT_NS, scratch)
        if slot == CLOSED:
            return 0
        if slot == TIMED_OUT:
            continue
        if handle_chunk(pool, consumer, slot, work):
            return 1
        pass_on(pool, slot, work.settings)
