"""Which 16 bytes of a packet a program's loads are served from: few windows, chosen before code is made."""

from __future__ import annotations

from wirecap.filters import opcodes as op
from wirecap.filters.program import Program, reads_packet
from wirecap.kernels.select import SLACK

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
