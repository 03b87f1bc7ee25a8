"""A filter program as an LLVM function for one packet; follows every jump, also backward ones."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from wirecap.filters import opcodes as op
from wirecap.filters.native_sets import build_find
from wirecap.filters.program import Program
from wirecap.filters.tables import bits_of
from wirecap.kernels.af_packet.blocks import OUTBOUND, PACKET_OUTGOING
from wirecap.kernels.handlers.filter import DIRECTION

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


I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
POINTER = ir.PointerType()
MATCH = ir.FunctionType(I64, [POINTER, I32, I32])
"""match(packet, captured, original) -> 1 or 0: the address of the bytes, lengths in bytes."""


def build_match(module: ir.Module, program: Program) -> ir.Function:
    """Add the function ``match`` to the module; table0 and so on are symbols, for the tables of the program's sets."""
    function = ir.Function(module, MATCH, "match")
    _Machine(function, program).build()
    return function


class _Machine:
    """Registers and memory in stack slots, which LLVM turns into registers."""

    def __init__(self, function: ir.Function, program: Program) -> None:
        self.program = program
        self.tables = [ir.GlobalVariable(function.module, I8, f"table{i}") for i in range(len(program.sets))]
        self.packet, self.captured, self.original = function.args
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.a, self.x, self.turns, self.number = (self._slot() for _ in range(4))
        self.find = build_find(function.module) if self.tables else None
        memory = {k for code, _, _, k in program.rows if _uses_memory(code)}
        self.memory = {k: self._slot() for k in sorted(memory)}
        starts = {0}.union(*(program.targets(at) for at in range(len(program)) if program.rows[at][0] & 7 == op.JMP))
        self.blocks = {at: function.append_basic_block(f"at{at}") for at in sorted(starts)}
        self.reject = function.append_basic_block("reject")
        self.function = function

    def build(self) -> None:
        b = self.builder
        b.branch(self.blocks[0])
        for at, (code, _, _, k) in enumerate(self.program.rows):
            if at in self.blocks:
                if not b.block.is_terminated:
                    b.branch(self.blocks[at])
                b.position_at_end(self.blocks[at])
            elif b.block.is_terminated:
                continue  # no jump leads here
            if code & 7 == op.JMP:
                self._jump(at, code, k)
            elif code & 7 == op.RET:
                value = b.load(self.a, typ=I32) if code & 0x18 == op.A else ir.Constant(I32, k)
                b.ret(b.zext(b.icmp_unsigned("!=", value, ir.Constant(I32, 0)), I64))
            else:
                self._step(code, k)
        b.position_at_end(self.reject)
        b.ret(ir.Constant(I64, 0))

    def _slot(self) -> Any:
        slot = self.builder.alloca(I32)
        self.builder.store(ir.Constant(I32, 0), slot)
        return slot

    def _step(self, code: int, k: int) -> None:
        b, kind = self.builder, code & 7
        if kind in (op.LD, op.LDX):
            b.store(self._loaded(code, k), self.a if kind == op.LD else self.x)
        elif kind in (op.ST, op.STX):
            b.store(b.load(self.a if kind == op.ST else self.x, typ=I32), self.memory[k])
        elif kind == op.MISC:
            source, target = (self.a, self.x) if code & 0xF8 == op.TAX else (self.x, self.a)
            b.store(b.load(source, typ=I32), target)
        elif code == op.ALU | op.NEG:
            b.store(b.sub(ir.Constant(I32, 0), b.load(self.a, typ=I32)), self.a)
        else:
            operand = self._operand(code, k)
            if code & 0xF0 in (op.DIV, op.MOD):
                self._require(b.icmp_unsigned("!=", operand, ir.Constant(I32, 0)))
            b.store(alu(b, code & 0xF0, b.load(self.a, typ=I32), operand), self.a)

    def _loaded(self, code: int, k: int) -> Any:
        b, mode = self.builder, code & 0xE0
        if mode == op.IMM:
            return ir.Constant(I32, k)
        if mode == op.MEM:
            return b.load(self.memory[k], typ=I32)
        if mode == op.LEN:
            return self.original
        if mode == op.ABS and k == op.PACKET_TYPE:
            return self._packet_type()
        offset: Any = ir.Constant(I64, k)
        if mode == op.IND:
            offset = b.add(offset, b.zext(b.load(self.x, typ=I32), I64))
        value = self._bytes(offset, op.SIZE_BYTES[code & 0x18])
        if mode == op.MSH:
            return b.shl(b.and_(value, ir.Constant(I32, 0x0F)), ir.Constant(I32, 2))
        return value

    def _packet_type(self) -> Any:
        """PACKET_OUTGOING or PACKET_HOST, by the byte before the packet."""
        b = self.builder
        flags = b.load(b.gep(self.packet, [ir.Constant(I64, -1)], source_etype=I8), typ=I8, align=1)
        way = b.and_(flags, ir.Constant(I8, DIRECTION))
        outgoing = b.icmp_unsigned("==", way, ir.Constant(I8, OUTBOUND))
        return b.select(outgoing, ir.Constant(I32, PACKET_OUTGOING), ir.Constant(I32, 0))

    def _bytes(self, offset: Any, size: int) -> Any:
        """``size`` bytes in network order; the packet is rejected where they were not captured."""
        b = self.builder
        end = b.add(offset, ir.Constant(I64, size))
        self._require(b.icmp_unsigned("<=", end, b.zext(self.captured, I64)))
        value = b.load(b.gep(self.packet, [offset], source_etype=I8), typ=ir.IntType(8 * size), align=1)
        if size > 1:
            value = b.bswap(value)
        return value if size == 4 else b.zext(value, I32)

    def _require(self, holds: Any) -> None:
        goes_on = self.function.append_basic_block()
        self.builder.cbranch(holds, goes_on, self.reject)
        self.builder.position_at_end(goes_on)

    def _operand(self, code: int, k: int) -> Any:
        return self.builder.load(self.x, typ=I32) if code & op.X else ir.Constant(I32, k)

    def _jump(self, at: int, code: int, k: int) -> None:
        b, targets = self.builder, self.program.targets(at)
        if code in op.SEARCHES:
            found = self._search(code == op.JMP | op.NEXT, self.tables[k], bits_of(self.program.sets[k]))
            b.cbranch(found, self.blocks[targets[0]], self.blocks[targets[1]])
            return
        if len(targets) == 2:
            test = condition(b, code & 0xF0, b.load(self.a, typ=I32), self._operand(code, k))
            b.cbranch(test, self.blocks[targets[0]], self.blocks[targets[1]])
            return
        if targets[0] <= at:
            turn = b.add(b.load(self.turns, typ=I32), ir.Constant(I32, 1))
            b.store(turn, self.turns)
            self._require(b.icmp_unsigned("<=", turn, ir.Constant(I32, op.MAX_BACKWARD_JUMPS)))
        b.branch(self.blocks[targets[0]])

    def _search(self, is_next: bool, table: Any, bits: int) -> Any:
        """Whether A is in a set; the number is kept, which means nothing where it is not."""
        b = self.builder
        key = b.zext(b.load(self.a, typ=I32), I64)
        if is_next:
            key = b.or_(key, b.shl(b.zext(b.load(self.number, typ=I32), I64), ir.Constant(I64, 32)))
        number = b.call(self.find, [b.ptrtoint(table, I64), ir.Constant(I64, bits), key])
        b.store(b.trunc(number, I32), self.number)
        return b.icmp_signed(">=", number, ir.Constant(I64, 0))


def _uses_memory(code: int) -> bool:
    return code in (op.ST, op.STX, op.LD | op.MEM, op.LDX | op.MEM)
