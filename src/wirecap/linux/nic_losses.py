"""Packets that a NIC lost because it had no buffer for them: they never reach a hook, and only its driver counts them.

In zero-copy mode those are also the packets that came while the pool had no cell.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterable, Mapping

from wirecap.linux import ethtool

NO_BUFFER = "nic_no_buffer"
"""What such losses are called."""
_NO_ROOM = re.compile(
    r"(rx.*(missed|no_?buf|out_of_buf|discard|fifo|no_dma|over_?run))|out of buf|alloc_fail", re.IGNORECASE
)
"""Drivers' names for packets that found no descriptor or no buffer."""
_CANONICAL = ("rx_missed_errors", "rx_fifo_errors", "rx_no_dma_resources")
"""Of these, each packet is counted in one at most: by the port, by a queue that drops (RQDPC, QPRDC of Intel's)."""
_MAYBE = re.compile(r"rx_no_buffer_count|alloc_fail", re.IGNORECASE)
"""They count packets that waited for a buffer and may have got one (RNBC of Intel's), and buffers."""


def counted(statistics: Mapping[str, int]) -> dict[str, int]:
    """Those of a driver's counters that tell of a lack of buffers, and are not 0."""
    return {name: count for name, count in statistics.items() if count and _NO_ROOM.search(name)}


def packets(counters: Mapping[str, int]) -> int:
    """How many packets such counters say were lost: at least, where it is unknown which ones count the same."""
    if lost := sum(counters.get(name, 0) for name in _CANONICAL):
        return lost
    return max((count for name, count in counters.items() if not _MAYBE.search(name)), default=0)


class NicLosses:
    """What NICs lose from now on.  Create it in their network namespace; ask from any thread, in any.

    channel: for other questions about them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)  # of this namespace
        self._lock = threading.Lock()
        self._last = {name: self._read(name) for name in names}
        self._since: dict[str, dict[str, int]] = {name: {} for name in self._last}

    def so_far(self) -> dict[str, dict[str, int]]:
        """For each NIC that has lost packets: NO_BUFFER, how many; and its own counters of them, by their names."""
        with self._lock:
            for name, last in self._last.items():
                now = self._read(name)
                for counter, count in now.items():
                    before = last.get(counter, 0)
                    more = count - before if count >= before else count  # a reset begins at 0 again
                    if more:
                        self._since[name][counter] = self._since[name].get(counter, 0) + more
                if now:  # else it is gone, or has lost nothing since a reset
                    self._last[name] = now
            found = {name: (packets(counters), counters) for name, counters in self._since.items()}
            return {name: {NO_BUFFER: lost} | dict(counters) for name, (lost, counters) in found.items() if lost}

    def _read(self, name: str) -> dict[str, int]:
        return counted(ethtool.statistics(name, self.channel))

    def close(self) -> None:
        self.channel.close()


def told(losses: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A line for each NIC."""
    return [
        f"{counters[NO_BUFFER]} packet{'' if counters[NO_BUFFER] == 1 else 's'} never received: nic no buffer"
        f" ({name}: {', '.join(f'{each} {count}' for each, count in counters.items() if each != NO_BUFFER)})"
        for name, counters in losses.items()
    ]
