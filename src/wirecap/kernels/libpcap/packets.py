"""Reading: the next packet of the ring that the filter accepts, and waiting for one."""

from __future__ import annotations

from wirecap.kernels.base.jit import inline
from wirecap.kernels.libpcap import handle as h
from wirecap.kernels.libpcap import layout as s
from wirecap.kernels.libpcap.export import real
from wirecap.kernels.libpcap.handle import fail
from wirecap.kernels.libpcap.memory import (
    acquire64,
    as_int,
    c_function,
    call_back,
    load32,
    load64,
    release64,
    store32,
    store64,
    text,
)

read, write, poll = c_function("read", 3), c_function("write", 3), c_function("poll", 3)
real_bpf_filter = real("bpf_filter")

POLLIN, POLLERR, POLLHUP = 1, 8, 16
STOPPED = -2  # PCAP_ERROR_BREAK
ENDED = "the running wirecap has ended"


@inline
def ring_bell(entry, word):
    """Add 1 to an eventfd."""
    scratch = entry + h.SCRATCH + 64  # whoever waits at the same time uses the bytes before
    store64(scratch, 1)
    write(load64(entry + word), scratch, 8)


@inline
def let_go(entry):
    """Give the place at the tail back to the capture: its packets may be overwritten."""
    taken = load64(entry + h.TAKEN) + 1
    store64(entry + h.PLACE, 0)
    store64(entry + h.TAKEN, taken)
    release64(load64(entry + h.RING) + s.TAIL, taken)
    ring_bell(entry, h.RELEASE)


@inline
def at_hand(entry):
    """How many packets of the current place are left, after moving on to the next place if it is used up."""
    if load64(entry + h.PLACE) != 0:
        left = load64(entry + h.COUNT) - load64(entry + h.AT)
        if left > 0:
            return left
        let_go(entry)
    ring, taken = load64(entry + h.RING), load64(entry + h.TAKEN)
    if acquire64(ring + s.HEAD) == taken:
        return 0
    place = ring + s.PAGE + (taken % load64(entry + h.PLACES)) * s.place_bytes(load64(entry + h.M))
    count = load64(place)
    store64(entry + h.PLACE, place)
    store64(entry + h.COUNT, count)
    store64(entry + h.AT, 0)
    return count


@inline
def next_packet(entry):
    """Take the next packet of the current place that the filter accepts: its address, or 0; its header is in HEADER."""
    place, m = load64(entry + h.PLACE), load64(entry + h.M)
    program, snaplen = load64(entry + h.FILTER), load64(entry + h.SNAPLEN)
    arena, count = load64(entry + h.ARENA), load64(entry + h.COUNT)
    at = load64(entry + h.AT)
    rows = place + s.ROWS
    while at < count:
        data = arena + load64(rows + 8 * at)
        captured, original = load32(rows + 16 * m + 4 * at), load32(rows + 20 * m + 4 * at)
        at += 1
        if program != 0 and real_bpf_filter(program, data, original, captured, 0, 0) & 0xFFFFFFFF == 0:
            continue
        time = load64(rows + 8 * m + 8 * (at - 1))
        seconds = time // 1_000_000_000
        part = time - seconds * 1_000_000_000
        if load64(entry + h.PRECISION) == 0:
            part //= 1000
        store64(entry + h.HEADER, seconds)
        store64(entry + h.HEADER + 8, part)
        store32(entry + h.HEADER + 16, min(captured, snaplen))
        store32(entry + h.HEADER + 20, original)
        store64(entry + h.AT, at)
        store64(entry + h.ACCEPTED, load64(entry + h.ACCEPTED) + 1)
        return data
    store64(entry + h.AT, at)
    return 0


@inline
def wait(entry, timeout_ms):
    """Wait for packets: 1, or 0 if none came in time or the program wants to stop; PCAP_ERROR at the end.

    timeout_ms: negative for no limit.  Programs wait on the doorbell by themselves too: it may be reset only while
    there is nothing in the ring.  Who rings after that is heard by ``poll``.
    """
    scratch = entry + h.SCRATCH
    ended = False
    while True:
        read(load64(entry + h.DOORBELL), scratch, 8)
        if at_hand(entry) > 0:
            ring_bell(entry, h.DOORBELL)
            return 1
        if acquire64(entry + h.STOP) != 0:
            return 0
        if ended or acquire64(load64(entry + h.RING) + s.CLOSED) != 0:
            if at_hand(entry) > 0:  # what came before the end
                return 1
            return fail(entry, text(ENDED))
        store64(scratch, load64(entry + h.DOORBELL) | POLLIN << 32)
        store64(scratch + 8, load64(entry + h.SOCKET))
        ready = as_int(poll(scratch, 2, timeout_ms))
        if ready == 0:
            return 0
        ended = ready > 0 and (load64(scratch + 8) >> 48) & (POLLHUP | POLLERR) != 0


@inline
def patience_ms(entry):
    """How long a call may wait: pcap_set_timeout's, where 0 and less mean for ever; not at all if non-blocking."""
    if load64(entry + h.NONBLOCK) != 0:
        return 0
    timeout = load64(entry + h.TIMEOUT_MS)
    return timeout if timeout > 0 else -1


@inline
def stopped(entry):
    """Whether pcap_breakloop was called; asking ends it."""
    if acquire64(entry + h.STOP) == 0:
        return False
    store64(entry + h.STOP, 0)
    return True


@inline
def hand_out(entry, limit, function, user, timeout_ms):
    """Call back for up to ``limit`` (0 or less: all) packets of one place, waiting for it; how many, or an error."""
    if stopped(entry):
        return STOPPED
    if at_hand(entry) == 0:
        found = wait(entry, timeout_ms)
        if found <= 0:
            return STOPPED if found == 0 and stopped(entry) else found
    n = 0
    while limit <= 0 or n < limit:
        data = next_packet(entry)
        if data == 0:
            let_go(entry)
            return n
        call_back(function, user, entry + h.HEADER, data)
        n += 1
        if acquire64(entry + h.STOP) != 0:  # the next call returns PCAP_ERROR_BREAK
            return n
    if load64(entry + h.AT) == load64(entry + h.COUNT):
        let_go(entry)
    return n


@inline
def take(entry):
    """The address of one packet for pcap_next: 0 if none came in time, or a PCAP_ERROR."""
    while True:
        if stopped(entry):
            return STOPPED
        if at_hand(entry) == 0:
            found = wait(entry, patience_ms(entry))
            if found <= 0:
                return STOPPED if found == 0 and stopped(entry) else found
        data = next_packet(entry)
        if data != 0:
            return data
