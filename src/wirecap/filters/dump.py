"""A filter program as text: tcpdump's ``-d``, ``-dd`` and ``-ddd``."""

from __future__ import annotations

from wirecap.filters import opcodes as op
from wirecap.filters.program import Program, signed

# Per code: the mnemonic and its operand as a format of k (signed), h (hexadecimal) and t (the target of ja).
_TEXT = {
    op.LD | op.IMM: ("ld", "#{h}"),
    op.LDX | op.IMM: ("ldx", "#{h}"),
    op.LD | op.MEM: ("ld", "M[{k}]"),
    op.LDX | op.MEM: ("ldx", "M[{k}]"),
    op.LD | op.LEN: ("ld", "#pktlen"),
    op.LDX | op.LEN: ("ldx", "#pktlen"),
    op.LDX | op.B | op.MSH: ("ldxb", "4*([{k}]&0xf)"),
    op.ST: ("st", "M[{k}]"),
    op.STX: ("stx", "M[{k}]"),
    op.ALU | op.NEG: ("neg", ""),
    op.MISC | op.TAX: ("tax", ""),
    op.MISC | op.TXA: ("txa", ""),
    op.JMP | op.JA: ("ja", "{t}"),
    op.RET | op.K: ("ret", "#{k}"),
    op.RET | op.A: ("ret", ""),
}
for _size, _name in ((op.W, "ld"), (op.H, "ldh"), (op.B, "ldb")):
    _TEXT[op.LD | _size | op.ABS] = (_name, "[{k}]")
    _TEXT[op.LD | _size | op.IND] = (_name, "[x + {k}]")
for _kind, _form, _names in (
    (op.ALU, "#{k}", {"add": op.ADD, "sub": op.SUB, "mul": op.MUL, "div": op.DIV, "mod": op.MOD}),
    (op.ALU, "#{k}", {"lsh": op.LSH, "rsh": op.RSH}),
    (op.ALU, "#{h}", {"or": op.OR, "and": op.AND, "xor": op.XOR}),
    (op.JMP, "#{h}", {"jeq": op.JEQ, "jgt": op.JGT, "jge": op.JGE, "jset": op.JSET}),
):
    for _name, _operation in _names.items():
        _TEXT[_kind | _operation | op.K] = (_name, _form)
        _TEXT[_kind | _operation | op.X] = (_name, "x")


def dump(program: Program) -> str:
    """The text that ``tcpdump -d`` prints, one line for each instruction, without the last newline."""
    return "\n".join(_line(at, *row) for at, row in enumerate(program.rows))


def dump_c(program: Program) -> str:
    """The initialisers of a C array, as ``tcpdump -dd`` prints them."""
    return "\n".join(f"{{ {code:#x}, {jt}, {jf}, 0x{k:08x} }}," for code, jt, jf, k in program.rows)


def dump_decimal(program: Program) -> str:
    """The number of instructions and their numbers, as ``tcpdump -ddd`` prints them."""
    return "\n".join([str(len(program)), *(" ".join(map(str, row)) for row in program.rows)])


def _line(at: int, code: int, jt: int, jf: int, k: int) -> str:
    name, form = _TEXT[code]
    operand = form.format(k=signed(k), h=hex(k), t=at + 1 + signed(k))
    if code & 7 == op.JMP and code != op.JMP | op.JA:
        return f"({at:03d}) {name:<8} {operand:<16} jt {at + 1 + jt}\tjf {at + 1 + jf}"
    return f"({at:03d}) {name:<8} {operand}"
