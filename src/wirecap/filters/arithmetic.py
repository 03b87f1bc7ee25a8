"""BPF's arithmetic as LLVM instructions, for one packet (i32) or one vector of packets (<n x i32>)."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from wirecap.filters import opcodes as op

_CONDITION = {op.JEQ: "==", op.JGT: ">", op.JGE: ">="}


def constant(kind: ir.Type, value: int) -> ir.Constant:
    """``value`` as a constant of an integer type, or in every lane of a vector type."""
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [ir.Constant(kind.element, value)] * kind.count)
    return ir.Constant(kind, value)


def alu(builder: Any, operation: int, a: Any, operand: Any) -> Any:
    """A op operand, always defined: x / 0 is x here (the caller rejects the packet), a shift by 32 or more gives 0."""
    if operation in (op.DIV, op.MOD):
        zero = builder.icmp_unsigned("==", operand, constant(a.type, 0))
        divisor = builder.select(zero, constant(a.type, 1), operand)
        return builder.udiv(a, divisor) if operation == op.DIV else builder.urem(a, divisor)
    if operation in (op.LSH, op.RSH):
        within = builder.and_(operand, constant(a.type, 31))
        shifted = builder.shl(a, within) if operation == op.LSH else builder.lshr(a, within)
        fits = builder.icmp_unsigned("<", operand, constant(a.type, 32))
        return builder.select(fits, shifted, constant(a.type, 0))
    simple = {op.ADD: builder.add, op.SUB: builder.sub, op.MUL: builder.mul,
              op.OR: builder.or_, op.AND: builder.and_, op.XOR: builder.xor}  # fmt: skip
    return simple[operation](a, operand)


def condition(builder: Any, operation: int, a: Any, operand: Any) -> Any:
    """What a conditional jump tests."""
    if operation == op.JSET:
        return builder.icmp_unsigned("!=", builder.and_(a, operand), constant(a.type, 0))
    return builder.icmp_unsigned(_CONDITION[operation], a, operand)
