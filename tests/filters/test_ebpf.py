"""The eBPF translation, run by the kernel, against libpcap's own interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from filter_corpus import (
    DIVIDE,
    EVERYDAY,
    REMAINDER,
    SHIFT,
    Trace,
    expressions,
    kernel_says,
    libpcap_says,
    programs,
    why_not,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wirecap.errors import UsageError
from wirecap.filters import opcodes as op
from wirecap.filters.ebpf import TURNS, standalone, translate
from wirecap.filters.expression import compile_filter
from wirecap.filters.program import Program
from wirecap.linux import bpf
from wirecap.linux.asm import assemble

SHORTEST, LONGEST = 14, 3000
"""Bytes that BPF_PROG_TEST_RUN takes in one piece: an Ethernet header, about a page."""


@pytest.fixture(autouse=True)
def _needs_bpf():
    if why_not():
        pytest.skip(f"no XDP program can be loaded: {why_not()}")


def sample(trace: Trace, count: int) -> list[bytes]:
    """Packets spread over the trace, some of them cut."""
    data, (address, captured, _, _) = trace
    packets = []
    for number, i in enumerate(np.linspace(0, len(address) - 1, count).astype(int).tolist()):
        cut = (LONGEST, LONGEST, 14, 33, 34, 41, 53, 54, 57, 61)[number % 10]
        packets.append(data[address[i] : address[i] + min(int(captured[i]), cut)].tobytes())
    return [packet for packet in packets if len(packet) >= SHORTEST]


def test_the_kernel_agrees_with_libpcap_on_the_trace(trace: Trace):
    """The verifier takes the translations of all 500 expressions, and the same packets match."""
    everyday, few = sample(trace, 1000), sample(trace, 120)
    for text in expressions():
        program = compile_filter(text)
        loaded = bpf.Program(assemble(standalone(program)))
        for packet in everyday if text in EVERYDAY else few:
            assert kernel_says(loaded, packet) == libpcap_says(program, packet), text
        loaded.close()


@settings(deadline=None, max_examples=120)
@given(programs(), st.lists(st.binary(min_size=SHORTEST, max_size=100), min_size=1, max_size=10))
@example(DIVIDE, [bytes([7, divisor]) + bytes(20) for divisor in (0, 1, 7, 8)])
@example(REMAINDER, [bytes([7, divisor]) + bytes(20) for divisor in (0, 1, 5, 7)])
@example(SHIFT, [bytes(length) for length in (14, 30, 31, 32, 33, 63, 64, 65)])
def test_the_kernel_agrees_with_libpcap_on_random_programs(program, packets):
    """Any valid program that jumps forward passes the verifier and accepts what libpcap's interpreter accepts."""
    loaded = bpf.Program(assemble(standalone(program)))
    for packet in packets:
        assert kernel_says(loaded, packet) == libpcap_says(program, packet)
    loaded.close()


@pytest.mark.parametrize("last", [0, 1])
def test_labels_are_always_reachable(last):
    """Also a program that always accepts, or never does, refers to both labels: the verifier wants no dead code."""
    loaded = bpf.Program(assemble(standalone(Program.of([(op.RET, 0, 0, last)]))))
    assert kernel_says(loaded, bytes(60)) == bool(last)


def test_instructions_that_nothing_reaches_are_left_out():
    """An unoptimised program may have some, and the verifier would refuse them."""
    dead = (op.ALU | op.ADD, 0, 0, 1)
    program = Program.of([(op.JMP | op.JA, 0, 0, 2), dead, dead, (op.RET, 0, 0, 1)])
    assert kernel_says(bpf.Program(assemble(standalone(program))), bytes(60))
    assert kernel_says(bpf.Program(assemble(standalone(compile_filter("ip or not ip6", optimize=False)))), bytes(60))


def test_maximal_jumps():
    """Classic BPF's longest programs (4,096 instructions in the kernel) are jumped through from end to end."""
    hop = [(op.LD | op.H | op.ABS, 0, 0, 12), (op.JMP | op.JEQ, 255, 0, 0x800), *[(op.RET, 0, 0, 0)] * 255]
    program = Program.of([*hop * 15, (op.JMP | op.JA, 0, 0, 200), *[(op.RET, 0, 0, 0)] * 200, (op.RET, 0, 0, 1)])
    assert len(program) > 4000
    loaded = bpf.Program(assemble(standalone(program)))
    assert kernel_says(loaded, bytes(12) + b"\x08\x00" + bytes(46))
    assert not kernel_says(loaded, bytes(60))


def test_a_jump_that_ebpf_has_no_room_for_is_refused():
    """A program of more than 32,767 eBPF instructions in one jump is refused, not cut."""
    load = (op.LD | op.B | op.ABS, 0, 0, 0)
    program = Program.of(
        [load, (op.JMP | op.JEQ, 0, 1, 0), (op.JMP | op.JA, 0, 0, 9000), *[load] * 9000, (op.RET, 0, 0, 1)]
    )
    with pytest.raises(UsageError, match="16 bits"):
        assemble(standalone(program))


@pytest.mark.parametrize("headers", [0, 1, 5, TURNS - 1, TURNS, TURNS + 20])
def test_chains_of_headers_are_followed_so_far(headers):
    """``ip6 protochain`` finds TCP behind up to TURNS extension headers, where libpcap finds it behind any number."""
    program = compile_filter("ip6 protochain 6")
    chain = b"".join(bytes([60 if at < headers - 1 else 6, 0]) + bytes(6) for at in range(headers))
    first = bytes([60 if headers else 6])
    packet = bytes(12) + b"\x86\xdd" + b"\x60" + bytes(5) + first + bytes(33) + chain + bytes(20)
    assert libpcap_says(program, packet)
    loaded = bpf.Program(assemble(standalone(program)))
    assert kernel_says(loaded, packet) == (headers <= TURNS)


def test_a_filter_uses_what_it_is_given_only():
    """Registers other than those named, and the stack outside of its part, are left alone."""
    program = compile_filter("ip[ip[0] & 0xf] / ip[8] > 3 and tcp[0] << ip[1] = 5")
    code = translate(program, data=7, data_end=8, scratch=(1, 2, 3), stack=-128, accept="yes", reject="no", prefix="z")
    for insn in code:
        if len(insn) == 2:
            assert insn[1].startswith("z")
            continue
        name, dst, src, off, _ = insn
        assert {dst, src} <= {0, 1, 2, 3, 7, 8, 10}
        writes = not name.startswith(("j", "st"))
        assert not (writes and dst in (0, 7, 8, 10)) or name == "ja"
        if name.startswith(("stx", "st")) or (name.startswith("ldx") and src == 10):
            assert -128 <= int(off) < -128 + 72
