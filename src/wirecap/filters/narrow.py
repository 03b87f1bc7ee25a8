"""What a block of packets must have for a filter to accept one of them: the terms of kernels/file/index.py.

A filter's program is followed from its start with what is known on the way: what it has loaded, and which values it
found.  A comparison with a word that blocks are filed under leads on only where the block has that term; any other
comparison may go either way.  So whatever the program is, no block is ruled out of which it accepts a packet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wirecap.filters import opcodes as op
from wirecap.filters.program import Program
from wirecap.kernels.file import index as k

MOST_STATES, MOST_JUMPS = 5_000, 400
"""Above them a program is not followed: it may accept packets of any block."""
MOST_MEMBERS = 4096
"""Of a set, or addresses of a network, that are looked for one by one; of larger ones any may be there."""
WIDEST_NETWORK = 16
_LINKS = (k.ETHERNET, k.RAW_IP, k.LINUX_SLL, k.LINUX_SLL2, k.NULL)
_TAGS = (0x8100, 0x88A8, 0x9100)
TAG = -1
"""What is known of an EtherType that is one of a VLAN tag: which of the three does not matter."""
_FAMILY = {k.IPV4: 4, k.IPV6: 6, k.ARP: 0, k.REVERSE_ARP: 0}


def known_link(linktype: int) -> int:
    """``kernels.file.index.known_link``, in Python."""
    return k.RAW_IP if linktype in (12, 14) else linktype if linktype in _LINKS else k.UNKNOWN


def mixed(value: int) -> int:
    """``kernels.file.index.mixed``, in Python."""
    value = (value ^ value >> 16) * k.FIRST_FACTOR & k.MASK
    value = (value ^ value >> 15) * k.SECOND_FACTOR & k.MASK
    return value ^ value >> 16


def term(kind: int, value: int) -> int:
    """The hash of a term."""
    return mixed(kind ^ value)


def network6(first: int, second: int) -> int:
    """Of a /64 network: the first two words of its addresses."""
    return term(k.NETWORK6, (first * k.FIRST_FACTOR6 + second * k.SECOND_FACTOR6) & k.MASK)


def address6(first: int, second: int, third: int, fourth: int) -> int:
    """Of an IPv6 address."""
    network = first * k.FIRST_FACTOR6 + second * k.SECOND_FACTOR6
    return term(k.ADDRESS6, (network + third * k.THIRD_FACTOR6 + fourth * k.FOURTH_FACTOR6) & k.MASK)


@dataclass(frozen=True)
class Condition:
    """True of a block if it has one of the terms ``hashes``, or if all, or any, of ``parts`` are true."""

    way: str  # "always" | "never" | "term" | "all" | "any"
    hashes: tuple[int, ...] = ()
    parts: frozenset[Condition] = frozenset()


ALWAYS, NEVER = Condition("always"), Condition("never")


def both(one: Condition, other: Condition) -> Condition:
    return _joined("all", one, other, ALWAYS, NEVER)


def either(one: Condition, other: Condition) -> Condition:
    return _joined("any", one, other, NEVER, ALWAYS)


def _joined(way: str, one: Condition, other: Condition, neutral: Condition, ruling: Condition) -> Condition:
    if ruling in (one, other):
        return ruling
    parts = frozenset(
        part for side in (one, other) if side is not neutral for part in (side.parts if side.way == way else (side,))
    )
    # a or (a and b) is a, and a and (a or b) too
    kept = frozenset(part for part in parts if not (part.parts & parts))
    if not kept:
        return neutral
    return next(iter(kept)) if len(kept) == 1 else Condition(way, parts=kept)


Found = NDArray[np.bool_]


def holds(condition: Condition, has: Callable[[int], Found], blocks: int) -> Found:
    """For which of the blocks it is true.  has: which of them have the term of a hash."""
    known: dict[Condition, Found] = {ALWAYS: np.ones(blocks, bool), NEVER: np.zeros(blocks, bool)}

    def of(one: Condition) -> Found:
        if one not in known:
            whole = [has(hashed) for hashed in one.hashes] or [of(part) for part in one.parts]
            known[one] = np.logical_and.reduce(whole) if one.way == "all" else np.logical_or.reduce(whole)
        return known[one]

    return of(condition)


class Load(NamedTuple):
    """``size`` bytes at ``offset``, behind an IPv4 header's length at ``header`` if that is not -1, masked."""

    offset: int
    size: int
    header: int = -1
    mask: int = 0xFFFFFFFF


class Header(NamedTuple):
    """The register X: the length of the IPv4 header at ``offset``."""

    offset: int


Value = Load | Header | int | None
"""What a register has: a load, the length of a header, a constant, or what is not known."""


_TYPES = {
    k.ETHERNET: (Load(12, 2), 14), k.LINUX_SLL: (Load(14, 2), 16), k.LINUX_SLL2: (Load(0, 2), 20),
    k.NULL: (Load(0, 4), 4), k.RAW_IP: (Load(0, 1, mask=0xF0), 0),
}  # fmt: skip
"""For each link type, where the EtherType is, or what stands for it, and where what it tells of begins."""


class _State(NamedTuple):
    """What is known where the program is."""

    a: Value = None
    x: Value = None
    memory: tuple[tuple[int, Value], ...] = ()
    facts: frozenset[tuple[Load, int]] = frozenset()


class _TooLongError(Exception):
    pass


@lru_cache(64)
def narrowed(program: Program) -> Condition:
    """What a block must have for the program to accept a packet of it."""
    jumps = sum(code & 7 == op.JMP for code, *_ in program.rows)
    if program.loops or jumps > MOST_JUMPS or known_link(program.linktype) == k.UNKNOWN:
        return ALWAYS
    try:
        return _Reader(program).at(0, _State())
    except _TooLongError:
        return ALWAYS


class _Reader:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.link = known_link(program.linktype)
        first, self.start = _TYPES[self.link]
        self.types = [first._replace(offset=first.offset + 4 * tags) for tags in range(k.MOST_TAGS + 1)]
        """Where the EtherType, or what stands for it, is, behind so many tags."""
        if self.link != k.ETHERNET:
            del self.types[1:]
        self._known: dict[tuple[int, _State], Condition] = {}

    def at(self, place: int, state: _State) -> Condition:
        """The condition from an instruction on."""
        begun = place, state
        if begun in self._known:
            return self._known[begun]
        if len(self._known) > MOST_STATES:
            raise _TooLongError
        while True:
            code, _, _, constant = self.program.rows[place]
            if code & 7 == op.RET:
                found = NEVER if code == op.RET | op.K and constant == 0 else ALWAYS
                break
            if code & 7 == op.JMP and code != op.JMP | op.JA:
                found = self._branch(place, state)
                break
            if code & 7 != op.JMP:
                state = _after(code, constant, state)
            (place,) = self.program.targets(place)
        self._known[begun] = found
        return found

    def _branch(self, place: int, state: _State) -> Condition:
        code, _, _, constant = self.program.rows[place]
        there, otherwise = self.program.targets(place)
        if code == op.JMP | op.JEQ | op.K and isinstance(state.a, Load):
            value = dict(state.facts).get(state.a)
            if value is not None and not (value == TAG and constant in _TAGS):
                return self.at(there if value == constant else otherwise, state)
            fact, required = self._equal(state.a, constant, state.facts)
            true = state._replace(facts=fact)
            return either(both(required, self.at(there, true)), self.at(otherwise, state))
        if code == op.JMP | op.IN and isinstance(state.a, Load):
            required = self._one_of(state.a, self.program.sets[constant], state.facts)
            return either(both(required, self.at(there, state)), self.at(otherwise, state))
        return either(self.at(there, state), self.at(otherwise, state))

    def _one_of(self, load: Load, members: NDArray[np.uint64], facts: frozenset[tuple[Load, int]]) -> Condition:
        if len(members) > MOST_MEMBERS or self._is_of_ipv6(load, facts):
            return ALWAYS
        hashes: list[int] = []
        for member in members.tolist():
            _, one = self._equal(load, member & 0xFFFFFFFF, facts)
            if one.way != "term":
                return ALWAYS
            hashes += one.hashes
            if len(hashes) > MOST_MEMBERS:
                return ALWAYS
        return Condition("term", tuple(sorted(set(hashes)))) if hashes else NEVER

    def _is_of_ipv6(self, load: Load, facts: frozenset[tuple[Load, int]]) -> bool:
        place = self._network(facts)
        return place is not None and place[0] == k.IPV6 and load.size == 4

    def _equal(
        self, load: Load, value: int, facts: frozenset[tuple[Load, int]]
    ) -> tuple[frozenset[tuple[Load, int]], Condition]:
        """What is known where a load has a value, and what the block must have then."""
        kind = self._ethertype(load, facts)
        if kind is not None:
            name = self._named(value)
            if name is None:
                return facts, ALWAYS
            if name in _TAGS and self.link == k.ETHERNET:
                return facts | {(load, TAG)}, _has(term(k.ETHERTYPE, _TAGS[0]))
            return facts | {(load, value)}, _has(term(k.ETHERTYPE, name))
        tag = self._tag(load, facts)
        if tag:
            return facts, _has(term(k.VLAN, value)) if load.mask == 0xFFF else ALWAYS
        place = self._network(facts)
        if place is None:
            return facts, ALWAYS
        family, start = place
        if family == k.IPV6 and load.size == 4 and load.header < 0 and load.mask == 0xFFFFFFFF:
            return self._ipv6_word(load, value, facts, start)
        return facts, _in_header(family, start, load, value)

    def _named(self, value: int) -> int | None:
        """The EtherType that a value of this link type stands for, None where it is not filed."""
        if self.link == k.NULL:
            return {k.NULL_IPV4: k.IPV4, k.NULL_IPV6: k.IPV6}.get(value)
        if self.link == k.RAW_IP:
            return {0x40: k.IPV4, 0x60: k.IPV6}.get(value)
        return value if value >= k.LOWEST_ETHERTYPE else None

    def _ethertype(self, load: Load, facts: frozenset[tuple[Load, int]]) -> int | None:
        """How many tags stand before the EtherType that is loaded; None if it is none."""
        known = dict(facts)
        for tags, here in enumerate(self.types):
            if load == here:
                return tags
            if known.get(here) != TAG:
                return None
        return None

    def _tag(self, load: Load, facts: frozenset[tuple[Load, int]]) -> bool:
        """Whether the load is of a tag's number."""
        tags = (load.offset - 14) // 4
        if self.link != k.ETHERNET or load.size != 2 or load.header >= 0 or load.offset % 4 != 2:
            return False
        known = dict(facts)
        inside = 0 <= tags < k.MOST_TAGS
        return inside and all(known.get(Load(12 + 4 * before, 2)) == TAG for before in range(tags + 1))

    def _network(self, facts: frozenset[tuple[Load, int]]) -> tuple[int, int] | None:
        """The network protocol's EtherType and where its header is, if they are known."""
        known = dict(facts)
        for tags, here in enumerate(self.types):
            value = known.get(here)
            if value is None:
                return None
            if value != TAG:
                name = self._named(value)
                return (name, self.start + 4 * tags) if name in _FAMILY else None
        return None

    def _ipv6_word(
        self, load: Load, value: int, facts: frozenset[tuple[Load, int]], start: int
    ) -> tuple[frozenset[tuple[Load, int]], Condition]:
        """A word of an IPv6 address: with those before it, a network or an address."""
        word = (load.offset - start - 8) // 4
        if load.offset % 4 != (start + 8) % 4 or not 0 <= word < 8:
            return facts, ALWAYS
        facts = facts | {(load, value)}
        known, first = dict(facts), word // 4 * 4
        words = [known.get(Load(start + 8 + 4 * (first + at), 4)) for at in range(4)]
        if None not in words:
            return facts, _has(address6(*words))  # type: ignore[arg-type]
        if word % 4 < 2 and words[0] is not None and words[1] is not None:
            return facts, _has(network6(words[0], words[1]))
        return facts, ALWAYS


def _has(hashed: int) -> Condition:
    return Condition("term", (hashed,))


def _in_header(family: int, start: int, load: Load, value: int) -> Condition:
    """What a block must have of a packet in whose network header, at ``start``, the load has this value."""
    offset, size, whole = load.offset - start, load.size, load.mask in (0xFFFFFFFF, (1 << 8 * load.size) - 1)
    if family == k.IPV4 and load.header == start:
        return _has(term(k.PORT, value)) if whole and size == 2 and offset in (0, 2) else ALWAYS
    if load.header >= 0:
        return ALWAYS
    if whole and size == 1 and (family, offset) in ((k.IPV4, 9), (k.IPV6, 6)):
        return _has(term(k.PROTOCOL if family == k.IPV4 else k.PROTOCOL6, value))
    if whole and size == 2 and family == k.IPV6 and offset in (40, 42):
        return _has(term(k.PORT, value))
    addresses = {k.IPV4: (12, 16), k.ARP: (14, 24), k.REVERSE_ARP: (14, 24)}.get(family, ())
    return _address(load.mask, value) if size == 4 and offset in addresses else ALWAYS


def _address(mask: int, value: int) -> Condition:
    """An IPv4 address of which the bits of the mask are known."""
    host = mask ^ 0xFFFFFFFF
    length = 32 - host.bit_length()
    if host & (host + 1) or value & host or length < WIDEST_NETWORK:
        return ALWAYS
    if length == 32:
        return _has(term(k.ADDRESS, value))
    first = value >> 8
    return Condition("term", tuple(term(k.NETWORK, first + at) for at in range(1 << max(0, 24 - length))))


def _after(code: int, constant: int, state: _State) -> _State:
    """The state after an instruction that does not jump."""
    kind = code & 7
    if kind == op.LD:
        return state._replace(a=_loaded(code, constant, state))
    if kind == op.LDX:
        return state._replace(x=_loaded_x(code, constant, state))
    if kind in (op.ST, op.STX):
        memory = dict(state.memory)
        memory[constant] = state.a if kind == op.ST else state.x
        return state._replace(memory=tuple(sorted(memory.items(), key=lambda item: item[0])))
    if kind == op.MISC:
        return state._replace(x=state.a) if code == op.MISC | op.TAX else state._replace(a=state.x)
    return state._replace(a=_computed(code, constant, state.a))


def _loaded(code: int, constant: int, state: _State) -> Value:
    mode, size = code & 0xE0, op.SIZE_BYTES.get(code & 0x18, 4)
    if mode == op.ABS and constant < op.EXTENSIONS:
        return Load(constant, size)
    if mode == op.IND and isinstance(state.x, Header):
        return Load(constant, size, state.x.offset)
    if mode == op.IND and isinstance(state.x, int) and constant + state.x < op.EXTENSIONS:
        return Load(constant + state.x, size)
    if mode == op.IMM:
        return constant
    return dict(state.memory).get(constant) if mode == op.MEM else None


def _loaded_x(code: int, constant: int, state: _State) -> Value:
    if code == op.LDX | op.B | op.MSH:
        return Header(constant)
    if code & 0xE0 == op.IMM:
        return constant
    return dict(state.memory).get(constant) if code & 0xE0 == op.MEM else None


def _computed(code: int, constant: int, a: Value) -> Value:
    if code == op.ALU | op.AND | op.K and isinstance(a, Load):
        return a._replace(mask=a.mask & constant)
    return None
