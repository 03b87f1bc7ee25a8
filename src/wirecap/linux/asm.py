"""An assembler for eBPF: readable tuples in, 64-bit instructions out.

An instruction is ``(op, dst, src, off, imm)`` with registers as numbers 0-10 and, in jumps, a label (a
string) as ``off``; ``("label", name)`` marks a place; helper calls are ``("call", 0, 0, 0, number)``,
calls of kernel functions ``("call_kfunc", 0, 0, 0, number in the kernel's BTF)``;
``("ld_map_fd", dst, 0, 0, fd)`` and ``("ld_map_value", dst, 0, offset, fd)`` load a map or the address of
its first value.  Encoding: RFC 9669, "BPF Instruction Set Architecture".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from wirecap.errors import UsageError

Insn = tuple[str, int, int, int | str, int] | tuple[str, str]

_SIZE = {"b": 0x10, "h": 0x08, "w": 0x00, "dw": 0x18}
_ALU = {
    "add": 0x0, "sub": 0x1, "mul": 0x2, "div": 0x3, "or": 0x4, "and": 0x5, "lsh": 0x6, "rsh": 0x7,
    "neg": 0x8, "mod": 0x9, "xor": 0xA, "mov": 0xB, "arsh": 0xC,
}  # fmt: skip
_JUMP = {
    "jeq": 0x1, "jgt": 0x2, "jge": 0x3, "jset": 0x4, "jne": 0x5, "jsgt": 0x6, "jsge": 0x7,
    "jlt": 0xA, "jle": 0xB, "jslt": 0xC, "jsle": 0xD,
}  # fmt: skip

CMPXCHG = 0xF1
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE = 1, 2
_PSEUDO_KFUNC = 2


def _opcodes() -> dict[str, int]:
    table = {"call": 0x85, "call_kfunc": 0x85, "exit": 0x95, "ja": 0x05, "neg": 0x87, "neg32": 0x84}
    for size, bits in _SIZE.items():
        table[f"ldx{size}"] = 0x61 | bits  # dst = *(size *)(src + off)
        table[f"st{size}"] = 0x62 | bits  # *(size *)(dst + off) = imm
        table[f"stx{size}"] = 0x63 | bits  # *(size *)(dst + off) = src
    table["xadddw"] = table["cmpxchgdw"] = 0xDB  # atomic; imm = 0 adds, CMPXCHG compares with register 0 and exchanges
    for name, code in _ALU.items():
        table[f"{name}_imm"] = 0x07 | code << 4
        table[f"{name}_reg"] = 0x0F | code << 4
        table[f"{name}32_imm"] = 0x04 | code << 4
        table[f"{name}32_reg"] = 0x0C | code << 4
    for name, code in _JUMP.items():
        table[f"{name}_imm"] = 0x05 | code << 4
        table[f"{name}_reg"] = 0x0D | code << 4
        table[f"{name}32_imm"] = 0x06 | code << 4
        table[f"{name}32_reg"] = 0x0E | code << 4
    table["be16"] = table["be32"] = table["be64"] = 0xDC  # to or from big endian; imm is the width
    return table


OPCODES = _opcodes()
_WIDE = {"ld_map_fd", "ld_map_value", "lddw"}


def width(insn: Insn) -> int:
    """How many of the 8-byte instructions it takes."""
    return 0 if insn[0] == "label" else 2 if insn[0] in _WIDE else 1


def assemble(program: Iterable[Insn]) -> bytes:
    """The program's bytes, 8 per instruction.

    Raises UsageError if a jump does not fit the format's 16 bits, and KeyError for an unknown label.
    """
    program = list(program)
    labels: dict[str, int] = {}
    place = 0
    for insn in program:
        if insn[0] == "label":
            labels[str(insn[1])] = place
        place += width(insn)
    code = bytearray()
    place = 0
    for insn in program:
        if len(insn) == 2:
            continue
        op, dst, src, off, imm = insn
        place += width(insn)
        if op in _WIDE:
            code += _wide(op, dst, off, imm)
            continue
        if isinstance(off, str):
            off = labels[off] - place
        if not -32768 <= off <= 32767:
            raise UsageError(
                f"the filter is too long for eBPF: a jump over {off} instructions does not fit 16 bits",
                "simplify the filter",
            )
        if op in ("be16", "be32", "be64"):
            imm = int(op[2:])
        if op == "call_kfunc":
            src = _PSEUDO_KFUNC
        code += struct.pack("<BBhi", OPCODES[op], src << 4 | dst, off, _signed32(imm))
    return bytes(code)


def _wide(op: str, dst: int, off: int | str, imm: int) -> bytes:
    kind = {"ld_map_fd": _PSEUDO_MAP_FD, "ld_map_value": _PSEUDO_MAP_VALUE, "lddw": 0}[op]
    high = imm >> 32 if op == "lddw" else int(off)
    return struct.pack("<BBhiBBhi", 0x18, kind << 4 | dst, 0, _signed32(imm), 0, 0, 0, _signed32(high))


def _signed32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value
