"""A client of ``wirecap serve``: its connection, the blocks that wait for it, and what became of every packet."""

from __future__ import annotations

import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wirecap.files import headers
from wirecap.files.remote import DROPS
from wirecap.kernels.pool.handler_loop import by_interface

if TYPE_CHECKING:
    from wirecap.filters.native import LinkFilters

SHARE_BYTES = 1 << 20
"""What a client is sent before it is another's turn."""
LONGEST_LINE = 16_384
"""Bytes of a filter that a client may send."""


class Block(NamedTuple):
    """Packet blocks of pcapng, and how many packets of each interface they hold.  data: None where they were lost."""

    data: NDArray[np.uint8] | None
    counts: NDArray[np.int64]


class Wanted(NamedTuple):
    """A client's filter, as kernels take it.  owner: has the code, which must live as long."""

    text: str
    states: NDArray[np.int64]
    owner: LinkFilters


def wanted(text: str, links: list[Any]) -> Wanted:
    """Compile a client's filter.  Raises UsageError for one that is wrong."""
    from wirecap.filters.native import LinkFilters

    owner = LinkFilters(text, links)
    return Wanted(text, by_interface([owner.by_link[link].state for link in links]), owner)


class Phase(Enum):
    HANDSHAKE = "TLS handshake"
    ASKED = "may send a filter"
    COMPILING = "its filter is compiled"
    SERVED = "gets packets"
    CLOSING = "gets what it has been promised, and no more"


class Client:
    """One connection.  channel: does not block.  limit: bytes that may wait.  For the distributing thread alone."""

    def __init__(self, channel: socket.socket, name: str, limit: int, interfaces: int) -> None:
        self.channel, self.name, self.limit = channel, name, limit
        self.phase, self.deadline = Phase.ASKED, float("inf")
        self.filter: Wanted | None = None
        self.line = b""
        self.compiling = False
        self.begun = False
        """Whether it has the head of its stream."""
        self.half_closed = self.waiting = self.shut = False
        """It sends nothing any more; its socket takes nothing just now; we send nothing any more."""
        self.since = time.time_ns()
        self._queue: deque[tuple[memoryview, NDArray[np.int64] | None]] = deque()
        self._queued = 0
        self._tellings = 0
        self.offered, self.filtered, self.sent, self.behind, self.missed, self.unsent = np.zeros(
            (6, interfaces), np.int64
        )
        self.sent_bytes = 0
        self.lost_before: list[Mapping[str, int]] = [{}] * interfaces
        """What the capture had lost on each interface when it came."""
        self.told: Any = None

    @property
    def encrypted(self) -> bool:
        return isinstance(self.channel, ssl.SSLSocket)

    @property
    def text(self) -> str:
        return self.filter.text if self.filter else ""

    def offer(self, block: Block, chosen: Block | None) -> None:
        """A block of the capture, and what the client's filter wants of it; None where that is nothing."""
        self.offered += block.counts
        if block.data is None:
            self.missed += block.counts
            return
        if chosen is None:
            self.filtered += block.counts
            return
        self.filtered += block.counts - chosen.counts
        assert chosen.data is not None
        if self._queued + chosen.data.size > self.limit:
            self.behind += chosen.counts
        else:
            self._append(chosen.data.data, chosen.counts)

    def tell(self, block: bytes) -> None:
        """A block without packets, which waits behind the packets before it."""
        self._tellings += 1
        self._append(memoryview(block), None)

    @property
    def untold(self) -> bool:
        """Whether it has yet to get what it was told last."""
        return self._tellings > 0

    def _append(self, data: memoryview, counts: NDArray[np.int64] | None) -> None:
        self._queue.append((data, counts))
        self._queued += len(data)

    @property
    def queued(self) -> int:
        """Bytes that wait."""
        return self._queued

    def flush(self) -> None:
        """Send what its socket takes, up to SHARE_BYTES.  Raises OSError if it is gone."""
        self.waiting, quota = False, SHARE_BYTES
        while self._queue and quota > 0:
            data, counts = self._queue[0]
            try:
                done = self.channel.send(data[:SHARE_BYTES])
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                break
            self._queued -= done
            self.sent_bytes += done
            quota -= done
            if done < len(data):
                self._queue[0] = (data[done:], counts)
                continue
            self._queue.popleft()
            if counts is None:
                self._tellings -= 1
            else:
                self.sent += counts
        self.waiting = bool(self._queue)

    def read(self) -> bytes:
        """What it has sent; b"" at its end, or where nothing is there any more.  Raises OSError if it is gone."""
        try:
            found = self.channel.recv(LONGEST_LINE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b""
        if not found:
            self.half_closed = True
        return found

    def shut_down(self) -> None:
        """Say that nothing follows."""
        self.shut = True
        with suppress(OSError, ValueError):
            if isinstance(self.channel, ssl.SSLSocket):
                self.channel.unwrap()
        with suppress(OSError):
            self.channel.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Nothing more goes to it: what waits is counted as not sent."""
        for _, counts in self._queue:
            if counts is not None:
                self.unsent += counts
        self._queue.clear()
        self._queued = 0
        self.channel.close()

    def drops(self) -> dict[str, int]:
        """Packets that it should have got and did not, by name, where there are any."""
        found = {
            "client_behind": int(self.behind.sum()), "server_behind": int(self.missed.sum()),
            "not_sent": int(self.unsent.sum()),
        }  # fmt: skip
        return {name: count for name, count in found.items() if count}

    def statistics(self, lost: list[Mapping[str, int]], ended: bool) -> bytes:
        """An interface statistics block for each interface.  lost: what the capture has lost on each."""
        blocks, now = [], time.time_ns()
        for number, names in enumerate(lost):
            drops = {name: count - self.lost_before[number].get(name, 0) for name, count in names.items()}
            drops |= {"client_behind": int(self.behind[number]), "server_behind": int(self.missed[number])}
            drops = {name: count for name, count in drops.items() if count}
            offered, all_lost = int(self.offered[number]), sum(drops.values())
            before = all_lost - int(self.behind[number] + self.missed[number])
            counts = headers.Statistics(
                start_ns=self.since, end_ns=now if ended else None, received=offered + before,
                accepted=offered - int(self.filtered[number]), dropped_by_os=all_lost,
                delivered=offered - int(self.filtered[number] + self.behind[number] + self.missed[number]),
            )  # fmt: skip
            comment = DROPS + " ".join(f"{name}={count}" for name, count in drops.items()) if drops else ""
            blocks.append(headers.interface_statistics(number, now, counts, comment))
        return b"".join(blocks)

    def row(self) -> dict[str, Any]:
        """Its line in the summary: offered = filtered_out + sent + waiting + drops."""
        drops = self.drops()
        offered, filtered, sent = int(self.offered.sum()), int(self.filtered.sum()), int(self.sent.sum())
        return {
            "address": self.name, "filter": self.text, "offered": offered, "filtered_out": filtered, "sent": sent,
            "waiting": offered - filtered - sent - sum(drops.values()), "dropped": sum(drops.values()), "drops": drops,
            "bytes": self.sent_bytes,
        }  # fmt: skip
