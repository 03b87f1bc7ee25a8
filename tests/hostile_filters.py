"""Filters, made at random, on hostile packets: libpcap's interpreter, native code and the kernel must agree on each.

Half of them are expressions, half are programs that no expression compiles to.  The verifier must take each of them.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

import hostile_packets
from hostile_dice import Target, new_cases, next_cases
from wirecap.errors import UsageError
from wirecap.filters import opcodes as op
from wirecap.filters.ebpf import standalone
from wirecap.filters.expression import compile_filter
from wirecap.filters.native import NativeFilter
from wirecap.filters.program import Program
from wirecap.kernels.base import cache, jit
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.handlers.filter import SLACK, select, tally
from wirecap.linux import bpf
from wirecap.linux.asm import assemble

sys.path.insert(0, str(Path(__file__).parent / "filters"))
import filter_corpus

PACKETS = 64 if PURE else 16384
"""On which a filter is tried; a KERNEL_SHARE-th of them by the kernel, whose calls take longer than its filter."""
KERNEL_SHARE = 128
SHORTEST = 14  # BPF_PROG_TEST_RUN wants an Ethernet header
CLASSES = (op.JEQ, op.JGT, op.JGE, op.JSET)


class DisagreeError(Exception):
    """Two that run a filter do not say the same, or one does not take it."""


def _interpret_all() -> Any:
    """A function that has libpcap look at all packets: (arena, address, captured, original, program, hits)."""
    function = filter_corpus.interpreter()

    def interpret(arena: Any, address: Any, captured: Any, original: Any, program: Any, hits: Any) -> None:
        for i in range(len(address)):
            packet = arena.ctypes.data + address[i]
            hits[i] = function(program.ctypes.data, packet, original[i], captured[i]) != 0

    if PURE:

        def one_by_one(arena: Any, address: Any, captured: Any, original: Any, program: Any, hits: Any) -> None:
            for i in range(len(address)):
                packet = arena.ctypes.data + int(address[i])
                hits[i] = function(program.ctypes.data, packet, int(original[i]), int(captured[i])) != 0

        return one_by_one
    from numba import njit

    return njit(interpret, nogil=True)


def any_program(dice: random.Random) -> Program:
    """A valid program of every instruction, with jumps forward; memory is written first, as in filter_corpus."""
    numbers = (0, 1, 2, 4, 12, 13, 14, 15, 20, 23, 31, 32, 40, 54, 255, 0x800, 0x86DD, 0xFFFF, 0x7FFFFFFF, 0x80000000,
               0xFFFFFFFF)  # fmt: skip
    size = dice.randrange(1, 60)
    rows = [(op.ST, 0, 0, word) for word in range(4)]
    for at in range(size):
        left = size - at
        k = dice.choice(numbers) if dice.random() < 0.5 else dice.choice([dice.randrange(70), dice.getrandbits(32)])
        near = dice.randrange(60) if dice.random() < 0.9 else min(k, op.EXTENSIONS - 1)
        step = min(left - 1, 255)
        kind = dice.randrange(11)
        if kind <= 2:
            rows.append((op.LD | dice.choice([op.W, op.H, op.B]) | dice.choice([op.ABS, op.ABS, op.IND]), 0, 0, near))
        elif kind == 3:
            choice = [(op.LD | op.IMM, k), (op.LDX | op.IMM, k), (op.LD | op.LEN, 0), (op.LDX | op.LEN, 0)]
            choice += [(op.LDX | op.B | op.MSH, near), (op.LD | op.MEM, k & 3), (op.LDX | op.MEM, k & 3)]
            code, k = dice.choice(choice)
            rows.append((code, 0, 0, k))
        elif kind == 4:
            rows.append((dice.choice([op.ST, op.STX]), 0, 0, k & 3))
        elif kind == 5:
            rows.append((dice.choice([op.MISC | op.TAX, op.MISC | op.TXA, op.ALU | op.NEG]), 0, 0, 0))
        elif kind <= 7:
            operation, source = dice.choice([*range(0, 0x80, 0x10), op.MOD, op.XOR]), dice.choice([op.K, op.X])
            k = k % 32 if operation in (op.LSH, op.RSH) else k or int(operation in (op.DIV, op.MOD))
            rows.append((op.ALU | operation | source, 0, 0, k))
        elif kind <= 9:
            code = op.JMP | dice.choice(CLASSES) | dice.choice([op.K, op.X])
            rows.append((code, dice.randint(0, step), dice.randint(0, step), k))
        else:
            ends = [(op.JMP | op.JA, 0, 0, dice.randint(0, step)), (op.RET | op.A, 0, 0, 0), (op.RET | op.K, 0, 0, k)]
            rows.append(dice.choice(ends))
    rows.append(dice.choice([(op.RET | op.A, 0, 0, 0), (op.RET | op.K, 0, 0, 1), (op.RET | op.K, 0, 0, 0)]))
    return Program.of(rows)


class Filters(Target):
    """A filter after the other, each on PACKETS new packets; a case is a filter on a packet."""

    name = "filters"
    batch = PACKETS

    def __init__(self, seed: int) -> None:
        if not PURE:
            jit.prepare([select, tally])
        cache.CACHE_DIR = None  # what is made here is of no use to anybody
        self.dice = random.Random(seed)
        self.grammar = filter_corpus._Grammar(seed)
        self.cases = new_cases(hostile_packets.seeds(60), hostile_packets.ROOM, seed)
        self.program: Program | None = None
        self.said = set[int]()
        self.loads = os.geteuid() == 0 and not filter_corpus.why_not()
        self.by_kernel = 0
        self._interpret = _interpret_all()
        self._arena = np.zeros(PACKETS * hostile_packets.ROOM + SLACK + 1, np.uint8)
        self._row = np.zeros(PACKETS, np.int64), np.zeros(PACKETS, np.uint32)

    def at_hand(self) -> tuple[int, bytes]:
        """The program that was tried last: what a disagreement is about."""
        return 0, self.program.instructions.tobytes() if self.program else b""

    def counts(self) -> tuple[int, int]:
        return super().counts()[0], len(self.said)

    def run(self, count: int) -> None:
        for _ in range(0, count, PACKETS):
            self._try(self._next())

    def _next(self) -> Program:
        while True:
            try:
                if self.dice.random() < 0.5:
                    return any_program(self.dice)
                return compile_filter(
                    self.grammar.expression(self.dice.randrange(4)), optimize=self.dice.random() < 0.7
                )
            except UsageError:  # no packet can match, or a protocol has no such bytes
                continue

    def _try(self, program: Program) -> None:
        self.program = program
        address, captured = self._row
        end = next_cases(self.cases, self._arena, address, captured, PACKETS)
        # Packets may lie at the very end of their memory, and may be longer on the wire.
        arena = self._arena[: end + self.dice.choice([0, 1, SLACK - 1, SLACK, SLACK + 1])]
        original = captured + np.uint32(self.dice.choice([0, 0, 1, 1500, 0x10000]))
        hits = np.zeros(PACKETS, bool)
        code = filter_corpus.c_program(program).view(np.uint8)
        self._interpret(arena, address, captured, original, code, hits)
        compiled = NativeFilter(program)
        rows = [address.copy(), captured.copy(), original.copy(), np.arange(PACKETS)]
        found = compiled.process(arena, *rows, PACKETS, compiled.state)
        if rows[3][:found].tolist() != np.flatnonzero(hits).tolist():
            raise DisagreeError(f"native code and libpcap: {program.text or program.rows}")
        self.said.add(hash(hits.tobytes()) & 0xFFFFFFFF)
        if self.loads:
            self._have_kernel_try(program, captured)

    def _have_kernel_try(self, program: Program, captured: Any) -> None:
        loaded = bpf.Program(assemble(standalone(program)))  # raises SystemCallError, with the verifier's reason
        address = self._row[0]
        try:
            for i in range(self.dice.randrange(KERNEL_SHARE), PACKETS, KERNEL_SHARE):
                if captured[i] >= SHORTEST:
                    packet = self._arena[address[i] : address[i] + captured[i]].tobytes()
                    self.by_kernel += 1
                    if filter_corpus.kernel_says(loaded, packet) != filter_corpus.libpcap_says(program, packet):
                        raise DisagreeError(f"kernel and libpcap: {program.text or program.rows}")
        finally:
            loaded.close()
