"""Counters by key, top-N tables and histograms in a compiled handler's state: bounded memory, and nothing allocated.

A table keeps its keys in ``keys`` in the order in which they came, their amounts beside them, and an open-addressing
index of them in ``places``.  A search is bounded, and starts where a seed of this run says, so that nobody can make
packets whose keys collide.

What becomes of a new key when the table is full is its policy.  COUNTER: its amount goes to ``lost``.  TOP: all
amounts are cut by their median, the keys that have nothing left make room, and ``error`` grows by the cut: no amount is
ever too large, and none is too small by more than ``error``.  A cut by c takes at least c from half of the m keys, so
``error`` is at most 2 / m of all that was added.  This is the algorithm of Misra and Gries ("Finding repeated
elements", Science of Computer Programming 2, 1982) with weights and median cuts as Anderson et al. give it ("A
High-Performance Algorithm for Identifying Frequent Items in Data Streams", IMC 2017); that such tables may be added up
is shown by Agarwal et al. ("Mergeable Summaries", PODS 2012).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from wirecap.kernels.base.atomics import fence
from wirecap.kernels.base.jit import PURE, extends_numba, inline
from wirecap.kernels.base.later import Later
from wirecap.kernels.packet import fields as f
from wirecap.kernels.packet import headers as p
from wirecap.kernels.packet.headers import load32, load64, signed

model: Any = Later("wirecap.kernels.handlers.table_model")

COUNTER, TOP, HISTOGRAM, TRIGGER = "counter", "top", "histogram", "trigger"
FIRINGS = 1024
"""How many stretches of time a trigger remembers until they are taken; where there are more, the last gets longer."""
TOGETHER_NS = 10_000_000
"""Packets that are no further apart than this are one stretch."""
MOST_PROBES = 128
_ALL, _LOW63 = 0xFFFFFFFFFFFFFFFF, 0x7FFFFFFFFFFFFFFF
_ODD = 0x1E3779B97F4A7C15  # 2**64 / the golden ratio, as far as 61 bits go, and odd
_MAPPED = 0xFFFF << 32
ABSENT = -1
"""Both halves of an address in a key whose packet has no IP header; no packet can have this one: it is reserved."""


class Kind(NamedTuple):
    """What a field of the state is.  names: the packet's fields that make the key; none: a number that is given."""

    policy: str
    names: tuple[str, ...] = ()
    capacity: int = 0
    edges: tuple[int, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        head = [("total", np.int64), ("without", np.int64)]
        if self.policy == HISTOGRAM:
            size = len(self.edges)
            return np.dtype([*head, ("edges", np.int64, size), ("counts", np.int64, size + 1)], align=True)
        if self.policy == TRIGGER:
            times = [("first", np.int64, FIRINGS), ("last", np.int64, FIRINGS)]
            return np.dtype([*head, ("fired", np.int64), ("taken", np.int64), *times], align=True)
        return np.dtype([
            *head, ("seed", np.int64), ("held", np.int64), ("lost", np.int64), ("error", np.int64),
            ("amounts", np.int64, self.capacity), ("keys", np.int64, (self.capacity, self.words)),
            ("places", np.int32, 1 << (2 * self.capacity - 1).bit_length()),
        ], align=True)  # fmt: skip

    @property
    def words(self) -> int:
        """int64 words of a key."""
        return sum(2 if name in WIDE else 1 for name in self.names) or 1


def _wide(which: int) -> Any:
    """A reader of the source or destination address of either IP version, as two words."""
    ip, ip6 = f.STARTS["ip"], f.STARTS["ip6"]

    def read(packet):  # type: ignore[no-untyped-def]
        at = ip(packet)
        if at >= 0:
            return 0, _MAPPED | load32(packet, at + 12 + 4 * which)
        at = ip6(packet)
        if at >= 0:
            return signed(load64(packet, at + 8 + 16 * which)), signed(load64(packet, at + 16 + 16 * which))
        return ABSENT, ABSENT

    return read


def _network(packet):  # type: ignore[no-untyped-def]
    return _ip(packet) >= 0 or _ip6(packet) >= 0


def _ports(packet):  # type: ignore[no-untyped-def]
    number = packet._headers >> p.PROTOCOL & p.PROTOCOL_MASK
    known = number == 6 or number == 17 or number == 132 or number == 136 or number == 33
    return known and packet._headers & p.TRANSPORT_MASK > 0


def _always(packet):  # type: ignore[no-untyped-def]
    return True


_ip, _ip6 = f.STARTS["ip"], f.STARTS["ip6"]
WIDE = {"src": _wide(0), "dst": _wide(1)}
_IP6_PAIRS = ("ip6.src", "ip6.dst")
_THERE: dict[str, Any] = {
    "src": _network, "dst": _network, "protocol": _network, "src_port": _ports, "dst_port": _ports,
    "timestamp": _always, "length": _always, "captured_length": _always, "nic_hash": f.has_hash,
}  # fmt: skip
NAMES = (
    *WIDE, *f.PACKET_ATTRIBUTES,
    *(f"{layer}.{name}" for layer, names in f.LAYER_ATTRIBUTES.items() for name in names
      if f"{layer}.{name}" not in _IP6_PAIRS),
)  # fmt: skip
"""The fields that keys may be made of; ``src`` and ``dst`` are the addresses of either IP version."""


def _word(read: Any) -> Any:
    read = inline(read)

    def one(packet):  # type: ignore[no-untyped-def]
        return (np.int64(read(packet)),)

    return one


def _layer_there(start: Any) -> Any:
    def there(packet):  # type: ignore[no-untyped-def]
        return start(packet) >= 0

    return there


def _field(name: str) -> tuple[Any, Any]:
    """(packet -> words of the field, packet -> whether it has it)."""
    if name in WIDE:
        return WIDE[name], _network
    layer, _, inner = name.partition(".")
    if inner:
        return _word(f.LAYER_ATTRIBUTES[layer][inner]), _layer_there(f.STARTS[layer])
    return _word(f.PACKET_ATTRIBUTES[name]), _THERE[name]


def _both(first: Any, second: Any) -> Any:
    first, second = inline(first), inline(second)

    def words(packet):  # type: ignore[no-untyped-def]
        return first(packet) + second(packet)

    return words


def _either(first: Any, second: Any) -> Any:
    first, second = inline(first), inline(second)

    def there(packet):  # type: ignore[no-untyped-def]
        return first(packet) or second(packet)

    return there


def _key_of(names: tuple[str, ...]) -> tuple[Any, Any]:
    """(packet -> the words of its key, packet -> whether it has any of the fields)."""
    words, there = _field(names[0])
    for name in names[1:]:
        more, also = _field(name)
        words, there = _both(words, more), _either(there, also)
    return inline(words), inline(there)


if PURE:

    def _mix(seed, key):  # type: ignore[no-untyped-def]
        """A hash of 63 bits."""
        mixed = int(seed) & _ALL
        for word in key:
            mixed = (mixed ^ int(word) & _ALL) * _ODD & _ALL
            mixed ^= mixed >> 32
        mixed = mixed * _ODD & _ALL
        return (mixed ^ mixed >> 31) & _LOW63

else:

    @inline
    def _mix(seed, key):
        """A hash of 63 bits.

        Unsigned, because a product of signed numbers must not overflow: LLVM would take it to be what suits it, which
        may be another number where it knows more of the key.
        """
        mixed = np.uint64(seed)
        for word in key:
            mixed = (mixed ^ np.uint64(word)) * np.uint64(_ODD)
            mixed ^= mixed >> np.uint64(32)
        mixed *= np.uint64(_ODD)
        return np.int64((mixed ^ mixed >> np.uint64(31)) & np.uint64(_LOW63))


@inline
def _find(table, key):
    """(the key's entry or -1, the free place where it would stand or -1)."""
    places, keys = table.places, table.keys
    place = _mix(table.seed, key) & (places.size - 1)
    for _ in range(MOST_PROBES):
        entry = places[place] - 1
        if entry < 0:
            return -1, place
        same = True
        for j in range(len(key)):
            same = same and keys[entry, j] == key[j]
        if same:
            return np.int64(entry), place
        place = place + 1 & (places.size - 1)
    return -1, -1


@inline
def _median(amounts, held):
    """The largest number that at least half of the amounts reach."""
    found = 0
    for bit in range(62, -1, -1):
        tried = found | 1 << bit
        reach = 0
        for i in range(held):
            reach += amounts[i] >= tried
        if 2 * reach >= held:
            found = tried
    return found


@inline
def _cut(table):
    """Take the median from every amount, and leave out the keys that have nothing left; returns the cut."""
    amounts, keys, places = table.amounts, table.keys, table.places
    cut = _median(amounts, table.held)
    for place in range(places.size):
        places[place] = 0
    kept = 0
    for i in range(table.held):
        left = amounts[i] - cut
        if left <= 0:
            continue
        amounts[kept] = left
        for j in range(keys.shape[1]):
            keys[kept, j] = keys[i, j]
        _, place = _find(table, keys[kept])
        if place >= 0:  # else it cannot be found again, and its amount stays as it is
            places[place] = kept + 1
        kept += 1
    table.held = kept
    table.error += cut
    return cut


@inline
def _insert(table, key, place, amount):
    entry = table.held
    for j in range(len(key)):
        table.keys[entry, j] = key[j]
    table.amounts[entry] = amount
    table.places[place] = entry + 1
    table.held = entry + 1


@inline
def _count(table, key, amount):
    """Add to a key's amount; if there is no room, to ``lost``."""
    table.total += amount
    entry, place = _find(table, key)
    if entry >= 0:
        table.amounts[entry] += amount
    elif place >= 0 and table.held < table.amounts.size:
        _insert(table, key, place, amount)
    else:
        table.lost += amount


@inline
def _count_top(table, key, amount):
    """Add to a key's amount; if there is no room, cut all of them."""
    table.total += amount
    entry, place = _find(table, key)
    if entry >= 0:
        table.amounts[entry] += amount
        return
    if amount > 0 and place >= 0 and table.held == table.amounts.size:
        amount -= _cut(table)
        if amount <= 0:
            return
        _, place = _find(table, key)
    if place < 0:
        table.error += amount
    elif amount > 0:
        _insert(table, key, place, amount)


@inline
def _count_bin(table, key, amount):
    """Add to the bin of a value: bin i is for values from edges[i - 1] on and below edges[i]."""
    table.total += amount
    edges, low, high = table.edges, 0, table.edges.size
    while low < high:
        middle = (low + high) // 2
        if edges[middle] <= key[0]:
            low = middle + 1
        else:
            high = middle
    table.counts[low] += amount


_COUNT = {COUNTER: _count, TOP: _count_top, HISTOGRAM: _count_bin}


def add_of(kind: Kind) -> Callable[[Any, Any, int], None]:
    """The method ``add`` of a table: of a packet if its key is made of fields, else of a number."""
    count = _COUNT[kind.policy]
    if not kind.names:

        def add_number(table, what, amount=1):  # type: ignore[no-untyped-def]
            count(table, (np.int64(what),), max(np.int64(amount), 0))

        return add_number
    words, there = _key_of(kind.names)

    def add_packet(table, what, amount=1):  # type: ignore[no-untyped-def]
        counted = max(np.int64(amount), 0)
        if there(what):
            count(table, words(what), counted)
        else:
            table.total += counted
            table.without += counted

    return add_packet


def fire(table, packet):  # type: ignore[no-untyped-def]
    """The method ``fire`` of a trigger: remember the packet's time, in a stretch of its own or in the last one.

    ``fired`` stretches were begun, ``taken`` of them are needed no longer; of the last one the end still moves.
    """
    now, fired = packet.timestamp, table.fired
    table.total += 1
    current = (fired - 1) % FIRINGS
    together = fired > 0 and table.first[current] <= now <= table.last[current] + TOGETHER_NS
    if together or fired - table.taken >= FIRINGS:
        table.last[current] = max(table.last[current], now)
        return
    table.first[fired % FIRINGS] = table.last[fired % FIRINGS] = now
    fence()
    table.fired = fired + 1


if not PURE:

    @extends_numba
    def _register() -> None:
        model.register()


def state_type(kind: np.dtype[Any], tables: dict[str, Kind]) -> Any:
    """Numba's record of the state, with its tables as such."""
    return model.state_type(kind, tables)
