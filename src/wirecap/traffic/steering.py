"""On which queue a packet goes: as a NIC's RSS chooses it, or as its file has it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.files.reader import CaptureFile
from wirecap.kernels.file import read as at
from wirecap.kernels.file.read import recorded_queues
from wirecap.kernels.transmit import rss as k

STANDARD_KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)  # fmt: skip
"""Microsoft, "Verifying the RSS hash calculation"; what most drivers' tests use."""
SYMMETRIC_KEY = bytes.fromhex("6d5a") * 20
"""Both directions of a connection get one hash: Woo and Park, "Scalable TCP session monitoring with symmetric
receive-side scaling", 2012."""
KEYS = {"rss": STANDARD_KEY, "symmetric": SYMMETRIC_KEY}
ENTRIES = 128
"""Entries of the indirection table, as many drivers have them."""


class Rss:
    """Toeplitz hash and indirection table, in which the queues take turns unless a table is given."""

    def __init__(self, queues: int, key: bytes = STANDARD_KEY, table: list[int] | None = None) -> None:
        if len(key) < k.INPUT_BYTES + 4:
            raise UsageError(f"the RSS key is too short: {len(key)} bytes", f"use {k.INPUT_BYTES + 4} bytes")
        entries = [entry % queues for entry in range(ENTRIES)] if table is None else table
        if not entries or len(entries) & (len(entries) - 1) or not all(0 <= entry < queues for entry in entries):
            raise UsageError(
                f"unsupported indirection table of {len(entries)} entries for {queues} queues",
                f"its length must be a power of two, and its entries 0 to {queues - 1}",
            )
        self._products = products_of(key)
        self._indirection = np.array(entries, np.int64)

    def kernels(self) -> list[Any]:
        return [k.rss_queues]

    def choose(
        self, arena: NDArray[np.uint8], address: NDArray[np.int64], length: NDArray[np.uint32], n: int
    ) -> NDArray[np.int64]:
        """The queues of n frames, int64 (n,)."""
        chosen = np.empty(n, np.int64)
        k.rss_queues(arena, address, length, n, self._products, self._indirection, chosen)
        return chosen


class Recorded:
    """The queue that the file has: pcapng's epb_queue, else the number of the packet's interface in the file."""

    def __init__(self, queues: int) -> None:
        self._queues, self._swapped, self._interface, self._options = queues, 0, 0, False

    def kernels(self) -> list[Any]:
        return [recorded_queues]

    def look(self, file: CaptureFile) -> None:
        self._swapped, self._interface = int(file.state[at.SWAPPED]), int(file.state[at.INTERFACE])
        self._options = file.kind == "pcapng"

    def choose(
        self, arena: NDArray[np.uint8], address: NDArray[np.int64], length: NDArray[np.uint32], n: int
    ) -> NDArray[np.int64]:
        """The queues of n packets of one interface of the file, int64 (n,)."""
        if not self._options:
            return np.full(n, self._interface % self._queues, np.int64)
        chosen = np.empty(n, np.int64)
        recorded_queues(arena, address, length, n, self._swapped, self._interface, self._queues, chosen)
        return chosen


def products_of(key: bytes) -> NDArray[np.uint32]:
    """The hash of each byte value at each place of the input: uint32 (INPUT_BYTES * 256,)."""
    whole = int.from_bytes(key, "big")
    bits = 8 * len(key)
    windows = [(whole >> (bits - 32 - shift)) & 0xFFFFFFFF for shift in range(8 * k.INPUT_BYTES)]
    products = np.zeros((k.INPUT_BYTES, 256), np.uint32)
    values = np.arange(256)
    for place in range(k.INPUT_BYTES):
        for bit in range(8):
            chosen = (values >> (7 - bit)) & 1 == 1
            products[place, chosen] ^= np.uint32(windows[8 * place + bit])
    return products.ravel()
