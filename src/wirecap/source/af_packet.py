"""The AF_PACKET source: a TPACKET_V3 ring per queue, with the queues of an interface in a fanout group."""

from __future__ import annotations

import mmap
import select
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from wirecap.config.capture import CaptureConfig
from wirecap.config.forward import ForwardConfig
from wirecap.config.specs import ANY, QueueSpec
from wirecap.errors import SystemCallError, UsageError, WirecapError
from wirecap.files.headers import Interface
from wirecap.filters.expand import plain
from wirecap.filters.expression import compile_each, compile_filter
from wirecap.filters.in_socket import (
    LONGEST_PROGRAM,
    WHOLE,
    fits,
    kept_bytes,
    longest_kept,
    socket_program,
    uncooked,
)
from wirecap.filters.metadata import MARKED, Link, one_way
from wirecap.filters.program import Program
from wirecap.kernels.af_packet import blocks as w
from wirecap.kernels.af_packet.capture_loop import packet_loop
from wirecap.kernels.base import libc
from wirecap.kernels.pool import pool as k
from wirecap.kernels.pool.pool import Rings
from wirecap.kernels.pool.work_queues import EMPTY
from wirecap.kernels.xdp.capture_loop import TIMEOUT_NS, WAIT_FD
from wirecap.linux import af_packet, af_xdp, capabilities, holders, netlink, probes
from wirecap.linux.af_packet import Promiscuous
from wirecap.linux.nic_losses import NicLosses
from wirecap.source import link_types, stamps
from wirecap.source.choose import declined
from wirecap.source.source import CaptureSettings, HookCounts, Source, SourceQueue

BLOCK_BYTES, SMALL_BLOCK_BYTES = 1 << 18, 1 << 17
"""A block holds the longest packet that tcpdump takes: 256 KiB, as in libpcap.  In a small ring, whose few blocks of
that size would be full before the capture thread runs, it holds the longest that offloads can make: 64 KiB."""
LARGE_RING_BYTES, LEAST_BLOCKS = 16 * BLOCK_BYTES, 8
SLOTS_OF_BLOCK = 16
"""The fewest slots per block in a ring of slots: a block passed on half full takes as much room as a full one."""
SPILL_SHARE = 4
"""One in this many blocks of a queue's memory belongs to the spill area (kernels/af_packet/blocks.py)."""
RETIRE_MS, SLOTS_RETIRE_MS = 1, 10
"""When the kernel passes on a block that is not full; less often in a ring of slots, as that costs slots."""


@dataclass(frozen=True)
class Port:
    """One interface to capture on; index 0 means all of them."""

    name: str
    index: int
    queues: int
    hardware: int | None = None
    """Its ARPHRD_ number."""
    loopback: bool = False

    @property
    def linktype(self) -> int:
        """The LINKTYPE_ of what is captured: cooked if the link is not a known one."""
        return link_types.of_link(self.hardware)

    @property
    def cooked(self) -> bool:
        return self.linktype == link_types.SLL2


def ring_blocks(bytes_per_queue: int) -> tuple[int, int, int]:
    """(bytes of a block, blocks of the ring, blocks of the spill area) for this much memory or a little more."""
    size = BLOCK_BYTES if bytes_per_queue >= LARGE_RING_BYTES else SMALL_BLOCK_BYTES
    blocks = max(LEAST_BLOCKS, bytes_per_queue // size)
    return size, blocks - blocks // SPILL_SHARE, blocks // SPILL_SHARE


def slot_blocks(slots: int, slot_bytes: int, longest_bytes: int) -> tuple[int, int, int]:
    """The same for this many packets of ``slot_bytes``, header included: small blocks, and no spill area.

    longest_bytes: what the longest packet takes, which is the longest that offloads can make.
    """
    least = (
        max(SLOTS_OF_BLOCK * slot_bytes, longest_bytes) + w.BLOCK_HEADER_BYTES + 1
    )  # the kernel never fills one to the end
    size = SMALL_BLOCK_BYTES
    while size // 2 >= max(least, mmap.PAGESIZE):
        size //= 2
    return size, max(2, -(-slots // ((size - w.BLOCK_HEADER_BYTES - 1) // slot_bytes))), 0


class PacketSource(Source):
    """Interfaces through AF_PACKET, which sees both directions and leaves the host its packets.

    Create it in the network namespace of the interfaces.  bytes_per_queue: for the ring and spill area of a queue;
    slots: how many packets they have room for, 0 for as many as fit; fanout: how a packet's queue is chosen
    (linux/af_packet.FANOUT_MODES); links: of the ports, with the direction to keep; filters: by link, run in the
    kernel; snaplen: bytes to keep; loopback: the loopback interface's index, 0 if it is not captured; defrag: let the
    kernel put IPv4 datagrams together; shared: other processes are to map the packets; patient: interfaces of one
    queue that go away are waited for.
    """

    name = "packet"
    filters_in_kernel = True
    truncates = True
    rejoins_at_work = True
    unsampled = "the packet engine only counts what the kernel loses: --engine xdp samples it"

    def __init__(
        self, ports: Sequence[Port], bytes_per_queue: int, fanout: str = "hash",
        filters: dict[Link, Program] | None = None, snaplen: int = WHOLE, links: Sequence[Link] = (),
        loopback: int = 0, promiscuous: bool = False, hardware_timestamps: bool = False, slots: int = 0,
        defrag: bool = False, shared: bool = False, patient: bool = False,
    ) -> None:  # fmt: skip
        self._ports, self._fanout, self._hardware_timestamps = list(ports), fanout, hardware_timestamps
        self._defrag, self._patient = defrag, patient
        self._away: set[int] = set()
        self.interfaces = [Interface(linktype=p.linktype, snaplen=WHOLE, name=p.name) for p in self._ports]
        self.queues = [SourceQueue(p.name, queue, i) for i, p in enumerate(self._ports) for queue in range(p.queues)]
        self._links = list(links) or [Link(port.linktype, port.index, name=port.name) for port in self._ports]
        filters = {link: plain(program) for link, program in filters.items()} if filters else None
        usable = [_usable(filters, link) for link in self._links]
        self._programs = [
            socket_program(program, snaplen, _kept_direction(link), loopback, not port.cooked)
            for port, link, program in zip(self._ports, self._links, usable, strict=True)
        ]
        self._notes = _outside(filters) if filters else []
        if slots:
            link = w.ETHERNET_BYTES if all(port.linktype == link_types.ETHERNET for port in self._ports) else 0
            kept = max(kept_bytes(program, snaplen) for program in usable)
            longest = max(longest_kept(program) for program in self._programs)
            slot_bytes = min(bytes_per_queue // slots, w.packet_bytes(kept, link))
            blocks = slot_blocks(slots, slot_bytes, w.packet_bytes(longest, link))
        else:
            blocks = ring_blocks(bytes_per_queue)
        self._block_bytes, self._blocks, self._spills = blocks
        self._retire_ms = SLOTS_RETIRE_MS if slots else RETIRE_MS
        size = len(self.queues) * (self._blocks + self._spills) * self._block_bytes
        size += af_xdp.page_round(4 * len(self.queues))
        self.shared = af_xdp.SharedMemory(size) if shared else None
        self._region = af_xdp.Region(size, self.shared)
        self.pieces = self._region.pieces
        self._sockets: list[af_packet.Socket] = []
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
        self.arena = self._region.bytes
        self._held = np.zeros(len(self.queues) * (self._blocks + self._spills), np.int64)
        self.rings = Rings(self.arena.view(np.int64), self.arena.view(np.uint32), np.zeros(1, np.int64))

    @classmethod
    def from_config(cls, config: CaptureConfig, forward: ForwardConfig | None) -> Self:
        capabilities.require(capabilities.PACKET, "packet")
        if config.kernel_filter:
            raise UsageError(
                "--kernel-filter does not apply to the packet engine, whose filter always runs in the kernel",
                "leave --kernel-filter out, or add --engine xdp",
            )
        ports = [_port(spec) for spec in config.sources]
        for number, port in enumerate(ports):
            if port.index in [other.index for other in ports[:number]]:  # by one of its alternative names
                raise UsageError(f"{port.name} is captured twice", "name each interface once")
        bytes_per_queue = config.ring * config.pool.cell if config.ring else config.pool.bytes(1)
        queues = sum(port.queues for port in ports)
        config.pool.check_memory(queues, probes.available_memory_bytes())
        hardware_timestamps = config.time_stamps == "adapter_unsynced"
        for port in ports if hardware_timestamps else ():
            if port.index == 0:
                raise UsageError("-j adapter_unsynced does not work on 'any', which has no clock", "name the interface")
            af_packet.switch_on_timestamps(port.name)
        links = [_link(port, config) for port in ports]
        filters = compile_each(config.filter, links, config.optimise) if config.filter.strip() else None
        loopback = netlink.loopback_index() if any(p.index == 0 or p.loopback for p in ports) else 0
        source = cls(
            ports, bytes_per_queue, config.fanout or "hash", filters, min(config.snaplen, WHOLE),
            links, loopback, config.promiscuous, hardware_timestamps, config.ring or 0, config.defrag, config.shared,
            config.keep_going,
        )  # fmt: skip
        source._notes += declined(config)
        return source

    def _open(self, port: Port) -> None:
        socket = af_packet.Socket(port.cooked)
        self._sockets.append(socket)
        ring = socket.ring(self._region, self._block_bytes, self._blocks, self._retire_ms)
        self._rings.append((ring, self._region.reserve(self._spills * self._block_bytes)))
        if self._hardware_timestamps:
            socket.timestamp_by_hardware()

    def links(self) -> list[Link]:
        return self._links

    def mark_directions(self, pool: k.Pool) -> bool:
        for queue in range(len(self.queues)):
            pool.queues[queue * k.QUEUE_WORDS + w.MARKED] = 1
        return True

    def equip(self, pool: k.Pool, cells_per_queue: int) -> None:
        pool.control[k.FOREIGN_CLOCK] = self._hardware_timestamps
        for queue, (ring, spill) in enumerate(self._rings):
            words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
            words[w.SOCKET], words[w.RING], words[w.BLOCKS] = self._sockets[queue].fd, ring, self._blocks
            words[w.BLOCK_BYTES], words[w.SPILL], words[w.SPILLS] = self._block_bytes, spill, self._spills
            words[w.SPILLING] = EMPTY
            words[w.MARKED] = self._links[self.queues[queue].interface_id].direction == MARKED
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
        """Bind behind a closed filter and form the groups, so that nothing arrives twice or unfiltered."""
        for socket in self._sockets:
            socket.filter(af_packet.REFUSE_ALL)
        for number, port in enumerate(self._ports):
            mine = [s for s, place in zip(self._sockets, self.queues, strict=True) if place.interface_id == number]
            group: int | None = None
            for socket in mine:
                try:
                    socket.bind(port.index)
                    if port.queues > 1 or self._defrag:
                        group = socket.join(group, self._fanout, self._defrag)
                except SystemCallError as error:
                    raise SystemCallError(f"{port.name}: {error.message}", error.errno, error.hint) from None

    def start(self) -> None:
        for socket, place in zip(self._sockets, self.queues, strict=True):
            socket.filter(self._programs[place.interface_id])
        self.losses = NicLosses(port.name for port in self._ports if port.index)

    def check(self) -> None:
        for socket, place in zip(self._sockets, self.queues, strict=True):
            port = self._ports[place.interface_id]
            if port.index and not socket.is_bound():
                if not self._patient or port.queues > 1 or self._defrag:  # a group's socket cannot be bound again
                    raise WirecapError(f"{place.interface} is gone", "packets captured before that are kept")
                self._away.add(place.interface_id)

    def away(self) -> list[str]:
        return [self._ports[number].name for number in sorted(self._away)]

    def returned(self) -> list[str]:
        names = [name for name in self.away() if netlink.index_of(name)]
        return [name for name in names if netlink.interface(name).up]

    def rejoin(self, names: list[str]) -> None:
        for queue, place in enumerate(self.queues):
            number = place.interface_id
            if number not in self._away or place.interface not in names:
                continue
            facts = netlink.interface(place.interface)
            if facts.hardware != self._ports[number].hardware:
                raise UsageError(
                    f"{facts.name} has come back as a link of another type", "start another capture for it"
                )
            self._ports[number] = replace(self._ports[number], index=facts.index)
            self._sockets[queue].bind_again(facts.index)
            if self._promiscuous:
                self._promiscuous.append(Promiscuous(facts.index))
            self._away.discard(number)

    def stop(self) -> None:
        for socket in self._sockets:
            socket.filter(af_packet.REFUSE_ALL)
        af_packet.wait_for_senders()

    def counts(self, pool: k.Pool, queue: int) -> HookCounts:
        words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
        heads = (self._rings[queue][0] + np.arange(self._blocks) * self._block_bytes) // 4
        in_ring = int(self.rings.halves[heads + w.PACKETS].sum())
        drops = {"pool_exhausted": int(words[w.LOST_EXHAUSTED]), "capture_late": int(words[w.LOST_LATE])}
        return HookCounts(int(words[w.SEEN]), int(words[k.TAKEN_BYTES]), in_ring, drops)

    def warnings(self) -> list[str]:
        return self._notes + _taken_before(self._ports)

    def describe(self) -> dict[str, Any]:
        how = f"fanout {self._fanout}" if any(port.queues > 1 for port in self._ports) else "TPACKET_V3"
        how += ", defragmented" if self._defrag else ""
        taken = stamps.described("adapter_unsynced" if self._hardware_timestamps else "host", "packet")
        return {"xdp_mode": None, "zero_copy": False, "how": how, "time_stamps": taken}

    def close(self) -> None:
        if self.losses:
            self.losses.close()
        for holder in self._promiscuous:
            holder.close()
        for socket in self._sockets:
            socket.close()
        self._region.close()
        if self.shared:
            self.shared.close()


def _link(port: Port, config: CaptureConfig) -> Link:
    """A port's link; its direction is that of -Q, or what the filter asks for."""
    way = config.direction or "inout"
    if way == "inout" and config.filter.strip():
        with suppress(UsageError):  # ``compile_each`` raises it where no port takes the filter
            way = one_way(compile_filter(config.filter, port.linktype, optimize=config.optimise), port.index)
    return Link(
        port.linktype, port.index, "" if way == "inout" else way, port.name, "without -Q both directions are captured"
    )  # fmt: skip


def _kept_direction(link: Link) -> str:
    """What the socket lets in."""
    return link.direction if link.direction in ("in", "out") else "inout"


def _usable(filters: dict[Link, Program] | None, link: Link) -> Program | None:
    """The filter as the kernel can run it for a link, if it can."""
    program = filters.get(link) if filters else None
    if program is not None and link.linktype == link_types.SLL2:
        program = uncooked(program)
    return program if program is not None and fits(program) else None


def _outside(filters: dict[Link, Program]) -> list[str]:
    """Lines on the filters that are too long for the kernel."""
    return [
        f"the filter has {len(program)} instructions and a socket takes {LONGEST_PROGRAM}: it runs in user space only"
        for program in filters.values()
        if len(program) > LONGEST_PROGRAM
    ]


def _port(spec: QueueSpec) -> Port:
    """What ``eth1@0-3`` asks for: a fanout group of four."""
    members = len(spec.queues) if spec.queues else 0
    if spec.queues and sorted(spec.queues) != list(range(members)):
        raise UsageError(
            f"{spec}: the packet engine's queues are not the NIC's, and are numbered from 0",
            f"use {spec.interface}@0{f'-{members - 1}' if members > 1 else ''} for {members} of them{_instead(spec)}",
        )
    if members > af_packet.MAX_MEMBERS:
        raise UsageError(
            f"{spec}: a fanout group has at most {af_packet.MAX_MEMBERS} queues",
            f"use {spec.interface}@0-{af_packet.MAX_MEMBERS - 1}",
        )
    if spec.interface == ANY:
        return Port(ANY, 0, members or 1)
    facts = netlink.interface(spec.interface)
    if not facts.up:
        raise UsageError(f"{facts.name} is down", f"bring it up: ip link set {facts.name} up")
    queues = members or min(facts.rx_queues, af_packet.MAX_MEMBERS)
    return Port(facts.name, facts.index, queues, facts.hardware, facts.loopback)


def _instead(spec: QueueSpec) -> str:
    """How to capture these queues of the NIC, if it has them."""
    if spec.interface == ANY:
        return ""
    facts = netlink.interface(spec.interface)
    if max(spec.queues or (0,)) >= facts.rx_queues:
        return ""
    return f", or --engine xdp{' --take-over' if netlink.is_in_use(facts) else ''} for these queues of the NIC"


def _taken_before(ports: Sequence[Port]) -> list[str]:
    """Lines on the XDP programs that get packets before this engine does, and need not pass them on."""
    names = {port.name for port in ports}
    lines = []
    for one in netlink.interfaces():
        if one.xdp_mode and (ANY in names or one.name in names):
            owner = holders.of_program(one.xdp_program)
            whose = f"of {owner}" if owner else f"with id {one.xdp_program}"
            help = holders.way_out(one.name, owner)
            lines.append(f"{one.name} has an XDP program, {whose}: packets that it takes do not get here ({help})")
    return lines
