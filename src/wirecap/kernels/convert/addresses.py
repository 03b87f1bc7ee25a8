"""A table of the distinct addresses that were met: IPv4, IPv6 and MAC, each with a number.

What is known of an address, a name or another address, is worked out once, by Python, under its number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import none, record, table, words
from wirecap.kernels.base.unaligned import load16, load32, swap16, swap32

IPV4, IPV6, MAC = 1, 2, 3

# words of an entry; an address is two words, of which IPv4 and MAC use the lower one
KIND, HIGH, LOW, NEW_HIGH, NEW_LOW = range(5)
ENTRY_WORDS = 5
_HALF = 0xFFFFFFFF


class Addresses(NamedTuple):
    places: Any  # int64 (a power of two, at least twice the entries,): 1 + number; 0: free
    entries: Any  # int64 (n, ENTRY_WORDS)
    count: Any  # int64 (1,): entries in use


ADDRESSES = record(Addresses, words, table, words)


def new_addresses(entries: int) -> Addresses:
    """entries: a power of two."""
    count = np.zeros(1, np.int64)
    return Addresses(np.zeros(2 * entries, np.int64), np.zeros((entries, ENTRY_WORDS), np.int64), count)


@inline
def word64(data, position):
    """Eight bytes, big-endian, as the bits of an int64."""
    return swap32(load32(data, position)) << 32 | swap32(load32(data, position + 4))


@inline
def word32(data, position):
    return swap32(load32(data, position))


@inline
def word48(data, position):
    return swap32(load32(data, position)) << 16 | swap16(load16(data, position + 4))


@inline
def place_of(addresses, kind, high, low):
    """Where the number of an address stands in ``places``, or would."""
    entries, places = addresses.entries, addresses.places
    mixed = (low ^ low >> 32 ^ high ^ high >> 29) & _HALF
    mixed = ((mixed ^ kind) * 0x45D9F3B) & _HALF  # below 2**60; the constant is that of a known 32-bit mixer
    mixed = ((mixed ^ mixed >> 16) * 0x45D9F3B) & _HALF
    place = (mixed ^ mixed >> 16) & (places.size - 1)
    while True:
        number = places[place] - 1
        if number < 0:
            return place
        if entries[number, LOW] == low and entries[number, HIGH] == high and entries[number, KIND] == kind:
            return place
        place = (place + 1) & (places.size - 1)


@inline
def number_of(addresses, kind, high, low):
    """The number of an address, a new one if it was not met before; the caller has seen to it that there is room."""
    place = place_of(addresses, kind, high, low)
    number = addresses.places[place] - 1
    if number < 0:
        number, entries = addresses.count[0], addresses.entries
        entries[number, KIND], entries[number, HIGH], entries[number, LOW] = kind, high, low
        addresses.count[0] = number + 1
        addresses.places[place] = number + 1
    return number


@kernel(none(ADDRESSES, ADDRESSES))
def move(addresses, larger):
    """All entries into an empty, larger table; they keep their numbers."""
    for number in range(addresses.count[0]):
        entry = addresses.entries[number]
        moved = number_of(larger, entry[KIND], entry[HIGH], entry[LOW])
        larger.entries[moved, NEW_HIGH], larger.entries[moved, NEW_LOW] = entry[NEW_HIGH], entry[NEW_LOW]
