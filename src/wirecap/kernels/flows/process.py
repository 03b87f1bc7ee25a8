"""The kernels around a flow table: a chunk of packets into it, time going on, the end."""

from __future__ import annotations

import numpy as np

from wirecap.kernels.base.atomics import compare_swap, load, prefetch, store
from wirecap.kernels.base.jit import inline, inline_always, kernel
from wirecap.kernels.base.kinds import i64
from wirecap.kernels.base.libc import sleep_ns
from wirecap.kernels.base.views import lengths_at, peek, poke, words_at
from wirecap.kernels.flows.keys import (
    ABOUT,
    BYTES,
    FOUND,
    SENT_BY_B,
    SENT_FLAGS,
    SENT_HAS_ICMP,
    SENT_ICMP,
    SENT_TOS,
    TAG,
    put_key,
    tag_of,
)
from wirecap.kernels.flows.layout import (
    ACTIVE_NS,
    BLOCK,
    CAPTURED,
    CLOSED,
    DIRECTED,
    END,
    ENTRY_WORDS,
    EPOCH,
    FAILED,
    FIN,
    FIRST,
    FLAGS,
    FLOW_BYTES,
    FLOW_PACKETS,
    FLOW_TABLE,
    FORCED,
    FRAME_BYTES,
    FROM_B,
    HAS_ICMP,
    HIGH,
    ICMP,
    IDLE_NS,
    INITIATED,
    INNER,
    IP_BYTES,
    KEY,
    KEY_WORDS,
    LAST,
    LINGER_NS,
    LINK,
    LOCK,
    MORE,
    NEVER,
    NEVER_SEEN,
    NOW,
    ORIGIN,
    ORIGIN_BITS,
    OTHER_BYTES,
    OTHERS,
    PACKETS,
    PHASE_AT,
    PORT_A,
    PORT_B,
    PROTOCOL,
    REVERSE_FLAGS,
    REVERSE_TOS,
    ROOM,
    SCRATCH,
    SWEEP_AT,
    SWEPT,
    TCP_FLAGS,
    WAITS,
    FlowTable,
)
from wirecap.kernels.flows.origin import origin_of
from wirecap.kernels.flows.table import begin, find, finish_flow, is_key_of, later, room_in, settle, sweep, tick_of
from wirecap.kernels.flows.tunnels import put_innermost_key
from wirecap.kernels.packet.headers import at as packet_at
from wirecap.kernels.pool.handler_loop import PROCESS_SIGNATURE
from wirecap.kernels.pool.pool import ABORT, PHASE

_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_SPINS = 1000
_WAIT_NS = 50_000
_SWEEPS = 8
"""Times that the sweep goes round while a flow becomes idle."""
_PIECE = 4096
"""Entries that the sweep looks at between two looks at the lock."""


_AHEAD = 16
"""Packets between the one whose headers are being fetched and the one that is being read."""
_FETCHED = 24
"""A byte in the middle of the headers."""


@inline_always
def _table_of(state):
    return FlowTable(
        words_at(state[0], state[7]), words_at(state[1], state[8]), words_at(state[2], state[9]),
        lengths_at(state[3], state[10]), words_at(state[4], state[11]), words_at(state[5], state[12]),
        words_at(state[6], state[13]),
    )  # fmt: skip


@inline
def _lock(control):
    spins = 0
    while not compare_swap(control, LOCK, 0, 1):
        spins += 1
        if spins > _SPINS:  # the other one was interrupted while it held the lock
            sleep_ns(_WAIT_NS, control[SCRATCH:])


@inline
def _wait_for_room(control, ring):
    """Before a block: where records are not to be lost, wait until the ring has room for all that it may end."""
    phase = words_at(control[PHASE_AT], PHASE + 1)
    while room_in(control, ring) < ROOM and not load(control, FAILED) and load(phase, PHASE) != ABORT:
        sleep_ns(_WAIT_NS, control[SCRATCH:])


@inline
def _sweep_along(control, entries, index, due, ring):
    """Look at as many entries as the time since the last look asks for."""
    period = max(control[IDLE_NS] // _SWEEPS >> 10, 1)
    elapsed = min(control[NOW] - control[SWEPT] >> 10, period)
    if elapsed >= 1024:
        control[SWEPT] = control[NOW]
        sweep(control, entries, index, due, ring, elapsed * control[HIGH] // period + 1)


@inline_always
def _read_block(control, arena, address, captured, original, timestamp, first, end, index, keys):
    """The keys of a block's packets, and the memory of the index on its way."""
    mask, link, now, inner = index.size - 1, control[LINK], control[NOW], control[INNER]
    counted, counted_bytes = 0, np.int64(0)
    ahead = address.size - _AHEAD
    for i in range(first, end):
        if i < ahead:
            prefetch(arena, peek(address, i + _AHEAD) + _FETCHED)
        at, length = (i - first) * KEY_WORDS, np.int64(peek(captured, i))
        size = np.int64(peek(original, i))
        if inner:
            why = put_innermost_key(arena, peek(address, i), length, size, link, keys, at)
        else:
            why = put_key(packet_at(arena, peek(address, i), length, 0, 0, link), link, size, keys, at)
        now = max(now, peek(timestamp, i))
        if why:
            poke(keys, at + TAG, -1)
            control[OTHERS + why] += 1
            control[OTHER_BYTES + why] += length
        else:
            tag = tag_of(keys, at, control)
            poke(keys, at + TAG, tag)
            prefetch(index, tag & mask)
            counted += 1
            counted_bytes += length
    control[FLOW_PACKETS] += counted
    control[FLOW_BYTES] += counted_bytes
    if control[NOW] == NEVER_SEEN:
        control[EPOCH] = control[SWEPT] = timestamp[first]
    control[NOW] = now


@inline_always
def _fetch_entries(entries, index, keys, count):
    """The memory of the flows on its way.  FOUND of each key: an entry whose tag is the same, or -1."""
    mask = index.size - 1
    for i in range(count):
        tag = peek(keys, i * KEY_WORDS + TAG)
        if tag < 0:
            continue
        place = tag & mask
        word = peek(index, place)
        while word and word >> 32 != tag:
            place = place + 1 & mask
            word = peek(index, place)
        base = ((word & 0xFFFFFFFF) - 1) * ENTRY_WORDS
        prefetch(entries, base)
        prefetch(entries, base + ENTRY_WORDS // 2)
        poke(keys, i * KEY_WORDS + FOUND, (word & 0xFFFFFFFF) - 1)


@inline_always
def _count(control, entries, due, entry, time, key, keys, original, captured, arena, address, way, interface):
    """Count a packet in its flow."""
    base, about = entry * ENTRY_WORDS, peek(keys, key + ABOUT)
    flags, sent = peek(entries, base + FLAGS), about >> SENT_FLAGS & TCP_FLAGS
    if not flags >> DIRECTED & 1:
        flags = _direct(keys, key, sent)
        poke(entries, base + FLAGS, flags)
    reverse = (about >> SENT_BY_B & 1) ^ (flags >> FROM_B & 1)
    mine = base + reverse
    packets = peek(entries, mine + PACKETS)
    if packets == 0:
        origin = origin_of(arena, address, captured, way, interface)
        _begin_direction(entries, base, about, reverse, origin)
    poke(entries, base + FIRST, min(peek(entries, base + FIRST), time))
    poke(entries, base + LAST, max(peek(entries, base + LAST), time))
    poke(entries, mine + PACKETS, packets + 1)
    poke(entries, mine + IP_BYTES, peek(entries, mine + IP_BYTES) + peek(keys, key + BYTES))
    poke(entries, mine + FRAME_BYTES, peek(entries, mine + FRAME_BYTES) + original)
    poke(entries, base + CAPTURED, peek(entries, base + CAPTURED) + captured)
    if sent:
        flags |= sent << REVERSE_FLAGS * reverse
        if sent & _FIN:
            flags |= 1 << FIN + reverse
        if (sent & _RST or flags >> FIN & 3 == 3) and not flags >> CLOSED & 1:
            flags |= 1 << CLOSED
            due[entry] = min(np.int64(due[entry]), tick_of(control, later(time, control[LINGER_NS])))
        poke(entries, base + FLAGS, flags)


@inline
def _direct(keys, key, sent):
    """FLAGS of a new flow: from whom its first packet came, and whether that one began it.

    An answer to a SYN says that the other one did; for TCP in the middle of a connection it is not known.
    """
    source, known = keys[key + ABOUT] >> SENT_BY_B & 1, keys[key + KEY] >> PROTOCOL & 0xFF != 6
    if sent & _SYN:
        known = True
        if sent & _ACK and not _is_to_itself(keys, key):
            source ^= 1
    return source << FROM_B | known << INITIATED | 1 << DIRECTED


@inline
def _is_to_itself(keys, key):
    """Whether both ends are the same, so that there is one direction only."""
    ports = keys[key + KEY]
    return (
        keys[key] == keys[key + 2]
        and keys[key + 1] == keys[key + 3]
        and ports >> PORT_A & 0xFFFF == ports >> PORT_B & 0xFFFF
    )


@inline
def _begin_direction(entries, base, about, reverse, origin):
    """What only the first packet of a direction says."""
    more = entries[base + MORE]
    more |= (about >> SENT_TOS & 0xFF) << REVERSE_TOS * reverse | origin << ORIGIN + ORIGIN_BITS * reverse
    if not more >> HAS_ICMP & 1 and about >> SENT_HAS_ICMP & 1:
        more |= (about >> SENT_ICMP & 0xFFFF) << ICMP | 1 << HAS_ICMP
    entries[base + MORE] = more


@inline
def _end_before(control, entries, index, due, ring, entry, time, sent):
    """End a flow, or a record of it, that was over before a packet came: True if the packet begins a new one."""
    if entries[entry * ENTRY_WORDS + FLAGS] >> CLOSED & 1 and sent & (_SYN | _ACK) == _SYN:
        if not settle(control, entries, index, due, ring, entry, time):
            finish_flow(control, entries, index, due, ring, entry, END)
        return True
    return settle(control, entries, index, due, ring, entry, time)


@inline_always
def _count_block(
    control, entries, index, due, ring, keys, arena, address, captured, original, timestamp, first, end, way, interface
):  # fmt: skip
    idle, active = control[IDLE_NS], control[ACTIVE_NS]
    for i in range(first, end):
        key = (i - first) * KEY_WORDS
        tag = peek(keys, key + TAG)
        if tag < 0:
            continue
        time = peek(timestamp, i)
        entry = peek(keys, key + FOUND)
        if entry >= 0 and not is_key_of(entries, entry * ENTRY_WORDS, keys, key):
            entry = -1
        if entry < 0:  # there was none when the block was looked up, or it has ended since
            entry = find(entries, index, keys, key, tag)
        if entry >= 0:
            base = entry * ENTRY_WORDS
            if (
                time - peek(entries, base + LAST) >= idle
                or time - peek(entries, base + FIRST) >= active
                or peek(entries, base + FLAGS) >> CLOSED & 1
            ):
                sent = keys[key + ABOUT] >> SENT_FLAGS & TCP_FLAGS
                if _end_before(control, entries, index, due, ring, entry, time, sent):
                    entry = -1
        if entry < 0:
            entry = begin(control, entries, index, due, ring, keys, key, tag, time)
        _count(
            control, entries, due, entry, time, key, keys, np.int64(peek(original, i)), np.int64(peek(captured, i)),
            arena, peek(address, i), way, interface,
        )  # fmt: skip


@kernel(PROCESS_SIGNATURE)
def process(arena, address, captured, original, timestamp, n, state):
    """Count the packets of a chunk in their flows.  state: as layout.py has it."""
    table = _table_of(state)
    control, entries, index = table.control, table.entries, table.index
    due, ring, keys = table.due, table.ring, table.keys
    interface = state[state.size - 1]
    way = table.ways[min(interface, table.ways.size - 1)]
    for first in range(0, n, BLOCK):
        end = min(first + BLOCK, n)
        if control[WAITS]:
            _wait_for_room(control, ring)
        _lock(control)
        _read_block(control, arena, address, captured, original, timestamp, first, end, index, keys)
        _fetch_entries(entries, index, keys, end - first)
        _count_block(
            control, entries, index, due, ring, keys, arena, address, captured, original, timestamp, first, end, way,
            interface,
        )  # fmt: skip
        _sweep_along(control, entries, index, due, ring)
        store(control, LOCK, 0)
    return 0


@kernel(i64(FLOW_TABLE, i64))
def advance(table, now):
    """Let time go on to ``now`` (ns) where no packets come: end what has ended.  Returns how many entries it saw."""
    control, looked = table.control, 0
    count = control[HIGH]
    while looked < count:
        _lock(control)
        control[NOW] = max(control[NOW], now)
        some = sweep(control, table.entries, table.index, table.due, table.ring, min(_PIECE, count - looked))
        store(control, LOCK, 0)
        looked += some
        if some == 0:
            break
    return looked


@kernel(i64(FLOW_TABLE))
def finish(table):
    """End the flows that are left, in the order in which they lie, as far as the ring has room: how many remain."""
    control, entries, due = table.control, table.entries, table.due
    at, high = control[SWEEP_AT], control[HIGH]
    if at >= 0:
        at = -1  # the first call: begin with the first entry; SWEEP_AT is from now on -1 - the next one
    at = -1 - at
    while at < high:
        if due[at] != NEVER:
            if room_in(control, table.ring) < 4:
                break
            if not settle(control, entries, table.index, due, table.ring, at, control[NOW]):
                finish_flow(control, entries, table.index, due, table.ring, at, FORCED)
        at += 1
    control[SWEEP_AT] = -1 - at
    return high - at
