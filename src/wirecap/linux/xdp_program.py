"""The XDP program at the capture hook: count, admit, timestamp, redirect to the queue's socket.

It admits only packets that the kernel can put into cells, as many as it has offered, so the n-th cell that it admits
on a queue is the n-th in the RX ring.  Timestamps, at a packet's first cell, can then lie side by side in the ledger,
eight to a cache line, and packets that are refused are counted exactly where that happens.

A packet in fragments, which only a program with BPF_F_XDP_HAS_FRAGS gets, has its first bytes at ``data`` and the
others where helpers find them.  A program without that flag finds each packet in one piece, and saves their cost.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from wirecap.errors import SystemCallError
from wirecap.linux import bpf, capabilities, holders, metadata, netlink
from wirecap.linux.asm import CMPXCHG, Insn, assemble
from wirecap.linux.metadata import LICENCE, NOTHING, Metadata

# struct xdp_md, linux/bpf.h
_DATA, _DATA_END, _RX_QUEUE = 0, 4, 16
_PACKETS, _BYTES, _UNWANTED, _OVERSIZE, _NO_ROOM = 0, 8, 16, 24, 32
COUNTER_BYTES = 40

ADMITTED, LOST, TIME, POLL, READ_AT, BROKEN, HOST_OFFSET, OFFERED, TIMESTAMPS = 0, 1, 2, 3, 4, 5, 6, 8, 16
"""int64 words of a queue in the ledger: cells admitted; packets that found no cell; the last timestamp, the poll in
which it was taken, and the number of the cell for which the clock was read; whether the last packet was a piece that
goes on in the next; where timestamps are the NIC's, what is to be added to the kernel's clock; cells offered so far,
written by the capture thread and on a cache line of its own; the ring of timestamps."""
GROUP = 8
"""For at most so many packets of a poll the clock is read once, which takes some 40 ns."""
_CELLS = -16  # stack offset: cells of a large packet, when its filter, if any, is done with the length
_PIECE = -24  # stack offset: the length of what may be a piece
SAMPLES = 1024
"""Rows behind the timestamps, one for each time of 2^SAMPLE_BITS ns (262 us) in which a packet found no cell: together
they reach back 268 ms.  They cost time only where packets are lost."""
SAMPLE_BITS, SAMPLE_WORDS = 18, 16
SAMPLE_TIME, SAMPLE_AT, SAMPLE_LOST, SAMPLE_BYTES, SAMPLE_HEADER = range(5)
"""int64 words of a row: its time >> SAMPLE_BITS; the time of its first lost packet in ns; LOST at its end; how many of
that packet's first HEADER_BYTES follow; those."""
SAMPLED = 16
"""A power of two: the first of so many lost packets is looked at."""
HEADER_BYTES = 64
_TRIES = 4  # in case several CPUs receive for one queue at once, which the kernel's generic hook allows

_CLOCKS = {"tai": "ktime_get_tai_ns", "monotonic": "ktime_get_ns"}

FILTER_DATA, FILTER_DATA_END, FILTER_SCRATCH, FILTER_CONTEXT, FILTER_STACK = 2, 3, (4, 5, 9), 6, -256
"""Registers and stack offset that a filter inside the program uses."""
FILTER_LENGTH = -16
"""Stack offset of the packet's length while a filter runs; below it there are 16 bytes to use."""
FILTER_ACCEPT, FILTER_REJECT = "wanted", "unwanted"
"""Labels that it jumps to."""


@dataclass(frozen=True)
class Ledger:
    """Where the words of a NIC's queues are: a mapped array, the entry of queue 0, and a power of two of timestamps."""

    map: bpf.Map
    first: int
    timestamps: int


def make_ledger(queues: int, timestamps: int) -> bpf.Map:
    """An array with one entry of ``ledger_words`` per queue."""
    return bpf.Map(bpf.ARRAY, ledger_words(timestamps) * 8, queues, bpf.MMAPABLE)


def ledger_words(timestamps: int) -> int:
    """int64 words of a queue: its counters, its timestamps, its samples of lost packets."""
    return TIMESTAMPS + timestamps + SAMPLES * SAMPLE_WORDS


def program(
    counters: int, sockets: int, ledger: Ledger, room: int, clock: str, every_queue: bool, shared: bool = False,
    filter: list[Insn] | None = None, unwanted: int = bpf.XDP_DROP, subtract: bool = True, longest: int = 0,
    polls: int | None = None, sampled: bool = True, whole: int = 0, asked: Metadata = NOTHING,
) -> list[Insn]:  # fmt: skip
    """The program for one NIC.

    counters: fd of a per-CPU array with an entry of COUNTER_BYTES per queue; sockets: fd of the XSKMAP; room: bytes of
    a packet in a cell; longest: of one in several, if the sockets take those; clock: 'tai', 'monotonic' or 'none';
    every_queue: no queue is left to the host; shared: several CPUs may receive for one queue at once;
    filter: code that uses the FILTER_ registers and ends at FILTER_ACCEPT or FILTER_REJECT; unwanted: what happens
    to packets that it rejects, XDP_DROP or XDP_PASS (to the host); subtract: the verifier lets the program subtract
    pointers, and packets are in one piece, which is faster than asking for the length (a helper of Linux 5.18);
    polls: fd of Polls.map, to read the clock once for a GROUP of packets; not with ``shared``.
    sampled: lost packets are not only counted.
    whole: the driver hands over long frames in pieces, each as a packet (linux/zero_copy.py); what is at most so long
    and follows no piece is whole.  Pieces are refused as oversize, each.
    asked: what the NIC's driver tells of each packet, not with ``shared``.
    """
    undone = bool(asked.tag and filter and unwanted == bpf.XDP_PASS)
    code: list[Insn] = [
        ("mov_reg", 6, 1, 0, 0),
        ("ldxw", 7, 6, _RX_QUEUE, 0),
        ("stxw", 10, 7, -4, 0),
    ]
    if not every_queue:  # a queue that is not captured stays with the host
        code += _look_up(sockets)
    code += [
        *_look_up(counters),
        ("mov_reg", 8, 0, 0, 0),
        *(metadata.put_back(asked.tag, undone) if asked.tag else []),
        *(metadata.put_hash(asked.hash, _NO_ROOM) if asked.hash else []),
        *_length(subtract),
        *_add(8, _PACKETS, None),
        *_add(8, _BYTES, 1),
        *(_refuse_pieces(ledger, whole) if whole else []),
        *([("stxdw", 10, 1, FILTER_LENGTH, 0)] if filter else []),
        *(filter or []),
        ("label", FILTER_ACCEPT),
        *([("ldxdw", 1, 10, FILTER_LENGTH, 0)] if filter else []),
        ("jgt_imm", 1, 0, "large", room),
        *_admit(ledger, shared),
        ("label", "stamp"),
        *([] if clock == "none" else _timestamp(clock, ledger.timestamps, polls, asked.time)),
        ("ld_map_fd", 1, 0, 0, sockets),
        ("mov_reg", 2, 7, 0, 0),
        ("mov_imm", 3, 0, 0, bpf.XDP_PASS),
        _call("redirect_map"),
        ("exit", 0, 0, 0, 0),
        ("label", "lost"),
        *([("mov_imm", 1, 0, 0, 1), ("xadddw", 9, 1, LOST * 8, 0)] if shared else _add(9, LOST * 8, None)),
        *(_sample("monotonic" if clock == "none" else clock, ledger.timestamps, shared) if sampled else []),
        ("label", "told"),
        ("mov_imm", 0, 0, 0, bpf.XDP_DROP),
        ("exit", 0, 0, 0, 0),
        ("label", "large"),
        *(_admit_large(ledger, shared, room, longest, clock) if longest > room else []),
        ("label", "oversize"),
        *_add(8, _OVERSIZE, None),
        ("mov_imm", 0, 0, 0, bpf.XDP_DROP),
        ("exit", 0, 0, 0, 0),
        ("label", "pass"),
        ("mov_imm", 0, 0, 0, bpf.XDP_PASS),
        ("exit", 0, 0, 0, 0),
    ]
    if filter:
        code += [
            ("label", FILTER_REJECT),
            *_add(8, _UNWANTED, None),
            *(metadata.take_out() if undone else []),
            ("mov_imm", 0, 0, 0, unwanted),
            ("exit", 0, 0, 0, 0),
        ]
    return code


def _length(subtract: bool) -> list[Insn]:
    """The start, end and length of the packet in registers 2, 3 and 1; the helper clobbers 4 and 5."""
    if not subtract:
        return [
            ("mov_reg", 1, 6, 0, 0),
            _call("xdp_get_buff_len"),
            ("mov_reg", 1, 0, 0, 0),
            ("ldxw", 3, 6, _DATA_END, 0),
            ("ldxw", 2, 6, _DATA, 0),
        ]
    return [
        ("ldxw", 3, 6, _DATA_END, 0),
        ("ldxw", 2, 6, _DATA, 0),
        ("mov_reg", 1, 3, 0, 0),
        ("sub_reg", 1, 2, 0, 0),
    ]


def _refuse_pieces(ledger: Ledger, whole: int) -> list[Insn]:
    """Jump to 'oversize' for a packet that is longer than ``whole``, and for what follows up to the first shorter one.

    Registers 1, 2 and 3 are as before: the length, the start and the end.
    """
    return [
        ("stxdw", 10, 1, _PIECE, 0),
        *_find(ledger),
        ("ldxdw", 1, 10, _PIECE, 0),
        ("ldxdw", 4, 0, BROKEN * 8, 0),
        ("mov_imm", 5, 0, 0, 0),
        ("jle_imm", 1, 0, "last_piece", whole),
        ("mov_imm", 5, 0, 0, 1),
        ("label", "last_piece"),
        ("stxdw", 0, 5, BROKEN * 8, 0),
        ("or_reg", 4, 5, 0, 0),
        ("jne_imm", 4, 0, "oversize", 0),
        ("ldxw", 3, 6, _DATA_END, 0),
        ("ldxw", 2, 6, _DATA, 0),
    ]


def _admit(ledger: Ledger, shared: bool, several: bool = False) -> list[Insn]:
    """The queue's ledger in register 9 and the number of the packet's first cell in 8.

    Jumps to 'lost' if there is no cell on offer, or, for a packet of several, not as many as the stack says.
    """
    code = [*_find(ledger), ("mov_reg", 9, 0, 0, 0)]
    if several:
        code.append(("ldxdw", 4, 10, _CELLS, 0))
    look: list[Insn] = [
        ("ldxdw", 8, 9, ADMITTED * 8, 0),
        ("ldxdw", 2, 9, OFFERED * 8, 0),
        *([] if several else [("jge_reg", 8, 2, "lost", 0)]),
        ("mov_reg", 3, 8, 0, 0),
        ("add_reg", 3, 4, 0, 0) if several else ("add_imm", 3, 0, 0, 1),
        *([("jgt_reg", 3, 2, "lost", 0)] if several else []),
    ]
    if not shared:
        return [*code, *look, ("stxdw", 9, 3, ADMITTED * 8, 0)]
    done = "admitted_large" if several else "admitted"
    exchange: list[Insn] = [
        ("mov_reg", 0, 8, 0, 0),
        ("cmpxchgdw", 9, 3, ADMITTED * 8, CMPXCHG),
        ("jeq_reg", 0, 8, done, 0),
    ]
    return [*code, *(look + exchange) * _TRIES, ("ja", 0, 0, "lost", 0), ("label", done)]


def _admit_large(ledger: Ledger, shared: bool, room: int, longest: int, clock: str) -> list[Insn]:
    """Admit a packet of several cells: as many as AF_XDP fills in copy mode (net/xdp/xsk.c).

    Several CPUs may put their packets into the RX ring in another order than they admit them, so there each cell gets
    the time: whichever packet begins with it has one.
    """
    return [
        ("jgt_imm", 1, 0, "oversize", longest),
        ("add_imm", 1, 0, 0, room - 1),
        ("div_imm", 1, 0, 0, room),
        ("stxdw", 10, 1, _CELLS, 0),
        *_admit(ledger, shared, several=True),
        *(_timestamp_cells(clock, ledger.timestamps, longest // room + 1) if shared and clock != "none" else []),
        ("ja", 0, 0, "stamp", 0),
    ]


def _find(ledger: Ledger) -> list[Insn]:
    """Load the address of the queue's words into register 0; the stack has their number from then on."""
    code: list[Insn] = []
    if ledger.first:
        code = [("mov_reg", 1, 7, 0, 0), ("add_imm", 1, 0, 0, ledger.first), ("stxw", 10, 1, -4, 0)]
    return [*code, *_look_up(ledger.map.fd)]


def _look_up(map: int) -> list[Insn]:
    """Load the address of the queue's entry into register 0; jump to 'pass' if there is none."""
    return [
        ("ld_map_fd", 1, 0, 0, map),
        ("mov_reg", 2, 10, 0, 0),
        ("add_imm", 2, 0, 0, -4),
        _call("map_lookup_elem"),
        ("jeq_imm", 0, 0, "pass", 0),
    ]


def _timestamp(clock: str, timestamps: int, polls: int | None, by_nic: int) -> list[Insn]:
    """Store the time in the packet's place among the timestamps; by_nic: the kfunc that tells the NIC's, if any."""
    read = _call(_CLOCKS[clock])
    if by_nic:
        time = metadata.time(by_nic, read, HOST_OFFSET * 8)
    else:
        time = [read] if polls is None else _seldom(read, polls)
    return [
        *time,
        ("and_imm", 8, 0, 0, timestamps - 1),
        ("lsh_imm", 8, 0, 0, 3),
        ("add_reg", 9, 8, 0, 0),
        ("stxdw", 9, 0, TIMESTAMPS * 8, 0),
    ]


def _timestamp_cells(clock: str, timestamps: int, most: int) -> list[Insn]:
    """Store the time at each cell of a large packet, of ``most`` at the most."""
    return [
        _call(_CLOCKS[clock]),
        ("ldxdw", 4, 10, _CELLS, 0),
        ("mov_imm", 1, 0, 0, 0),
        ("label", "cell"),
        ("mov_reg", 2, 8, 0, 0),
        ("add_reg", 2, 1, 0, 0),
        ("and_imm", 2, 0, 0, timestamps - 1),
        ("lsh_imm", 2, 0, 0, 3),
        ("mov_reg", 3, 9, 0, 0),
        ("add_reg", 3, 2, 0, 0),
        ("stxdw", 3, 0, TIMESTAMPS * 8, 0),
        ("add_imm", 1, 0, 0, 1),
        ("jge_imm", 1, 0, "stamp", most),
        ("jlt_reg", 1, 4, "cell", 0),
    ]


def _sample(clock: str, timestamps: int, shared: bool) -> list[Insn]:
    """Note in the row of a lost packet's time how many were lost, and keep the head of the first one there.

    Only one in SAMPLED looks at the clock, which costs as much as all else that happens to a lost packet; the others
    jump to 'told', where this ends.  Register 9 is the queue's ledger.  shared: of several CPUs that come to a new row
    at once, one fills it.
    """
    code: list[Insn] = [
        ("ldxdw", 1, 9, LOST * 8, 0),
        ("and_imm", 1, 0, 0, SAMPLED - 1),
        ("jne_imm", 1, 0, "told", 1),
        _call(_CLOCKS[clock]),
        ("mov_reg", 7, 0, 0, 0),
        ("rsh_imm", 7, 0, 0, SAMPLE_BITS),
        ("ldxdw", 4, 9, LOST * 8, 0),
        ("mov_reg", 8, 7, 0, 0),
        ("and_imm", 8, 0, 0, SAMPLES - 1),
        ("mul_imm", 8, 0, 0, SAMPLE_WORDS * 8),
        ("add_reg", 9, 8, 0, 0),
        ("add_imm", 9, 0, 0, (TIMESTAMPS + timestamps) * 8),
        ("stxdw", 9, 4, SAMPLE_LOST * 8, 0),
        ("mov_reg", 1, 0, 0, 0),
        ("ldxdw", 0, 9, SAMPLE_TIME * 8, 0),
        ("jeq_reg", 0, 7, "told", 0),
    ]
    if shared:
        code += [
            ("mov_reg", 2, 0, 0, 0),
            ("cmpxchgdw", 9, 7, SAMPLE_TIME * 8, CMPXCHG),
            ("jne_reg", 0, 2, "told", 0),
        ]
    else:
        code += [("stxdw", 9, 7, SAMPLE_TIME * 8, 0)]
    code += [("stxdw", 9, 1, SAMPLE_AT * 8, 0), ("ldxw", 3, 6, _DATA_END, 0), ("ldxw", 2, 6, _DATA, 0)]
    for at in range(0, HEADER_BYTES, 4):
        code += [
            ("mov_imm", 1, 0, 0, at),
            ("mov_reg", 4, 2, 0, 0),
            ("add_imm", 4, 0, 0, at + 4),
            ("jgt_reg", 4, 3, "short", 0),
            ("ldxw", 5, 2, at, 0),
            ("stxw", 9, 5, SAMPLE_HEADER * 8 + at, 0),
        ]
    return [*code, ("mov_imm", 1, 0, 0, HEADER_BYTES), ("label", "short"), ("stxdw", 9, 1, SAMPLE_BYTES * 8, 0)]


def _seldom(read: Insn, polls: int) -> list[Insn]:
    """The time in register 0: a reading for the first packet of a poll and of each GROUP, else 1 ns after the last one.

    No two packets of a queue have the same time, as the clock goes on by more than GROUP ns in a group.
    """
    return [
        ("stw", 10, 0, -8, 0),
        ("ld_map_fd", 1, 0, 0, polls),
        ("mov_reg", 2, 10, 0, 0),
        ("add_imm", 2, 0, 0, -8),
        _call("map_lookup_elem"),
        ("jeq_imm", 0, 0, "read", 0),  # never: the entry exists
        ("ldxdw", 1, 0, 0, 0),
        ("ldxdw", 2, 9, POLL * 8, 0),
        ("ldxdw", 0, 9, TIME * 8, 0),
        ("ldxdw", 3, 9, READ_AT * 8, 0),
        ("add_imm", 0, 0, 0, 1),
        ("stxdw", 9, 1, POLL * 8, 0),
        ("add_imm", 3, 0, 0, GROUP),
        ("jne_reg", 1, 2, "read", 0),
        ("jlt_reg", 8, 3, "counted_on", 0),
        ("label", "read"),
        ("stxdw", 9, 8, READ_AT * 8, 0),
        read,
        ("label", "counted_on"),
        ("stxdw", 9, 0, TIME * 8, 0),
    ]


def _call(helper: str) -> Insn:
    return ("call", 0, 0, 0, bpf.HELPERS[helper])


def _add(pointer: int, offset: int, register: int | None) -> list[Insn]:
    """Add a register, or 1, to one of this CPU's counters; uses register 5."""
    amount: Insn = ("add_imm", 5, 0, 0, 1) if register is None else ("add_reg", 5, register, 0, 0)
    return [("ldxdw", 5, pointer, offset, 0), amount, ("stxdw", pointer, 5, offset, 0)]


def taken(interface: str, program: int) -> SystemCallError:
    """The error for an interface to which another program is attached, with its id (0 if that is not known)."""
    owner = holders.of_program(program) if program else ""
    message = f"{interface}: another XDP program is already attached" + (f", by {owner}" if owner else "")
    return SystemCallError(message, errno.EBUSY, holders.way_out(interface, owner))


class Hook:
    """The capture hook of one NIC: its maps and its program.  Packets come in once ``attach`` has been called."""

    def __init__(
        self, queues: int, captured: list[int], ledger: Ledger, room: int, clock: str,
        filter: Callable[[bool], list[Insn]] | None = None, unwanted: int = bpf.XDP_DROP, longest: int = 0,
        wide: bool = False, polls: int | None = None, asked: Metadata = NOTHING, ifindex: int = 0,
    ) -> None:  # fmt: skip
        """As ``program``; in generic mode ``polls`` is not used, as several CPUs may receive for a queue at once.

        asked: what the driver of the NIC, whose index is ``ifindex``, tells of each packet in native mode.
        filter: makes the code for packets that may be in fragments, or not.
        wide: longer frames than a cell holds are to be expected, so a driver may pass them in fragments.
        """
        self.queues = queues
        self.sockets = bpf.Map(bpf.XSKMAP, 4, queues)
        self.counters = bpf.Map(bpf.PERCPU_ARRAY, COUNTER_BYTES, queues)
        self._filter = filter
        self._joins = longest > room
        self._wide = wide and self._joins
        self._whole = 0
        self.asked, self._ifindex = asked, ifindex
        subtract = capabilities.may_subtract_pointers()

        def code(shared: bool, fragments: bool) -> list[Insn]:
            inside = filter(fragments) if filter else None
            return program(
                self.counters.fd, self.sockets.fd, ledger, room, clock, len(captured) == queues, shared, inside,
                unwanted, subtract and not fragments, longest, None if shared else polls,
                whole=0 if shared else self._whole, asked=NOTHING if shared else self.asked,
            )  # fmt: skip

        self._code = code
        self.program = self._load(shared=False)
        self.link: bpf.Link | None = None

    def _load(self, shared: bool) -> bpf.Program:
        """shared: for the generic hook, behind the offloads that merge packets into fragments."""
        fragments = self._wide or (shared and self._joins)
        flags = bpf.XDP_HAS_FRAGS if fragments else 0
        try:
            code = assemble(self._code(shared, fragments))
            if self.asked and not shared:
                return self._load_bound(code, flags)
            return bpf.Program(code, flags=flags)
        except SystemCallError as error:
            hint = "the kernel rejects this filter: leave --kernel-filter out" if self._filter else ""
            raise SystemCallError(error.message, error.errno, error.hint or hint) from None

    def refuse_pieces(self, whole: int) -> None:
        """The driver breaks longer frames than this; before ``attach``, and for native mode."""
        self._whole = whole
        self.program.close()
        self.program = self._load(shared=False)

    def _load_bound(self, code: bytes, flags: int) -> bpf.Program:
        """Without the tags that were taken out, where the kernel refuses a program that asks for them."""
        try:
            return bpf.Program(code, flags=flags | bpf.XDP_BOUND, licence=LICENCE, ifindex=self._ifindex)
        except SystemCallError:
            if self.asked.time or self.asked.hash:
                raise
            self.asked = NOTHING
            return self._load(shared=False)

    def attach(self, interface: str, ifindex: int, mode: str) -> str:
        """Attach to an interface; mode: auto | native | generic.  Returns the mode that was used."""
        attempts = {"auto": ("native", "generic"), "native": ("native",), "generic": ("generic",)}[mode]
        if (self.asked.time or self.asked.hash) and mode == "auto":
            attempts = ("native",)  # nothing tells the other
        for attempt in attempts:
            if attempt == "generic":
                self.program.close()
                self.program = self._load(shared=True)
            try:
                flags = bpf.XDP_DRV_MODE if attempt == "native" else bpf.XDP_SKB_MODE
                self.link = self.program.attach(ifindex, flags)
                return attempt
            except SystemCallError as error:
                if error.errno in (errno.EBUSY, errno.EEXIST):
                    raise taken(interface, netlink.interface(interface).xdp_program) from None
                if attempt == attempts[-1]:
                    hint = error.hint or "try --xdp-mode generic"
                    raise SystemCallError(f"{interface}: {error.message}", error.errno, hint) from None
        raise AssertionError(mode)

    def attach_again(self, interface: str, ifindex: int, mode: str) -> None:
        """Attach to an interface that has come back, whose index another program's code may know."""
        self.detach()
        self._ifindex = ifindex
        if mode == "native":
            self.program.close()
            self.program = self._load(shared=False)
        self.attach(interface, ifindex, mode)

    def is_attached(self) -> bool:
        """False before ``attach``, after ``detach``, and once the interface is gone."""
        return self.link is not None and self.link.ifindex() != 0

    def detach(self) -> None:
        """Let no more packets in; returns once none is on its way."""
        if self.link:
            self.link.close()
            self.link = None

    def received(self, queue: int) -> tuple[int, int]:
        """(packets, bytes) that reached the hook on a queue."""
        packets, byte_count, *_ = self.counters.lookup(queue).sum(axis=0).tolist()
        return packets, byte_count

    def refused(self, queue: int) -> tuple[int, int]:
        """Packets that the filter rejected on a queue, and packets that were too long."""
        _, _, unwanted, oversize, _ = self.counters.lookup(queue).sum(axis=0).tolist()
        return unwanted, oversize

    def unhashed(self, queue: int) -> int:
        """Packets of a queue whose driver left no room for what was asked of it."""
        return int(self.counters.lookup(queue)[:, _NO_ROOM // 8].sum())

    def close(self) -> None:
        self.detach()
        for part in (self.program, self.sockets, self.counters):
            part.close()


def best_clock() -> str:
    """'tai' if the kernel has bpf_ktime_get_tai_ns (6.1), else 'monotonic'."""
    code: list[Insn] = [
        ("call", 0, 0, 0, bpf.HELPERS["ktime_get_tai_ns"]),
        ("mov_imm", 0, 0, 0, 2),
        ("exit", 0, 0, 0, 0),
    ]
    try:
        bpf.Program(assemble(code)).close()
    except SystemCallError as error:
        if error.errno != errno.EINVAL:
            raise
        return "monotonic"
    return "tai"
