"""The native filter against libpcap's own interpreter."""

from __future__ import annotations

import time

import numpy as np
import pytest
from filter_corpus import (
    DIVIDE,
    EVERYDAY,
    LATE,
    REMAINDER,
    SHIFT,
    Trace,
    c_program,
    expressions,
    interpreter,
    libpcap_says,
    programs,
    snapped,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit
from numba.core import config

from wirecap.filters import opcodes as op
from wirecap.filters.expression import compile_filter
from wirecap.filters.native import NativeFilter
from wirecap.filters.program import Program
from wirecap.kernels.base import jit
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.handlers import filter as words
from wirecap.kernels.handlers.filter import repeat, select, tally

pytestmark = pytest.mark.kernel

# The generated code is the same with bounds checks; the kernel around it is what they are for.
CORPUS = EVERYDAY[::2] if PURE else expressions()[:: 5 if config.BOUNDSCHECK else 1]
SAMPLE = slice(None, None, 600) if PURE else slice(None)
INTERPRETER = interpreter()


@pytest.fixture(scope="module", autouse=True)
def _prepared():
    jit.prepare([select, repeat, tally])


@njit(nogil=True)
def interpret_all(arena, address, captured, original, program, hits):
    for i in range(len(address)):
        packet = arena.ctypes.data + address[i]
        hits[i] = INTERPRETER(program.ctypes.data, packet, original[i], captured[i]) != 0


def libpcap_hits(data: np.ndarray, rows: list[np.ndarray], program: Program) -> np.ndarray:
    """Which packets libpcap's interpreter accepts."""
    hits = np.zeros(len(rows[0]), bool)
    if PURE:
        packets = (data[at : at + size].tobytes() for at, size in zip(*rows[:2], strict=True))
        hits[:] = [libpcap_says(program, packet, int(size)) for packet, size in zip(packets, rows[2], strict=True)]
    else:
        interpret_all(data, *rows[:3], c_program(program).view(np.uint8), hits)
    return hits


def check_select(
    compiled: NativeFilter, data: np.ndarray, rows: list[np.ndarray], hits: np.ndarray, chunk: int
) -> None:
    """Select chunk by chunk: the packets of ``hits`` come first, in order, and no descriptor is lost."""
    for low in range(0, len(rows[0]), chunk):
        part = [row[low : low + chunk].copy() for row in rows]
        wanted = hits[low : low + chunk]
        assert tally(data, *part, len(part[0]), compiled.state) == wanted.sum()
        m = compiled.process(data, *part, len(part[0]), compiled.state)
        assert part[3][:m].tolist() == rows[3][low : low + chunk][wanted].tolist()
        assert sorted(part[3].tolist()) == rows[3][low : low + chunk].tolist()
        for mine, given_row in zip(part, rows, strict=True):
            assert np.array_equal(mine, given_row[part[3]])


@pytest.mark.parametrize("chunk", [5, 16, 61, 256, 3000])
def test_lengths_stay_with_their_packets_where_captured_and_original_are_one_array(trace: Trace, chunk):
    """AF_XDP never cuts a packet, so that both lengths are one array: each packet keeps its own all the same."""
    data, rows = trace
    address, lengths = (np.ascontiguousarray(row[SAMPLE][:3000]) for row in rows[:2])
    assert len(set(lengths.tolist())) > 3
    for text in ("tcp", "udp", "len > 200", "ip[3] & 1 = 1"):
        compiled = _compiled(text)
        hits = libpcap_hits(data, [address, lengths, lengths], compiled.program)
        for low in range(0, len(address), chunk):
            part, own = address[low : low + chunk].copy(), lengths[low : low + chunk].copy()
            number = np.arange(low, low + len(part))
            m = compiled.process(data, part, own, own, number, len(part), compiled.state)
            assert number[:m].tolist() == (low + np.flatnonzero(hits[low : low + chunk])).tolist()
            assert np.array_equal(part, address[number])
            assert np.array_equal(own, lengths[number])


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "snapped"])
def test_native_code_agrees_with_libpcap_on_the_trace(trace: Trace, cut):
    """For 500 expressions, on all packets of the real trace, whole and snapped, the same packets match."""
    data, rows = trace
    rows = snapped(rows, 7) if cut else rows
    rows = [np.ascontiguousarray(row[SAMPLE]) for row in rows]
    rows[3] = np.arange(len(rows[0]))
    for number, text in enumerate(CORPUS):
        program = compile_filter(text)
        hits = libpcap_hits(data, rows, program)
        compiled = _compiled(text)
        work = [row.copy() for row in rows]
        m = compiled.process(data, *work, len(work[0]), compiled.state)
        assert work[3][:m].tolist() == np.flatnonzero(hits).tolist(), text
        if number % 25 == 0:
            check_select(compiled, data, [row[:3000] for row in rows], hits[:3000], (256, 61, 16, 5)[number // 25 % 4])


_filters: dict[str, NativeFilter] = {}


def _compiled(text: str) -> NativeFilter:
    if text not in _filters:
        _filters[text] = NativeFilter(compile_filter(text))
    return _filters[text]


packets = st.lists(
    st.tuples(st.one_of(st.binary(max_size=80), st.binary(min_size=40, max_size=90)), st.integers(0, 3000)),
    min_size=1, max_size=40,
)  # fmt: skip


@settings(deadline=None, max_examples=40 if PURE or config.BOUNDSCHECK else 120)
@given(programs(), packets, st.sampled_from([0, 100, 300, 300]))
@example(DIVIDE, [(bytes([7, divisor]), 2) for divisor in (0, 1, 7, 8)] * 5, 0)
@example(DIVIDE, [(bytes([7, divisor]), 2) for divisor in (0, 1, 7, 8)] * 5, 300)
@example(REMAINDER, [(bytes([7, divisor]), 2) for divisor in (0, 1, 5, 7)] * 5, 300)
@example(LATE, [(bytes([first]) + bytes(40), 0) for first in (0, 1)] * 20, 300)
@example(LATE, [(bytes([first]) + bytes([first] * 40), 0) for first in (0, 1, 2, 3)] * 10, 300)
@example(SHIFT, [(b"", length) for length in (0, 30, 31, 32, 33, 64, 3000)] * 3, 300)
def test_native_code_agrees_with_libpcap_on_random_programs(program, packets, room):
    """Any valid program, on any packets, near the arena's end or not, accepts what libpcap's interpreter accepts."""
    arena = np.frombuffer(b"".join(data for data, _ in packets) + bytes(room + 1), np.uint8).copy()
    captured = np.array([len(data) for data, _ in packets], np.uint32)
    rows = [
        np.cumsum(captured, dtype=np.int64) - captured,
        captured,
        np.array([len(data) + more for data, more in packets], np.uint32),
        np.arange(len(packets)),
    ]
    hits = np.array([libpcap_says(program, data, len(data) + more) for data, more in packets])
    check_select(NativeFilter(program), arena, rows, hits, len(packets))


def _maximal(jump: list[tuple[int, int, int, int]], gap: int) -> Program:
    """A jump over ``gap`` instructions that would reject."""
    return Program.of([(op.LD | op.B | op.ABS, 0, 0, 0), *jump, *[(op.RET, 0, 0, 0)] * gap, (op.RET, 0, 0, 1)])


@pytest.mark.parametrize(
    ("program", "grouped"),
    [
        (_maximal([(op.JMP | op.JEQ, 250, 0, 1)], 250), True),
        (_maximal([(op.JMP | op.JEQ, 0, 250, 1)], 250), True),
        (_maximal([(op.JMP | op.JEQ, 255, 255, 1)], 255), False),
        (_maximal([(op.JMP | op.JEQ, 1, 0, 1), (op.RET, 0, 0, 0), (op.JMP | op.JA, 0, 0, 4000)], 4000), False),
    ],
)
def test_maximal_jumps(program, grouped):
    """Jumps over as many instructions as the format has room for lead where they should."""
    arena = np.zeros(600, np.uint8)
    arena[0:40:3] = 1
    address = np.arange(40)
    sizes = np.ones(40, np.uint32)
    rows = [address, sizes, sizes.copy(), np.arange(40)]
    hits = np.array([libpcap_says(program, bytes([byte])) for byte in arena[:40].tolist()])
    assert hits.any()
    compiled = NativeFilter(program)
    assert PURE or (compiled.state[words.TEST] != 0) == grouped
    check_select(compiled, arena, rows, hits, 40)


def test_an_endless_program_ends():
    """A program that jumps back for ever rejects the packet after a bounded number of turns."""
    program = Program.of([(op.ALU | op.ADD, 0, 0, 1), (op.JMP | op.JA, 0, 0, 0xFFFFFFFE), (op.RET, 0, 0, 1)])
    rows = [np.zeros(1, np.int64), np.ones(1, np.uint32), np.ones(1, np.uint32), np.zeros(1, np.int64)]
    compiled = NativeFilter(program)
    assert compiled.process(np.zeros(1, np.uint8), *rows, 1, compiled.state) == 0


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 255, 256, 2500])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.97, 1.0])
def test_matches_come_first_whatever_their_share(n, share):
    """Whether none, few, half, nearly all or all packets match: they come first, in order, and none is lost."""
    generator = np.random.default_rng(n)
    hits = generator.random(n) < share
    arena = np.concatenate([hits.astype(np.uint8), np.zeros(300, np.uint8)])
    sizes = generator.integers(1, 3000, (2, n)).astype(np.uint32)
    sizes[0] = 1
    rows = [np.arange(n), sizes[0], sizes[1], np.arange(n)]
    compiled = NativeFilter(compile_filter("ether[0] = 1"))
    check_select(compiled, arena, rows, hits, max(n, 1))


def test_rows_behind_the_chunk_stay_as_they_are():
    """Only the first n descriptors are touched."""
    arena = np.zeros(1000, np.uint8)
    arena[[1, 3, 20]] = 1
    rows = [np.arange(64), np.ones(64, np.uint32), np.ones(64, np.uint32), np.arange(64)]
    compiled = NativeFilter(compile_filter("ether[0] = 1"))
    assert compiled.process(arena, *rows, 33, compiled.state) == 3
    assert rows[3][:3].tolist() == [1, 3, 20]
    for row in rows:
        assert row[33:].tolist() == ([1] * 31 if row.dtype == np.uint32 else list(range(33, 64)))


def test_repeat_applies_the_filter_x_times():
    """The evaluations are counted: n packets times x, and x matches for each packet that matches."""
    compiled = NativeFilter(compile_filter("ether[0] = 1"))
    state = compiled.repeated(7)
    arena = np.array([1, 0, 1, 1, 0], np.uint8)
    rows = [np.arange(5), np.ones(5, np.uint32), np.ones(5, np.uint32), np.arange(5)]
    assert repeat(arena, *rows, 5, state) == 0
    assert state[words.APPLIED] == 35
    assert state[words.MATCHED] == 21
    assert rows[3].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.skipif(PURE, reason="about the time that compiled code takes")
def test_the_time_grows_in_proportion_to_x():
    """Ten times as many evaluations take about ten times the CPU: none is optimised away."""
    compiled = NativeFilter(compile_filter("tcp port 443"))
    arena = np.zeros(60 * 256 + 300, np.uint8)
    rows = [np.arange(256) * 60, np.full(256, 60, np.uint32), np.full(256, 60, np.uint32), np.arange(256)]

    def best_ns(times: int) -> int:
        state, best = compiled.repeated(times), 1 << 62
        for _ in range(7):
            start = time.thread_time_ns()
            repeat(arena, *rows, 256, state)
            best = min(best, time.thread_time_ns() - start)
        return best

    few, many = best_ns(300), best_ns(3000)
    assert 5 < many / few < 20
    assert few / (256 * 300) > 0.2  # ns for one evaluation: a call is made for each
