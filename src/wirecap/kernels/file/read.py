"""Indexes the packets of a capture file into rows of descriptors.  Nothing is copied.

``scan`` continues from ``state[POSITION]`` until the row is full or something else must happen first;
``state[STOP]`` says what.  An error does not move the position, so calling it again reports the error again.
Section headers and interface descriptions of pcapng stop the scan, because Python reads those, which are few.
Blocks of other types are skipped, or stop it too if the caller keeps them.

``state`` is one int64 array of STATE_WORDS.  ``interfaces`` is int64, INTERFACE_WORDS per interface.
Offsets are into the arena; ``ORIGIN`` plus an arena offset is the offset in the (uncompressed) file.
Sources: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import numpy as np

from wirecap.kernels.base.atomics import prefetch
from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, i64, lengths, none, words
from wirecap.kernels.base.unaligned import field16, field32, load32

FORMAT = 0  # PCAP or PCAPNG
POSITION = 1  # where the next record starts
END = 2  # end of the bytes present
FINAL = 3  # 1: no bytes will follow END, so a record that is cut off there is an error
SWAPPED = 4  # 1: the file, or the pcapng section, is big-endian
HEADER = 5  # bytes of a pcap record header: 16, or 24 in Kuznetzov's variant
STOP = 6  # why the last scan stopped
INTERFACE = 7  # the interface of the row that the last scan filled: an index into `interfaces`
SECTION = 8  # index of the first interface of this pcapng section
KNOWN = 9  # interfaces described so far
ERROR = 10
ERROR_AT = 11  # arena offset of the faulty record
WANTED = 12  # bytes, or the id, that the error is about
GOT = 13
BLOCK_BYTES = 14  # a packet at address a lies in block (a - 1) // BLOCK_BYTES of the arena
ORIGIN = 15
MIXED = 16  # 1, set by the caller: a row may mix interfaces of the same link type; INTERFACE is then the last one
OUTSIDE = 17  # packets so far whose time int64 ns cannot hold: they have EARLIEST_NS or LATEST_NS
KEEP = 18  # set by the caller: blocks of other types stop the scan too, up to so many bytes each
TOO_LONG = 19  # such blocks that were longer than a stream's buffer, and were skipped
DESCRIBED = 20  # blocks and interfaces that Python has taken in so far
LENGTHS = 21  # of a pcap file: CAPTURED_FIRST, ORIGINAL_FIRST, or SMALLER_IS_CAPTURED, as old writers had them
LONGEST_BLOCK = 22  # bytes of a packet block of pcapng above which it is absurd
STATE_WORDS = 23

PCAP, PCAPNG = 0, 1
CAPTURED_FIRST, ORIGINAL_FIRST, SMALLER_IS_CAPTURED = 0, 1, 2

# STOP
FULL, OTHER_INTERFACE, DESCRIPTION, MORE, ENDED, FAILED = 0, 1, 2, 3, 4, 5

# ERROR
CUT_HEADER, CUT_PACKET, ABSURD_LENGTH, BLOCK_LENGTH, TRAILER, NO_INTERFACE, PACKET_IN_BLOCK = 1, 2, 3, 4, 5, 6, 7

# An interface's words.
LARGEST = 0  # captured lengths above this are absurd
SNAPLEN = 1  # 0: unlimited
EXPONENT = 2  # ticks of 10**-EXPONENT seconds, or of 2**-EXPONENT where BINARY is 1
BINARY = 3
OFFSET_S = 4  # seconds that are added to each time
MULTIPLIER = 5  # where 0 <= ticks <= SIMPLE: ns = ticks * MULTIPLIER + OFFSET_NS
OFFSET_NS = 6
SIMPLE = 7  # -1: never that simple
LINKTYPE = 8
INTERFACE_WORDS = 9

MAX_CAPTURED = 262144  # libpcap's MAXIMUM_SNAPLEN: its captures never have longer packets
MAX_BLOCK = 16 << 20  # libpcap's bound for a pcapng block, unless the link type has longer packets

BLOCK_MARGIN = 1 << 17  # bytes that a block may have beside its packet: libpcap's allowance for options
AHEAD = 4096  # how many bytes ahead of its reads a scan prefetches


@inline
def fail(state, code, position, wanted, got):
    state[STOP] = FAILED
    state[ERROR] = code
    state[ERROR_AT] = position
    state[WANTED] = wanted
    state[GOT] = got


@inline
def cut(state, code, position, wanted):
    """The record at position is incomplete: the data ends, the file is cut off, or more must be read first."""
    state[WANTED] = wanted
    if not state[FINAL]:
        state[STOP] = MORE
    elif position >= state[END]:
        state[STOP] = ENDED
    else:
        fail(state, code, position, wanted, state[END] - position)


SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 1
OBSOLETE_PACKET = 2
SIMPLE_PACKET = 3
ENHANCED_PACKET = 6
_NANOSECONDS = 1_000_000_000
_HALF = (1 << 32) - 1
EARLIEST_NS, LATEST_NS = 1 - (1 << 63), (1 << 63) - 1
"""1677-09-21 and 2262-04-11: what int64 ns since the epoch can hold."""


@inline
def divide(ticks, divisor):
    """(quotient, remainder) of ticks read as unsigned 64 bits; divisor: 2 to 10**9, so that both fit int64."""
    upper, lower = ticks >> 32 & _HALF, ticks & _HALF
    rest = upper % divisor << 32 | lower
    return (upper // divisor << 32) + rest // divisor, rest % divisor


@inline
def power_of_ten(exponent):
    value = np.int64(1)
    for _ in range(exponent):
        value *= 10
    return value


@inline
def split_binary(ticks, exponent):
    """(seconds below 2**63, ns below 2**30) of unsigned ticks of 2**-exponent seconds; exponent: 1 to 127."""
    if exponent < 64:
        seconds, fraction = (ticks >> 1 & LATEST_NS) >> (exponent - 1), ticks & (LATEST_NS >> (63 - exponent))
    else:
        seconds, fraction = np.int64(0), ticks
    if exponent <= 32:
        return seconds, fraction * _NANOSECONDS >> exponent
    upper, lower = fraction >> 32 & _HALF, fraction & _HALF
    product = upper * _NANOSECONDS + (lower * _NANOSECONDS >> 32)  # below 2**62; what is cut off never carries
    return seconds, product >> min(exponent - 32, 63)


@inline
def split_decimal(ticks, exponent):
    """(seconds below 2**63, ns below 2**61) of unsigned ticks of 10**-exponent seconds; exponent: 1 to 127."""
    if exponent <= 9:
        seconds, rest = divide(ticks, power_of_ten(exponent))
        return seconds, rest * power_of_ten(9 - exponent)
    if exponent <= 18:
        return np.int64(0), divide(ticks, power_of_ten(exponent - 9))[0]
    ns = divide(ticks, np.int64(_NANOSECONDS))[0]  # below 2**35
    return np.int64(0), ns // power_of_ten(min(exponent - 18, 18))


@inline
def join(seconds, ns):
    """Seconds and 0 <= ns < 10**9 as int64 ns; EARLIEST_NS or LATEST_NS where that is too far."""
    if seconds < -9_223_372_036:  # in that second the product alone would not fit
        fits = seconds == -9_223_372_037 and ns > 145_224_192
        return (seconds + 1) * _NANOSECONDS + (ns - _NANOSECONDS) if fits else EARLIEST_NS
    if seconds > 9_223_372_036 or (seconds == 9_223_372_036 and ns > 854_775_807):
        return LATEST_NS
    return seconds * _NANOSECONDS + ns


@inline
def to_ns(interfaces, base, ticks):
    """Ticks of the interface whose words start at base as ns since the epoch: rounded down, or the nearest that fits.

    ticks: int64 whose bits are the file's unsigned 64.
    """
    if 0 <= ticks <= interfaces[base + SIMPLE]:
        return ticks * interfaces[base + MULTIPLIER] + interfaces[base + OFFSET_NS]
    exponent, offset = interfaces[base + EXPONENT], interfaces[base + OFFSET_S]
    if exponent == 0:
        seconds, ns = ticks, np.int64(0)
        if ticks < 0:  # 2**63 seconds and more
            if offset >= 0:
                return LATEST_NS
            seconds, offset = ticks & LATEST_NS, offset + LATEST_NS + 1
    elif interfaces[base + BINARY]:
        seconds, ns = split_binary(ticks, exponent)
    else:
        seconds, ns = split_decimal(ticks, exponent)
    if offset > 0 and seconds > LATEST_NS - offset - _NANOSECONDS * 4:
        return LATEST_NS
    return join(seconds + offset + ns // _NANOSECONDS, ns % _NANOSECONDS)


@inline
def packet_fields(arena, state, interfaces, kind, position, total):
    """(header bytes, interface, captured, original, timestamp) of the packet block at position.

    The header is 0 if the block is too short for its type.  Interface -1 means one that was not described;
    then the captured length is its number in the section.
    """
    swapped = state[SWAPPED]
    if total < (16 if kind == SIMPLE_PACKET else 32):
        return 0, 0, 0, 0, 0
    if kind == SIMPLE_PACKET:
        interface = state[SECTION]
    elif kind == ENHANCED_PACKET:
        interface = state[SECTION] + field32(arena, position + 8, swapped)
    else:
        interface = state[SECTION] + field16(arena, position + 8, swapped)
    if interface >= state[KNOWN]:
        return 28, -1, interface - state[SECTION], 0, 0
    base = interface * INTERFACE_WORDS
    if kind == SIMPLE_PACKET:
        original = field32(arena, position + 8, swapped)
        snaplen = interfaces[base + SNAPLEN]
        length = min(original, snaplen) if snaplen else original
        return 12, interface, min(length, total - 16), original, 0
    ticks = field32(arena, position + 12, swapped) << 32 | field32(arena, position + 16, swapped)
    length, original = field32(arena, position + 20, swapped), field32(arena, position + 24, swapped)
    return 28, interface, length, original, to_ns(interfaces, base, ticks)


@inline
def block_is_whole(arena, state, kind, position, total):
    """Check the block's length fields; False, with STOP set, if the block cannot be used as it is."""
    swapped, following = state[SWAPPED], position + total
    packet = kind == ENHANCED_PACKET or kind == SIMPLE_PACKET or kind == OBSOLETE_PACKET
    if total < 12 or total & 3 or (packet and total > state[LONGEST_BLOCK]):
        fail(state, BLOCK_LENGTH, position, total, 0)
    elif following > state[END]:
        cut(state, CUT_PACKET, position, total)
    elif field32(arena, following - 4, swapped) != total:
        fail(state, TRAILER, position, total, field32(arena, following - 4, swapped))
    else:
        return True
    return False


@inline
def mixes(state, interfaces, interface):
    """Whether the interface's packets may share the row: the caller allows it and the link type is the same."""
    there = state[INTERFACE] * INTERFACE_WORDS + LINKTYPE
    return state[MIXED] and interfaces[there] == interfaces[interface * INTERFACE_WORDS + LINKTYPE]


@inline
def scan_alike(arena, state, interfaces, address, captured, original, timestamp, n, limit, position):
    """Add the packets from position on that are as most are: in little-endian enhanced blocks, of the row's interface.

    Returns (packets in the row, where the first block lies that is in any way different, and is for ``scan_pcapng``).
    """
    end, longest, expected = state[END], state[LONGEST_BLOCK], state[INTERFACE] - state[SECTION]
    base = state[INTERFACE] * INTERFACE_WORDS
    largest, simple = interfaces[base + LARGEST], interfaces[base + SIMPLE]
    multiplier, offset_ns = interfaces[base + MULTIPLIER], interfaces[base + OFFSET_NS]
    while n < limit and position + 32 <= end:
        total, length = load32(arena, position + 4), load32(arena, position + 20)
        ticks, following = load32(arena, position + 12) << 32 | load32(arena, position + 16), position + total
        if (
            load32(arena, position) != ENHANCED_PACKET or load32(arena, position + 8) != expected
            or length > largest or length + 32 > total or total & 3 or total > longest or following > end
            or load32(arena, following - 4) != total or not 0 <= ticks <= simple
        ):  # fmt: skip
            break
        ns = ticks * multiplier + offset_ns
        if ns == LATEST_NS or ns == EARLIEST_NS:
            break
        for line in range(position, following, 64):
            prefetch(arena, line + AHEAD)
        address[n] = position + 28
        captured[n] = np.uint32(length)
        original[n] = np.uint32(load32(arena, position + 24))
        timestamp[n] = ns
        n += 1
        position = following
    return n, position


@inline
def scan_pcapng(arena, state, interfaces, address, captured, original, timestamp, limit):
    position, swapped = state[POSITION], state[SWAPPED]
    state[STOP] = FULL
    n = 0
    while n < limit:
        if position + 12 > state[END]:
            cut(state, CUT_HEADER, position, 12)
            break
        kind, total = field32(arena, position, swapped), field32(arena, position + 4, swapped)
        other = kind != ENHANCED_PACKET and kind != SIMPLE_PACKET and kind != OBSOLETE_PACKET
        if other and (kind == SECTION_HEADER or kind == INTERFACE_DESCRIPTION or 12 <= total <= state[KEEP]):
            state[STOP] = DESCRIPTION
            break
        if not block_is_whole(arena, state, kind, position, total):
            break
        for line in range(position, position + total, 64):
            prefetch(arena, line + AHEAD)
        if not other:
            header, interface, length, wire, ns = packet_fields(arena, state, interfaces, kind, position, total)
            if header == 0:
                fail(state, BLOCK_LENGTH, position, total, 0)
                break
            if interface < 0:
                fail(state, NO_INTERFACE, position, length, 0)
                break
            if length > interfaces[interface * INTERFACE_WORDS + LARGEST]:
                fail(state, ABSURD_LENGTH, position, length, interfaces[interface * INTERFACE_WORDS])
                break
            if header + length + 4 > total:
                fail(state, PACKET_IN_BLOCK, position, length, total)
                break
            if n and interface != state[INTERFACE] and not mixes(state, interfaces, interface):
                state[STOP] = OTHER_INTERFACE
                break
            state[INTERFACE] = interface
            address[n] = position + header
            captured[n] = np.uint32(length)
            original[n] = np.uint32(wire)
            timestamp[n] = ns
            if ns == LATEST_NS or ns == EARLIEST_NS:
                state[OUTSIDE] += 1
            n += 1
        position += total
        if n and not swapped:
            n, position = scan_alike(
                arena, state, interfaces, address, captured, original, timestamp, n, limit, position
            )
    state[POSITION] = position
    return n


@inline
def scan_pcap(arena, state, interfaces, address, captured, original, timestamp, limit):
    position, end = state[POSITION], state[END]
    swapped, header = state[SWAPPED], state[HEADER]
    largest, tick_ns, order = interfaces[LARGEST], interfaces[MULTIPLIER], state[LENGTHS]
    state[INTERFACE] = 0
    state[STOP] = FULL
    n = 0
    while n < limit:
        body = position + header
        if body > end:
            cut(state, CUT_HEADER, position, header)
            break
        length, wire = field32(arena, position + 8, swapped), field32(arena, position + 12, swapped)
        if order == ORIGINAL_FIRST or (order == SMALLER_IS_CAPTURED and length > wire):
            length, wire = wire, length
        if length > largest:
            fail(state, ABSURD_LENGTH, position, length, largest)
            break
        following = body + length
        if following > end:
            cut(state, CUT_PACKET, position, header + length)
            break
        # Each header's position depends on the one before: only prefetching far ahead hides the memory latency.
        for line in range(position, following, 64):
            prefetch(arena, line + AHEAD)
        address[n] = body
        captured[n] = np.uint32(length)
        original[n] = np.uint32(wire)
        seconds, ticks = field32(arena, position, swapped), field32(arena, position + 4, swapped)
        timestamp[n] = seconds * 1_000_000_000 + ticks * tick_ns
        position = following
        n += 1
    state[POSITION] = position
    return n


@kernel(i64(byte_array, words, words, words, lengths, lengths, words, i64))
def scan(arena, state, interfaces, address, captured, original, timestamp, limit):
    """Fill a row with up to limit packets of one interface; returns their number.

    arena uint8; state and interfaces int64 (kernels/file/read.py); the row: address int64,
    captured uint32 bytes, original uint32 bytes, timestamp int64 ns, each of at least limit entries.
    """
    if state[FORMAT] == PCAPNG:
        return scan_pcapng(arena, state, interfaces, address, captured, original, timestamp, limit)
    return scan_pcap(arena, state, interfaces, address, captured, original, timestamp, limit)


@inline
def block_of(arena, address, captured, swapped):
    """(start, length, bytes of its header) of the pcapng block around a packet that ``scan`` found there."""
    header = 28 if field32(arena, address - 8, swapped) == captured else 12  # there a simple block has its own length
    start = address - header
    return start, field32(arena, start + 4, swapped), header


@inline
def has_options(arena, address, captured, swapped):
    """Whether a comment, flags, or any other option stands behind the packet in its block."""
    _, total, header = block_of(arena, address, captured, swapped)
    return total > header + (captured + 3 & ~3) + 4


_BLOCK_HEADER, _PACKET_BLOCK, _QUEUE_OPTION = 28, 6, 6


@inline
def queue_option(arena, start, captured, swapped):
    """The value of the epb_queue option of the packet at ``start``; -1 if it has none or is not in such a block."""
    block = start - _BLOCK_HEADER
    if block < 0 or field32(arena, block, swapped) != _PACKET_BLOCK or field32(arena, start - 8, swapped) != captured:
        return -1
    end = block + field32(arena, block + 4, swapped) - 4
    at = start + ((captured + 3) & ~3)
    if end > arena.size - 4 or field32(arena, end, swapped) != end - block + 4:
        return -1
    while at + 8 <= end:
        code, size = field16(arena, at, swapped), field16(arena, at + 2, swapped)
        if code == _QUEUE_OPTION and size == 4:
            return field32(arena, at + 4, swapped)
        if code == 0:
            break
        at += 4 + ((size + 3) & ~3)
    return -1


@kernel(none(byte_array, words, lengths, i64, i64, i64, i64, words))
def recorded_queues(arena, address, captured, n, swapped, otherwise, queues, chosen):
    """Set chosen[i] to the queue of packet i's block, or to ``otherwise`` if it has none, modulo ``queues``.

    arena: uint8, a pcapng file's bytes; address: int64 (n,); captured: uint32 (n,); swapped: 1 for a big-endian
    section; chosen: int64 (n,).
    """
    for i in range(n):
        queue = queue_option(arena, address[i], i64(captured[i]), swapped)
        chosen[i] = (queue if queue >= 0 else otherwise) % queues
