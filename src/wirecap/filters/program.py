"""A classic BPF program: what a filter expression is compiled to, what is valid, and its basic blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from wirecap.errors import UsageError
from wirecap.filters import opcodes as op

LONGEST_NAME = 200
"""Characters of an expression in a message."""


@dataclass(frozen=True, eq=False)
class Program:
    """A valid classic BPF program.

    ``instructions`` is a read-only int64 array of shape (n, 4): code, jt, jf, k, where k is unsigned.
    ``text`` is the expression it came from, ``linktype`` the LINKTYPE_ value that it looks at, ``snaplen``
    what it returns for a packet that matches, in bytes.  ``note`` is what its user should know of it, a line or "".
    ``sets`` are what its instructions IN and NEXT compare with, in the place of long lists.
    """

    instructions: npt.NDArray[np.int64]
    text: str = ""
    linktype: int = 1
    snaplen: int = 262144
    note: str = ""
    sets: tuple[npt.NDArray[np.uint64], ...] = ()

    @classmethod
    def of(
        cls, instructions: Iterable[Sequence[int]], text: str = "", linktype: int = 1, snaplen: int = 262144,
        note: str = "",
    ) -> Program:  # fmt: skip
        """A program from (code, jt, jf, k) rows.  Raises UsageError where libpcap's bpf_validate refuses."""
        rows = np.array([tuple(row) for row in instructions], np.int64).reshape(-1, 4)
        rows[:, 3] &= 0xFFFFFFFF
        check(rows, text)
        rows.flags.writeable = False
        return cls(rows, text, linktype, snaplen, note)

    def __len__(self) -> int:
        return len(self.instructions)

    @cached_property
    def rows(self) -> list[tuple[int, int, int, int]]:
        """The instructions as Python integers."""
        return [(code, jt, jf, k) for code, jt, jf, k in self.instructions.tolist()]

    def targets(self, at: int) -> tuple[int, ...]:
        """Where instruction ``at`` may go next: (), (next,) or (where true, where false)."""
        code, jt, jf, k = self.rows[at]
        if code & 7 == op.RET:
            return ()
        if code & 7 != op.JMP:
            return (at + 1,)
        if code == op.JMP | op.JA:
            return (at + 1 + signed(k),)
        return (at + 1 + jt, at + 1 + jf)

    @property
    def rejects_all(self) -> bool:
        """Whether it is nothing but a return that rejects."""
        return self.rows == [(op.RET, 0, 0, 0)]

    @property
    def reads(self) -> bool:
        """Whether it looks at packet bytes, not at lengths only."""
        return any(reads_packet(code) for code, *_ in self.rows)

    @property
    def loops(self) -> bool:
        """Whether it jumps backward (``protochain``)."""
        return any(target <= at for at in range(len(self)) for target in self.targets(at))


def name_of(text: str) -> str:
    """How messages call the filter of an expression; the middle of a long one is left out."""
    if len(text) > LONGEST_NAME:
        text = f"{text[: LONGEST_NAME // 2]} ... {text[-LONGEST_NAME // 2 :]}"
    return f"filter '{text}'" if text else "filter program"


def reads_packet(code: int) -> bool:
    """Whether an instruction loads bytes of the packet."""
    return code == op.LDX | op.B | op.MSH or (code & 7 == op.LD and code & 0xE0 in (op.ABS, op.IND))


def signed(k: int) -> int:
    """k as the signed 32-bit number that ``ja`` takes it for."""
    return k - (1 << 32) if k & 0x80000000 else k


def check(rows: npt.NDArray[np.int64], text: str = "") -> None:
    """Raise UsageError unless ``rows`` is a valid program, of Linux's extensions with those of expressions only."""
    name = name_of(text)
    if not len(rows):
        raise UsageError(f"{name}: no instructions")
    for at, (code, jt, jf, k) in enumerate(rows.tolist()):
        where = f"{name}: instruction {at}"
        if code not in op.OPCODES:
            raise UsageError(f"{where}: unknown code {code:#x}")
        kind = code & 7
        if code & 0xE7 == op.LD | op.ABS and k >= op.EXTENSIONS and k not in (op.PACKET_TYPE, op.INTERFACE):
            raise UsageError(
                f"{name} asks for packet metadata (kernel VLAN tag), not for packet bytes",
                "a filter can test the packet's bytes, its direction and its interface",
            )
        if (kind in (op.ST, op.STX) or code in (op.LD | op.MEM, op.LDX | op.MEM)) and k >= op.MEMORY_WORDS:
            raise UsageError(f"{where}: no memory word M[{k}]")
        if code in (op.ALU | op.DIV | op.K, op.ALU | op.MOD | op.K) and k == 0:
            raise UsageError(f"{where}: division by the constant 0")
        if code in (op.ALU | op.LSH | op.K, op.ALU | op.RSH | op.K) and k > 31:
            raise UsageError(f"{where}: shift by {k} bits")
        if kind == op.JMP:
            ahead = [signed(k)] if code == op.JMP | op.JA else [jt, jf]
            if -1 in ahead or not all(0 <= at + 1 + step < len(rows) for step in ahead):
                raise UsageError(f"{where}: jump out of the program")
    if rows[-1, 0] & 7 != op.RET:
        raise UsageError(f"{name}: does not end in a return")


@dataclass
class Block:
    """Instructions first to last; ``children`` are the blocks that it immediately dominates, in order."""

    first: int
    last: int
    children: list[int] = field(default_factory=list)
    depth: int = 0
    parent: int = -1


def dominators(program: Program) -> dict[int, Block]:
    """The program's basic blocks by first instruction, each with the blocks that it immediately dominates."""
    jumps = [at for at in range(len(program)) if program.rows[at][0] & 7 == op.JMP]
    after = (at + 1 for at in jumps if at + 1 < len(program))
    firsts = sorted({0}.union(*(program.targets(at) for at in jumps), after))
    blocks = {at: Block(at, until - 1) for at, until in zip(firsts, [*firsts[1:], len(program)], strict=True)}
    for block in blocks.values():
        returns = [at for at in range(block.first, block.last) if program.rows[at][0] & 7 == op.RET]
        block.last = min([block.last, *returns])
    for first, block in blocks.items():
        if first and block.parent < 0:
            continue  # nothing leads here
        for target in program.targets(block.last):
            known = blocks[target].parent
            blocks[target].parent = first if known < 0 else _common(blocks, known, first)
            blocks[target].depth = blocks[blocks[target].parent].depth + 1
    for first, block in blocks.items():
        if block.parent >= 0:
            blocks[block.parent].children.append(first)
    return blocks


def _common(blocks: dict[int, Block], one: int, two: int) -> int:
    while one != two:
        if blocks[one].depth < blocks[two].depth:
            two = blocks[two].parent
        elif blocks[one].depth > blocks[two].depth:
            one = blocks[one].parent
        else:
            one, two = blocks[one].parent, blocks[two].parent
    return one
