"""The XDP program at the capture hook: count, admit, stamp, redirect to the queue's socket.

It lets through only what the kernel can put into a cell, so the n-th packet that it admits on a queue is the n-th
in the RX ring.  Stamps can then lie side by side in the ledger, eight to a cache line, and what is refused is
counted exactly where it is refused.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from wirecap.errors import SystemCallError
from wirecap.linux import bpf, capabilities
from wirecap.linux.asm import CMPXCHG, Insn, assemble

# struct xdp_md, linux/bpf.h
_DATA, _DATA_END, _RX_QUEUE = 0, 4, 16
_PACKETS, _OCTETS, _UNWANTED, _OVERSIZE = 0, 8, 16, 24
COUNTER_BYTES = 32

ADMITTED, LOST, OFFERED, STAMPS = 0, 1, 8, 16
"""int64 words of a queue in the ledger: packets let through; packets that found no cell; cells ever offered, written
by the capture thread, on a cache line of its own; the stamps, a ring."""
_TRIES = 4  # of several CPUs that receive for one queue at once; the kernel's generic hook allows that

FILTER_DATA, FILTER_DATA_END, FILTER_SCRATCH, FILTER_STACK = 2, 3, (4, 5, 9), -256
"""Registers and frame offset that a filter inside the program uses."""
FILTER_ACCEPT, FILTER_REJECT = "wanted", "unwanted"
"""Labels that it jumps to."""


@dataclass(frozen=True)
class Ledger:
    """Where a NIC's queues have their words: a mapped array, its entry of queue 0, and a power of two of stamps."""

    map: bpf.Map
    first: int
    stamps: int


def make_ledger(queues: int, stamps: int) -> bpf.Map:
    """An array with an entry of STAMPS + ``stamps`` words for each of ``queues``."""
    return bpf.Map(bpf.ARRAY, (STAMPS + stamps) * 8, queues, bpf.MMAPABLE)


def program(
    counters: int, sockets: int, ledger: Ledger, room: int, clock: str, every_queue: bool, shared: bool = False,
    filter: list[Insn] | None = None, unwanted: int = bpf.XDP_DROP, subtract: bool = True,
) -> list[Insn]:  # fmt: skip
    """The program for one NIC.

    counters: fd of a per-CPU array, an entry of COUNTER_BYTES per queue; sockets: fd of the XSKMAP; room: the
    longest packet, bytes; clock: 'tai' or 'monotonic', or 'none' for no stamps; every_queue: no queue is left to the
    host; shared: several CPUs may receive for one queue at once;
    filter: code that uses the FILTER_ registers and ends at FILTER_ACCEPT or FILTER_REJECT; unwanted: what
    happens to the packets that it does not want, XDP_DROP or XDP_PASS (to the host); subtract: the verifier lets the
    program subtract addresses, which is quicker than to ask for the packet's length (a helper of Linux 5.18).
    """
    code: list[Insn] = [
        ("mov_reg", 6, 1, 0, 0),
        ("ldxw", 7, 6, _RX_QUEUE, 0),
        ("stxw", 10, 7, -4, 0),
    ]
    if not every_queue:  # a queue that nobody captures stays the host's
        code += _look_up(sockets)
    code += [
        *_look_up(counters),
        ("mov_reg", 8, 0, 0, 0),
        *_length(subtract),
        *_add(8, _PACKETS, None),
        *_add(8, _OCTETS, 1),
        *(filter or []),
        ("label", FILTER_ACCEPT),
        *(_length(subtract) if filter else []),
        ("jgt_imm", 1, 0, "oversize", room),
        *_admit(ledger, shared),
        *([] if clock == "none" else _stamp(clock, ledger.stamps)),
        ("ld_map_fd", 1, 0, 0, sockets),
        ("mov_reg", 2, 7, 0, 0),
        ("mov_imm", 3, 0, 0, bpf.XDP_PASS),
        _call("redirect_map"),
        ("exit", 0, 0, 0, 0),
        ("label", "lost"),
        *([("mov_imm", 1, 0, 0, 1), ("xadddw", 9, 1, LOST * 8, 0)] if shared else _add(9, LOST * 8, None)),
        ("mov_imm", 0, 0, 0, bpf.XDP_DROP),
        ("exit", 0, 0, 0, 0),
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
            ("mov_imm", 0, 0, 0, unwanted),
            ("exit", 0, 0, 0, 0),
        ]
    return code


def _length(subtract: bool) -> list[Insn]:
    """Data, its end and the packet's length in registers 2, 3 and 1; asking for it spoils 4 and 5."""
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


def _admit(ledger: Ledger, shared: bool) -> list[Insn]:
    """The queue's ledger in register 9, the packet's number in 8; to 'lost' where no cell is offered for it."""
    code: list[Insn] = []
    if ledger.first:
        code += [("mov_reg", 1, 7, 0, 0), ("add_imm", 1, 0, 0, ledger.first), ("stxw", 10, 1, -4, 0)]
    code += [*_look_up(ledger.map.fd), ("mov_reg", 9, 0, 0, 0)]
    look: list[Insn] = [
        ("ldxdw", 8, 9, ADMITTED * 8, 0),
        ("ldxdw", 2, 9, OFFERED * 8, 0),
        ("jge_reg", 8, 2, "lost", 0),
        ("mov_reg", 3, 8, 0, 0),
        ("add_imm", 3, 0, 0, 1),
    ]
    if not shared:
        return [*code, *look, ("stxdw", 9, 3, ADMITTED * 8, 0)]
    exchange: list[Insn] = [
        ("mov_reg", 0, 8, 0, 0),
        ("cmpxchgdw", 9, 3, ADMITTED * 8, CMPXCHG),
        ("jeq_reg", 0, 8, "admitted", 0),
    ]
    return [*code, *(look + exchange) * _TRIES, ("ja", 0, 0, "lost", 0), ("label", "admitted")]


def _look_up(map: int) -> list[Insn]:
    """The address of the queue's entry into register 0; to 'pass' where there is none."""
    return [
        ("ld_map_fd", 1, 0, 0, map),
        ("mov_reg", 2, 10, 0, 0),
        ("add_imm", 2, 0, 0, -4),
        _call("map_lookup_elem"),
        ("jeq_imm", 0, 0, "pass", 0),
    ]


def _stamp(clock: str, stamps: int) -> list[Insn]:
    """The time into the packet's place among the stamps."""
    return [
        _call({"tai": "ktime_get_tai_ns", "monotonic": "ktime_get_ns"}[clock]),
        ("and_imm", 8, 0, 0, stamps - 1),
        ("lsh_imm", 8, 0, 0, 3),
        ("add_reg", 9, 8, 0, 0),
        ("stxdw", 9, 0, STAMPS * 8, 0),
    ]


def _call(helper: str) -> Insn:
    return ("call", 0, 0, 0, bpf.HELPERS[helper])


def _add(pointer: int, offset: int, register: int | None) -> list[Insn]:
    """Add a register, or 1, to a counter of this CPU; uses register 5."""
    amount: Insn = ("add_imm", 5, 0, 0, 1) if register is None else ("add_reg", 5, register, 0, 0)
    return [("ldxdw", 5, pointer, offset, 0), amount, ("stxdw", pointer, 5, offset, 0)]


def taken(interface: str) -> SystemCallError:
    """What is said where another program is attached."""
    hint = "another program holds it: 'ip link show' names it; stop its owner, or use --engine packet"
    return SystemCallError(f"{interface}: an XDP program is attached already", errno.EBUSY, hint)


class Hook:
    """The capture hook of one NIC: its maps and its program; ``attach`` lets packets in."""

    def __init__(
        self, queues: int, captured: list[int], ledger: Ledger, room: int, clock: str,
        filter: list[Insn] | None = None, unwanted: int = bpf.XDP_DROP,
    ) -> None:  # fmt: skip
        self.queues = queues
        self.sockets = bpf.Map(bpf.XSKMAP, 4, queues)
        self.counters = bpf.Map(bpf.PERCPU_ARRAY, COUNTER_BYTES, queues)
        self._filtered = filter is not None
        maps = (self.counters.fd, self.sockets.fd, ledger, room, clock, len(captured) == queues)
        subtract = capabilities.may_subtract_pointers()
        self._code = {shared: program(*maps, shared, filter, unwanted, subtract) for shared in (False, True)}
        self.program = self._load(shared=False)
        self.link: bpf.Link | None = None

    def _load(self, shared: bool) -> bpf.Program:
        try:
            return bpf.Program(assemble(self._code[shared]))
        except SystemCallError as error:
            hint = "the kernel takes no such filter: leave --kernel-filter out" if self._filtered else ""
            raise SystemCallError(error.message, error.errno, error.hint or hint) from None

    def attach(self, interface: str, ifindex: int, mode: str) -> str:
        """Attach to an interface; mode: auto | native | generic.  Returns the mode that was taken."""
        attempts = {"auto": ("native", "generic"), "native": ("native",), "generic": ("generic",)}[mode]
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
                    raise taken(interface) from None
                if attempt == attempts[-1]:
                    hint = error.hint or "try --xdp-mode generic"
                    raise SystemCallError(f"{interface}: {error.message}", error.errno, hint) from None
        raise AssertionError(mode)

    def is_attached(self) -> bool:
        """False before ``attach``, after ``detach``, and once the interface is gone."""
        return self.link is not None and self.link.ifindex() != 0

    def detach(self) -> None:
        """Let no more packets in; returns when none is under way."""
        if self.link:
            self.link.close()
            self.link = None

    def received(self, queue: int) -> tuple[int, int, int, int]:
        """(packets, bytes) that reached the hook on a queue; packets that the filter did not want; too long ones."""
        packets, octets, unwanted, oversize = self.counters.lookup(queue).sum(axis=0).tolist()
        return packets, octets, unwanted, oversize

    def close(self) -> None:
        self.detach()
        for part in (self.program, self.sockets, self.counters):
            part.close()


def best_clock() -> str:
    """'tai' where the kernel has bpf_ktime_get_tai_ns (6.1), else 'monotonic'."""
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
