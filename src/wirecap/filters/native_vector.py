"""A filter program as LLVM instructions for 16 packets at a time, one packet in each lane.

The program's jumps lead forward, so its blocks run once each, in order; a block's mask says which lanes are
in it, and both ways of a jump are taken with the mask divided.  A block that has to fetch packet bytes is
skipped, with all that only it leads to, when its mask is empty.  Bytes are fetched by windows of 16 bytes of
each packet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from llvmlite import ir

from wirecap.filters import opcodes as op
from wirecap.filters.native_scalar import I1, I8, I16, I32, I64, POINTER, alu, condition, constant
from wirecap.filters.program import Block, Program, dominators, reads_packet
from wirecap.kernels.handlers.filter import LANES, SLACK

WINDOW = 16
FIXED = SLACK - WINDOW
"""Bytes from a packet's start up to which any packet may be read without a look at its length."""


def plan(program: Program) -> tuple[dict[int, int], dict[int, int]]:
    """For each offset k that is loaded from, the start of its window: (near a packet's start, all others)."""
    loads = [(code, k) for code, _, _, k in program.rows if reads_packet(code)]
    near = [(k, size_of(code)) for code, k in loads if is_fixed(code) and k + 4 <= FIXED]
    far = [(k, size_of(code)) for code, k in loads if not (is_fixed(code) and k + 4 <= FIXED)]
    return _cover(near), _cover(far)


def size_of(code: int) -> int:
    return op.SIZE_BYTES[code & 0x18]


def is_fixed(code: int) -> bool:
    return code == op.LDX | op.B | op.MSH or code & 0xE7 == op.LD | op.ABS


def _cover(loads: list[tuple[int, int]]) -> dict[int, int]:
    """For each offset that is loaded from, the start of the window that holds it; few windows."""
    starts: dict[int, int] = {}
    start = -WINDOW
    for offset in sorted({offset for offset, _ in loads}):
        end = max(offset + size for at, size in loads if at == offset)
        if end > start + WINDOW:
            start = offset
        starts[offset] = start
    return starts


# What all native filters share: the loop over a chunk, and fetching 16 bytes of each of 16 packets.
#
#     test(arena, address, captured, original, limit, groups, ahead, bits)   the loop
#     near(arena + start, addresses)          the 16 bytes at ``start`` of each packet
#     far(arena, addresses, offsets)          the 16 bytes at its own offset (<16 x i32>) of each packet
#
# ``near`` and ``far`` return {<16 x i32>, x 4}: lane p of vector c is the big-endian number in bytes 4c to 4c + 3
# of packet p.  As LLVM functions they are the same for every program, so their text is made once.


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


MASK = ir.VectorType(I1, LANES)


@dataclass(frozen=True)
class _State:
    """The lanes that take an edge of the control flow, and what their registers and memory hold."""

    mask: Any
    a: Any
    x: Any
    memory: tuple[Any, ...]

    def values(self) -> tuple[Any, ...]:
        return (self.mask, self.a, self.x, *self.memory)


def build_group(module: ir.Module, program: Program) -> ir.Function:
    """Add the function ``group`` to the module, for the functions of wirecap.filters.native_vector."""
    function = ir.Function(module, GROUP, "group")
    function.linkage = "available_externally"
    function.attributes.add("alwaysinline")
    lanes = _Lanes(function, program)
    b = lanes.builder
    if program.reads:
        inside, late = b.append_basic_block("inside"), b.append_basic_block("late")
        b.cbranch(lanes.are_inside(function.args[4]), inside, late)
        b.position_at_end(late)
        b.ret(ir.Constant(I64, -1))
        b.position_at_end(inside)
    accepted = lanes.run()
    b.ret(b.zext(b.bitcast(accepted, I16), I64))
    return function


class _Lanes:
    """Emits the program for one group of packets; ``run`` returns the mask of those that match."""

    def __init__(self, function: ir.Function, program: Program) -> None:
        self.builder = b = ir.IRBuilder(function.append_basic_block("entry"))
        self.program = program
        self.arena, self.address, captured, original, _ = function.args
        self.captured, self.original = (b.load(row, typ=LANE32, align=4) for row in (captured, original))
        self.near_function, self.far_function = (
            ir.Function(function.module, kind, name) for kind, name in ((NEAR, "near"), (FAR, "far"))
        )
        self.blocks = dominators(program)
        self.splats: dict[int, Any] = {}
        self.windows: dict[tuple[int, int], list[Any]] = {}
        self.arriving: dict[int, list[_State]] = {at: [] for at in self.blocks}
        self.accepted: Any = constant(MASK, 0)
        self.near, self.far = plan(program)

    def are_inside(self, limit: Any) -> Any:
        """Whether no packet's captured bytes end behind ``limit``."""
        b = self.builder
        ends = b.add(b.load(self.address, typ=LANE64, align=8), b.zext(self.captured, LANE64))
        undefined = ir.Constant(LANE64, ir.Undefined)
        limits = b.insert_element(undefined, limit, ir.Constant(I32, 0))
        limits = b.shuffle_vector(limits, undefined, ir.Constant(LANE32, [ir.Constant(I32, 0)] * LANES))
        return b.icmp_unsigned("==", b.bitcast(b.icmp_signed(">", ends, limits), I16), ir.Constant(I16, 0))

    def run(self) -> Any:
        zero = self.splat(0)
        self.arriving[0].append(_State(constant(MASK, 1), zero, zero, (zero,) * op.MEMORY_WORDS))
        self._block(0)
        return self.accepted

    def splat(self, value: int) -> Any:
        """One constant object for each value, so that equal values are seen to be equal."""
        return self.splats.setdefault(value, constant(LANE32, value))

    def _block(self, first: int) -> None:
        states = self.arriving.pop(first)
        if not states:
            return
        state = self._merge(states)
        block = self.blocks[first]
        if first and any(self._is_costly(at, state) for at in range(block.first, block.last + 1)):
            with _Skip(self, state.mask):
                self._body(block, state)
        else:
            self._body(block, state)

    def _body(self, block: Block, state: _State) -> None:
        b, program = self.builder, self.program
        for at in range(block.first, block.last + 1):
            code, _, _, k = program.rows[at]
            if code & 7 == op.RET:
                mask = state.mask
                if code & 0x18 == op.A:
                    mask = b.and_(mask, b.icmp_unsigned("!=", state.a, self.splat(0)))
                if code & 0x18 == op.A or k:
                    self.accepted = b.or_(self.accepted, mask)
            elif code & 7 != op.JMP:
                state = self._step(state, code, k)
            elif len(set(program.targets(at))) == 2:
                test = condition(b, code & 0xF0, state.a, state.x if code & op.X else self.splat(k))
                where_true, where_false = program.targets(at)
                self._go(where_true, state, b.and_(state.mask, test))
                self._go(where_false, state, b.and_(state.mask, b.not_(test)))
            else:
                self._go(program.targets(at)[0], state, state.mask)
        if program.rows[block.last][0] & 7 not in (op.RET, op.JMP):
            self._go(block.last + 1, state, state.mask)
        for child in block.children:
            self._block(child)

    def _go(self, target: int, state: _State, mask: Any) -> None:
        self.arriving[target].append(replace(state, mask=mask))

    def _merge(self, states: list[_State]) -> _State:
        b, merged = self.builder, states[0]
        for state in states[1:]:
            chosen = [
                old if old is new else b.select(state.mask, new, old)
                for old, new in zip(merged.values()[1:], state.values()[1:], strict=True)
            ]
            merged = _State(b.or_(merged.mask, state.mask), chosen[0], chosen[1], tuple(chosen[2:]))
        return merged

    def _step(self, state: _State, code: int, k: int) -> _State:
        b, kind = self.builder, code & 7
        if kind in (op.LD, op.LDX):
            value, mask = self._loaded(state, code, k)
            state = replace(state, mask=mask)
            return replace(state, a=value) if kind == op.LD else replace(state, x=value)
        if kind in (op.ST, op.STX):
            memory = list(state.memory)
            memory[k] = state.a if kind == op.ST else state.x
            return replace(state, memory=tuple(memory))
        if kind == op.MISC:
            return replace(state, x=state.a) if code & 0xF8 == op.TAX else replace(state, a=state.x)
        if code == op.ALU | op.NEG:
            return replace(state, a=b.sub(self.splat(0), state.a))
        operand = state.x if code & op.X else self.splat(k)
        if code & op.X and code & 0xF0 in (op.DIV, op.MOD):
            state = replace(state, mask=b.and_(state.mask, b.icmp_unsigned("!=", operand, self.splat(0))))
        return replace(state, a=alu(b, code & 0xF0, state.a, operand))

    def _loaded(self, state: _State, code: int, k: int) -> tuple[Any, Any]:
        """What a load gives, and the lanes that have the bytes."""
        b, mode = self.builder, code & 0xE0
        if mode == op.IMM:
            return self.splat(k), state.mask
        if mode == op.MEM:
            return state.memory[k], state.mask
        if mode == op.LEN:
            return self.original, state.mask
        size = size_of(code)
        if k + size > 0xFFFFFFFF:
            return self.splat(0), constant(MASK, 0)
        has = b.icmp_unsigned(">=", self.captured, self.splat(k + size))
        if mode == op.IND:
            room = b.sub(self.captured, self.splat(k + size))
            has = b.and_(has, b.icmp_unsigned("<=", state.x, room))
        key = self._key(code, k, state)
        value = self._cut(self._window(key, state.x), k - key[1], size)
        if mode == op.MSH:
            value = b.shl(b.and_(value, self.splat(0x0F)), self.splat(2))
        return value, b.and_(state.mask, has)

    def _is_costly(self, at: int, state: _State) -> bool:
        """Whether an instruction fetches packet bytes, or divides (which no vector unit does)."""
        code, _, _, k = self.program.rows[at]
        if code & 7 == op.ALU:
            return code & 0xF0 in (op.DIV, op.MOD)
        return reads_packet(code) and self._key(code, k, state) not in self.windows

    def _key(self, code: int, k: int, state: _State) -> tuple[int, int]:
        """Which window holds the bytes: (what is added to its start, its start)."""
        if code & 0xE0 == op.IND:
            return id(state.x), self.far[k]
        return (0, self.near[k]) if k in self.near else (id(self.splat(0)), self.far[k])

    def _window(self, key: tuple[int, int], x: Any) -> list[Any]:
        """The four vectors of a window, byte 0 of each 4 bytes highest."""
        if key not in self.windows:
            b, (added, start) = self.builder, key
            if not added:
                columns = b.call(
                    self.near_function, [b.gep(self.arena, [ir.Constant(I64, start)], source_etype=I8), self.address]
                )
            else:
                # A lane whose window starts behind its captured bytes reads its first bytes instead.
                shift = x if added == id(x) else self.splat(0)
                has = b.icmp_unsigned(">=", self.captured, self.splat(start))
                has = b.and_(has, b.icmp_unsigned("<=", shift, b.sub(self.captured, self.splat(start))))
                offsets = b.select(has, b.add(shift, self.splat(start)), self.splat(0))
                columns = b.call(self.far_function, [self.arena, self.address, offsets])
            self.windows[key] = [b.extract_value(columns, at) for at in range(4)]
        return self.windows[key]

    def _cut(self, window: list[Any], at: int, size: int) -> Any:
        """``size`` bytes at byte ``at`` of a window, as a number in each lane."""
        b, (column, rest) = self.builder, divmod(at, 4)
        value = window[column]
        if rest + size > 4:
            left = b.shl(value, self.splat(8 * rest))
            value = b.or_(left, b.lshr(window[column + 1], self.splat(32 - 8 * rest)))
            rest = 0
        if size == 4:
            return value
        value = b.lshr(value, self.splat(32 - 8 * (rest + size)))
        return b.and_(value, self.splat((1 << 8 * size) - 1))


class _Skip:
    """Runs what is emitted inside only where some lane is in ``mask``; joins what leaves it."""

    def __init__(self, lanes: _Lanes, mask: Any) -> None:
        self.lanes = lanes
        self.mask = mask

    def __enter__(self) -> None:
        lanes, b = self.lanes, self.lanes.builder
        bits = b.bitcast(self.mask, I16)
        self.body, self.join = b.append_basic_block("body"), b.append_basic_block("join")
        b.cbranch(b.icmp_unsigned("!=", bits, ir.Constant(I16, 0)), self.body, self.join)
        self.before = b.block
        self.accepted, self.windows = lanes.accepted, dict(lanes.windows)
        self.inside = len(b.function.blocks)
        b.position_at_end(self.body)

    def __exit__(self, *error: object) -> None:
        lanes, b = self.lanes, self.lanes.builder
        after = b.block
        b.branch(self.join)
        new = {id(block) for block in (self.body, *b.function.blocks[self.inside :])}
        b.position_at_end(self.join)
        joined: dict[int, Any] = {}

        def leave(value: Any, otherwise: Any = None) -> Any:
            if id(getattr(value, "parent", None)) not in new:
                return value
            if id(value) not in joined:
                phi = b.phi(value.type)
                phi.add_incoming(value, after)
                phi.add_incoming(otherwise if otherwise is not None else constant(value.type, 0), self.before)
                joined[id(value)] = phi
            return joined[id(value)]

        for at, states in lanes.arriving.items():
            lanes.arriving[at] = [
                _State(leave(s.mask), leave(s.a), leave(s.x), tuple(leave(value) for value in s.memory)) for s in states
            ]
        if lanes.accepted is not self.accepted:
            lanes.accepted = leave(lanes.accepted, self.accepted)
        lanes.windows = self.windows
