"""What no packet holds and a live capture knows: its direction and its interface.

What is the same for all packets of a link is put into filters as a constant.  On a link that carries both directions
each packet's stands before it, as epb_flags, for filters that treat the two differently.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from wirecap.errors import UsageError
from wirecap.filters import opcodes as op
from wirecap.filters.opcodes import INTERFACE, PACKET_TYPE
from wirecap.filters.program import Program, name_of

_TYPES = {"in": 0, "out": 4}  # PACKET_HOST, PACKET_OUTGOING of linux/if_packet.h
MARKED = "marked"
"""The direction of a link whose packets have theirs before them."""


class Link(NamedTuple):
    """What a filter is made for: the link type, and the interface's index and its packets' direction where known."""

    linktype: int
    interface: int = 0
    direction: str = ""
    """'in', 'out' or MARKED; "" where it is not known."""
    name: str = ""
    """The interface's name, for messages."""
    hint: str = ""
    """How to get the other direction."""


def asks_for(program: Program, field: int) -> bool:
    """Whether the program loads PACKET_TYPE or INTERFACE."""
    return any(code & 0xE7 == op.LD | op.ABS and k == field for code, _, _, k in program.rows)


class NothingMatchesError(UsageError):
    """No packet of the link can match."""


def settled(program: Program, link: Link) -> Program:
    """The program for packets of one link, which asks for packet bytes only, and for directions where they are marked.

    Raises UsageError for what is not known of the link, NothingMatchesError where what is known excludes all packets.
    """
    for field, known, what in (
        (PACKET_TYPE, link.direction, "direction"),
        (INTERFACE, link.interface, "interface"),
    ):
        if asks_for(program, field) and not known:
            raise UsageError(
                f"{name_of(program.text)} needs the packet's {what}, which is not known here",
                "-Q in or -Q out keeps one direction of a live capture, and -i names the interface",
            )
    own = with_constants(program, link)
    if own is not program and not _may_match(own):
        raise NothingMatchesError(f"{name_of(program.text)} matches no packet here", _why_not(program, link))
    return own


def _why_not(program: Program, link: Link) -> str:
    """A hint for a filter that matches no packet of a link."""
    for way, other in (("in", "out"), ("out", "in")):
        if link.direction == way and _may_match(with_constants(program, link._replace(direction=other))):
            return link.hint
    if asks_for(program, INTERFACE):
        return f"{link.name} is interface {link.interface}"
    return "the filter contradicts itself"


def with_constants(program: Program, link: Link) -> Program:
    """The program with what is known of the link in the place of the loads that ask for it."""
    values = {PACKET_TYPE: _TYPES.get(link.direction, 0), INTERFACE: link.interface}
    if link.direction == MARKED:
        del values[PACKET_TYPE]
    if not any(asks_for(program, field) for field in values):
        return program
    rows = program.rows.copy()
    targets = {target for at, row in enumerate(rows) if row[0] & 7 == op.JMP for target in program.targets(at)}
    for at, (code, _, _, k) in enumerate(program.rows):
        if code & 0xE7 == op.LD | op.ABS and k in values:
            rows[at] = (op.LD | op.IMM, 0, 0, values[k])
            following = rows[at + 1]
            if following[0] == op.JMP | op.JEQ | op.K and at + 1 not in targets:  # decided: a jump to where it leads
                step = following[1] if following[3] == values[k] else following[2]
                rows[at + 1] = (op.JMP | op.JA, 0, 0, step)
    return replace(program, instructions=np.array(rows, np.int64).reshape(-1, 4))


def one_way(program: Program, index: int) -> str:
    """'in' or 'out' where packets of the other direction never match, 'inout' where direction does not matter.

    MARKED for a filter that means different things of the two.
    """
    if not asks_for(program, PACKET_TYPE):
        return "inout"
    for way, other in (("in", "out"), ("out", "in")):
        if not _may_match(with_constants(program, Link(program.linktype, index, other))):
            return way
    return MARKED


def _may_match(program: Program) -> bool:
    """Whether a return that accepts can be reached, whatever the packet holds."""
    seen: set[int] = set()
    ahead = [0]
    while ahead:
        at = ahead.pop()
        if at in seen:
            continue
        seen.add(at)
        code, _, _, k = program.rows[at]
        if code & 7 == op.RET and (code != op.RET | op.K or k):
            return True
        ahead += program.targets(at)
    return False
