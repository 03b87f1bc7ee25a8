"""The parts of the XDP program that ask a NIC, with answers of this test's own; kernel functions by number."""

from __future__ import annotations

import socket
import struct
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rig import flow_frames
from wirecap.linux import bpf, btf, xdp_program
from wirecap.linux.asm import Insn, assemble
from wirecap.linux.metadata import Metadata
from wirecap.linux.xdp_program import HOST_OFFSET, OFFERED, TIMESTAMPS, Ledger, best_clock, make_ledger

ENTRIES = 64
NO_DATA = -61  # ENODATA


def answering(value: int, size: str, second: int | None = None, code: int = 0) -> list[Insn]:
    """Instead of a kfunc: what it answers, into its second argument, and into its third."""
    told: list[Insn] = [("lddw", 0, 0, 0, value), (f"stx{size}", 2, 0, 0, 0)]
    if second is not None:
        told += [("mov_imm", 0, 0, 0, second), (f"stx{size}", 3, 0, 0, 0)]
    return [*told, ("mov_imm", 0, 0, 0, code)]


class Rig:
    """A program with one queue that is run on single frames: what becomes of them, and their timestamps."""

    def __init__(self, asked: Metadata, answers: dict[int, list[Insn]], **more: object) -> None:
        self.maps = bpf.Map(bpf.PERCPU_ARRAY, xdp_program.COUNTER_BYTES, 1), bpf.Map(bpf.XSKMAP, 4, 1)
        self.map = make_ledger(1, ENTRIES)
        self.words = np.frombuffer(self.map.mapped(), np.int64)
        self.words[OFFERED] = ENTRIES
        code = xdp_program.program(
            self.maps[0].fd, self.maps[1].fd, Ledger(self.map, 0, ENTRIES), 1792, best_clock(), True, asked=asked,
            **more,  # type: ignore[arg-type]
        )  # fmt: skip
        filled: list[Insn] = []
        for insn in code:
            filled += answers[int(insn[4])] if insn[0] == "call_kfunc" and len(insn) == 5 else [insn]
        self.program = bpf.Program(assemble(filled))

    def run(self, frame: bytes) -> tuple[int, bytes]:
        return self.program.run(frame)


@pytest.mark.live
@pytest.mark.parametrize("size", [14, 60, 1514])
@pytest.mark.parametrize("kind", [0x8100, 0x88A8])
def test_a_tag_is_put_back(kind: int, size: int) -> None:
    """Behind the MAC addresses, in network order; the frame counts with it."""
    frame = flow_frames(1, max(size, 60))[0][:size]
    rig = Rig(Metadata(tag=1), {1: answering(socket.htons(kind), "h", 0x6005)})
    _, after = rig.run(frame)
    assert after == frame[:12] + struct.pack(">HH", kind, 0x6005) + frame[12:]
    assert rig.maps[0].lookup(0)[:, 1].sum() == size + 4


@pytest.mark.live
def test_a_frame_without_a_tag_stays_as_it_is() -> None:
    frame = flow_frames(1)[0]
    rig = Rig(Metadata(tag=1), {1: answering(0, "h", 0, NO_DATA)})
    assert rig.run(frame) == (bpf.XDP_PASS, frame)


@pytest.mark.live
@pytest.mark.parametrize("code", [0, NO_DATA])
def test_what_goes_to_the_host_goes_as_it_came(code: int) -> None:
    """The filter has seen the tag; the host finds it beside the frame, and not twice."""
    frame = flow_frames(1)[0]
    seen: list[Insn] = [
        ("mov_reg", 4, 2, 0, 0),
        ("add_imm", 4, 0, 0, 14),
        ("jgt_reg", 4, 3, xdp_program.FILTER_ACCEPT, 0),
        ("ldxh", 4, 2, 12, 0),
        ("jeq_imm", 4, 0, xdp_program.FILTER_REJECT, socket.htons(0x8100) if not code else socket.htons(0x0800)),
    ]
    answers = {1: answering(socket.htons(0x8100), "h", 5, code)}
    rig = Rig(Metadata(tag=1), answers, filter=seen, unwanted=bpf.XDP_PASS)
    assert rig.run(frame) == (bpf.XDP_PASS, frame)
    assert rig.maps[0].lookup(0)[:, 2].sum() == 1


@pytest.mark.live
def test_the_time_of_the_nic_is_the_packets() -> None:
    """As it is, whatever the offset of the host's clock."""
    rig = Rig(Metadata(time=2), {2: answering(1_234_567_890_123_456_789, "dw")})
    rig.words[HOST_OFFSET] = 1000
    rig.run(flow_frames(1)[0])
    assert rig.words[TIMESTAMPS] == 1_234_567_890_123_456_789


@pytest.mark.live
@pytest.mark.parametrize("answer", [answering(0, "dw"), answering(77, "dw", code=NO_DATA)])
def test_a_packet_without_a_time_of_the_nic_has_the_hosts(answer: list[Insn]) -> None:
    """No answer, or a time of 0: the host's clock, and what makes UTC of it."""
    rig = Rig(Metadata(time=2), {2: answer})
    rig.words[HOST_OFFSET] = 10**15
    rig.run(flow_frames(1)[0])
    clock = time.CLOCK_TAI if best_clock() == "tai" else time.CLOCK_MONOTONIC
    assert abs(int(rig.words[TIMESTAMPS]) - 10**15 - time.clock_gettime_ns(clock)) < 30 * 10**9


def made(types: bytes, names: bytes) -> bytes:
    return struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names)) + types + names


def a_type(name: int, kind: int, members: int, extra: int) -> bytes:
    return struct.pack("=III", name, kind << 24 | members, 0) + bytes(4 * extra)


def test_functions_are_found_behind_types_of_every_kind() -> None:
    """A type's number is its place; each kind is as long as it is."""
    kinds = [
        (1, 0, 1), (2, 0, 0), (3, 0, 3), (4, 2, 6), (5, 1, 3), (6, 3, 6), (7, 0, 0), (8, 0, 0), (9, 0, 0), (10, 0, 0),
        (11, 0, 0), (13, 2, 4), (14, 0, 1), (15, 2, 6), (16, 0, 0), (17, 0, 1), (18, 0, 0), (19, 1, 3),
    ]  # fmt: skip
    before = b"".join(a_type(0, kind, members, extra) for kind, members, extra in kinds)
    content = made(before + a_type(1, 12, 1, 0) + a_type(5, 8, 0, 0) + a_type(5, 12, 0, 0), b"\0one\0two\0")
    found = btf.functions(["one", "two", "three"], content)
    assert found == {"one": len(kinds) + 1, "two": len(kinds) + 3}


@given(st.binary(max_size=200), st.binary(max_size=30), st.integers(0, 260))
def test_no_content_is_too_strange(types: bytes, names: bytes, kept: int) -> None:
    """Whatever is in the file, and wherever it ends, there is an answer."""
    btf.functions(["", "a", "b"], made(types, names)[:kept])
    btf.functions(["a"], types)


def test_the_kernels_own() -> None:
    """This kernel's BTF, if it shows it, has the functions of every kernel."""
    if not btf.VMLINUX.exists():
        pytest.skip("the kernel does not show its BTF")
    found = btf.of_kernel(("bpf_prog_test_run_xdp", "no_such_function_is_there"))
    assert list(found) == ["bpf_prog_test_run_xdp"]
