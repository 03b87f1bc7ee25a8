"""Filters as kernels: descriptors that match move to the front of a chunk's rows, in order.

A packet is tested by code generated for the filter.  That is called by its address, so the kernels here are compiled
(and cached) once for all filters.  Descriptors move 16 at a time if the host has AVX-512.
Under NUMBA_DISABLE_JIT=1, the filter's classic BPF program, which is also in the state, is interpreted instead.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from wirecap.kernels.af_packet.blocks import OUTBOUND, PACKET_OUTGOING
from wirecap.kernels.base.jit import PURE, chosen, compiler, inline, intrinsic, kernel
from wirecap.kernels.base.later import cgutils, ir, llvm, types
from wirecap.kernels.pool.handler_loop import PROCESS_SIGNATURE

LANES = 16
"""Packets that a filter tests at once."""
ALL = (1 << LANES) - 1


@intrinsic
def count_bits(typing: Any, bits: Any):
    """How many bits are set."""
    return types.int64(types.int64), lambda context, b, signature, values: b.ctpop(values[0])


@intrinsic
def first_bit(typing: Any, bits: Any):
    """The position of the lowest bit that is set."""

    def generate(context: Any, b: Any, signature: Any, values: Any) -> Any:
        return b.cttz(values[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


@inline
def swap(address, captured, original, timestamp, i, m):
    """Swap two descriptors.  captured and original may be the same array: both are read before either is written."""
    address[i], address[m] = address[m], address[i]
    captured_i, captured_m, original_i, original_m = captured[i], captured[m], original[i], original[m]
    captured[i], captured[m], original[i], original[m] = captured_m, captured_i, original_m, original_i
    timestamp[i], timestamp[m] = timestamp[m], timestamp[i]


@inline
def _split_scalar(address, captured, original, timestamp, i, m, bits):
    first = m
    for j in range(i, i + LANES):
        if bits & 1:
            swap(address, captured, original, timestamp, j, m)
            m += 1
        bits >>= 1
    return m - first


def _fastest_split() -> Any:
    if llvm.llvm_version_info[0] < 17 or not compiler().has_feature("avx512bw"):
        return _split_scalar
    return import_module("wirecap.kernels.handlers.split_avx512").split


split = _split_scalar if PURE else chosen(_fastest_split)
"""split(address, captured, original, timestamp, i, m, bits): moves those of the 16 descriptors at i whose bit is set
to m, and returns how many there are.  None from m to i match; no descriptor is lost.
"""


# The words of a filter's state: addresses of its code; how many groups of packets ahead it prefetches; how often
# ``repeat`` applies it to each packet, how often it has done so in all, how often the filter matched; and the program:
# code, jt, jf, k of each instruction.
TEST, MATCH, AHEAD, TIMES, APPLIED, MATCHED, PROGRAM = range(7)

SLACK = 208
"""Bytes after a packet's captured ones that ``test`` may read (and ignores)."""
BLOCK = 1024
"""Packets that are tested before their descriptors move."""
AHEAD_GROUPS = 4
"""Groups between the packets being prefetched and those being tested: a fetch from memory takes that long."""


def new_state(instructions: Any, test: int, match: int, reads: bool) -> Any:
    """The state of a filter: ``instructions`` (n, 4) int64, and the addresses of its two functions (test may be 0).

    ``reads``: whether it looks at packet bytes, not only at lengths.
    """
    state = np.zeros(PROGRAM + 4 * len(instructions), np.int64)
    state[TEST], state[MATCH], state[TIMES] = test, match, 1
    state[AHEAD] = AHEAD_GROUPS if reads else 0
    state[PROGRAM:] = instructions.reshape(-1)
    return state


@intrinsic
def _bits(typing: Any):
    """The address of one word per 16 packets of a block, on the calling kernel's stack."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(64)
        with builder.goto_entry_block():  # Numba's own helper would also zero it
            slot = builder.alloca(ir.ArrayType(word, BLOCK // LANES))
        return builder.ptrtoint(slot, word)

    return types.int64(), generate


@intrinsic
def _word(typing: Any, address: Any, index: Any):
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(builder.gep(builder.inttoptr(values[0], ir.IntType(64).as_pointer()), [values[1]]))

    return types.int64(address, index), generate


@intrinsic
def _call_test(typing: Any, code: Any, arena: Any, address: Any, captured: Any, original: Any, low: Any, groups: Any,
               ahead: Any, bits: Any):  # fmt: skip
    signature = types.void(code, arena, address, captured, original, low, groups, ahead, bits)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word, pointer = ir.IntType(64), ir.IntType(8).as_pointer()
        arrays = [
            cgutils.create_struct_proxy(kind)(context, builder, value)
            for kind, value in zip(signature.args[1:5], values[1:5], strict=True)
        ]
        rows = [builder.bitcast(builder.gep(array.data, [values[5]]), pointer) for array in arrays[1:]]
        limit = builder.sub(arrays[0].nitems, ir.Constant(word, SLACK))
        kind = ir.FunctionType(ir.VoidType(), [pointer] * 4 + [word] * 4)
        function = builder.inttoptr(values[0], kind.as_pointer())
        builder.call(function, [builder.bitcast(arrays[0].data, pointer), *rows, limit, *values[6:]])

    return signature, generate


@intrinsic
def _call_match(typing: Any, code: Any, arena: Any, address: Any, captured: Any, original: Any):
    signature = types.int64(code, arena, address, captured, original)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = cgutils.create_struct_proxy(signature.args[1])(context, builder, values[1])
        word, half, pointer = ir.IntType(64), ir.IntType(32), ir.IntType(8).as_pointer()
        packet = builder.gep(builder.bitcast(array.data, pointer), [values[2]])
        function = builder.inttoptr(values[0], ir.FunctionType(word, [pointer, half, half]).as_pointer())
        return builder.call(function, [packet, values[3], values[4]])

    return signature, generate


DIRECTION = 3
"""The bits of epb_flags for it; their lowest byte stands before a packet where a filter asks for directions."""
PACKET_TYPE = 0xFFFFF004
"""The load that asks (SKF_AD_OFF + SKF_AD_PKTTYPE of linux/filter.h)."""


def _interpret(state: Any, packet: Any, original: int, flags: int) -> int:
    """The program's answer (1 or 0) for ``packet``, the captured bytes; flags: the byte before them."""
    program = state[PROGRAM:].reshape(-1, 4).tolist()
    a = x = at = backward = 0
    memory = [0] * 16
    while True:
        code, jt, jf, k = program[at]
        at += 1
        kind, operand = code & 7, x if code & 8 else k
        if kind <= 1:
            mode, size = code & 0xE0, {0: 4, 8: 2, 16: 1}[code & 0x18]
            start = k + x if mode == 0x40 else k
            if mode == 0x20 and k == PACKET_TYPE:
                a = PACKET_OUTGOING * (flags & DIRECTION == OUTBOUND)
                continue
            if mode in (0x20, 0x40, 0xA0) and start + size > len(packet):
                return 0
            here = int.from_bytes(packet[start : start + size].tobytes(), "big") if mode in (0x20, 0x40, 0xA0) else 0
            value = {0: k, 0x20: here, 0x40: here, 0x60: memory[k & 15], 0x80: original, 0xA0: (here & 15) * 4}[mode]
            a, x = (value, x) if kind == 0 else (a, value)
        elif kind <= 3:
            memory[k] = a if kind == 2 else x
        elif kind == 4:
            if code & 0xF0 in (0x30, 0x90) and operand == 0:
                return 0
            a = _calculate(code & 0xF0, a, operand) & 0xFFFFFFFF
        elif code == 5:
            step = k - (1 << 32) if k >> 31 else k
            backward += step < 0
            if backward > 16384:
                return 0
            at += step
        elif kind == 5:
            test = {0x10: a == operand, 0x20: a > operand, 0x30: a >= operand, 0x40: a & operand != 0}
            at += jt if test[code & 0xF0] else jf
        elif kind == 6:
            return int((a if code & 0x18 else k) != 0)
        else:
            a, x = (x, x) if code & 0x80 else (a, a)


def _calculate(operation: int, a: int, operand: int) -> int:
    if operation in (0x60, 0x70) and operand > 31:
        return 0
    return {
        0x00: lambda: a + operand, 0x10: lambda: a - operand, 0x20: lambda: a * operand, 0x30: lambda: a // operand,
        0x40: lambda: a | operand, 0x50: lambda: a & operand, 0x60: lambda: a << operand, 0x70: lambda: a >> operand,
        0x80: lambda: -a, 0x90: lambda: a % operand, 0xA0: lambda: a ^ operand,
    }[operation]()  # fmt: skip


if PURE:

    def match(state, arena, address, captured, original):  # type: ignore[no-untyped-def]
        """Whether the filter accepts one packet: 1 or 0."""
        packet, flags = arena[address : address + int(captured)], int(arena[address - 1])
        return _interpret(state, packet, int(original), flags)

else:

    @inline
    def match(state, arena, address, captured, original):
        """Whether the filter accepts one packet: 1 or 0."""
        return _call_match(state[MATCH], arena, address, captured, original)


@inline
def _one_by_one(arena, address, captured, original, timestamp, i, end, m, state):
    for j in range(i, end):
        if match(state, arena, address[j], captured[j], original[j]):
            swap(address, captured, original, timestamp, j, m)
            m += 1
    return m


@inline
def _block(arena, address, captured, original, timestamp, low, groups, m, state, bits):
    """Test ``groups`` groups of 16 packets from low on, and move those that match to m; returns the new m."""
    _call_test(state[TEST], arena, address, captured, original, low, groups, state[AHEAD], bits)
    for g in range(groups):
        i = low + g * LANES
        hits = _word(bits, g)
        if hits < 0:
            m = _one_by_one(arena, address, captured, original, timestamp, i, i + LANES, m, state)
        elif hits == ALL and m == i:
            m += LANES
        elif hits & (hits - 1):
            m += split(address, captured, original, timestamp, i, m, hits)
        elif hits != 0:
            swap(address, captured, original, timestamp, i + first_bit(hits), m)
            m += 1
    return m


@kernel(PROCESS_SIGNATURE)
def select(arena, address, captured, original, timestamp, n, state):
    """Move the descriptors that match to the front, in order, and the others after them; returns how many match."""
    i = 0
    m = 0
    if state[TEST] != 0:
        bits = _bits()
        while i + LANES <= n:
            groups = min(BLOCK, n - i) // LANES
            m = _block(arena, address, captured, original, timestamp, i, groups, m, state, bits)
            i += groups * LANES
    return _one_by_one(arena, address, captured, original, timestamp, i, n, m, state)


@kernel(PROCESS_SIGNATURE)
def tally(arena, address, captured, original, timestamp, n, state):
    """How many of the packets match; no descriptor moves."""
    i = 0
    matching = 0
    if state[TEST] != 0:
        bits = _bits()
        while i + LANES <= n:
            groups = min(BLOCK, n - i) // LANES
            _call_test(state[TEST], arena, address, captured, original, i, groups, state[AHEAD], bits)
            for g in range(groups):
                hits = _word(bits, g)
                if hits < 0:
                    for j in range(i + g * LANES, i + (g + 1) * LANES):
                        matching += match(state, arena, address[j], captured[j], original[j])
                else:
                    matching += count_bits(hits)
            i += groups * LANES
    for j in range(i, n):
        matching += match(state, arena, address[j], captured[j], original[j])
    return matching


@kernel(PROCESS_SIGNATURE)
def repeat(arena, address, captured, original, timestamp, n, state):
    """Apply the filter to each packet state[TIMES] times, and count; returns 0.  Each thread has its own state.

    The code is called by its address, so the compiler cannot know that the answers are the same.
    """
    for i in range(n):
        for _ in range(state[TIMES]):
            state[MATCHED] += match(state, arena, address[i], captured[i], original[i])
    state[APPLIED] += n * state[TIMES]
    return 0
