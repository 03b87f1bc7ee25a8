"""The AF_PACKET source: a TPACKET_V3 ring for each queue, the queues of an interface a fanout group."""

from __future__ import annotations

import mmap
import select
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wirecap.errors import SystemCallError, WirecapError
from wirecap.files.interface import Interface
from wirecap.filters.in_socket import WHOLE, fits, kept_bytes, longest_kept, socket_program, uncooked
from wirecap.filters.program import Program
from wirecap.kernels import libc
from wirecap.kernels import packet_words as w
from wirecap.kernels import pool as k
from wirecap.kernels.capture import TIMEOUT_NS, WAIT_FD
from wirecap.kernels.lanes import EMPTY
from wirecap.kernels.packet_loop import packet_loop
from wirecap.kernels.rings import Rings
from wirecap.linux import memory, packet
from wirecap.linux.promiscuous import Promiscuous
from wirecap.source import link_types
from wirecap.source.base import CaptureSettings, HookCounts, SourceQueue

BLOCK_BYTES, SMALL_BLOCK_BYTES = 1 << 18, 1 << 17
"""A block holds the longest packet that tcpdump takes: 256 KiB, as libpcap has it.  In a small ring, where so few
blocks would be filled before the capture thread runs, it holds what offloads make of a packet: 64 KiB."""
LARGE_RING_BYTES, LEAST_BLOCKS = 16 * BLOCK_BYTES, 8
SLOTS_OF_BLOCK = 16
"""At least, in a ring of so many slots: a block that the kernel passes on half full takes the room of a full one."""
SPILL_SHARE = 4
"""One block in so many of a queue's memory is of the spill area (kernels/packet_ring.py)."""
RETIRE_MS, SLOTS_RETIRE_MS = 1, 10
"""After which the kernel passes a block on, however full; seldom in a ring of slots, as that costs some of them."""


@dataclass(frozen=True)
class Port:
    """One interface to capture on; index 0 is all of them."""

    name: str
    index: int
    queues: int
    hardware: int | None = None
    """Its ARPHRD_ number."""
    loopback: bool = False

    @property
    def linktype(self) -> int:
        """LINKTYPE_ of what is captured: cooked where the link is not a known one."""
        return link_types.of_link(self.hardware)

    @property
    def cooked(self) -> bool:
        return self.linktype == link_types.SLL2


def ring_blocks(bytes_per_queue: int) -> tuple[int, int, int]:
    """(bytes of a block, blocks of the ring, blocks of the spill area) for so much memory or a little more."""
    size = BLOCK_BYTES if bytes_per_queue >= LARGE_RING_BYTES else SMALL_BLOCK_BYTES
    blocks = max(LEAST_BLOCKS, bytes_per_queue // size)
    return size, blocks - blocks // SPILL_SHARE, blocks // SPILL_SHARE


def slot_blocks(slots: int, slot_bytes: int, longest_bytes: int) -> tuple[int, int, int]:
    """The same for so many packets of ``slot_bytes``, header included: small blocks, and no spill area.

    longest_bytes: what the longest packet takes, as long as offloads make it at the most.
    """
    least = (
        max(SLOTS_OF_BLOCK * slot_bytes, longest_bytes) + w.BLOCK_HEADER_BYTES + 1
    )  # the kernel fills none to its end
    size = SMALL_BLOCK_BYTES
    while size // 2 >= max(least, mmap.PAGESIZE):
        size //= 2
    return size, max(2, -(-slots // ((size - w.BLOCK_HEADER_BYTES - 1) // slot_bytes))), 0


class PacketSource:
    """Interfaces through AF_PACKET: both directions, and the host keeps its packets.

    Make it in the network namespace of the interfaces.  bytes_per_queue: ring and spill area of a queue; slots: how
    many packets they have room for, 0 where as many as fit; fanout: how packets find their queue
    (linux/packet.FANOUT_MODES); filters: by linktype, run inside the kernel; snaplen: bytes to keep; direction: in |
    out | inout; loopback: the loopback interface's index, 0 where it is not captured.
    """

    engine = "packet"
    truncates = True
    keeps_unread = False

    def __init__(
        self, ports: Sequence[Port], bytes_per_queue: int, fanout: str = "hash",
        filters: dict[int, Program] | None = None, snaplen: int = WHOLE, direction: str = "inout",
        loopback: int = 0, promiscuous: bool = False, hardware_stamps: bool = False, slots: int = 0,
    ) -> None:  # fmt: skip
        self._ports, self._fanout, self._hardware_stamps = list(ports), fanout, hardware_stamps
        self.interfaces = [Interface(linktype=p.linktype, snaplen=WHOLE, name=p.name) for p in self._ports]
        self.queues = [SourceQueue(p.name, queue, i) for i, p in enumerate(self._ports) for queue in range(p.queues)]
        self._programs = [
            socket_program(_usable(filters, port), snaplen, direction, loopback, not port.cooked)
            for port in self._ports
        ]
        if slots:
            link = w.ETHERNET_BYTES if all(port.linktype == link_types.ETHERNET for port in self._ports) else 0
            kept = max(kept_bytes(_usable(filters, port), snaplen) for port in self._ports)
            longest = max(longest_kept(program) for program in self._programs)
            slot_bytes = min(bytes_per_queue // slots, w.packet_bytes(kept, link))
            blocks = slot_blocks(slots, slot_bytes, w.packet_bytes(longest, link))
        else:
            blocks = ring_blocks(bytes_per_queue)
        self._block_bytes, self._blocks, self._spills = blocks
        self._retire_ms = SLOTS_RETIRE_MS if slots else RETIRE_MS
        size = len(self.queues) * (self._blocks + self._spills) * self._block_bytes
        self._region = memory.Region(size + memory.page_round(4 * len(self.queues)))
        self._sockets: list[packet.Socket] = []
        self._promiscuous: list[Promiscuous] = []
        self._rings: list[tuple[int, int]] = []
        try:
            for place in self.queues:
                self._open(self._ports[place.interface_id])
            self._promiscuous = [Promiscuous(port.index) for port in self._ports if promiscuous and port.index]
        except BaseException:
            self.close()
            raise
        self._counters = self._region.reserve(4 * len(self.queues)) // 4
        self.arena = self._region.octets
        self._held = np.zeros(len(self.queues) * (self._blocks + self._spills), np.int64)
        self.rings = Rings(self.arena.view(np.int64), self.arena.view(np.uint32), np.zeros(1, np.int64))

    def _open(self, port: Port) -> None:
        socket = packet.Socket(port.cooked)
        self._sockets.append(socket)
        ring = socket.ring(self._region, self._block_bytes, self._blocks, self._retire_ms)
        self._rings.append((ring, self._region.reserve(self._spills * self._block_bytes)))
        if self._hardware_stamps:
            socket.stamp_by_hardware()

    def equip(self, pool: k.Pool, cells_per_queue: int) -> None:
        pool.control[k.FOREIGN_CLOCK] = self._hardware_stamps
        for queue, (ring, spill) in enumerate(self._rings):
            words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
            words[w.SOCKET], words[w.RING], words[w.BLOCKS] = self._sockets[queue].fd, ring, self._blocks
            words[w.BLOCK_BYTES], words[w.SPILL], words[w.SPILLS] = self._block_bytes, spill, self._spills
            words[w.SPILLING] = EMPTY
            words[w.HELD] = queue * (self._blocks + self._spills)
            words[w.COOKED] = self._ports[self.queues[queue].interface_id].cooked
            words[k.ARRIVED] = self._counters + queue
            words[k.WAITING_AT] = ring // 4 + w.PACKETS + 1

    def kernels(self) -> list[Any]:
        return [packet_loop]

    def run(self, pool: k.Pool, mine: list[int], settings: CaptureSettings) -> None:
        words, depths = np.zeros(8, np.int64), np.zeros(pool.tallies.shape[0], np.int64)
        words[TIMEOUT_NS] = settings.timeout_ns
        with select.epoll() as waiter:
            for queue in mine:
                waiter.register(self._sockets[queue].fd, select.EPOLLIN | select.EPOLLET)
            words[WAIT_FD] = waiter.fileno()
            packet_loop(pool, self.rings, np.array(mine, np.int64), self._held, words, depths, libc.scratch())

    def claim(self) -> None:
        """Bind behind a closed filter and form the groups: nothing comes twice, or unfiltered."""
        for socket in self._sockets:
            socket.filter(packet.REFUSE_ALL)
        for number, port in enumerate(self._ports):
            mine = [s for s, place in zip(self._sockets, self.queues, strict=True) if place.interface_id == number]
            group: int | None = None
            for socket in mine:
                try:
                    socket.bind(port.index)
                    if port.queues > 1:
                        group = socket.join(group, self._fanout)
                except SystemCallError as error:
                    raise SystemCallError(f"{port.name}: {error.message}", error.errno, error.hint) from None

    def start(self) -> None:
        for socket, place in zip(self._sockets, self.queues, strict=True):
            socket.filter(self._programs[place.interface_id])

    def check(self) -> None:
        for socket, place in zip(self._sockets, self.queues, strict=True):
            if self._ports[place.interface_id].index and not socket.is_bound():
                raise WirecapError(f"{place.interface} is gone", "what was captured before is kept")

    def stop(self) -> None:
        for socket in self._sockets:
            socket.filter(packet.REFUSE_ALL)
        packet.wait_for_senders()

    def counts(self, pool: k.Pool, queue: int) -> HookCounts:
        words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
        heads = (self._rings[queue][0] + np.arange(self._blocks) * self._block_bytes) // 4
        in_ring = int(self.rings.halves[heads + w.PACKETS].sum())
        drops = {"pool_exhausted": int(words[w.LOST_EXHAUSTED]), "capture_late": int(words[w.LOST_LATE])}
        return HookCounts(int(words[w.SEEN]), int(words[k.TAKEN_OCTETS]), in_ring, drops)

    def describe(self) -> dict[str, object]:
        how = f"fanout {self._fanout}" if any(port.queues > 1 for port in self._ports) else "TPACKET_V3"
        return {"xdp_mode": None, "zero_copy": False, "how": how}

    def close(self) -> None:
        for holder in self._promiscuous:
            holder.close()
        for socket in self._sockets:
            socket.close()
        self._region.close()


def _usable(filters: dict[int, Program] | None, port: Port) -> Program | None:
    """The filter as the kernel can run it for a port, if it can."""
    program = filters.get(port.linktype) if filters else None
    if program is not None and port.cooked:
        program = uncooked(program)
    return program if program is not None and fits(program) else None
