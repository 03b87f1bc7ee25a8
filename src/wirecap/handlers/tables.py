"""Counters by key, top-N tables and histograms for the state of compiled handlers, and what comes out of them.

@wirecap.handler(state={"talkers": wirecap.Top(10, "src", "dst")})
def talkers(packet, state):
    state.talkers.add(packet, packet.length)
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from wirecap.engine.text import ip_text, mac_text
from wirecap.errors import UsageError, suggest
from wirecap.kernels.handlers import tables as k
from wirecap.kernels.handlers.tables import ABSENT, COUNTER, HISTOGRAM, TOP, TRIGGER, WIDE, Kind

_UNSIGNED = (1 << 64) - 1
_MOST_KEYS = 1 << 24
_POWERS = tuple(1 << exponent for exponent in range(41))
NONE = "none"
"""An address in a key of several fields, whose packet has others of them but no IP header."""


class TableSpec:
    """A field of a state that is more than a number."""

    kind: Kind


class Counter(TableSpec):
    """Counts by key: ``Counter("src")``, ``Counter("src", "dst_port")``; without names, by a number that is given.

    ``state.NAME.add(packet)``, or ``add(packet, amount)``, adds to the count of the packet's key; ``Counter()`` has
    ``add(number)``.  Counts are exact.  It holds ``capacity`` keys for each thread; what comes for others after that
    is in the result's ``other``.  Raises UsageError for a name that is no field.
    """

    def __init__(self, *names: str, capacity: int = 65_536) -> None:
        self.kind = Kind(COUNTER, _checked(names), _size(capacity))


class Top(TableSpec):
    """The n keys with the largest amounts: ``Top(10, "src", "dst")``; ``add`` is as for Counter.

    It holds ``capacity`` keys for each thread.  As long as there are no more, amounts are exact; after that an amount
    may be too small by the result's ``error``, which is at most 2 / capacity of everything that was added, and no
    key with more than that is missing (kernels/handlers/tables.py).  Raises UsageError for a name that is no field.
    """

    def __init__(self, n: int, *names: str, capacity: int = 8192) -> None:
        if not isinstance(n, int) or not 0 < n <= capacity:
            raise UsageError(f"Top takes how many keys to show, 1 to {capacity}, not {n!r}", 'write Top(10, "src")')
        self.kind = Kind(TOP, _checked(names), _size(capacity), (n,))


class Histogram(TableSpec):
    """How often which values come: ``Histogram("length", edges=[0, 64, 128])``; ``Histogram(edges=...)`` of numbers.

    ``state.NAME.add(packet)`` adds 1, or an amount, to the bin of the packet's value.  edges: ascending whole numbers;
    a bin is from one of them up to, not including, the next; there is one below the first, and one from the last on.
    Left out, they are the powers of two.  Raises UsageError for a name that is no field, and for bad edges.
    """

    def __init__(self, *names: str, edges: Iterable[int] | None = None) -> None:
        if len(names) > 1 or names[:1] == ("src",) or names[:1] == ("dst",):
            raise UsageError(f"cannot make a histogram of {' and '.join(names)}", "name one field that is a number")
        given = (0, *_POWERS) if edges is None else tuple(edges)
        if not given or not all(map(_is_int64, given)) or list(given) != sorted(set(given)):
            raise UsageError(
                f"unsupported edges of a histogram: {list(given)}", "give ascending whole numbers of 64 bits"
            )
        self.kind = Kind(HISTOGRAM, _checked(names), 0, tuple(int(edge) for edge in given))


class Trigger(TableSpec):
    """``state.NAME.fire(packet)`` has kept packets saved (``capture --keep``): those before it, and those after it.

    The result counts the packets that fired.  Without --keep that is all it does.
    """

    def __init__(self) -> None:
        self.kind = Kind(TRIGGER)


def _is_int64(value: Any) -> bool:
    try:
        return bool(int(value) == value and -(1 << 63) <= value < 1 << 63)
    except (TypeError, ValueError, OverflowError):  # no number at all, NaN, infinite
        return False


def _checked(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in k.NAMES:
            six = "src and dst are the addresses of either IP version" if name in ("ip6.src", "ip6.dst") else ""
            raise UsageError(
                f"packets have no field {name!r}", six or suggest(str(name), k.NAMES) or "docs/handlers.md lists them"
            )
    return names


def _size(capacity: int) -> int:
    if not isinstance(capacity, int) or not 0 < capacity <= _MOST_KEYS:
        raise UsageError(f"unsupported capacity: {capacity!r} keys", f"use 1 to {_MOST_KEYS:,}")
    return capacity


def begin(table: Any, kind: Kind) -> None:
    """Prepare a table of zeros."""
    if kind.policy == HISTOGRAM:
        table.edges[:] = kind.edges
    elif kind.policy != TRIGGER:
        table.seed = secrets.randbits(62)


class Tally(dict[Any, int]):
    """Amounts by key, largest first: keys are addresses as text, or numbers, or tuples of them.

    ``total`` = the sum of all amounts here + ``other`` + ``without``.  other: of keys that are not here, because the
    table was full or they are not among the top n.  without: of packets without any of the key's fields.  error: by
    how much an amount here may be too small, at most; 0 if all are exact.
    """

    def __init__(self, amounts: Iterable[tuple[Any, int]], names: tuple[str, ...], total: int, without: int,
                 error: int) -> None:  # fmt: skip
        super().__init__(amounts)
        self.names, self.total, self.without, self.error = names, total, without, error
        self.other = total - without - sum(self.values())

    def plain(self) -> dict[str, Any]:
        """In JSON's types, the largest first."""
        return {
            "counts": {_joined(key): amount for key, amount in self.items()},
            "total": self.total, "other": self.other, "without": self.without, "error": self.error,
        }  # fmt: skip

    def lines(self, most: int = 10) -> list[str]:
        """For people: the largest amounts and what is not among them."""
        by = f" by {', '.join(self.names)}" if self.names else ""
        lines = [f"{self.total}{by}"]
        shown = list(self.items())[:most]
        lines += [_row(amount, self.total, _joined(key)) for key, amount in shown]
        hidden = len(self) - len(shown)
        if hidden:
            rest = sum(self.values()) - sum(amount for _, amount in shown)
            lines.append(_row(rest, self.total, f"{hidden} more key{'' if hidden == 1 else 's'}"))
        if self.other:
            lines.append(_row(self.other, self.total, "other keys"))
        if self.without:
            lines.append(_row(self.without, self.total, "without these fields"))
        if self.error:
            lines.append(f"  the table was full: an amount may be too small by up to {self.error}")
        return lines


class Bins(dict[str, int]):
    """Counts by range, in order: ``{"0-63": 1, "64-127": 300, "128-": 0}``; without: of packets without the field."""

    def __init__(self, counts: Iterable[tuple[str, int]], names: tuple[str, ...], total: int, without: int) -> None:
        super().__init__(counts)
        self.names, self.total, self.without = names, total, without

    def plain(self) -> dict[str, Any]:
        """In JSON's types."""
        return {"counts": dict(self), "total": self.total, "without": self.without}

    def lines(self) -> list[str]:
        """For people: the bins that are not empty."""
        by = f" by {self.names[0]}" if self.names else ""
        lines = [f"{self.total}{by}"]
        lines += [_row(count, self.total, label) for label, count in self.items() if count]
        if self.without:
            lines.append(_row(self.without, self.total, "without this field"))
        return lines


def _row(amount: int, total: int, what: str) -> str:
    return f"  {amount:>14} {100 * amount / (total or 1):5.1f} %  {what}"


def _joined(key: Any) -> str:
    return " ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def merged(tables: Sequence[Any], kind: Kind) -> Tally | Bins | int:
    """All threads' tables as one result."""
    total, without = sum(table.total for table in tables), sum(table.without for table in tables)
    if kind.policy == TRIGGER:
        return int(total)
    if kind.policy == HISTOGRAM:
        counts = sum(table.counts for table in tables)
        return Bins(zip(_labels(kind.edges), counts.tolist(), strict=True), kind.names, total, without)
    amounts: dict[tuple[int, ...], int] = {}
    for table in tables:
        held = table.held
        for key, amount in zip(map(tuple, table.keys[:held].tolist()), table.amounts[:held].tolist(), strict=True):
            amounts[key] = amounts.get(key, 0) + amount
    most = kind.edges[0] if kind.policy == TOP else len(amounts)
    largest = sorted(amounts.items(), key=lambda item: (-item[1], item[0]))[:most]
    error = sum(table.error for table in tables)
    if kind.policy == COUNTER and len(tables) > 1:  # a key that one thread holds may have been lost by another
        error = sum(table.lost for table in tables)
    return Tally(((_key(key, kind.names), amount) for key, amount in largest), kind.names, total, without, error)


def _labels(edges: tuple[int, ...]) -> list[str]:
    inner = [str(low) if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise(edges)]
    return [f"below {edges[0]}", *inner, f"{edges[-1]} or more"]


def _key(words: tuple[int, ...], names: tuple[str, ...]) -> Any:
    parts: list[int | str] = []
    at = 0
    for name in names:
        if name in WIDE:
            parts.append(_address(words[at], words[at + 1]))
            at += 2
        else:
            parts.append(_shown(name, words[at]))
            at += 1
    return (tuple(parts) if len(parts) > 1 else parts[0]) if names else words[0]


def _address(high: int, low: int) -> str:
    return NONE if high == low == ABSENT else ip_text(high & _UNSIGNED, low & _UNSIGNED)


def _shown(name: str, word: int) -> int | str:
    if name in ("ip.src", "ip.dst", "arp.sender_ip", "arp.target_ip"):
        return ip_text(0, 0xFFFF << 32 | word)
    if name in ("eth.src", "eth.dst", "arp.sender_mac", "arp.target_mac"):
        return mac_text(word)
    return word
