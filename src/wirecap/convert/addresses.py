"""The addresses that were met so far, and what they are called."""

from __future__ import annotations

import socket
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wirecap.kernels.convert import addresses as k

FIRST_ENTRIES = 1 << 14


class AddressTable:
    """kernels/convert/addresses.py's table, which grows."""

    def __init__(self) -> None:
        self.kernel = k.new_addresses(FIRST_ENTRIES)
        self._texts: list[str] = []

    def __len__(self) -> int:
        return int(self.kernel.count[0])

    def go_through(self, n: int, run: Callable[[int], int]) -> None:
        """Call a kernel that goes through n packets until it comes to the end; run: gets the packet to begin with."""
        first = 0
        while (first := run(first)) < n:
            larger = k.new_addresses(2 * len(self.kernel.entries))
            k.move(self.kernel, larger)
            self.kernel = larger

    def bytes_of(self, first: int, end: int) -> NDArray[np.uint8]:
        """The addresses number first to end, uint8 (end - first, 16): each begins at the left, zeros behind it."""
        entries = self.kernel.entries[first:end]
        words = np.ascontiguousarray(entries[:, k.HIGH : k.LOW + 1])
        found: NDArray[np.uint8] = words.astype(">i8").view(np.uint8).reshape(-1, 16)
        for kind, size in ((k.IPV4, 4), (k.MAC, 6)):
            mine = entries[:, k.KIND] == kind
            found[mine, :size] = found[mine, -size:]
            found[mine, size:] = 0
        return found

    def replace(self, first: int, new: NDArray[np.uint8]) -> None:
        """What the addresses from number ``first`` on become; new: as ``bytes_of`` gives them."""
        entries = self.kernel.entries[first : first + len(new)]
        new = new.copy()
        for kind, size in ((k.IPV4, 4), (k.MAC, 6)):
            mine = entries[:, k.KIND] == kind
            new[mine, -size:] = new[mine, :size].copy()
            new[mine, :-size] = 0
        entries[:, k.NEW_HIGH : k.NEW_LOW + 1] = new.view(">i8").astype(np.int64)

    def text(self, number: int) -> str:
        """As people write it."""
        while len(self._texts) <= number:
            first, end = len(self._texts), len(self)
            kinds = self.kernel.entries[first:end, k.KIND].tolist()
            self._texts += map(_text, kinds, self.bytes_of(first, end))
        return self._texts[number]


def _text(kind: int, address: NDArray[np.uint8]) -> str:
    data = address.tobytes()
    if kind == k.IPV4:
        return socket.inet_ntop(socket.AF_INET, data[:4])
    if kind == k.IPV6:
        return socket.inet_ntop(socket.AF_INET6, data)
    return data[:6].hex(":")
