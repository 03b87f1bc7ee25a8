"""Filters as kernels: descriptors that match to the front, by code that was generated for the filter.

The code is called by its address, so the kernels here are compiled (and cached) once for all filters.
Under NUMBA_DISABLE_JIT=1 the filter's classic BPF program, which the state holds as well, is interpreted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from wirecap.kernels.handle import PROCESS_SIGNATURE
from wirecap.kernels.jit import PURE, inline, kernel
from wirecap.kernels.split import ALL, LANES, split, swap

# The words of a filter's state: addresses of its code; how often ``repeat`` applies it to each packet, how
# often it did in all, how often the filter matched; and its program: code, jt, jf, k of each instruction.
GROUP, MATCH, TIMES, APPLIED, MATCHED, PROGRAM = range(6)

SLACK = 208
"""Bytes behind a packet's captured ones that ``group`` may read (and ignores)."""
AHEAD = 64
"""Packets between the one that is asked for and the one that is tested: a fetch from memory takes as long."""
FIRST = 12
"""The byte of a packet that nearly every filter looks at: the EtherType."""


def new_state(instructions: Any, group: int, match: int) -> Any:
    """The state of a filter: ``instructions`` (n, 4) int64, the addresses of its two functions (group may be 0)."""
    state = np.zeros(PROGRAM + 4 * len(instructions), np.int64)
    state[GROUP], state[MATCH], state[TIMES] = group, match, 1
    state[PROGRAM:] = instructions.reshape(-1)
    return state


@intrinsic
def _call_group(typing: Any, code: Any, arena: Any, address: Any, captured: Any, original: Any, i: Any):
    signature = types.int64(code, arena, address, captured, original, i)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word, pointer = ir.IntType(64), ir.IntType(8).as_pointer()
        arguments = []
        for kind, value in zip(signature.args[1:5], values[1:5], strict=True):
            data = cgutils.create_struct_proxy(kind)(context, builder, value).data
            arguments.append(builder.bitcast(builder.gep(data, [values[5]]) if arguments else data, pointer))
        function = builder.inttoptr(values[0], ir.FunctionType(word, [pointer] * 4).as_pointer())
        return builder.call(function, arguments)

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


@intrinsic
def _prefetch(typing: Any, arena: Any, address: Any, i: Any):
    """Ask for the first bytes of the 16 packets at i."""
    signature = types.void(arena, address, i)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data, row = (
            cgutils.create_struct_proxy(kind)(context, builder, value).data
            for kind, value in zip(signature.args[:2], values[:2], strict=True)
        )
        word, half, pointer = ir.IntType(64), ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, half, half, half])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        for lane in range(LANES):
            address = builder.load(builder.gep(row, [builder.add(values[2], ir.Constant(word, lane))]))
            packet = builder.gep(data, [builder.add(address, ir.Constant(word, FIRST))])
            builder.call(function, [packet, *(ir.Constant(half, word) for word in (0, 3, 1))])

    return signature, generate


def _interpret(state: Any, packet: Any, original: int) -> int:
    """The program's answer (1 or 0) for ``packet``, the captured bytes."""
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
        return _interpret(state, arena[address : address + int(captured)], int(original))

else:

    @inline
    def match(state, arena, address, captured, original):
        """Whether the filter accepts one packet: 1 or 0."""
        return _call_match(state[MATCH], arena, address, captured, original)


@inline
def _last_end(address, captured, n):
    """Where the last packet's captured bytes end in the arena."""
    last = 0
    for i in range(n):
        last = max(last, address[i] + np.int64(captured[i]))
    return last


@kernel(PROCESS_SIGNATURE)
def select(arena, address, captured, original, stamp, n, state):
    """Bring the descriptors that match to the front, in order, the others behind them; returns how many match."""
    group = state[GROUP] if _last_end(address, captured, n) + SLACK <= arena.shape[0] else 0
    if group != 0:
        for i in range(0, min(n, AHEAD) - LANES + 1, LANES):
            _prefetch(arena, address, i)
    i = 0
    m = 0
    while group != 0 and i + LANES <= n:
        if i + AHEAD + LANES <= n:
            _prefetch(arena, address, i + AHEAD)
        bits = _call_group(group, arena, address, captured, original, i)
        if bits == ALL and m == i:
            m += LANES
        elif bits != 0:
            m += split(address, captured, original, stamp, i, m, bits)
        i += LANES
    while i < n:
        if match(state, arena, address[i], captured[i], original[i]):
            swap(address, captured, original, stamp, i, m)
            m += 1
        i += 1
    return m


@kernel(PROCESS_SIGNATURE)
def repeat(arena, address, captured, original, stamp, n, state):
    """Apply the filter state[TIMES] times to each packet, and count; returns 0.  The state is one thread's own.

    The code is called through its address, so the compiler cannot know that the answers are the same.
    """
    for i in range(n):
        for _ in range(state[TIMES]):
            state[MATCHED] += match(state, arena, address[i], captured[i], original[i])
    state[APPLIED] += n * state[TIMES]
    return 0
