"""The program of a test run that takes the next packet of a ring, puts it into its frame and redirects that.

Linux makes the frames (BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES, 5.18); ``bpf_xdp_store_bytes`` is of
the same version.  The ring is one value of a mapped array (kernels/send_live.py says how it is laid out).
"""

from __future__ import annotations

from wirecap.kernels.send_live import HEAD_BYTES
from wirecap.linux import bpf
from wirecap.linux.asm import Insn

CURSOR, SENT, FAULTS, LIMIT, START, LAST, LATEST = range(7)
"""Words of the control map: where the next record is, frames redirected, frames that could not be filled, the number
of frames after which nothing is sent, the moment that times count from; and at a rate, when the
last frame was sent and the largest delay of one, in ns."""
CONTROL_BYTES = 64

_DATA, _DATA_END = 0, 4  # struct xdp_md, linux/bpf.h
_FRAME, _CONTROL, _PLACE, _RECORD = 6, 7, 8, 9  # registers


def program(ifindex: int, ring: int, control: int, size: int, longest: int, paced: bool) -> list[Insn]:
    """ring, control: fds of the two arrays; size: octets of the ring; longest: octets of the frames of the run.

    paced: a run before the record's time drops its frame, so that the test run's own loop does the waiting.
    """
    code: list[Insn] = [
        ("mov_reg", _FRAME, 1, 0, 0),
        ("ld_map_value", _CONTROL, 0, 0, control),
        ("ldxdw", 1, _CONTROL, 8 * SENT, 0),
        ("ldxdw", 2, _CONTROL, 8 * LIMIT, 0),
        ("jge_reg", 1, 2, "drop", 0),
        ("ldxdw", _PLACE, _CONTROL, 8 * CURSOR, 0),
        *_record(ring, size),
        ("ldxw", 1, _RECORD, 0, 0),
        ("jne_imm", 1, 0, "found", 0),
        ("ldxw", _PLACE, _RECORD, 4, 0),
        *_record(ring, size),
        ("label", "found"),
    ]
    if paced:
        code += [
            ("call", 0, 0, 0, bpf.HELPERS["ktime_get_ns"]),
            ("ldxdw", 1, _RECORD, 8, 0),
            ("ldxdw", 2, _CONTROL, 8 * START, 0),
            ("add_reg", 1, 2, 0, 0),
            ("jlt_reg", 0, 1, "drop", 0),
            ("stxdw", _CONTROL, 0, 8 * LAST, 0),
            ("sub_reg", 0, 1, 0, 0),
            ("ldxdw", 1, _CONTROL, 8 * LATEST, 0),
            ("jge_reg", 1, 0, "fill", 0),
            ("stxdw", _CONTROL, 0, 8 * LATEST, 0),
            ("label", "fill"),
        ]
    code += [
        ("ldxw", _PLACE, _RECORD, 0, 0),
        ("ldxw", 1, _FRAME, _DATA_END, 0),
        ("ldxw", 3, _FRAME, _DATA, 0),
        ("sub_reg", 1, 3, 0, 0),
        ("mov_reg", 2, _PLACE, 0, 0),
        ("sub_reg", 2, 1, 0, 0),  # every frame begins with the longest length: it only ever shrinks
        ("mov_reg", 1, _FRAME, 0, 0),
        ("call", 0, 0, 0, bpf.HELPERS["xdp_adjust_tail"]),
        ("jne_imm", 0, 0, "fault", 0),
        ("jlt_imm", _PLACE, 0, "fault", 1),
        ("jgt_imm", _PLACE, 0, "fault", longest),
        ("mov_reg", 1, _FRAME, 0, 0),
        ("mov_imm", 2, 0, 0, 0),
        ("mov_reg", 3, _RECORD, 0, 0),
        ("add_imm", 3, 0, 0, HEAD_BYTES),
        ("mov_reg", 4, _PLACE, 0, 0),
        ("call", 0, 0, 0, bpf.HELPERS["xdp_store_bytes"]),
        ("jne_imm", 0, 0, "fault", 0),
        *_next(SENT),
        ("mov_imm", 1, 0, 0, ifindex),
        ("mov_imm", 2, 0, 0, 0),
        ("call", 0, 0, 0, bpf.HELPERS["redirect"]),
        ("exit", 0, 0, 0, 0),
        ("label", "fault"),
        *_next(FAULTS),
        ("ldxdw", 1, _CONTROL, 8 * SENT, 0),
        ("add_imm", 1, 0, 0, 1),
        ("stxdw", _CONTROL, 1, 8 * SENT, 0),
        ("label", "drop"),
        ("mov_imm", 0, 0, 0, bpf.XDP_DROP),
        ("exit", 0, 0, 0, 0),
    ]
    return code


def _record(ring: int, size: int) -> list[Insn]:
    """_RECORD = the record at _PLACE; the mask lets the verifier see that it lies in the ring."""
    return [
        ("and_imm", _PLACE, 0, 0, (size - 1) & ~7),
        ("ld_map_value", _RECORD, 0, 0, ring),
        ("add_reg", _RECORD, _PLACE, 0, 0),
    ]


def _next(counter: int) -> list[Insn]:
    """Go on to the next record; one sender: no atomic is needed."""
    return [("ldxw", 1, _RECORD, 4, 0), ("stxdw", _CONTROL, 1, 8 * CURSOR, 0), *_count(counter)]


def _count(counter: int) -> list[Insn]:
    return [
        ("ldxdw", 1, _CONTROL, 8 * counter, 0),
        ("add_imm", 1, 0, 0, 1),
        ("stxdw", _CONTROL, 1, 8 * counter, 0),
    ]
