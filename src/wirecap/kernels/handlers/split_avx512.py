"""Moving the descriptors of the packets that match, 16 at a time, with AVX-512: LLVM code, imported to compile."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from wirecap.kernels.base.jit import intrinsic
from wirecap.kernels.handlers.filter import LANES

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_LANE32, _LANE64, _HALF64 = ir.VectorType(_I32, LANES), ir.VectorType(_I64, LANES), ir.VectorType(_I64, LANES // 2)
_MASK = ir.VectorType(ir.IntType(1), LANES)


@intrinsic
def split(typing: Any, address: Any, captured: Any, original: Any, timestamp: Any, i: Any, m: Any, bits: Any):
    """Write the 16 descriptors at i to m, matches first; the ones that were there go after them.

    The descriptors from m to i do not match.  If there are 16 or more of them, 16 move to where the group was; if
    there are fewer, all of them move to just after the group's new place.
    """
    signature = types.int64(address, captured, original, timestamp, i, m, bits)

    def generate(context: Any, b: Any, signature: Any, values: Any) -> Any:
        i, m, bits = values[4:]
        lanes = ir.Constant(_I64, LANES)
        count = b.ctpop(bits)
        order = _order(b, b.bitcast(b.trunc(bits, ir.IntType(LANES)), _MASK), count)
        apart = b.sub(i, m)
        apart = b.select(b.icmp_signed("<", apart, lanes), apart, lanes)
        behind = b.add(m, lanes)
        behind = b.select(b.icmp_signed(">", i, behind), i, behind)
        displaced = _below(b, apart)
        rows = [
            (cgutils.create_struct_proxy(kind)(context, b, value).data, kind.dtype.bitwidth)
            for kind, value in zip(signature.args[:4], values[:4], strict=True)
        ]
        # captured and original may be the same array: everything is read before anything is written.
        moved = [_read(b, row, width, order, (i, m)) for row, width in rows]
        for (row, width), (group, stood) in zip(rows, moved, strict=True):
            _write(b, row, width, (m, group), (behind, stood), displaced)
        return count

    return signature, generate


def _place(b: Any, row: Any, width: int, place: Any) -> Any:
    return b.bitcast(b.gep(row, [place]), (_LANE32 if width == 32 else _LANE64).as_pointer())


def _read(b: Any, row: Any, width: int, order: Any, places: Any) -> tuple[Any, Any]:
    """Elements of one row: the group at the first place, in ``order``, and those at the second place."""
    group, stood = (b.load(_place(b, row, width, place), align=width // 8) for place in places)
    if width == 32:
        return _call(b, "llvm.x86.avx512.permvar.si.512", _LANE32, [group, order]), stood
    wide = b.zext(order, _LANE64)
    low, high = _half(b, group, 0), _half(b, group, 1)
    name = "llvm.x86.avx512.vpermi2var.q.512"
    parts = [_call(b, name, _HALF64, [low, _half(b, wide, part), high]) for part in (0, 1)]
    return b.shuffle_vector(parts[0], parts[1], _indices(range(LANES))), stood


def _write(b: Any, row: Any, width: int, first: Any, second: Any, displaced: Any) -> None:
    """Write elements of one row, each given as (place, value): the group, then the displaced ones (by mask)."""
    b.store(first[1], _place(b, row, width, first[0]), align=width // 8)
    arguments = [second[1], _place(b, row, width, second[0]), ir.Constant(_I32, width // 8), displaced]
    _call(b, f"llvm.masked.store.v{LANES}i{width}.p0", ir.VoidType(), arguments)


def _order(b: Any, mask: Any, count: Any) -> Any:
    """The lanes of the packets that match, followed by the other lanes."""
    name, zero = "llvm.x86.avx512.mask.{}.v16i32", ir.Constant(_LANE32, None)
    others = _call(b, name.format("compress"), _LANE32, [_indices(range(LANES)), zero, b.not_(mask)])
    first = _call(b, name.format("compress"), _LANE32, [_indices(range(LANES)), zero, mask])
    return _call(b, name.format("expand"), _LANE32, [others, first, b.not_(_below(b, count))])


def _below(b: Any, count: Any) -> Any:
    """The mask of the first ``count`` lanes."""
    undefined = ir.Constant(_LANE32, ir.Undefined)
    one = b.insert_element(undefined, b.trunc(count, _I32), ir.Constant(_I32, 0))
    return b.icmp_unsigned("<", _indices(range(LANES)), b.shuffle_vector(one, undefined, _indices([0] * LANES)))


def _half(b: Any, value: Any, part: int) -> Any:
    return b.shuffle_vector(value, value, _indices(range(part * LANES // 2, (part + 1) * LANES // 2)))


def _indices(values: Any) -> ir.Constant:
    constants = [ir.Constant(_I32, value) for value in values]
    return ir.Constant(ir.VectorType(_I32, len(constants)), constants)


def _call(b: Any, name: str, returns: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(returns, [argument.type for argument in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), arguments)
