"""The loop that sends a batch, each packet at its time and in order, and the one that waits for what is under way.

Each is written once, for whatever has the verbs of kernels/transmit/xdp_queues.py.  Packets that are due at once share
a system call, up to BURST of them.  Before a moment of the monotonic clock the thread sleeps through most of the time
and watches the clock for the rest.  How long before the moment the sleep ends, the margin, follows the lateness of past
wake-ups: it grows at once and shrinks slowly.  A margin of 0 stays 0: the clock is never watched then.
"""

from __future__ import annotations

from typing import Any

from wirecap.kernels.base.atomics import load
from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, i64, words
from wirecap.kernels.base.libc import monotonic_ns, sleep_until
from wirecap.kernels.transmit import af_packet_ring, launch_queues, xdp_queues
from wirecap.kernels.transmit.frames import FRAMES
from wirecap.kernels.transmit.ring import BURST, rest

# words of a run's ``control``
(
    STOP,  # set by another thread
    START_NS,  # what due times count from
    UNTIL_NS,  # when the loop returns to Python
    PACED,  # 0: as fast as possible
    POSITION,  # the batch's packet that comes next
    MARGIN_NS,
    LATEST_NS,  # the largest delay of a packet so far
    LAST_NS,  # when the last packet was handed to the kernel
    REWRITE,  # which Ethernet addresses are put in (kernels/transmit/frames.py)
    IN_TURN,  # a queue's packets are handed over before the next queue's: the order across interfaces is kept
    BY_NIC,  # the NIC keeps the times; packets that it stamped, and by how many ns they missed their launch times:
    STAMPED, EARLIEST_OFF, LATEST_OFF, SUM_OFF,
) = range(15)  # fmt: skip
CONTROL_WORDS = 16

DONE, UNFINISHED = 0, 1  # what the loops return

LEAST_MARGIN_NS, MOST_MARGIN_NS = 20_000, 400_000
_SPARE_NS = 10_000
_SHRINK = 64  # of what the margin has too much, one part in so many goes at each wake-up


@inline
def adapt_margin(margin_ns, late_ns):
    """The next margin, given how late a sleep ended."""
    wanted = min(max(late_ns + _SPARE_NS, LEAST_MARGIN_NS), MOST_MARGIN_NS)
    if wanted >= margin_ns:
        return wanted
    return margin_ns - (margin_ns - wanted) // _SHRINK


@inline
def wait_until(moment_ns, control, scratch):
    """True at the moment; False when STOP is set, or where UNTIL_NS comes well before it."""
    now = monotonic_ns(scratch)
    while now < moment_ns:
        margin = control[MARGIN_NS]
        if load(control, STOP) or (now >= control[UNTIL_NS] and moment_ns - now > 2 * margin):
            return False
        wake = min(moment_ns, max(control[UNTIL_NS], now)) - margin
        if wake > now:
            sleep_until(wake, scratch)
            if margin:
                control[MARGIN_NS] = adapt_margin(margin, monotonic_ns(scratch) - wake)
        now = monotonic_ns(scratch)
    return True


def loops_for(ring: Any) -> tuple[Any, Any]:
    """The two loops for a kind of ring: ``ring`` is the module that has its verbs."""
    count, pending, unfinished = ring.count, ring.pending, ring.unfinished
    is_full, put, flush = ring.is_full, ring.put, ring.flush

    @inline
    def flush_all(queues, control, scratch):
        """``flush`` every queue that has something pending; LAST_NS is when that was."""
        flushed = False
        for q in range(count(queues)):
            if pending(queues, q) > 0:
                flush(queues, q)
                flushed = True
        if flushed:
            control[LAST_NS] = monotonic_ns(scratch)

    @inline
    def wait_for_room(queues, q, control, scratch):
        """Until a packet more fits; False at UNTIL_NS or STOP."""
        while True:
            flush(queues, q)
            if not is_full(queues, q):
                return True
            if load(control, STOP) or not rest(control[UNTIL_NS], scratch):
                return False

    @inline
    def send(queues, frames, n, control, addresses, scratch):
        i, last = control[POSITION], i64(0)
        now = monotonic_ns(scratch)
        while i < n:
            if control[PACED]:
                moment = control[START_NS] + frames.due[i]
                if now < moment:
                    flush_all(queues, control, scratch)
                    if not wait_until(moment, control, scratch):
                        break
                    now = monotonic_ns(scratch)
                control[LATEST_NS] = max(control[LATEST_NS], now - moment)
            q = frames.queue[i]
            if control[IN_TURN] and q != last:
                if pending(queues, last) > 0:
                    flush(queues, last)
                    now = control[LAST_NS] = monotonic_ns(scratch)
                last = q
            if is_full(queues, q) and not wait_for_room(queues, q, control, scratch):
                break
            put(queues, q, frames, i, control[REWRITE], addresses)
            i += 1
            if pending(queues, q) == BURST:
                flush(queues, q)
                now = control[LAST_NS] = monotonic_ns(scratch)
                if now >= control[UNTIL_NS] or load(control, STOP):
                    break
        flush_all(queues, control, scratch)
        control[POSITION] = i
        return DONE if i == n else UNFINISHED

    @inline
    def finish(queues, control, scratch):
        while True:
            missing = 0
            for q in range(count(queues)):
                if unfinished(queues, q) > 0:
                    flush(queues, q)
                missing += unfinished(queues, q)
            if missing == 0:
                return DONE
            if not rest(control[UNTIL_NS], scratch):
                return UNFINISHED

    return send, finish


_send_xdp, _finish_xdp = loops_for(xdp_queues)
_send_packet, _finish_packet = loops_for(af_packet_ring)
_send_launch, _finish_launch = loops_for(launch_queues)


@kernel(i64(xdp_queues.XDP_QUEUES, FRAMES, i64, words, byte_array, words))
def send_xdp(queues, frames, n, control, addresses, scratch):
    """Send packets control[POSITION] to n-1 of a batch: DONE, or UNFINISHED at UNTIL_NS or STOP.

    control: int64 (CONTROL_WORDS,); addresses: uint8 (12 * Q,), each queue's Ethernet addresses for REWRITE.
    """
    return _send_xdp(queues, frames, n, control, addresses, scratch)


@kernel(i64(xdp_queues.XDP_QUEUES, words, words))
def finish_xdp(queues, control, scratch):
    """Wait until everything that was put is completed: DONE, or UNFINISHED at UNTIL_NS."""
    return _finish_xdp(queues, control, scratch)


@kernel(i64(af_packet_ring.PACKET_RINGS, FRAMES, i64, words, byte_array, words))
def send_packet(rings, frames, n, control, addresses, scratch):
    """``send_xdp`` through AF_PACKET rings."""
    return _send_packet(rings, frames, n, control, addresses, scratch)


@kernel(i64(af_packet_ring.PACKET_RINGS, words, words))
def finish_packet(rings, control, scratch):
    """``finish_xdp`` of AF_PACKET rings."""
    return _finish_packet(rings, control, scratch)


@kernel(i64(xdp_queues.XDP_QUEUES, FRAMES, i64, words, byte_array, words))
def send_launch(queues, frames, n, control, addresses, scratch):
    """``send_xdp`` with launch times."""
    return _send_launch(queues, frames, n, control, addresses, scratch)


@kernel(i64(xdp_queues.XDP_QUEUES, words, words))
def finish_launch(queues, control, scratch):
    """``finish_xdp`` with launch times."""
    return _finish_launch(queues, control, scratch)
