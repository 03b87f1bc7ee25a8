"""What all native filters share: the loop over a chunk, and fetching 16 bytes of each of 16 packets.

    test(arena, address, captured, original, limit, groups, ahead, bits)   the loop
    near(arena + start, addresses)          the 16 bytes at ``start`` of each packet
    far(arena, addresses, offsets)          the 16 bytes at its own offset (<16 x i32>) of each packet

``near`` and ``far`` return {<16 x i32>, x 4}: lane p of vector c is the big-endian number in bytes 4c to 4c + 3
of packet p.  As LLVM functions they are the same for every program, so their text is made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from llvmlite import ir

from wirecap.filters.scalar import I8, I32, I64, POINTER
from wirecap.kernels.split import LANES

LANE32 = ir.VectorType(I32, LANES)
LANE64 = ir.VectorType(I64, LANES)
COLUMNS = ir.LiteralStructType([LANE32] * 4)
NEAR = ir.FunctionType(COLUMNS, [POINTER, POINTER])
FAR = ir.FunctionType(COLUMNS, [POINTER, POINTER, LANE32])
GROUP = ir.FunctionType(I64, [POINTER, POINTER, POINTER, POINTER, I64])
"""group(arena, address, captured, original, limit) -> 16 bits: rows of 16 packets, bit p set where packet p matches.

-1 where some packet ends behind ``limit``: the arena might end before the bytes that are read in vain.
"""
TEST = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, POINTER, POINTER, I64, I64, I64, POINTER])
_QUAD = ir.VectorType(I32, 4)
_FIRST = 12
"""The byte of a packet that nearly every filter looks at: the EtherType."""


@cache
def shared_module() -> str:
    """The text of an LLVM module with the three functions; ``group`` is the filter's own."""
    module = ir.Module("shared")
    _build_test(module)
    for name, kind in (("near", NEAR), ("far", FAR)):
        function = ir.Function(module, kind, name)
        function.linkage = "available_externally"
        function.attributes.add("alwaysinline")
        b = ir.IRBuilder(function.append_basic_block())
        addresses = function.args[1] if name == "near" else _moved(b, *function.args[1:])
        rows = []
        for lane in range(LANES):
            address = b.load(b.gep(addresses, [ir.Constant(I64, lane)], source_etype=I64), typ=I64, align=8)
            rows.append(b.load(b.gep(function.args[0], [address], source_etype=I8), typ=_QUAD, align=1))
        b.ret(_transposed(b, rows))
    return str(module)


def _build_test(module: ir.Module) -> None:
    """test: write the answers for ``groups`` times 16 packets to the int64 array ``bits``.

    The first bytes of packets are asked for ``ahead`` groups before they are tested; 0 asks for none.
    """
    group, function = ir.Function(module, GROUP, "group"), ir.Function(module, TEST, "test")
    arena, address, captured, original, limit, groups, ahead, bits = function.args
    entry, first, head, body, ask, turn, done = (
        function.append_basic_block(name) for name in ("entry", "first", "head", "body", "ask", "turn", "done")
    )
    zero, one = ir.Constant(I64, 0), ir.Constant(I64, 1)
    b = ir.IRBuilder(entry)
    start = b.select(b.icmp_signed("<", ahead, groups), ahead, groups)
    b.cbranch(b.icmp_signed(">", start, zero), first, head)
    b.position_at_end(first)
    asked = b.phi(I64)
    _prefetch(b, arena, address, asked)
    next_asked = b.add(asked, one)
    b.cbranch(b.icmp_signed("<", next_asked, start), first, head)
    for value, block in ((zero, entry), (next_asked, first)):
        asked.add_incoming(value, block)
    b.position_at_end(head)
    g = b.phi(I64)
    b.cbranch(b.icmp_signed("<", g, groups), body, done)
    b.position_at_end(body)
    later = b.add(g, ahead)
    wanted = b.and_(b.icmp_signed(">", ahead, zero), b.icmp_signed("<", later, groups))
    b.cbranch(wanted, ask, turn)
    b.position_at_end(ask)
    _prefetch(b, arena, address, later)
    b.branch(turn)
    b.position_at_end(turn)
    i = b.mul(g, ir.Constant(I64, LANES))
    rows = [b.gep(row, [i], source_etype=kind) for row, kind in ((address, I64), (captured, I32), (original, I32))]
    b.store(b.call(group, [arena, *rows, limit]), b.gep(bits, [g], source_etype=I64))
    following = b.add(g, one)
    b.branch(head)
    for value, block in ((zero, entry), (zero, first), (following, turn)):
        g.add_incoming(value, block)
    b.position_at_end(done)
    b.ret_void()


def _prefetch(b: Any, arena: Any, address: Any, group: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [POINTER, I32, I32, I32])
    known = b.module.globals.get("llvm.prefetch.p0")
    function = known if known is not None else ir.Function(b.module, kind, "llvm.prefetch.p0")
    start = b.gep(address, [b.mul(group, ir.Constant(I64, LANES))], source_etype=I64)
    for lane in range(LANES):
        packet = b.load(b.gep(start, [ir.Constant(I64, lane)], source_etype=I64), typ=I64, align=8)
        place = b.gep(arena, [b.add(packet, ir.Constant(I64, _FIRST))], source_etype=I8)
        b.call(function, [place, *(ir.Constant(I32, word) for word in (0, 3, 1))])


def _moved(b: Any, addresses: Any, offsets: Any) -> Any:
    """The addresses plus the offsets, in memory: loading them one by one is faster than taking a vector apart."""
    slot = b.alloca(LANE64)
    b.store(b.add(b.load(addresses, typ=LANE64, align=8), b.zext(offsets, LANE64)), slot)
    # Nothing is executed here; the optimiser has to believe that the slot may change.
    b.asm(ir.FunctionType(ir.VoidType(), [POINTER]), "", "r,~{memory}", [slot], side_effect=True)
    return slot


def _transposed(b: Any, rows: list[Any]) -> Any:
    # z[j] holds packets j, j + 4, j + 8 and j + 12, one in each 128-bit part.
    z = [_joined(b, rows[j::4]) for j in range(4)]
    # Per part, first pairs of packets, then all four, side by side.
    low, high = (0, LANES, 1, 1 + LANES), (2, 2 + LANES, 3, 3 + LANES)
    first, last = (0, 1, LANES, 1 + LANES), (2, 3, 2 + LANES, 3 + LANES)
    pairs = [(_in_parts(b, z[0], z[1], half), _in_parts(b, z[2], z[3], half)) for half in (low, high)]
    columns = [_in_parts(b, *pair, half) for pair in pairs for half in (first, last)]
    bswap = ir.Function(b.module, ir.FunctionType(LANE32, [LANE32]), "llvm.bswap.v16i32") if (
        "llvm.bswap.v16i32" not in b.module.globals) else b.module.globals["llvm.bswap.v16i32"]  # fmt: skip
    result: Any = ir.Constant(COLUMNS, ir.Undefined)
    for at, column in enumerate(columns):
        result = b.insert_value(result, b.call(bswap, [column]), at)
    return result


def _joined(b: Any, quads: list[Any]) -> Any:
    halves = [_shuffled(b, quads[at], quads[at + 1], range(8)) for at in (0, 2)]
    return _shuffled(b, halves[0], halves[1], range(16))


def _in_parts(b: Any, one: Any, two: Any, order: tuple[int, ...]) -> Any:
    """The same choice of elements in each 128-bit part."""
    return _shuffled(b, one, two, [4 * part + at for part in range(4) for at in order])


def _shuffled(b: Any, one: Any, two: Any, order: Sequence[int]) -> Any:
    mask = ir.Constant(ir.VectorType(I32, len(order)), [ir.Constant(I32, at) for at in order])
    return b.shuffle_vector(one, two, mask)
