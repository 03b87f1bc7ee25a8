"""A filter program as text: tcpdump's ``-d`` and ``-ddd``, and the eBPF instructions made from it."""

from __future__ import annotations

from wirecap.filters import opcodes as op
from wirecap.filters.ebpf import standalone
from wirecap.filters.expand import plain
from wirecap.filters.program import Program, signed
from wirecap.linux.asm import OPCODES, Insn, width

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
    return "\n".join(_line(at, *row) for at, row in enumerate(plain(program).rows))


def dump_decimal(program: Program) -> str:
    """The number of instructions and their numbers, as ``tcpdump -ddd`` prints them."""
    rows = plain(program).rows
    return "\n".join([str(len(rows)), *(" ".join(map(str, row)) for row in rows)])


def _line(at: int, code: int, jt: int, jf: int, k: int) -> str:
    name, form = _TEXT[code]
    operand = form.format(k=_METADATA.get(k, signed(k)), h=hex(k), t=at + 1 + signed(k))
    if code & 7 == op.JMP and code != op.JMP | op.JA:
        return f"({at:03d}) {name:<8} {operand:<16} jt {at + 1 + jt}\tjf {at + 1 + jf}"
    return f"({at:03d}) {name:<8} {operand}"


_METADATA = {op.PACKET_TYPE: "type", op.INTERFACE: "ifidx"}
_SIGN = {
    "add": "+=", "sub": "-=", "mul": "*=", "div": "/=", "or": "|=", "and": "&=", "lsh": "<<=", "rsh": ">>=",
    "mod": "%=", "xor": "^=", "mov": "=", "arsh": "s>>=", "jeq": "==", "jne": "!=", "jgt": ">", "jge": ">=",
    "jlt": "<", "jle": "<=", "jset": "&", "jsgt": "s>", "jsge": "s>=", "jslt": "s<", "jsle": "s<=",
}  # fmt: skip
_WIDTH = {"b": "u8", "h": "u16", "w": "u32", "dw": "u64"}


def dump_ebpf(program: Program) -> str:
    """The filter as a whole XDP program, which passes the packets that match and drops the others; a line each."""
    places: dict[str, int] = {}
    numbered: list[tuple[int, Insn]] = []
    place = 0
    for insn in standalone(program):
        if len(insn) == 2:
            places[insn[1]] = place
        else:
            numbered.append((place, insn))
            place += width(insn)
    return "\n".join(f"{at:4d}: {_ebpf_line(at, insn, places)}" for at, insn in numbered)


def _ebpf_line(at: int, insn: Insn, places: dict[str, int]) -> str:
    if len(insn) == 2:
        raise TypeError("a label has no text of its own")
    name, dst, src, off, imm = insn
    if name == "ld_map_fd":
        return f"(18) r{dst} = sets"
    step = places[off] - at - 1 if isinstance(off, str) else off
    return f"({OPCODES[name]:02x}) {_text(name, dst, src, step, imm)}"


def _text(name: str, dst: int, src: int, step: int, imm: int) -> str:
    if name == "exit":
        return "exit"
    if name == "ja":
        return f"goto pc{step:+d}"
    if name == "call":
        return f"call {imm}"
    if name in ("be16", "be32", "be64"):
        return f"r{dst} = {name} r{dst}"
    if name == "neg32":
        return f"w{dst} = -w{dst}"
    if name.startswith("ldx"):
        return f"r{dst} = *({_WIDTH[name[3:]]} *)(r{src} {step:+d})"
    if name.startswith("stx"):
        return f"*({_WIDTH[name[3:]]} *)(r{dst} {step:+d}) = r{src}"
    if name.startswith("st"):
        return f"*({_WIDTH[name[2:]]} *)(r{dst} {step:+d}) = {imm}"
    operation, _, form = name.partition("_")
    half = operation.endswith("32")
    operation = operation.removesuffix("32")
    register = "w" if half else "r"
    operand = f"{register}{src}" if form == "reg" else hex(imm) if operation.startswith("j") else str(imm)
    if operation.startswith("j"):
        return f"if {register}{dst} {_SIGN[operation]} {operand} goto pc{step:+d}"
    return f"{register}{dst} {_SIGN[operation]} {operand}"
