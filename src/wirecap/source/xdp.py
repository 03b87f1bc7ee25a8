"""The AF_XDP source: one UMEM for all queues of all NICs, a socket per queue, a hook per NIC."""

from __future__ import annotations

import errno
import select
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from wirecap.errors import SystemCallError, WirecapError
from wirecap.files.interface import Interface
from wirecap.filters.ebpf import translate
from wirecap.filters.program import Program
from wirecap.kernels import pool as k
from wirecap.kernels.capture import capture_loop
from wirecap.kernels.rings import HEADROOM_BYTES, IN_ORDER, LEDGER, OFFERED, UNSTAMPED, Rings
from wirecap.linux import bpf, clock, memory, netlink, xdp_program, xsk
from wirecap.linux.asm import Insn
from wirecap.linux.promiscuous import Promiscuous
from wirecap.linux.xdp_program import STAMPS, Hook, Ledger, best_clock, make_ledger
from wirecap.source.base import CaptureSettings, HookCounts, SourceQueue
from wirecap.source.rings import equip_queue, ring_counts, ring_sizes, run_capture
from wirecap.source.wires import SEND_BUFFER_BYTES, TX_BUDGET, TX_ENTRIES, WireTable

GENERIC_GRACE_S = 0.01
"""Native detaching waits for the packets under way; generic detaching does not."""
RELEASE_S = 0.5
_NO_END = 1 << 62


@dataclass(frozen=True)
class Nic:
    """One interface to capture on."""

    name: str
    index: int
    rx_queues: int
    queues: tuple[int, ...]


class XdpSource:
    """Receive queues of one or more NICs through AF_XDP.

    Make it in the network namespace of the NICs.  xdp_mode: auto | native | generic; ring: cells kept
    attached per queue, None for the default; use_clock: of the kernel's stamps, 'tai' or 'monotonic', None for the
    best there is, 'none' for stamps by the capture thread, one for all packets of a turn;
    filter: runs inside the kernel, unwanted packets are dropped there ('drop') or go to the 'host'.
    engine: 'direct' where handler threads receive by themselves.
    wires: where packets are sent on; a wire on a queue that is captured too has that queue's socket.
    """

    truncates = False
    keeps_unread = False

    def __init__(
        self, nics: list[Nic], cells_per_queue: int, cell: int = 2048, ring: int | None = None,
        xdp_mode: str = "auto", use_clock: str | None = None, promiscuous: bool = False,
        filter: Program | None = None, unwanted: str = "drop", wires: WireTable | None = None,
        engine: str = "xdp",
    ) -> None:  # fmt: skip
        self.engine = engine
        self.cell, self._mode = cell, xdp_mode
        self._clock = use_clock or best_clock()
        self._nics = nics
        self.interfaces = [Interface(name=nic.name, snaplen=cell - HEADROOM_BYTES) for nic in nics]
        self.queues = [SourceQueue(n.name, queue, i) for i, n in enumerate(nics) for queue in n.queues]
        self._attached, rx_entries, fill_entries = ring_sizes(cells_per_queue, ring)
        self.arena = memory.cells(len(self.queues) * cells_per_queue * cell)
        per_queue = sum(memory.page_round(1024 + n) for n in (rx_entries * 16, fill_entries * 8, 1024))
        self.wires = wires
        sending = len(wires.places) * 5 * memory.page_round(1024 + 2 * TX_ENTRIES * 16) if wires else 0
        self._region = memory.Region(len(self.queues) * (per_queue + 3 * 4096) + sending)
        self._ledger = make_ledger(sum(nic.rx_queues for nic in nics), rx_entries)
        self._first_entry = np.cumsum([0, *(nic.rx_queues for nic in nics)]).tolist()
        self._entry_words = STAMPS + rx_entries
        code = _inside_kernel(filter) if filter else None
        action = {"drop": bpf.XDP_DROP, "host": bpf.XDP_PASS}[unwanted]
        room = cell - HEADROOM_BYTES
        self._hooks = [
            Hook(
                nic.rx_queues,
                list(nic.queues),
                Ledger(self._ledger, first, rx_entries),
                room,
                self._clock,
                code,
                action,
            )
            for nic, first in zip(nics, self._first_entry, strict=False)
        ]
        self._promiscuous = [Promiscuous(nic.index) for nic in nics] if promiscuous else []
        self._sockets: list[xsk.Socket] = []
        self._rings: list[tuple[xsk.Ring, xsk.Ring]] = []
        places = {(q.interface, q.queue) for q in self.queues}
        sent_on = {place: wire for wire, place in enumerate(wires.places)} if wires else {}
        for place in self.queues:
            self._open_socket(rx_entries, fill_entries, sent_on.get((place.interface, place.queue)))
        self._senders = [(wire, self._open_sender(wire)) for place, wire in sent_on.items() if place not in places]
        self.modes: list[str] = []
        self.zero_copy = False
        octets = self._region.octets
        ledger = np.frombuffer(self._ledger.mapped(), np.int64)
        self.rings = Rings(octets.view(np.int64), octets.view(np.uint32), ledger)

    def _open_socket(self, rx_entries: int, fill_entries: int, wire: int | None) -> None:
        socket = xsk.Socket(self._region)
        if not self._sockets:
            socket.register(self.arena, self.cell)
        self._sockets.append(socket)
        fill = socket.ring(xsk.FILL_RING, fill_entries)
        self._rings.append((fill, socket.ring(xsk.RX_RING, rx_entries)))
        if wire is None:
            socket.ring(xsk.COMPLETION_RING, xsk.COMPLETION_ENTRIES)
        else:
            self._equip_wire(socket, wire)

    def _open_sender(self, wire: int) -> xsk.Socket:
        """A socket that only sends."""
        socket = xsk.Socket(self._region)
        socket.ring(xsk.FILL_RING, xsk.COMPLETION_ENTRIES)  # the kernel wants one; it stays empty
        self._equip_wire(socket, wire)
        return socket

    def _equip_wire(self, socket: xsk.Socket, wire: int) -> None:
        assert self.wires
        done = socket.ring(xsk.COMPLETION_RING, 2 * TX_ENTRIES)
        self.wires.equip(wire, socket.fd, socket.ring(xsk.TX_RING, TX_ENTRIES), done)
        socket.prepare_sending(TX_BUDGET, SEND_BUFFER_BYTES)

    def equip(self, pool: k.Pool, cells_per_queue: int) -> None:
        self._control, self._words = pool.control, pool.queues
        self._set_clock()
        for queue, (fill, rx) in enumerate(self._rings):
            first = queue * cells_per_queue * self.cell
            fd, place = self._sockets[queue].fd, self.queues[queue]
            ledger = (self._first_entry[place.interface_id] + place.queue) * self._entry_words
            equip_queue(pool, self.rings, queue, fill, rx, fd, ledger, self._attached, first, self.cell)

    def kernels(self) -> list[Any]:
        return [capture_loop]

    def run(self, pool: k.Pool, mine: list[int], settings: CaptureSettings) -> None:
        with select.epoll() as waiter:
            for queue in mine:
                waiter.register(self._sockets[queue].fd, select.EPOLLIN)
            run_capture(pool, self.rings, mine, waiter.fileno(), settings)

    def descriptor(self, queue: int) -> int:
        """The socket of a home queue, to wait for."""
        return self._sockets[queue].fd

    def claim(self) -> None:
        """Bind every socket, so that no packet meets a queue that is not ready."""
        numbers = {(q.interface, q.queue): i for i, q in enumerate(self.queues)}
        for nic, hook in zip(self._nics, self._hooks, strict=True):
            for queue in nic.queues:
                number = numbers[nic.name, queue]
                self._bind(nic.name, nic.index, queue, self._sockets[number])
                hook.sockets.update(queue, self._sockets[number].fd.to_bytes(4, "little"))
        for wire, socket in self._senders:
            assert self.wires
            name, queue = self.wires.places[wire]
            self._bind(name, self.wires.index_of(name), queue, socket)
        self.zero_copy = self._sockets[0].zero_copy()
        self._words[UNSTAMPED :: k.QUEUE_WORDS] = self._clock == "none"
        if self.zero_copy:  # the driver takes cells ahead of the packets; what finds none never comes to the hook
            self._words[IN_ORDER :: k.QUEUE_WORDS] = False
            self.rings.ledger[self._words[LEDGER :: k.QUEUE_WORDS] + OFFERED] = _NO_END
        for nic in self._nics:
            if netlink.interface(nic.name).xdp_mode:
                raise xdp_program.taken(nic.name)

    def start(self) -> None:
        """Attach."""
        self.modes = [h.attach(n.name, n.index, self._mode) for n, h in zip(self._nics, self._hooks, strict=True)]

    def _bind(self, name: str, index: int, queue: int, socket: xsk.Socket) -> None:
        first = self._sockets[0]
        flags = xsk.NEED_WAKEUP | (xsk.COPY if self._mode == "generic" else 0) if socket is first else 0
        try:
            _bind_when_free(socket, index, queue, flags, None if socket is first else first)
        except SystemCallError as error:
            hints = {
                errno.EBUSY: "another AF_XDP socket has the queue: stop its owner",
                errno.ENETDOWN: f"set it up first: ip link set {name} up",
                errno.EINVAL: "the queue or the combination of NICs is refused by the driver; try --xdp-mode generic",
            }
            message = f"{name} queue {queue}: {error.message}"
            raise SystemCallError(message, error.errno, hints.get(error.errno, error.hint)) from None

    def _set_clock(self) -> None:
        """The offset to UTC, measured again and again: the monotonic clock is not slewed as UTC is."""
        if self._clock != "none":
            self._control[k.CLOCK_OFFSET] = clock.offset_ns(self._clock)

    def check(self) -> None:
        self._set_clock()
        for queue, socket in enumerate(self._sockets):
            kernel = socket.statistics()
            if kernel.rx_ring_full or (kernel.rx_dropped and not self.zero_copy):
                # Never seen: the kernel refused what the program admitted. Stamps would belong to other packets.
                self._words[queue * k.QUEUE_WORDS + UNSTAMPED] = True
        for nic, hook in zip(self._nics, self._hooks, strict=True):
            if hook.link and not hook.is_attached():
                raise WirecapError(f"{nic.name} is gone", "what was captured before is kept")
        for wire, sender in self._senders:
            if self.wires and sender.is_orphan:
                raise WirecapError(f"{self.wires.places[wire][0]} is gone", "what was sent before is counted")

    def stop(self) -> None:
        for hook in self._hooks:
            hook.detach()
        if "generic" in self.modes:
            time.sleep(GENERIC_GRACE_S)

    def counts(self, pool: k.Pool, queue: int) -> HookCounts:
        place = self.queues[queue]
        received, octets, unwanted, oversize = self._hooks[place.interface_id].received(place.queue)
        kernel = self._sockets[queue].statistics()
        in_ring, exhausted, late = ring_counts(pool, self.rings, queue)
        drops = {
            "pool_exhausted": exhausted,
            "capture_late": late,
            "rx_ring_full": kernel.rx_ring_full,
            "oversize": oversize,
        }
        if self.engine == "direct":
            drops["ring_full"] = drops.pop("pool_exhausted") + drops.pop("capture_late")
        return HookCounts(received, octets, in_ring, drops, unwanted)

    def describe(self) -> dict[str, object]:
        return {"xdp_mode": "/".join(sorted(set(self.modes))), "zero_copy": self.zero_copy}

    def close(self) -> None:
        for hook in self._hooks:
            hook.close()
        for holder in self._promiscuous:
            holder.close()
        for socket in [*self._sockets, *(sender for _, sender in self._senders)]:
            socket.close()
        self._region.close()
        self._ledger.close()


def _inside_kernel(filter: Program) -> list[Insn]:
    """A filter as a part of the XDP program."""
    p = xdp_program
    return translate(
        filter, data=p.FILTER_DATA, data_end=p.FILTER_DATA_END, scratch=p.FILTER_SCRATCH, stack=p.FILTER_STACK,
        accept=p.FILTER_ACCEPT, reject=p.FILTER_REJECT,
    )  # fmt: skip


def _bind_when_free(socket: xsk.Socket, index: int, queue: int, flags: int, first: xsk.Socket | None) -> None:
    """Bind; the kernel releases a queue in the background, a moment after its last owner closed it."""
    end = time.monotonic() + RELEASE_S
    while True:
        try:
            return socket.bind(index, queue, flags, first)
        except SystemCallError as error:
            if error.errno != errno.EBUSY or time.monotonic() >= end:
                raise
            time.sleep(0.01)
