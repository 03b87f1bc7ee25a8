"""eBPF instructions as text, in the words of the kernel's verifier log and of bpftool."""

from __future__ import annotations

from wirecap.filters.ebpf import standalone
from wirecap.filters.program import Program
from wirecap.linux.asm import OPCODES, Insn

_SIGN = {
    "add": "+=", "sub": "-=", "mul": "*=", "div": "/=", "or": "|=", "and": "&=", "lsh": "<<=", "rsh": ">>=",
    "mod": "%=", "xor": "^=", "mov": "=", "arsh": "s>>=", "jeq": "==", "jne": "!=", "jgt": ">", "jge": ">=",
    "jlt": "<", "jle": "<=", "jset": "&", "jsgt": "s>", "jsge": "s>=", "jslt": "s<", "jsle": "s<=",
}  # fmt: skip
_WIDTH = {"b": "u8", "h": "u16", "w": "u32", "dw": "u64"}


def dump_ebpf(program: Program) -> str:
    """The filter as a whole XDP program, which passes the packets that match and drops the others; a line each."""
    insns = standalone(program)
    places: dict[str, int] = {}
    numbered: list[Insn] = []
    for insn in insns:
        if len(insn) == 2:
            places[insn[1]] = len(numbered)
        else:
            numbered.append(insn)
    return "\n".join(f"{at:4d}: {_line(at, insn, places)}" for at, insn in enumerate(numbered))


def _line(at: int, insn: Insn, places: dict[str, int]) -> str:
    if len(insn) == 2:
        raise TypeError("a label has no text of its own")
    name, dst, src, off, imm = insn
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
