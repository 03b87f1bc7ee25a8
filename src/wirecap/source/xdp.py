"""The AF_XDP source: one UMEM for all queues of all NICs, a socket per queue, a hook per NIC."""

from __future__ import annotations

import errno
import select
import time
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wirecap.config.capture import BESIDE, MAX_SNAPLEN, CaptureConfig
from wirecap.config.forward import ForwardConfig
from wirecap.errors import SystemCallError, UsageError, WirecapError
from wirecap.files.headers import Interface
from wirecap.filters.ebpf import set_map, translate
from wirecap.filters.expression import compile_each, compile_filter
from wirecap.filters.metadata import Link, with_constants
from wirecap.filters.program import Program
from wirecap.kernels.pool import pool as k
from wirecap.kernels.pool.large import HEADROOM_BYTES, LONGEST
from wirecap.kernels.pool.pool import Rings
from wirecap.kernels.xdp.capture_loop import capture_loop
from wirecap.kernels.xdp.rings import IN_ORDER, LEDGER, NO_TIMESTAMPS, OFFERED
from wirecap.linux import (
    af_packet,
    af_xdp,
    bpf,
    busy_poll,
    capabilities,
    clock,
    ethtool,
    netlink,
    probes,
    tuning,
    xdp_program,
    zero_copy,
)
from wirecap.linux.af_packet import Promiscuous
from wirecap.linux.asm import Insn
from wirecap.linux.busy_poll import Deferral
from wirecap.linux.nic_losses import NicLosses
from wirecap.linux.polls import Polls
from wirecap.linux.xdp_program import (
    ADMITTED,
    HOST_OFFSET,
    SAMPLE_WORDS,
    SAMPLES,
    Hook,
    Ledger,
    best_clock,
    ledger_words,
    make_ledger,
)
from wirecap.source import stamps
from wirecap.source.asking import asked, check_clock, check_hash
from wirecap.source.binding import Binding
from wirecap.source.nics import (
    COPYING,
    Choices,
    Nic,
    all_copied,
    choices_of,
    is_back,
    link_of,
    merged,
    nics_of,
    shortcomings,
    spills,
    spread_further,
    told,
    whole_mode,
    wires_of,
)
from wirecap.source.placing import keep_near
from wirecap.source.placing import places as places_of
from wirecap.source.rings import attached_cells, equip_queue, lay_out, renew_queue, ring_counts, ring_sizes, run_capture
from wirecap.source.source import CaptureSettings, HookCounts, Source, SourceQueue
from wirecap.source.wires import ETHERNET_BYTES, SEND_BUFFER_BYTES, TX_BUDGET, TX_ENTRIES, VLAN_BYTES, WireTable

GENERIC_GRACE_S = 0.01
"""Detaching a native program waits for packets on their way; detaching a generic one does not."""
_NO_END = 1 << 62
_POLLS_NOT = ("tun",)
"""Drivers that run XDP programs outside of NAPI polls."""


class XdpSource(Source):
    """Receive queues of one or more NICs through AF_XDP.

    Create it in the network namespace of the NICs.  xdp_mode: auto | native | generic; ring: cells to keep attached
    per queue, None for the default; use_clock: the clock of the kernel's timestamps, 'tai' or 'monotonic', None for
    the best available, 'none' for timestamps by the capture thread, one for all packets of a turn; every_packet: read
    it for each packet, and not once for up to GROUP packets of a poll;
    filter: runs in the kernel; packets that it rejects are dropped there ('drop') or passed to the 'host'.
    wires: where packets are forwarded to; a wire on a queue that is also captured uses that queue's socket.
    choices: what warnings may suggest.  shared: other processes are to map the packets.  near: packets are to lie on
    their NICs' NUMA nodes.  busily: sockets poll their queues when they are read.
    spare_bytes: free memory beside the pool; large-packet memory takes half of it at the most, and no more than the
    pool has.  patient: interfaces that go away are waited for.  by_nic: timestamps are the NIC's own, and the host's of
    packets that it gives none.  hashed: the NIC's hash lies in front of each packet.
    """

    name = "xdp"
    cells_circulate = True

    def __init__(
        self, nics: list[Nic], cells_per_queue: int, cell: int = 2048, ring: int | None = None,
        xdp_mode: str = "auto", use_clock: str | None = None, promiscuous: bool = False,
        filter: Program | None = None, unwanted: str = "drop", wires: WireTable | None = None,
        choices: Choices | None = None, shared: bool = False, every_packet: bool = False, near: bool = False,
        busily: bool = False, spare_bytes: int = 1 << 62, patient: bool = False, by_nic: bool = False,
        hashed: bool = False,
    ) -> None:  # fmt: skip
        xdp_mode, added = whole_mode(nics, xdp_mode)
        self.cell, self._mode, self._busy = cell, xdp_mode, busily
        self._patient = patient
        self._away: set[int] = set()
        self._spreads: dict[str, int] = {}
        self._deferrals: list[Deferral] = []
        room = cell - HEADROOM_BYTES
        self._joins = af_xdp.joins_cells()
        self._longest = LONGEST if self._joins else room
        wide = [nic.mtu + ETHERNET_BYTES + VLAN_BYTES > room and self._joins for nic in nics]
        self._often = any(wide) or (self._joins and xdp_mode == "generic")
        self._clock = use_clock or best_clock()
        self._nics = nics
        self._buffers = [zero_copy.buffer_of(nic.name, room) if xdp_mode != "generic" else None for nic in nics]
        self._copied = all_copied(nics, wires) if xdp_mode != "generic" else []
        copies = xdp_mode == "generic" or bool(self._copied) or any(map(spills, nics, self._buffers))
        self._binding = Binding(copies, self._joins, self._often)
        self.modes: list[str] = []
        self._notes = added + self._copied + ([filter.note] if filter and filter.note else [])
        self._by_nic, self._hashed = by_nic, hashed
        self._stamps = "host_lowprec" if self._clock == "none" else "host_hiprec" if every_packet else "host"
        if by_nic:
            self._stamps = "adapter_unsynced"
        self._polls = self._count_polls() if self._stamps == "host" and xdp_mode != "generic" else None
        self._in_polls = [
            self._polls is not None and netlink.interface(nic.name).driver not in _POLLS_NOT for nic in nics
        ]
        self.interfaces = [
            Interface(name=nic.name, snaplen=MAX_SNAPLEN, comment=stamps.comment(self._read_for(number)))
            for number, nic in enumerate(nics)
        ]
        self.queues = [SourceQueue(n.name, queue, i) for i, n in enumerate(nics) for queue in n.queues]
        self.wires, self._choices = wires, choices
        self._remedies: dict[str, str] = {}
        self._notes += wires.notes if wires else []
        self._allocate(cells_per_queue, ring, spare_bytes, shared, near)
        self._sets = set_map(filter) if filter else None
        self._hooks = self._hooks_with(filter, {"drop": bpf.XDP_DROP, "host": bpf.XDP_PASS}[unwanted], wide)
        self._promiscuous = [Promiscuous(nic.index) for nic in nics] if promiscuous else []
        self._sockets: list[af_xdp.Socket] = []
        self._starts: list[int] = []
        self._rings_full = [0] * len(self.queues)
        self._rings: list[tuple[af_xdp.Ring, af_xdp.Ring]] = []
        self._open_sockets()
        self.zero_copy = False
        data = self._region.bytes
        ledger = np.frombuffer(self._ledger.mapped(), np.int64)
        self.rings = Rings(data.view(np.int64), data.view(np.uint32), ledger)

    def _allocate(self, cells_per_queue: int, ring: int | None, spare_bytes: int, shared: bool, near: bool) -> None:
        """Memory for cells, for the rings of all sockets, and for the ledger."""
        self._attached, rx_entries, fill_entries = ring_sizes(cells_per_queue, ring)
        self._entries = rx_entries, fill_entries
        pool_bytes = len(self.queues) * cells_per_queue * self.cell
        share = (min(1, spare_bytes / (2 * pool_bytes)) if self._often else 1 / 8) if self._joins else 0
        self._layout = lay_out(len(self.queues), cells_per_queue, self.cell, share)
        self.large_units = self._layout.units
        size = self._layout.size
        self.shared = af_xdp.SharedMemory(size) if shared else None
        self.arena = self.shared.bytes[:size] if self.shared else af_xdp.cells(size)
        if near:
            keep_near(self.arena, self.queues, places_of([nic.name for nic in self._nics]))
        per_queue = sum(af_xdp.page_round(1024 + n) for n in (rx_entries * 16, fill_entries * 8, 1024))
        sending = 0
        if self.wires:
            self.wires.lay_out(self.cell, self._layout.large_at, self._layout.stretch or 1)
            sending = len(self.wires.places) * 5 * af_xdp.page_round(1024 + 2 * TX_ENTRIES * 16)
        self._region = af_xdp.Region(len(self.queues) * (per_queue + 3 * 4096) + sending)
        self._ledger = make_ledger(sum(nic.rx_queues for nic in self._nics), rx_entries)
        self._first_entry = np.cumsum([0, *(nic.rx_queues for nic in self._nics)]).tolist()
        self._entry_words = ledger_words(rx_entries)

    def _hooks_with(self, filter: Program | None, action: int, wide: list[bool]) -> list[Hook]:
        """A hook for each NIC.  action: for what the filter rejects; wide: whether frames may take several cells."""
        return [
            Hook(
                nic.rx_queues, list(nic.queues), Ledger(self._ledger, self._first_entry[number], self._entries[0]),
                self.cell - HEADROOM_BYTES, self._clock,
                partial(self._inside_kernel, filter, number) if filter else None, action, self._longest, wide[number],
                self._polls.map.fd if self._polls and self._in_polls[number] else None,
                asked(nic, self._mode, self._by_nic, self._hashed), nic.index,
            )
            for number, nic in enumerate(self._nics)
        ]  # fmt: skip

    def _open_sockets(self) -> None:
        """A socket for each queue, which sends too if its queue is an outgoing one; and one for each other wire."""
        sent_on = {place: wire for wire, place in enumerate(self.wires.places)} if self.wires else {}
        for place in self.queues:
            self._starts.append(self._region.end)
            first = not self._sockets
            self._sockets.append(af_xdp.Socket(self._region))
            wire = sent_on.get((place.interface, place.queue))
            self._rings.append(self._equip_socket(self._sockets[-1], first, wire))
        places = {(q.interface, q.queue) for q in self.queues}
        self._senders = [(wire, self._open_sender(wire)) for place, wire in sent_on.items() if place not in places]

    @classmethod
    def from_config(cls, config: CaptureConfig, forward: ForwardConfig | None) -> Self:
        nics = nics_of(config)
        capabilities.require(capabilities.XDP, cls.name)
        for nic in nics if config.time_stamps == "adapter_unsynced" else ():
            check_clock(nic, config.xdp_mode)
            af_packet.switch_on_timestamps(nic.name)
        by_hash = forward is not None and forward.output_by == "nic"
        for nic in nics if by_hash or config.nic_hash else ():
            check_hash(nic, config.xdp_mode, "--balance nic" if by_hash else "--nic-hash")
        pool = config.pool
        queues, available_bytes = sum(len(nic.queues) for nic in nics), probes.available_memory_bytes()
        pool.check_memory(queues, available_bytes)
        return cls(
            nics, pool.M * pool.R, pool.cell, config.ring, config.xdp_mode, promiscuous=config.promiscuous,
            use_clock="none" if config.time_stamps == "host_lowprec" else None,
            every_packet=config.time_stamps == "host_hiprec", by_nic=config.time_stamps == "adapter_unsynced",
            filter=_filter_of(config, nics),
            unwanted=config.kernel_filter or "drop", wires=wires_of(nics, config, forward) if forward else None,
            choices=choices_of(config, forward, queues, available_bytes), shared=config.shared,
            near=config.cpus == BESIDE, busily=config.busy_poll,
            spare_bytes=available_bytes - pool.bytes(queues), patient=config.keep_going,
            hashed=by_hash or config.nic_hash,
        )  # fmt: skip

    def _count_polls(self) -> Polls | None:
        """None, and a note, where the kernel or the user's capabilities do not allow it."""
        try:
            return Polls()
        except SystemCallError as error:
            lacking = capabilities.missing(["CAP_PERFMON"]) if error.errno in (errno.EPERM, errno.EACCES) else []
            why = "without CAP_PERFMON nothing tells where a poll ends" if lacking else error.message
            cost = "the clock is read for each packet, which takes some 40 ns more"
            way_out = f"{'grant it, or ' if lacking else ''}-j host_hiprec to ask for that"
            self._notes.append(f"timestamps: {cost}: {why} ({way_out})")
            return None

    def _read_for(self, nic: int) -> str:
        """What the clock is read for: 'group', 'packet' or 'turn'."""
        if self._clock == "none":
            return "turn"
        return "group" if self._in_polls[nic] and self.modes[nic : nic + 1] != ["generic"] else "packet"

    def _equip_socket(self, socket: af_xdp.Socket, first: bool, wire: int | None) -> tuple[af_xdp.Ring, af_xdp.Ring]:
        """Map its rings; returns (fill ring, RX ring).  first: no other has registered the cells."""
        if first:
            sent_from = self._layout.size if self.wires else self._layout.large_at  # large packets are sent in place
            socket.register(self.arena[:sent_from], self.cell)
        rx_entries, fill_entries = self._entries
        fill, rx = socket.ring(af_xdp.FILL_RING, fill_entries), socket.ring(af_xdp.RX_RING, rx_entries)
        if wire is None:
            socket.ring(af_xdp.COMPLETION_RING, af_xdp.COMPLETION_ENTRIES)
        else:
            self._equip_wire(socket, wire)
        return fill, rx

    def _open_sender(self, wire: int) -> af_xdp.Socket:
        """A socket that only sends."""
        socket = af_xdp.Socket(self._region)
        socket.ring(af_xdp.FILL_RING, af_xdp.COMPLETION_ENTRIES)  # the kernel requires one; it stays empty
        self._equip_wire(socket, wire)
        return socket

    def _equip_wire(self, socket: af_xdp.Socket, wire: int) -> None:
        assert self.wires
        done = socket.ring(af_xdp.COMPLETION_RING, 2 * TX_ENTRIES)
        self.wires.put_ring(wire, socket.fd, socket.ring(af_xdp.TX_RING, TX_ENTRIES), done)
        socket.prepare_sending(TX_BUDGET, SEND_BUFFER_BYTES)

    def equip(self, pool: k.Pool, cells_per_queue: int) -> None:
        self._pool, self._control, self._words = pool, pool.control, pool.queues
        self._control[k.FOREIGN_CLOCK], self._control[k.HASHED] = self._by_nic, self._hashed
        for queue, (fill, rx) in enumerate(self._rings):
            fd, place = self._sockets[queue].fd, self.queues[queue]
            ledger = (self._first_entry[place.interface_id] + place.queue) * self._entry_words
            equip_queue(pool, self.rings, queue, fill, rx, fd, ledger, self._attached, self._layout, self._often)
            counted = ledger + ADMITTED + 1  # before the time is taken
            pool.queues[queue * k.QUEUE_WORDS + k.ADMITTED_AT] = counted
        self._set_clock()

    def kernels(self) -> list[Any]:
        return [capture_loop]

    def run(self, pool: k.Pool, mine: list[int], settings: CaptureSettings) -> None:
        with select.epoll() as waiter:
            for queue in mine:
                waiter.register(self._sockets[queue].fd, select.EPOLLIN)
            timed = self._words[NO_TIMESTAMPS :: k.QUEUE_WORDS][mine].any()  # packets have the time of their turn
            settings = replace(settings, busy_poll=self._busy, lazy=settings.lazy and not (timed or self._busy))
            run_capture(pool, self.rings, mine, waiter.fileno(), settings)

    def descriptor(self, queue: int) -> int:
        """The socket of a home queue, to wait on."""
        return self._sockets[queue].fd

    def links(self) -> list[Link]:
        return [link_of(nic) for nic in self._nics]

    def claim(self) -> None:
        """Bind every socket, so that no packet reaches a queue that is not ready."""
        numbers = {(q.interface, q.queue): i for i, q in enumerate(self.queues)}
        for nic, hook in zip(self._nics, self._hooks, strict=True):
            for queue in nic.queues:
                number = numbers[nic.name, queue]
                self._binding.bind(self._sockets[number], self._sockets[0], nic.name, nic.index, queue)
                hook.sockets.update(queue, self._sockets[number].fd.to_bytes(4, "little"))
        for wire, socket in self._senders:
            assert self.wires
            name, queue = self.wires.places[wire]
            self._binding.bind(socket, self._sockets[0], name, self.wires.index_of(name), queue)
        self.zero_copy = self._sockets[0].zero_copy()
        # How many buffers a packet takes is the driver's to say in zero-copy mode: the program cannot number them.
        unnumbered = self.zero_copy and self._often
        if unnumbered and self._by_nic:
            raise UsageError(
                "-j adapter_unsynced: with zero-copy and frames of several buffers the capture threads take the time",
                "use --engine packet, or a smaller MTU",
            )
        self._words[NO_TIMESTAMPS :: k.QUEUE_WORDS] = self._clock == "none" or unnumbered
        if self.zero_copy:  # the driver takes cells before packets arrive; packets without one never reach the hook
            self._words[IN_ORDER :: k.QUEUE_WORDS] = False
            self.rings.ledger[self._words[LEDGER :: k.QUEUE_WORDS] + OFFERED] = _NO_END
            for hook, buffer in zip(self._hooks, self._buffers, strict=True):
                if buffer and buffer.splits:
                    hook.refuse_pieces(buffer.whole)
        if self._busy:
            self._poll_busily()
        for nic in self._nics:
            facts = netlink.interface(nic.name)
            if facts.xdp_mode:
                raise xdp_program.taken(nic.name, facts.xdp_program)

    def start(self) -> None:
        """Attach the programs."""
        self.modes = [h.attach(n.name, n.index, self._mode) for n, h in zip(self._nics, self._hooks, strict=True)]
        self.losses = NicLosses(nic.name for nic in self._nics)

    def _poll_busily(self) -> None:
        """Ask for it; what is refused is a note: then interrupts go on."""
        refused = dict.fromkeys(filter(None, (busy_poll.prefer(socket.fd) for socket in self._sockets)))
        self._notes += [f"busy polling: {why}: the kernel goes on polling by itself" for why in refused]
        if refused:
            self._busy = False
            return
        self._deferrals = [Deferral(nic.name) for nic in self._nics]
        self._notes += [
            f"busy polling: {nic.name} goes on interrupting: {each.refused} (the capture needs to write its files in"
            " /sys/class/net)"
            for nic, each in zip(self._nics, self._deferrals, strict=True)
            if each.refused
        ]

    def _set_clock(self) -> None:
        """Measure the offset to UTC, which must be repeated: the monotonic clock is not slewed as UTC is."""
        if self._clock != "none":
            offset = clock.offset_ns(self._clock)
            self._control[k.CLOCK_OFFSET] = 0 if self._by_nic else offset
            self.rings.ledger[self._words[LEDGER :: k.QUEUE_WORDS] + HOST_OFFSET] = offset

    def check(self) -> None:
        self._set_clock()
        for queue, socket in enumerate(self._sockets):
            kernel = socket.statistics()
            if kernel.rx_ring_full or (kernel.rx_dropped and not self.zero_copy):
                # Never seen: the kernel refused what the program admitted, so timestamps would be other packets'.
                self._words[queue * k.QUEUE_WORDS + NO_TIMESTAMPS] = True
        for number, (nic, hook) in enumerate(zip(self._nics, self._hooks, strict=True)):
            if hook.link and not hook.is_attached():
                if not self._patient or self.zero_copy or self.wires or self.direct:
                    raise WirecapError(f"{nic.name} is gone", "packets captured before that are kept")
                self._away.add(number)
                hook.detach()
            if self._hashed and any(hook.unhashed(queue) for queue in nic.queues):
                raise WirecapError(f"{nic.name}: its driver leaves no room for the NIC's hash", "leave --nic-hash out")
        for wire, sender in self._senders:
            if self.wires and sender.is_orphan:
                raise WirecapError(f"{self.wires.places[wire][0]} is gone", "packets sent before that are counted")

    def news(self) -> list[str]:
        return [line for number, nic in enumerate(self._nics) if number not in self._away for line in self._spread(nic)]

    def _spread(self, nic: Nic) -> list[str]:
        """A line if the NIC has begun to spread packets over another number of queues."""
        asked = ethtool.channels(nic.name, self.losses.channel) if self.losses else None
        now = asked[0] if asked else nic.rx_queues
        before, self._spreads[nic.name] = self._spreads.get(nic.name, nic.rx_queues), now
        if now == before or now <= nic.rx_queues:
            return []
        return [spread_further(nic, now)]

    def away(self) -> list[str]:
        return [self._nics[number].name for number in sorted(self._away)]

    def returned(self) -> list[str]:
        return [
            self._nics[number].name
            for number in sorted(self._away)
            if is_back(self._nics[number])
            and not any(ring_counts(self._pool, self.rings, queue)[0] for queue in self._queues_of(number))
        ]

    def rejoin(self, names: list[str]) -> None:
        for number in [number for number in sorted(self._away) if self._nics[number].name in names]:
            self._nics[number] = replace(self._nics[number], index=netlink.index_of(self._nics[number].name))
            self._reopen(number)
            if self._by_nic:
                af_packet.switch_on_timestamps(self._nics[number].name)
            if self._promiscuous:
                self._promiscuous[number].close()
                self._promiscuous[number] = Promiscuous(self._nics[number].index)
            nic = self._nics[number]
            self._hooks[number].attach_again(nic.name, nic.index, self.modes[number])
            self._away.discard(number)

    def _inside_kernel(self, filter: Program, nic: int, fragments: bool) -> list[Insn]:
        """A filter as a part of a NIC's XDP program; fragments: packets may be in several."""
        p = xdp_program
        own = with_constants(filter, link_of(self._nics[nic]))
        return translate(
            own, data=p.FILTER_DATA, data_end=p.FILTER_DATA_END, scratch=p.FILTER_SCRATCH, stack=p.FILTER_STACK,
            accept=p.FILTER_ACCEPT, reject=p.FILTER_REJECT, sets=self._sets.fd if self._sets else -1,
            context=p.FILTER_CONTEXT, length=p.FILTER_LENGTH if fragments else None,
        )  # fmt: skip

    def _queues_of(self, nic: int) -> list[int]:
        return [number for number, place in enumerate(self.queues) if place.interface_id == nic]

    def _reopen(self, number: int) -> None:
        """Another socket for each queue of a NIC: one that was bound to an interface is not bound again.

        The queue's words fit its rings again before anything can fail.
        """
        nic, mine = self._nics[number], self._queues_of(number)
        bound = [q for q, place in enumerate(self.queues) if place.interface_id not in self._away]
        first = self._sockets[bound[0]] if bound else None  # its cells are the others' too
        for queue in mine:
            cells = attached_cells(self._pool, self.rings, queue)
            socket, old = af_xdp.Socket(self._region), self._sockets[queue]
            self._rings_full[queue] += old.statistics().rx_ring_full
            self._sockets[queue] = socket
            old.close()
            with self._region.over(self._starts[queue]):
                self._equip_socket(socket, first is None, None)
            renew_queue(self._pool, self.rings, queue, socket.fd, cells)
            self._words[queue * k.QUEUE_WORDS + NO_TIMESTAMPS] = self._clock == "none"
            first = first or socket
        binding = replace(self._binding, copies=True)
        for queue in mine:
            assert first
            socket = self._sockets[queue]
            binding.bind(socket, first, nic.name, nic.index, self.queues[queue].queue)
            self._hooks[number].sockets.update(self.queues[queue].queue, socket.fd.to_bytes(4, "little"))

    def stop(self) -> None:
        for hook in self._hooks:
            hook.detach()
        if "generic" in self.modes:
            time.sleep(GENERIC_GRACE_S)

    def counts(self, pool: k.Pool, queue: int) -> HookCounts:
        place = self.queues[queue]
        hook = self._hooks[place.interface_id]
        kernel = self._sockets[queue].statistics()
        in_ring, exhausted, late = ring_counts(pool, self.rings, queue)
        unwanted, oversize = hook.refused(place.queue)
        received, byte_count = hook.received(place.queue)
        buffer = self._buffers[place.interface_id] if self.zero_copy else None
        if oversize and buffer and buffer.splits:
            self._remedies["oversize"] = buffer.remedy
        elif oversize and self._joins:
            self._remedies["oversize"] = f"longer than {self._longest:,} bytes; {ethtool.MERGING_LESS}"
        drops = {
            "pool_exhausted": exhausted,
            "capture_late": late,
            "rx_ring_full": kernel.rx_ring_full + self._rings_full[queue],
            "oversize": oversize,
        }
        return HookCounts(received, byte_count, in_ring, drops, unwanted)

    def lost_samples(self, queue: int) -> NDArray[np.int64]:
        end = int(self._words[queue * k.QUEUE_WORDS + LEDGER]) + self._entry_words
        samples: NDArray[np.int64] = self.rings.ledger[end - SAMPLES * SAMPLE_WORDS : end].reshape(
            SAMPLES, SAMPLE_WORDS
        )
        return samples

    def lost_clock_ns(self) -> int:
        return clock.offset_ns("monotonic" if self._clock == "none" else self._clock)

    def describe(self) -> dict[str, Any]:
        known = {"remedies": self._remedies} if self._remedies else {}
        coarsest = max((self._read_for(nic) for nic in range(len(self._nics))), key=list(stamps.RESOLUTION_NS).index)
        return {
            "xdp_mode": "/".join(sorted(set(self.modes))),
            "zero_copy": self.zero_copy,
            "time_stamps": stamps.described(self._stamps, coarsest),
            **known,
        }

    def warnings(self) -> list[str]:
        names = [interface.name for interface in self.interfaces]
        found = [
            (name, row)
            for number, name in enumerate(names)
            for row in shortcomings(name, self.cell, self._choices, self._puts_tags_back(number))
        ]
        if self._mode == "generic" or self._copied:  # larger cells would not bring zero-copy
            found = [(name, row) for name, row in found if row.subject != COPYING]
        if large := dict.fromkeys(row.on([name])[1] for name, row in found if row.subject == "MTU"):
            self._remedies["oversize"] = "; ".join(large)
        late = ["timestamps are those of the capture threads: frames may take several zero-copy buffers"]
        return (
            self._notes
            + told(found)
            + tuning.losing(names)
            + self._merged()
            + (late if self.zero_copy and self._often else [])
        )

    def _puts_tags_back(self, nic: int) -> bool:
        return bool(self._hooks[nic].asked.tag) and self.modes[nic : nic + 1] != ["generic"]

    def _merged(self) -> list[str]:
        generic = [nic.name for nic, mode in zip(self._nics, self.modes, strict=False) if mode == "generic"]
        return merged(generic, self._joins) if self.wires else []

    def close(self) -> None:
        if self.losses:
            self.losses.close()
        for deferral in self._deferrals:
            deferral.close()
        for hook in self._hooks:
            hook.close()
        for extra in (self._sets, self._polls):
            if extra:
                extra.close()
        for holder in self._promiscuous:
            holder.close()
        for socket in [*self._sockets, *(sender for _, sender in self._senders)]:
            socket.close()
        self._region.close()
        self._ledger.close()
        if self.shared:
            self.shared.close()


def _filter_of(config: CaptureConfig, nics: list[Nic]) -> Program | None:
    """What is to run inside the kernel."""
    if not (config.filter and config.kernel_filter):
        return None
    compile_each(config.filter, map(link_of, nics), config.optimise)  # raises where no packet of any can match
    return compile_filter(config.filter, optimize=config.optimise)
