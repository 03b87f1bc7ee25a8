"""The XDP program at the capture hook: count, stamp, redirect to the queue's socket."""

from __future__ import annotations

import errno

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import SystemCallError
from wirecap.linux import bpf
from wirecap.linux.asm import Insn, assemble

# struct xdp_md, linux/bpf.h
_DATA, _DATA_END, _DATA_META, _RX_QUEUE = 0, 4, 8, 16
STAMP_BYTES = 8
COUNTER_BYTES = 24  # a queue's packets, bytes, and packets that the filter did not want

FILTER_DATA, FILTER_DATA_END, FILTER_SCRATCH, FILTER_STACK = 2, 3, (4, 5, 9), -256
"""Registers and frame offset that a filter inside the program uses."""
FILTER_ACCEPT, FILTER_REJECT = "wanted", "unwanted"
"""Labels that it jumps to."""


def program(
    counters: int, sockets: int, unstamped: int, clock: str, every_queue: bool,
    filter: list[Insn] | None = None, unwanted: int = bpf.XDP_DROP,
) -> list[Insn]:  # fmt: skip
    """The program for one NIC.

    counters: fd of a per-CPU array, an entry of COUNTER_BYTES per queue; sockets: fd of the XSKMAP;
    unstamped: fd of a mapped array whose one word is set when the driver leaves no room for a stamp;
    clock: 'tai' or 'monotonic', or 'none' for no stamps; every_queue: no queue is left to the host;
    filter: code that uses the FILTER_ registers and ends at FILTER_ACCEPT or FILTER_REJECT; unwanted: what
    happens to the packets that it does not want, XDP_DROP or XDP_PASS (to the host).
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
        ("ldxw", 3, 6, _DATA_END, 0),
        ("ldxw", 2, 6, _DATA, 0),
        ("mov_reg", 1, 3, 0, 0),
        ("sub_reg", 1, 2, 0, 0),
        *_add(8, 0, None),
        *_add(8, 8, 1),
        *(filter or []),
        ("label", FILTER_ACCEPT),
        *([] if clock == "none" else _stamp(clock, unstamped)),
        ("label", "redirect"),
        ("ld_map_fd", 1, 0, 0, sockets),
        ("mov_reg", 2, 7, 0, 0),
        ("mov_imm", 3, 0, 0, bpf.XDP_PASS),
        _call("redirect_map"),
        ("exit", 0, 0, 0, 0),
        ("label", "pass"),
        ("mov_imm", 0, 0, 0, bpf.XDP_PASS),
        ("exit", 0, 0, 0, 0),
    ]
    if filter:
        code += [
            ("label", FILTER_REJECT),
            *_add(8, 16, None),
            ("mov_imm", 0, 0, 0, unwanted),
            ("exit", 0, 0, 0, 0),
        ]
    return code


def _look_up(map: int) -> list[Insn]:
    """The address of the queue's entry into register 0; to 'pass' where there is none."""
    return [
        ("ld_map_fd", 1, 0, 0, map),
        ("mov_reg", 2, 10, 0, 0),
        ("add_imm", 2, 0, 0, -4),
        _call("map_lookup_elem"),
        ("jeq_imm", 0, 0, "pass", 0),
    ]


def _stamp(clock: str, unstamped: int) -> list[Insn]:
    """Put the time right before the packet; ends at 'redirect', with or without room for it."""
    return [
        ("mov_reg", 1, 6, 0, 0),
        ("mov_imm", 2, 0, 0, -STAMP_BYTES),
        _call("xdp_adjust_meta"),
        ("jne_imm", 0, 0, "no_room", 0),
        _call({"tai": "ktime_get_tai_ns", "monotonic": "ktime_get_ns"}[clock]),
        ("ldxw", 1, 6, _DATA_META, 0),
        ("ldxw", 2, 6, _DATA, 0),
        ("mov_reg", 3, 1, 0, 0),
        ("add_imm", 3, 0, 0, STAMP_BYTES),
        ("jgt_reg", 3, 2, "no_room", 0),
        ("stxdw", 1, 0, 0, 0),
        ("ja", 0, 0, "redirect", 0),
        ("label", "no_room"),
        ("ld_map_value", 1, 0, 0, unstamped),
        ("stdw", 1, 0, 0, 1),
    ]


def _call(helper: str) -> Insn:
    return ("call", 0, 0, 0, bpf.HELPERS[helper])


def _add(pointer: int, offset: int, register: int | None) -> list[Insn]:
    """Add a register, or 1, to a counter of this CPU; uses register 5."""
    amount: Insn = ("add_imm", 5, 0, 0, 1) if register is None else ("add_reg", 5, register, 0, 0)
    return [("ldxdw", 5, pointer, offset, 0), amount, ("stxdw", pointer, 5, offset, 0)]


class Hook:
    """The capture hook of one NIC: its maps and its program; ``attach`` lets packets in."""

    def __init__(
        self, queues: int, captured: list[int], unstamped: bpf.Map, clock: str,
        filter: list[Insn] | None = None, unwanted: int = bpf.XDP_DROP,
    ) -> None:  # fmt: skip
        self.queues = queues
        self.sockets = bpf.Map(bpf.XSKMAP, 4, queues)
        self.counters = bpf.Map(bpf.PERCPU_ARRAY, COUNTER_BYTES, queues)
        whole = len(captured) == queues
        code = program(self.counters.fd, self.sockets.fd, unstamped.fd, clock, whole, filter, unwanted)
        try:
            self.program = bpf.Program(assemble(code))
        except SystemCallError as error:
            hint = error.hint or ("the kernel takes no such filter: leave --kernel-filter out" if filter else "")
            raise SystemCallError(error.message, error.errno, hint) from None
        self.link: bpf.Link | None = None

    def attach(self, interface: str, ifindex: int, mode: str) -> str:
        """Attach to an interface; mode: auto | native | generic.  Returns the mode that was taken."""
        attempts = {"auto": ("native", "generic"), "native": ("native",), "generic": ("generic",)}[mode]
        for attempt in attempts:
            try:
                flags = bpf.XDP_DRV_MODE if attempt == "native" else bpf.XDP_SKB_MODE
                self.link = self.program.attach(ifindex, flags)
                return attempt
            except SystemCallError as error:
                if error.errno in (errno.EBUSY, errno.EEXIST):
                    hint = "another program holds it: 'ip link show' names it; stop its owner, or use --engine packet"
                    raise SystemCallError(
                        f"{interface}: an XDP program is attached already", error.errno, hint
                    ) from None
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

    def received(self, queue: int) -> tuple[int, int, int]:
        """(packets, bytes) that reached the hook on a queue, and packets that the filter did not want."""
        packets, octets, unwanted = self.counters.lookup(queue).sum(axis=0).tolist()
        return packets, octets, unwanted

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


def counter_array(values: bpf.Map) -> NDArray[np.int64]:
    """The one word of a mapped array, int64 (1,), shared with the program."""
    return np.frombuffer(values.mapped(), dtype=np.int64)[:1]
