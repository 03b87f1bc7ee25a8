"""A filter program as eBPF instructions, to stand inside an XDP program.

Each load is preceded by a comparison with the end of the packet, as the kernel's verifier wants it (kernel
document bpf/verifier.rst, "Direct packet access").  An XDP packet has no snap length: what is there is both
the captured and the original length.  The verifier follows every turn of a loop, so a program that jumps
backward (``protochain``) gives up, and rejects, after TURNS headers.  All sets are one
hash map: a program may have 64 maps, and a list of networks many more sets.
"""

from __future__ import annotations

from collections.abc import Iterator

from wirecap.filters import opcodes as op
from wirecap.filters.program import Program
from wirecap.linux import bpf
from wirecap.linux.asm import Insn

TURNS = 32
"""More extension headers than real packets have; the time that the verifier takes grows with the square."""
LONGEST = 0xFFFF
"""Bytes of a packet up to which the verifier lets programs reach (MAX_PACKET_OFF in kernel/bpf/verifier.c)."""
_KEY = 8 + 4 * op.MEMORY_WORDS
_KEY_BYTES = 12
_X = _KEY + _KEY_BYTES
STACK_BYTES = _X + 4
"""What a filter needs of the 512 bytes of stack at the most: the count of turns, then M[], what is looked for in a set,
and X meanwhile."""

_ALU = {
    op.ADD: "add", op.SUB: "sub", op.MUL: "mul", op.DIV: "div", op.OR: "or", op.AND: "and", op.LSH: "lsh",
    op.RSH: "rsh", op.MOD: "mod", op.XOR: "xor",
}  # fmt: skip
_JUMP = {op.JEQ: "jeq", op.JGT: "jgt", op.JGE: "jge", op.JSET: "jset"}
_INVERSE = {op.JEQ: "jne", op.JGT: "jle", op.JGE: "jlt"}
_LOAD = {op.W: "ldxw", op.H: "ldxh", op.B: "ldxb"}
_FRAME = 10
_DATA, _DATA_END = 0, 4  # struct xdp_md, linux/bpf.h


def translate(
    program: Program,
    *,
    data: int,
    data_end: int,
    scratch: tuple[int, int, int],
    stack: int,
    accept: str,
    reject: str,
    prefix: str = "filter",
    sets: int = -1,
    context: int = 6,
    length: int | None = None,
) -> list[Insn]:
    """The instructions of a filter; it ends by a jump to the label ``accept`` or ``reject``.

    ``data`` and ``data_end`` are registers that hold the packet's limits (kept as they are), ``scratch`` three
    registers to use, ``stack`` the frame offset (a negative multiple of 8) of STACK_BYTES bytes to use;
    labels start with ``prefix``.  Each of the two labels is jumped to at least once, so that the code
    there is reachable, as the verifier wants it.  ``sets`` is the descriptor of the program's ``set_map``, and
    where there is one, ``context`` is a register that holds the program's argument and survives calls.
    ``length``: packets may be in fragments, so ``context`` is needed, the packet's length lies at this frame offset,
    and 16 bytes below it are free to use.
    """
    return _Translation(program, data, data_end, scratch, stack, accept, reject, prefix, sets, context, length).run()


def set_map(program: Program) -> bpf.Map | None:
    """A map for the program's sets: what is looked for (``Set``) and the set's number -> its place there, 32 bits."""
    if not program.sets:
        return None
    made = bpf.Map(bpf.HASH, 4, sum(map(len, program.sets)), name="wirecap_sets", key_size=_KEY_BYTES)
    for number, keys in enumerate(program.sets):
        for place, key in enumerate(keys.tolist()):
            made.update(number << 64 | key, place.to_bytes(4, "little"))
    return made


def standalone(program: Program, sets: int = -1) -> list[Insn]:
    """A whole XDP program that passes the packets that match (XDP_PASS) and drops the others (XDP_DROP)."""
    kept: list[Insn] = [("mov_reg", 6, 1, 0, 0)] if program.sets else []
    return [
        *kept,
        ("ldxw", 2, 1, _DATA, 0),
        ("ldxw", 3, 1, _DATA_END, 0),
        *translate(
            program, data=2, data_end=3, scratch=(4, 5, 7), stack=-STACK_BYTES, accept="match", reject="drop", sets=sets
        ),
        ("label", "match"),
        ("mov32_imm", 0, 0, 0, 2),
        ("exit", 0, 0, 0, 0),
        ("label", "drop"),
        ("mov32_imm", 0, 0, 0, 1),
        ("exit", 0, 0, 0, 0),
    ]  # fmt: skip


class _Translation:
    def __init__(
        self, program: Program, data: int, data_end: int, scratch: tuple[int, int, int], stack: int, accept: str,
        reject: str, prefix: str, sets: int, context: int, length: int | None,
    ) -> None:  # fmt: skip
        self.program = program
        self.data, self.data_end = data, data_end
        self.a, self.x, self.at = scratch
        self.stack = stack
        self.accept, self.reject, self.prefix = accept, reject, prefix
        self.sets, self.context, self.length = sets, context, length
        self.reached = _reached(program)

    def run(self) -> list[Insn]:
        code: list[Insn] = [("mov32_imm", self.a, 0, 0, 0), ("mov32_imm", self.x, 0, 0, 0)]
        code += [("stw", _FRAME, 0, self._slot(k), 0) for k in sorted(self._words())]
        if self.program.loops:
            code.append(("stdw", _FRAME, 0, self.stack, 0))
        jumped = {target for at in self.reached for target in self._jumps(at)}
        for at in sorted(self.reached):
            if self._end(at) and code[-1][0] == "ja":
                continue  # jumps to a return lead to its label at once
            if at in jumped and not self._end(at):
                code.append(("label", self._label(at)))
            code += self._instruction(at)
        used = {insn[3] for insn in code if len(insn) == 5}
        # A packet never ends before it starts, but the verifier does not know.
        code[:0] = [
            ("jgt_reg", self.data, self.data_end, end, 0) for end in (self.accept, self.reject) if end not in used
        ]
        return code

    def _words(self) -> set[int]:
        """The memory words in use."""
        rows = [self.program.rows[at] for at in self.reached]
        return {k for code, _, _, k in rows if code in (op.ST, op.STX, op.LD | op.MEM, op.LDX | op.MEM)}

    def _slot(self, word: int) -> int:
        return self.stack + 8 + 4 * word

    def _label(self, at: int) -> str:
        return self._end(at) or f"{self.prefix}{at}"

    def _end(self, at: int) -> str:
        """The label that a return of a constant stands for, or ""."""
        code, _, _, k = self.program.rows[at]
        return "" if code != op.RET | op.K else self.accept if k else self.reject

    def _jumps(self, at: int) -> tuple[int, ...]:
        return self.program.targets(at) if self.program.rows[at][0] & 7 == op.JMP else ()

    def _instruction(self, at: int) -> Iterator[Insn]:
        code, _, _, k = self.program.rows[at]
        kind = code & 7
        if kind == op.JMP:
            yield from self._jump(at, code, k)
        elif kind == op.RET:
            if code & 0x18 == op.A:
                yield ("jne32_imm", self.a, 0, self.accept, 0)
            yield ("ja", 0, 0, self._end(at) or self.reject, 0)
        elif kind in (op.LD, op.LDX):
            yield from self._load(at, code, k, self.a if kind == op.LD else self.x)
        elif kind in (op.ST, op.STX):
            yield ("stxw", _FRAME, self.a if kind == op.ST else self.x, self._slot(k), 0)
        elif kind == op.MISC:
            target, source = (self.x, self.a) if code & 0xF8 == op.TAX else (self.a, self.x)
            yield ("mov32_reg", target, source, 0, 0)
        else:
            yield from self._alu(at, code, k)

    def _load(self, at: int, code: int, k: int, target: int) -> Iterator[Insn]:
        mode, size = code & 0xE0, op.SIZE_BYTES[code & 0x18]
        if mode == op.IMM:
            yield ("mov32_imm", target, 0, 0, k)
        elif mode == op.MEM:
            yield ("ldxw", target, _FRAME, self._slot(k), 0)
        elif mode == op.LEN and self.length is not None:
            yield ("ldxw", target, _FRAME, self.length, 0)
        elif mode == op.LEN:
            yield ("mov_reg", self.at, self.data_end, 0, 0)
            yield ("sub_reg", self.at, self.data, 0, 0)
            yield ("mov32_reg", target, self.at, 0, 0)
        elif k + size > LONGEST:
            # No packet is that long; the verifier must see a way on to what follows.
            yield ("jle_reg", self.data, self.data_end, self.reject, 0)
        else:
            if mode == op.IND:
                yield ("mov_reg", self.at, self.x, 0, 0)
                yield ("jgt_imm", self.at, 0, self.reject, LONGEST - k - size)
                yield ("add_reg", self.at, self.data, 0, 0)
            else:
                yield ("mov_reg", self.at, self.data, 0, 0)
            yield ("add_imm", self.at, 0, 0, k + size)
            beyond, there = self._label(at) + "beyond", self._label(at) + "there"
            yield ("jgt_reg", self.at, self.data_end, self.reject if self.length is None else beyond, 0)
            yield (_LOAD[code & 0x18], target, self.at, -size, 0)
            if self.length is not None:
                yield ("ja", 0, 0, there, 0)
                yield ("label", beyond)
                yield from self._load_fragment(self.length - 8, mode == op.IND, k, code, target)
                yield ("label", there)
            if size > 1:
                yield (f"be{8 * size}", target, 0, 0, 0)
            if mode == op.MSH:
                yield ("and32_imm", target, 0, 0, 0x0F)
                yield ("lsh32_imm", target, 0, 0, 2)

    def _load_fragment(self, saved: int, indirect: bool, k: int, code: int, target: int) -> Iterator[Insn]:
        """Load what lies, in whole or in part, behind the packet's first fragment, if anywhere."""
        yield ("stxw", _FRAME, self.a, saved, 0)
        yield ("stxw", _FRAME, self.x, saved + 4, 0)
        yield ("mov_reg", 1, self.context, 0, 0)
        yield ("mov_reg", 2, self.x, 0, 0) if indirect else ("mov_imm", 2, 0, 0, 0)
        yield ("add_imm", 2, 0, 0, k)
        yield ("mov_reg", 3, _FRAME, 0, 0)
        yield ("add_imm", 3, 0, 0, saved - 8)
        yield ("mov_imm", 4, 0, 0, op.SIZE_BYTES[code & 0x18])
        yield ("call", 0, 0, 0, bpf.HELPERS["xdp_load_bytes"])
        yield ("ldxw", self.a, _FRAME, saved, 0)
        yield ("ldxw", self.x, _FRAME, saved + 4, 0)
        yield ("ldxw", self.data, self.context, _DATA, 0)
        yield ("ldxw", self.data_end, self.context, _DATA_END, 0)
        yield ("jne_imm", 0, 0, self.reject, 0)
        yield (_LOAD[code & 0x18], target, _FRAME, saved - 8, 0)

    def _alu(self, at: int, code: int, k: int) -> Iterator[Insn]:
        operation = code & 0xF0
        if operation == op.NEG:
            yield ("neg32", self.a, 0, 0, 0)
        elif not code & op.X:
            yield (f"{_ALU[operation]}32_imm", self.a, 0, 0, k)
        elif operation in (op.LSH, op.RSH):
            yield ("jle32_imm", self.x, 0, self._label(at) + "s", 31)
            yield ("mov32_imm", self.a, 0, 0, 0)
            yield ("label", self._label(at) + "s")
            # Of X the machine takes five bits: what it makes of 0 is 0.
            yield (f"{_ALU[operation]}32_reg", self.a, self.x, 0, 0)
        else:
            if operation in (op.DIV, op.MOD):
                yield ("jeq32_imm", self.x, 0, self.reject, 0)
            yield (f"{_ALU[operation]}32_reg", self.a, self.x, 0, 0)

    def _jump(self, at: int, code: int, k: int) -> Iterator[Insn]:
        targets = self.program.targets(at)
        if code in op.SEARCHES:
            yield from self._search(code == op.JMP | op.NEXT, k)
            yield ("jeq_imm", 0, 0, self._label(targets[1]), 0)
            yield ("ldxw", self.at, 0, 0, 0)
            yield ("stxw", _FRAME, self.at, self.stack + _KEY + 4, 0)
            yield ("ja", 0, 0, self._label(targets[0]), 0)
            return
        if len(set(targets)) == 2:
            operation, form = code & 0xF0, "32_reg" if code & op.X else "32_imm"
            source, immediate = (self.x, 0) if code & op.X else (0, k)
            if targets[0] == at + 1 and operation in _INVERSE:
                yield (_INVERSE[operation] + form, self.a, source, self._label(targets[1]), immediate)
                return
            yield (_JUMP[operation] + form, self.a, source, self._label(targets[0]), immediate)
            if targets[1] != at + 1:
                yield ("ja", 0, 0, self._label(targets[1]), 0)
            return
        if targets[0] <= at:
            # Eight bytes, aligned: only of such a slot the verifier knows the value, and so that the loop ends.
            yield ("ldxdw", self.at, _FRAME, self.stack, 0)
            yield ("jge_imm", self.at, 0, self.reject, TURNS)
            yield ("add_imm", self.at, 0, 0, 1)
            yield ("stxdw", _FRAME, self.at, self.stack, 0)
        if targets[0] != at + 1:
            yield ("ja", 0, 0, self._label(targets[0]), 0)

    def _search(self, is_next: bool, set: int) -> Iterator[Insn]:
        """Look A up in a set: register 0 is the address of its place there, or 0."""
        key = self.stack + _KEY  # A, the place of what was found before it, and the set
        yield ("stxw", _FRAME, self.a, key, 0)
        if not is_next:
            yield ("stw", _FRAME, 0, key + 4, 0)
        yield ("stw", _FRAME, 0, key + 8, set)
        yield ("stxw", _FRAME, self.x, self.stack + _X, 0)
        yield ("ld_map_fd", 1, 0, 0, self.sets)
        yield ("mov_reg", 2, _FRAME, 0, 0)
        yield ("add_imm", 2, 0, 0, key)
        yield ("call", 0, 0, 0, bpf.HELPERS["map_lookup_elem"])
        yield ("ldxw", self.a, _FRAME, key, 0)
        yield ("ldxw", self.x, _FRAME, self.stack + _X, 0)
        yield ("ldxw", self.data, self.context, _DATA, 0)
        yield ("ldxw", self.data_end, self.context, _DATA_END, 0)


def _reached(program: Program) -> set[int]:
    """The instructions that can be reached; the verifier refuses a program with others."""
    reached: set[int] = set()
    ahead = [0]
    while ahead:
        at = ahead.pop()
        if at not in reached:
            reached.add(at)
            ahead += program.targets(at)
    return reached
