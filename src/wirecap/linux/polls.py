"""Which NAPI poll a CPU is in, as a number that an XDP program reads: packets of one poll lay in the ring together.

A program on the kernel's tracepoint ``napi_poll``, which each poll passes at its end, counts on the poll's CPU.  Every
poll passes it: interrupts, threaded NAPI, busy polling, netpoll, the backlog.  What runs an XDP program outside of a
poll (tun, the generic hook of some drivers) cannot use the number.
"""

from __future__ import annotations

import struct

from wirecap.linux import bpf
from wirecap.linux.asm import Insn, assemble

TRACEPOINT = "napi_poll"
_APART = 1 << 48
"""Counts of different CPUs never meet, so a queue that moves between them is in another poll; and none is 0."""


class Polls:
    """The number of the poll that each CPU is in, in entry 0 of a per-CPU array of int64: ``map``.

    Descriptors alone keep the program in the kernel: it goes with the process.
    """

    def __init__(self) -> None:
        """Raises SystemCallError where the kernel has no such tracepoint, or the process lacks CAP_PERFMON."""
        self.map = bpf.Map(bpf.PERCPU_ARRAY, 8, 1)
        try:
            cpus = bpf.len_possible_cpus()
            self.map.update(0, struct.pack(f"<{cpus}q", *(cpu * _APART + 1 for cpu in range(cpus))))
            self.program = bpf.Program(assemble(_count(self.map.fd)), kind=bpf.PROG_RAW_TRACEPOINT)
            self._link = self.program.trace(TRACEPOINT)
        except BaseException:
            self.map.close()
            raise

    def close(self) -> None:
        for part in (self._link, self.program, self.map):
            part.close()


def _count(map: int) -> list[Insn]:
    return [
        ("stw", 10, 0, -4, 0),
        ("ld_map_fd", 1, 0, 0, map),
        ("mov_reg", 2, 10, 0, 0),
        ("add_imm", 2, 0, 0, -4),
        ("call", 0, 0, 0, bpf.HELPERS["map_lookup_elem"]),
        ("jeq_imm", 0, 0, "done", 0),
        ("ldxdw", 1, 0, 0, 0),
        ("add_imm", 1, 0, 0, 1),
        ("stxdw", 0, 1, 0, 0),
        ("label", "done"),
        ("mov_imm", 0, 0, 0, 0),
        ("exit", 0, 0, 0, 0),
    ]
