"""A filter program as an LLVM function for one packet; follows every jump, also backward ones."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from wirecap.filters import opcodes as op
from wirecap.filters.arithmetic import alu, condition
from wirecap.filters.program import Program

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
POINTER = ir.PointerType()
MATCH = ir.FunctionType(I64, [POINTER, I32, I32])
"""match(packet, captured, original) -> 1 or 0: the address of the bytes, lengths in bytes."""


def build_match(module: ir.Module, program: Program) -> ir.Function:
    """Add the function ``match`` to the module."""
    function = ir.Function(module, MATCH, "match")
    _Machine(function, program).build()
    return function


class _Machine:
    """Registers and memory in stack slots, which LLVM turns into registers."""

    def __init__(self, function: ir.Function, program: Program) -> None:
        self.program = program
        self.packet, self.captured, self.original = function.args
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.a, self.x, self.turns = (self._slot() for _ in range(3))
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
        offset: Any = ir.Constant(I64, k)
        if mode == op.IND:
            offset = b.add(offset, b.zext(b.load(self.x, typ=I32), I64))
        value = self._bytes(offset, op.SIZE_BYTES[code & 0x18])
        if mode == op.MSH:
            return b.shl(b.and_(value, ir.Constant(I32, 0x0F)), ir.Constant(I32, 2))
        return value

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
        if len(targets) == 2:
            test = condition(b, code & 0xF0, b.load(self.a, typ=I32), self._operand(code, k))
            b.cbranch(test, self.blocks[targets[0]], self.blocks[targets[1]])
            return
        if targets[0] <= at:
            turn = b.add(b.load(self.turns, typ=I32), ir.Constant(I32, 1))
            b.store(turn, self.turns)
            self._require(b.icmp_unsigned("<=", turn, ir.Constant(I32, op.MAX_BACKWARD_JUMPS)))
        b.branch(self.blocks[targets[0]])


def _uses_memory(code: int) -> bool:
    return code in (op.ST, op.STX, op.LD | op.MEM, op.LDX | op.MEM)
