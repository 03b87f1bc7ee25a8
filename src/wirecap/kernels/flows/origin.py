"""Where a packet came from: which interface of the source, and whether it came in or went out there."""

from __future__ import annotations

from wirecap.kernels.base.jit import inline
from wirecap.kernels.base.kinds import i64
from wirecap.kernels.file.direction import direction_of_packet
from wirecap.kernels.flows.layout import DIRECTION, IN, INTERFACE_MASK, OUT
from wirecap.kernels.packet.headers import LINUX_SLL, LINUX_SLL2

UNKNOWN, ALL_IN, ALL_OUT, MARKED, IN_BLOCK, IN_SLL, IN_SLL2 = 0, IN, OUT, 3, 4, 5, 6
"""How an interface's packets show their direction: not at all, they all have one, by the byte before each (epb_flags),
by the options of their pcapng block, by their cooked header."""
COOKED = {LINUX_SLL: IN_SLL, LINUX_SLL2: IN_SLL2}
_OUTGOING = 4  # PACKET_OUTGOING, linux/if_packet.h


@inline
def _direction(arena, address, captured, way):
    if way == ALL_IN or way == ALL_OUT:
        return way
    if way == MARKED:
        return i64(arena[address - 1]) & 3
    if way == IN_BLOCK:
        return direction_of_packet(arena, address, captured)
    if way == IN_SLL and captured >= 16:
        return OUT if arena[address + 1] == _OUTGOING and arena[address] == 0 else IN
    if way == IN_SLL2 and captured >= 20:
        return OUT if arena[address + 10] == _OUTGOING else IN
    return 0


@inline
def origin_of(arena, address, captured, way, interface):
    """The origin of a packet, as layout.py has it."""
    direction, number = _direction(arena, address, captured, way), interface + 1
    if direction == 3:
        direction = 0
    if number > INTERFACE_MASK:
        number = 0
    return number | direction << DIRECTION
