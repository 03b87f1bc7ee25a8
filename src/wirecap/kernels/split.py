"""Moving descriptors that match to the front of a chunk's rows, in order: 16 at once where the host has AVX-512."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from wirecap.kernels.jit import PURE, inline

LANES = 16
"""Packets that a filter tests at a time."""
ALL = (1 << LANES) - 1

AVX512 = not PURE and llvm.llvm_version_info[0] >= 17 and bool(llvm.get_host_cpu_features().get("avx512bw"))

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_LANE32, _LANE64, _HALF64 = ir.VectorType(_I32, LANES), ir.VectorType(_I64, LANES), ir.VectorType(_I64, LANES // 2)
_MASK = ir.VectorType(ir.IntType(1), LANES)


@intrinsic
def count_bits(typing: Any, bits: Any):
    """How many bits are set."""
    return types.int64(types.int64), lambda context, b, signature, values: b.ctpop(values[0])


@intrinsic
def first_bit(typing: Any, bits: Any):
    """The place of the lowest bit that is set."""

    def generate(context: Any, b: Any, signature: Any, values: Any) -> Any:
        return b.cttz(values[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


@inline
def swap(address, captured, original, stamp, i, m):
    """Exchange two descriptors.  captured and original may be one array: both are read before either is written."""
    address[i], address[m] = address[m], address[i]
    captured_i, captured_m, original_i, original_m = captured[i], captured[m], original[i], original[m]
    captured[i], captured[m], original[i], original[m] = captured_m, captured_i, original_m, original_i
    stamp[i], stamp[m] = stamp[m], stamp[i]


@inline
def _split_scalar(address, captured, original, stamp, i, m, bits):
    first = m
    for j in range(i, i + LANES):
        if bits & 1:
            swap(address, captured, original, stamp, j, m)
            m += 1
        bits >>= 1
    return m - first


@intrinsic
def _split_avx512(typing: Any, address: Any, captured: Any, original: Any, stamp: Any, i: Any, m: Any, bits: Any):
    """Write the 16 descriptors at i, matches first, to m; what stood there goes behind them.

    Those from m to i do not match.  When there are 16 or more of them, 16 move into the group's place; when
    fewer, all of them move behind the group's new place.
    """
    signature = types.int64(address, captured, original, stamp, i, m, bits)

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
        # captured and original may be one array: all is read before anything is written.
        moved = [_read(b, row, width, order, (i, m)) for row, width in rows]
        for (row, width), (group, stood) in zip(rows, moved, strict=True):
            _write(b, row, width, (m, group), (behind, stood), displaced)
        return count

    return signature, generate


def _place(b: Any, row: Any, width: int, place: Any) -> Any:
    return b.bitcast(b.gep(row, [place]), (_LANE32 if width == 32 else _LANE64).as_pointer())


def _read(b: Any, row: Any, width: int, order: Any, places: Any) -> tuple[Any, Any]:
    """Elements of one row: the group at the first place in ``order``, and what stands at the second."""
    group, stood = (b.load(_place(b, row, width, place), align=width // 8) for place in places)
    if width == 32:
        return _call(b, "llvm.x86.avx512.permvar.si.512", _LANE32, [group, order]), stood
    wide = b.zext(order, _LANE64)
    low, high = _half(b, group, 0), _half(b, group, 1)
    name = "llvm.x86.avx512.vpermi2var.q.512"
    parts = [_call(b, name, _HALF64, [low, _half(b, wide, part), high]) for part in (0, 1)]
    return b.shuffle_vector(parts[0], parts[1], _indices(range(LANES))), stood


def _write(b: Any, row: Any, width: int, first: Any, second: Any, displaced: Any) -> None:
    """Write one row's elements, each a place and what goes there: the group, then what stood there (``displaced``)."""
    b.store(first[1], _place(b, row, width, first[0]), align=width // 8)
    arguments = [second[1], _place(b, row, width, second[0]), ir.Constant(_I32, width // 8), displaced]
    _call(b, f"llvm.masked.store.v{LANES}i{width}.p0", ir.VoidType(), arguments)


def _order(b: Any, mask: Any, count: Any) -> Any:
    """The lanes of the packets that match, then those of the others."""
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


split = _split_avx512 if AVX512 else _split_scalar
"""split(address, captured, original, stamp, i, m, bits): of the 16 descriptors at i, those with a bit go to m.

Returns how many they are.  None of those from m to i match; no descriptor is lost.
"""
