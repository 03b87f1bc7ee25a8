"""Recorded packets of any link type for the interfaces that are to send them: Ethernet frames, or IP packets alone."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.files.headers import Interface
from wirecap.kernels.transmit import convert as k

Words = NDArray[np.int64]
Lengths = NDArray[np.uint32]
Bytes = NDArray[np.uint8]

REASONS = {
    k.CUT_HEADER: "shorter than a link-layer header",
    k.NETLINK: "a netlink message, not a packet",
    k.WIRELESS: "an 802.11 frame, which has no EtherType",
    k.NO_ETHERTYPE: "without an EtherType",
    k.NOT_IP: "neither IPv4 nor IPv6",
}
UNTAGGED = "without VLAN tags, which an IP interface does not have"
NAMES = {
    9: "PPP", 51: "PPPoE", 104: "Cisco HDLC", 105: "802.11", 119: "802.11 with a Prism header",
    127: "802.11 with a radiotap header", 163: "802.11 with an AVS header", 189: "USB", 192: "802.11 with a PPI header",
    195: "802.15.4", 201: "Bluetooth", 220: "USB", 227: "CAN", 230: "802.15.4", 231: "D-Bus", 239: "NFLOG",
    247: "InfiniBand", 249: "USB", 251: "Bluetooth LE", 253: "netlink", 254: "Bluetooth", 256: "Bluetooth LE",
}  # fmt: skip
"""Link types (tcpdump.org/linktypes.html) that cannot be converted and that people capture."""


@dataclass(slots=True)
class Rows:
    """n packets: where they lie, and what is known of them.  queue: int64, see ``Batch``."""

    n: int
    arena: Bytes
    address: Words
    captured: Lengths
    original: Lengths
    timestamp: Words
    queue: Words

    def keep(self, wanted: NDArray[np.bool_]) -> None:
        """Leave the others out."""
        n = int(wanted.sum())
        for name in ("address", "captured", "original", "timestamp", "queue"):
            row = getattr(self, name)
            row[:n] = row[: self.n][wanted]
        self.n = n


class Arenas:
    """Memory for packets that were changed, used again once they were sent."""

    def __init__(self) -> None:
        self._free: deque[Bytes] = deque()

    def take(self, size_bytes: int) -> tuple[Bytes, Callable[[], object]]:
        """An array of at least so many bytes, and what gives it back."""
        found = self._free.popleft() if self._free else np.empty(0, np.uint8)
        if found.size < size_bytes:
            found = np.empty(max(size_bytes, 1 << 20), np.uint8)
        return found, lambda: self._free.append(found)


class Conversion:
    """To the link layer of the interfaces that send: ``header`` is 14 for Ethernet, 0 for IP packets alone.

    own: the address of each interface, 6 bytes, which a converted frame has as its source where the file has none.
    fixed_destination: every frame is given a destination address; without one, packets that have none are refused.
    """

    def __init__(
        self, header: int = k.ETHERNET_BYTES, own: Sequence[bytes] = (), fixed_destination: bool = False
    ) -> None:
        self.header = header
        self._own = np.frombuffer(b"".join(own) or bytes(6), np.uint8).reshape(-1, 6)
        self._fixed_destination = fixed_destination
        self.counts, self.foreign = np.zeros(k.COUNTS, np.int64), Counter[int]()
        self._sourceless = np.zeros(0, np.int64)
        self.arenas = Arenas()

    @property
    def link(self) -> int:
        """The link type (LINKTYPE_) of what comes out."""
        return k.ETHERNET if self.header else k.RAW[0]

    def kernels(self) -> list[Any]:
        return [k.to_ethernet if self.header else k.to_ip]

    def check(self, path: str, interface: Interface) -> None:
        """UsageError for packets that have no destination address, where none is given."""
        link = interface.linktype
        if self.header and not self._fixed_destination and link in k.LINK_TYPES and link != k.ETHERNET:
            from wirecap.filters.libpcap import link_name

            raise UsageError(
                f"{path}: its packets have no Ethernet addresses: {link_name(link)}",
                "add --dmac with the address of the host that is to get them",
            )

    def copies(self, link: int) -> bool:
        """Whether packets of a link type are copied into memory of their own."""
        return bool(self.header) and link != k.ETHERNET

    def apply(self, rows: Rows, link: int, lasting: bool) -> Callable[[], object]:
        """Convert packets of one link type and leave out the others; returns what gives their memory back."""
        if link not in k.LINK_TYPES:
            self.foreign[link] += rows.n
            rows.n = 0
        self._sourceless = np.zeros(rows.n, np.int64)
        if not self.header:
            rows.n = int(k.to_ip(rows.arena, rows.address, rows.captured, rows.original, rows.timestamp, rows.queue,
                                 rows.n, link, self.counts))  # fmt: skip
        elif rows.n and link != k.ETHERNET:
            size = int(rows.captured[: rows.n].sum(dtype=np.int64)) + rows.n * k.MOST_GROWTH
            out, give_back = (np.empty(size, np.uint8), _nothing) if lasting else self.arenas.take(size)
            rows.n = int(k.to_ethernet(rows.arena, rows.address, rows.captured, rows.original, rows.timestamp,
                                       rows.queue, rows.n, link, out, self._sourceless, self.counts))  # fmt: skip
            rows.arena = out
            return give_back
        return _nothing

    def give_sources(self, rows: Rows) -> None:
        """The sending interface's own address for converted frames that have no other; their queues are known now."""
        places = np.flatnonzero(self._sourceless[: rows.n])
        if places.size:
            at = rows.address[places][:, None] + np.arange(6, 12)
            rows.arena[at] = self._own[rows.queue[places] % len(self._own)]

    def reasons(self) -> dict[str, int]:
        """Packets that could not be converted, by reason."""
        found = {text: int(self.counts[number]) for number, text in REASONS.items()}
        for link, count in self.foreign.items():
            name = f" ({NAMES[link]})" if link in NAMES else ""
            found[f"neither Ethernet nor IP: link type {link}{name}"] = count
        return {text: count for text, count in found.items() if count}

    def notes(self) -> dict[str, int]:
        """Packets that were converted, but lost something."""
        count = int(self.counts[k.UNTAGGED])
        return {UNTAGGED: count} if count else {}


def _nothing() -> None:
    """Memory that nobody gives back."""
