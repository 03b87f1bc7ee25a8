"""A filter as a packet socket runs it: what is let in, and how much of it is kept."""

from __future__ import annotations

import socket
import struct

import numpy as np
import pytest
from filter_corpus import EVERYDAY, libpcap_says, programs
from hypothesis import given
from hypothesis import strategies as st

from wirecap.filters import opcodes as op
from wirecap.filters.expression import compile_filter
from wirecap.filters.in_socket import LONGEST_PROGRAM, WHOLE, fits, reach, socket_program
from wirecap.filters.program import Program
from wirecap.traffic import synthetic

SO_ATTACH_FILTER = 26  # asm-generic/socket.h
PACKETS = [
    synthetic.udp(1400), synthetic.udp(60, source_port=443), bytes(14), b"\xff" * 200,
    synthetic.udp(700)[:14] + b"\x4f" + synthetic.udp(700)[15:],  # the longest IP header
]  # fmt: skip


@pytest.mark.parametrize("expression", EVERYDAY)
def test_what_is_kept_decides_alike(expression):
    """The filter says the same of a packet that was cut to its reach as of the whole one."""
    program = compile_filter(expression)
    for packet in PACKETS:
        cut = packet[: reach(program)]
        assert libpcap_says(program, cut, len(packet)) == libpcap_says(program, packet)


@given(programs(), st.binary(min_size=1, max_size=400))
def test_reach_of_any_program(program, packet):
    """So it does for every program that is valid, whatever it computes."""
    cut = packet[: max(1, reach(program))]
    assert libpcap_says(program, cut, len(packet)) == libpcap_says(program, packet)


def test_reach_is_short_for_everyday_filters():
    """Ports and addresses need the headers only, whatever computes an offset the whole packet."""
    assert reach(compile_filter("arp")) <= 14
    assert reach(compile_filter("tcp port 80")) <= 14 + 60 + 4
    assert reach(compile_filter("ether[ip[9]:2] = 0x0800")) == WHOLE


def test_nothing_to_attach():
    """Without a filter, a length, a direction or loopback the socket has no program."""
    assert socket_program(None, WHOLE) is None
    assert socket_program(None, 96) == [(op.RET, 0, 0, 96)]
    assert socket_program(None, WHOLE, loopback=1)[-1] == (op.RET, 0, 0, WHOLE)


def test_returns_keep_what_the_threads_filter_needs():
    """A snap length shorter than the reach does not cut what the threads' filter looks at again."""
    program = compile_filter("tcp port 80")
    lengths = {k for code, _, _, k in socket_program(program, 20) if code == op.RET and k}
    assert lengths == {WHOLE, reach(program)}  # tagged packets whole, others to the reach
    assert {k for code, _, _, k in socket_program(program, 500) if code == op.RET and k} == {WHOLE, 500}


def test_loops_stay_out_of_the_kernel():
    """The kernel takes no jumps backward."""
    assert fits(compile_filter("tcp port 80"))
    assert not fits(compile_filter("ip6 protochain 6"))


def test_what_is_too_long_stays_out_of_the_kernel():
    """A socket takes BPF_MAXINSNS instructions, those before the filter included."""
    load = (op.LD | op.W | op.LEN, 0, 0, 0)
    longest = Program.of([load] * (LONGEST_PROGRAM - 1) + [(op.RET | op.A, 0, 0, 0)])
    assert fits(longest)
    assert not fits(Program.of([load, *longest.rows]))
    for direction, loopback in (("in", 0), ("out", 0), ("inout", 1)):
        rows = socket_program(longest, WHOLE, direction, loopback)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            code = np.array(rows, [("code", "u2"), ("jt", "u1"), ("jf", "u1"), ("k", "u4")])
            own.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxQ", len(rows), code.ctypes.data))
            assert len(rows) <= 4096
