"""What a handler's kernel looks like, and the loop of a handler thread."""

from __future__ import annotations

from numba import types

from wirecap.kernels.jit import i64, lengths, octets, words

PROCESS_SIGNATURE = i64(octets, words, lengths, lengths, words, i64, words)
"""process(arena, address, captured, original, stamp, n, state): rows of one chunk and the thread's state."""

PROCESS = types.FunctionType(PROCESS_SIGNATURE)
