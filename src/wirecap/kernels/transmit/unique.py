"""Other IP addresses in each pass over a recording, so that each pass has flows of its own: tcpreplay's --unique-ip.

The lower address goes down and the higher one up by the pass's number, so that no checksum changes; for IPv6 the last
32 bits do.  Where one of the two wraps around, it goes one further, which keeps the checksum (RFC 1071).
"""

from __future__ import annotations

from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, i64, lengths, words
from wirecap.kernels.base.unaligned import copy, load16, load32, store32, swap16, swap32
from wirecap.kernels.transmit.convert import past_tags

_IPV4, _IPV6 = 0x0800, 0x86DD
_WHOLE = 1 << 32


@inline
def move(arena, lower, higher, step):
    """Address at ``lower`` down and that at ``higher`` up by ``step``, 32 bits each in network order."""
    down, up = swap32(load32(arena, lower)) - step, swap32(load32(arena, higher)) + step
    if (down < 0) != (up >= _WHOLE):
        down, up = down - (down < 0), up + (up >= _WHOLE)
    store32(arena, lower, swap32(down % _WHOLE))
    store32(arena, higher, swap32(up % _WHOLE))


@inline
def change(arena, start, length, header, step):
    """Change the addresses of one packet, if it is IP and whole up to them."""
    at, end = start + header, start + length
    if header:
        kind, at = past_tags(arena, swap16(load16(arena, start + 12)), at, end)
    else:
        version = arena[at] >> 4
        kind = _IPV4 if version == 4 else _IPV6 if version == 6 else 0
    if kind == _IPV4 and at + 20 <= end:
        source, destination = at + 12, at + 16
    elif kind == _IPV6 and at + 40 <= end:
        source, destination = at + 20, at + 36
    else:
        return
    if swap32(load32(arena, source)) < swap32(load32(arena, destination)):
        move(arena, source, destination, step)
    else:
        move(arena, destination, source, step)


@kernel(i64(byte_array, words, lengths, i64, i64, i64, i64, i64, byte_array, words))
def make_unique(arena, address, length, n, header, in_pass, first, loops, out, place):
    """Copy n packets to ``out`` with the addresses of their passes; place[i]: where packet i is there.

    header: 14 for Ethernet frames, 0 for IP packets; in_pass: packets of one pass, of which the first one here has the
    number ``first``; loops: passes that share their addresses; out: uint8, room for all; place: int64 (n,).
    """
    end = 0
    for i in range(n):
        size = i64(length[i])
        copy(out, end, arena, address[i], size)
        step = (first + i // in_pass) // loops
        if step and size > header:
            change(out, end, size, header, step)
        place[i] = end
        end += size
    return end
