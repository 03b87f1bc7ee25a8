"""Sets in native code: the LLVM function that looks into the table of one."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from wirecap.filters.tables import EMPTY, MULTIPLIER

_I64 = ir.IntType(64)
FIND = ir.FunctionType(_I64, [_I64, _I64, _I64])
"""find(address, bits, key) -> the key's number, or -1: a table of 2 ** bits pairs."""


def build_find(module: ir.Module) -> ir.Function:
    """Add the function ``find`` to the module."""
    function = ir.Function(module, FIND, "find")
    function.linkage = "internal"
    address, bits, key = function.args
    entry, look, other, on, found, missed = (
        function.append_basic_block(name) for name in ("entry", "look", "other", "on", "found", "missed")
    )
    b = ir.IRBuilder(entry)
    start = b.lshr(b.mul(key, _number(MULTIPLIER)), b.sub(_number(64), bits))
    last = b.sub(b.shl(_number(1), bits), _number(1))
    b.branch(look)
    b.position_at_end(look)
    place = b.phi(_I64)
    pair = b.inttoptr(b.add(address, b.shl(place, _number(4))), ir.PointerType())
    there = b.load(pair, typ=_I64, align=8)
    b.cbranch(b.icmp_unsigned("==", there, key), found, other)
    b.position_at_end(other)
    b.cbranch(b.icmp_unsigned("==", there, _number(EMPTY)), missed, on)
    b.position_at_end(on)
    following = b.and_(b.add(place, _number(1)), last)
    b.branch(look)
    place.add_incoming(start, entry)
    place.add_incoming(following, on)
    b.position_at_end(found)
    b.ret(b.load(b.gep(pair, [_number(1)], source_etype=_I64), typ=_I64, align=8))
    b.position_at_end(missed)
    b.ret(_number(EMPTY))
    return function


def _number(value: int) -> Any:
    return ir.Constant(_I64, value)
