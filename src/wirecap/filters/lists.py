"""Long lists of hosts, networks and ports: ``host A or host B or ...``, ``not port 1 and not port 2 ...``.

libpcap takes time with the square of a list's length, and more to optimise it.  So it compiles an expression in which
each list stands as a few members; what is compared with those is then compared with sets (``wirecap.filters.sets``).

Of a list, members of one form (same words before the value, same kind of address, same prefix length) differ in the
constants only that their programs compare with.  One stand-in takes the place of all of them, several times with
other values: the instructions that differ tell where it went.  The first member of each kind stays as it is, so that
packets that are cut inside their addresses are rejected where libpcap rejects them.  Not so of IPv6, whose addresses it
compares word by word: a packet that is cut inside the destination, and whose source is a member, is accepted, where
libpcap may come first to a member that looks as far as what is missing.
"""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

import numpy as np
import numpy.typing as npt

from wirecap.filters.words import AND, NOT, OR, WAYS, words_of

SHORTEST = 32
"""Members of a list from which on it is taken for one; libpcap is quick with shorter ones, and optimises them."""
RUNS = 12
"""Changes between kinds of members up to which their order is kept: it matters for packets that are cut off."""
VARIANTS = 6
"""How often each stand-in is given other values: two that have but one bit must differ from each other, too."""

_PROTOCOLS = ("ip", "ip6", "arp", "rarp", "tcp", "udp", "sctp", "ether", "link", "wlan", "fddi", "tr")
_LINK = _PROTOCOLS[7:]
_TYPES = ("host", "net", "port")

_NUMBER = r"(?:0|[1-9]\d{0,4})"
_V4 = re.compile(rf"({_NUMBER}(?:\.{_NUMBER}){{1,3}})(?:/({_NUMBER}))?")
_V6 = re.compile(rf"([0-9A-Fa-f:]*:[0-9A-Fa-f:]*)(?:/({_NUMBER}))?")
_MAC = re.compile(r"[0-9A-Fa-f]{1,2}(?:([:-])[0-9A-Fa-f]{1,2})(?:\1[0-9A-Fa-f]{1,2}){4}")

_PIECES = {"v4": ((0, 4),), "v6": ((0, 4), (4, 8), (8, 12), (12, 16)), "mac": ((0, 2), (2, 6)), "port": ((0, 2),)}
"""The parts of an address that libpcap compares one by one, as slices of its bytes."""


@dataclass(frozen=True)
class Member:
    """One member of a list: the words before its value, the kind of value, its bytes and the bits that count."""

    head: str
    kind: str
    data: bytes
    prefix: int

    @property
    def value(self) -> str:
        """The value as libpcap reads it."""
        if self.kind == "port":
            return str(int.from_bytes(self.data, "big"))
        if self.kind == "mac":
            return ":".join(f"{byte:02x}" for byte in self.data)
        text = str(ipaddress.ip_address(self.data))
        return text if self.prefix == 8 * len(self.data) else f"{text}/{self.prefix}"


@dataclass(frozen=True)
class Group:
    """Members of one form, and the stand-ins that take their place."""

    members: tuple[Member, ...]
    stand_ins: tuple[Member, ...]

    @cached_property
    def pieces(self) -> list[int]:
        """The numbers of the parts that are compared with a member's value."""
        member = self.members[0]
        return [at for at, (start, _) in enumerate(_PIECES[member.kind]) if 8 * start < member.prefix]

    def words(self, piece: int) -> npt.NDArray[np.uint64]:
        """One part of every member."""
        start, end = _PIECES[self.members[0].kind][piece]
        return np.array([int.from_bytes(member.data[start:end], "big") for member in self.members], np.uint64)

    def signature(self, piece: int) -> tuple[int, ...]:
        """One part of each stand-in: the constant of an instruction that is to compare with a set."""
        return _signature(self.stand_ins, piece)


def _signature(stand_ins: Sequence[Member], piece: int) -> tuple[int, ...]:
    start, end = _PIECES[stand_ins[0].kind][piece]
    return tuple(int.from_bytes(member.data[start:end], "big") for member in stand_ins)


@dataclass
class Shortened:
    """An expression with stand-ins for its lists: VARIANTS texts, and what is behind each stand-in."""

    texts: list[str]
    groups: list[Group]


def shortened(text: str) -> Shortened | None:
    """The expression with its long lists made short, None where it has none."""
    if text.count("or") + text.count("||") + text.count("not") + text.count("!") < SHORTEST - 1:
        return None
    return _Reader(text).run()


@dataclass
class _Reader:
    """Goes through an expression once, word by word, and copies what is not a list."""

    text: str
    head: str = ""
    """The words that a value without any takes over from the term before it."""
    groups: list[Group] = field(default_factory=list)
    known: set[tuple[int, ...]] = field(default_factory=set)
    parts: list[tuple[str, ...]] = field(default_factory=list)

    def run(self) -> Shortened | None:
        self.words = words_of(self.text)
        self.random = random.Random(0)
        at = 0
        while at < len(self.words):
            at = self._list(at) or self._copy(at)
        if not self.groups:
            return None
        return Shortened([" ".join(part[variant % len(part)] for part in self.parts) for variant in range(VARIANTS)],
                         self.groups)  # fmt: skip

    def _copy(self, at: int) -> int:
        """Copy a member or a word."""
        word = self.words[at]
        found = self._member(at, self.head)
        both = self._both(at)
        if found:
            end, member, _ = found
            self.head = member.head
        elif both:
            end, self.head = both, ""
        else:
            end, head = self._head(at)
            if end > at and self._word(end) == "(":
                self.head = head
            else:
                end = at + 1
                if word not in (*AND, *OR, *NOT, "("):
                    self.head = ""
        self.parts += [(word,) for word in self.words[at:end]]
        return end

    def _list(self, at: int) -> int | None:
        """Copy a list that begins here in short; returns what follows it, None where there is none."""
        before = self._word(at - 1)
        for joiners, negated in ((OR, False), (AND, True)):
            if before not in (None, "(", *joiners):
                continue
            members, end, bare = self._members(at, joiners, negated)
            if len(members) >= SHORTEST:
                self._write(members, f" {joiners[0]} ", "not " * negated, bare)
                self.head = members[-1].head
                return end
        return None

    def _members(self, at: int, joiners: tuple[str, ...], negated: bool) -> tuple[list[Member], int, bool]:
        """The members of a list, where it ends, and whether all of them took over the words before them."""
        members: list[Member] = []
        head, end, bare = self.head, at, True
        while True:
            if (self._word(at) in NOT) != negated:
                break
            found = self._member(at + negated, head)
            if not found:
                break
            end, member, is_bare = found
            head = member.head
            members.append(member)
            bare = bare and is_bare
            if self._word(end) not in joiners:
                break
            at = end + 1
        return members, end, bare

    def _write(self, members: list[Member], joiner: str, sign: str, bare: bool) -> None:
        """The list in short, and the last one's words at its end."""
        runs = [list(run) for _, run in groupby(members, lambda member: (member.head, member.kind))]
        terms = [term for run in (runs if len(runs) <= RUNS else [members]) for term in self._short(run)]
        if terms[-1][0].head != members[-1].head:  # a value behind the list takes it over
            terms.append((members[-1],))
        for at, term in enumerate(terms):
            self.parts.append(tuple(
                (joiner if at else "") + sign + ("" if bare else member.head + " ") + member.value for member in term
            ))  # fmt: skip

    def _short(self, members: list[Member]) -> list[tuple[Member, ...]]:
        """One member of each kind, and one stand-in for all others of each form."""
        kept = list({(member.head, member.kind): member for member in reversed(members)}.values())[::-1]
        forms: dict[tuple[str, str, int], dict[Member, None]] = {}
        for member in members:
            if member not in kept:
                forms.setdefault((member.head, member.kind, member.prefix), {})[member] = None
        terms: list[tuple[Member, ...]] = [(member,) for member in kept]
        for form in forms.values():
            group = tuple(form)
            stand_ins = self._stand_ins(group[0]) if len(group) > 1 else None
            if stand_ins:
                self.groups.append(Group(group, stand_ins))
                terms.append(stand_ins)
            else:
                terms += [(member,) for member in group]
        return terms

    def _stand_ins(self, like: Member) -> tuple[Member, ...] | None:
        """Members of the same form with other values, unlike all that there are."""
        mask = ((1 << like.prefix) - 1) << (8 * len(like.data) - like.prefix)
        for _ in range(1000):
            values = [self.random.getrandbits(8 * len(like.data)) & mask for _ in range(VARIANTS)]
            made = tuple(
                Member(like.head, like.kind, value.to_bytes(len(like.data), "big"), like.prefix) for value in values
            )
            group = Group((like,), made)
            signatures = [group.signature(piece) for piece in group.pieces]
            if all(len(set(one)) > 1 and one not in self.known for one in signatures):
                self.known.update(signatures)
                return made
        return None

    def _word(self, at: int) -> str | None:
        return self.words[at] if 0 <= at < len(self.words) else None

    def _head(self, at: int) -> tuple[int, str]:
        """The words before a value that begin here, and where they end."""
        words: list[str] = []
        if self._word(at) in _PROTOCOLS:
            words.append(self.words[at])
        following = self._word(at + len(words))
        if following in WAYS:
            words.append(str(following))
            joiner, other = self._word(at + len(words)), self._word(at + len(words) + 1)
            if joiner in AND and other in WAYS:
                return at, ""  # both ends are compared with the same value, which no set can tell
            if joiner in OR and other in WAYS:
                words += ["or", str(other)]
        if self._word(at + len(words)) in _TYPES:
            words.append(self.words[at + len(words)])
        return at + len(words), " ".join(words)

    def _both(self, at: int) -> int:
        """Where ``src and dst`` with the words around it ends, 0 where it is not; what takes it over is no member."""
        way = at + (self._word(at) in _PROTOCOLS)
        if self._word(way) not in WAYS or self._word(way + 1) not in AND or self._word(way + 2) not in WAYS:
            return 0
        return way + 3 + (self._word(way + 3) in _TYPES)

    def _member(self, at: int, inherited: str) -> tuple[int, Member, bool] | None:
        """The member that begins here, where it ends, and whether it took over the words before it."""
        end, head = self._head(at)
        word = self._word(end)
        if word is None or not (head or inherited):
            return None
        value = _value(head or inherited, word)
        end += 1
        if value and self._word(end) == "mask" and value[2] == 32 and (head or inherited).endswith("net"):
            value = _value("net", f"{word}/{_bits(self._word(end + 1))}")
            end += 2
        if not value or self._word(end) not in (None, ")", *AND, *OR):
            return None
        return end, Member(head or inherited, *value), not head


def _value(head: str, word: str) -> tuple[str, bytes, int] | None:
    """A value's kind, bytes and bits that count; None where it is none, or where libpcap refuses it."""
    words = head.split()
    if words[-1] == "port":
        number = int(word) if re.fullmatch(_NUMBER, word) else 1 << 16
        return ("port", number.to_bytes(2, "big"), 16) if number < 1 << 16 else None
    if words[0] in _LINK:
        fits = words[-1] != "net" and _MAC.fullmatch(word)
        return ("mac", bytes(int(byte, 16) for byte in re.split("[:-]", word)), 48) if fits else None
    for kind, pattern in (("v4", _V4), ("v6", _V6)):
        found = pattern.fullmatch(word)
        if found:
            address, length = found.groups()
            return _network(kind, address, length, words[-1] == "net")
    return None


def _network(kind: str, address: str, length: str | None, is_net: bool) -> tuple[str, bytes, int] | None:
    bits = 32 if kind == "v4" else 128
    if kind == "v4" and is_net and length is None:  # net 10.1 is net 10.1.0.0/16
        missing = 3 - address.count(".")
        address, length = address + ".0" * missing, str(32 - 8 * missing)
    if length is not None and (not is_net or int(length) > bits):
        return None
    prefix = bits if length is None else int(length)
    try:
        data = ipaddress.ip_address(address).packed
    except ValueError:
        return None
    if len(data) * 8 != bits or int.from_bytes(data, "big") & ((1 << (bits - prefix)) - 1):
        return None
    return kind, data, prefix


def _bits(mask: str | None) -> str:
    """The prefix length of a netmask; "" for what is none."""
    try:
        zeros = 0xFFFFFFFF ^ int(ipaddress.IPv4Address(mask or ""))
    except ValueError:
        return ""
    return "" if zeros & (zeros + 1) else str(32 - zeros.bit_length())
