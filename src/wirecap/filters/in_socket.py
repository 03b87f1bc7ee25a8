"""A filter as an AF_PACKET socket runs it: on packets whose VLAN tag the kernel keeps apart.

What the socket lets in is what the packet bytes with the tag put back decide, so that a filter means the same
live as on a file: a tagged packet is let in whole, and the threads' own filter decides.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wirecap.filters import opcodes as op
from wirecap.filters.program import Program, reads_packet, signed

Instruction = tuple[int, int, int, int]

_PACKET_TYPE, _INTERFACE, _VLAN_TAG_PRESENT = op.PACKET_TYPE, op.INTERFACE, op.EXTENSION + 48
OUTGOING = 4  # PACKET_OUTGOING, linux/if_packet.h
COOKED_BYTES = 20
_COOKED_FIELDS = {
    (op.LD | op.H | op.ABS, 0): op.EXTENSION,  # SKF_AD_PROTOCOL
    (op.LD | op.W | op.ABS, 4): _INTERFACE,
    (op.LD | op.H | op.ABS, 8): op.EXTENSION + 28,  # SKF_AD_HATYPE
    (op.LD | op.B | op.ABS, 10): _PACKET_TYPE,
}
_LOAD, _EQUAL, _RETURN = op.LD | op.W | op.ABS, op.JMP | op.JEQ | op.K, op.RET | op.K
WHOLE = 0x40000
LONGEST_IP_HEADER = 60
LONGEST_PROGRAM = 4096 - 16
"""BPF_MAXINSNS of linux/bpf_common.h, less what is put before the filter."""


def reach(program: Program) -> int:
    """Bytes from the packet's start that the program can look at; WHOLE where that depends on the packet."""
    last = 0
    indexed = any(
        code == op.MISC | op.TAX or (code & 7 == op.LDX and code & 0xE0 != op.MSH) for code, *_ in program.rows
    )
    for code, _, _, k in program.rows:
        kind, mode = code & 7, code & 0xE0
        if code == op.LDX | op.B | op.MSH:
            last = max(last, k + 1)
        elif kind == op.LD and mode == op.ABS and k < op.EXTENSIONS:
            last = max(last, k + op.SIZE_BYTES[code & 0x18])
        elif kind == op.LD and mode == op.IND:
            if indexed:
                return WHOLE
            last = max(last, k + LONGEST_IP_HEADER + op.SIZE_BYTES[code & 0x18])
    return last if last < WHOLE else WHOLE


def socket_program(
    program: Program | None, snaplen: int, direction: str = "inout", loopback: int = 0, tags: bool = True
) -> list[Instruction] | None:
    """The instructions to attach; None where there is nothing to keep out or to cut off.

    snaplen: bytes to keep of a packet; what the filter may look at is kept too, for the threads.  loopback:
    index of the interface on which a packet comes by twice, going out and coming in: the first is kept out.
    tags: whether tags may be kept apart.
    """
    rows = _direction(direction) if direction != "inout" else _once(loopback) if loopback else []
    if program is None:
        if snaplen < WHOLE:
            rows = [*rows, (_RETURN, 0, 0, snaplen)]
        elif rows:
            rows = [*rows, (_RETURN, 0, 0, WHOLE)]
        return rows or None
    if tags:
        rows = [*rows, (_LOAD, 0, 0, _VLAN_TAG_PRESENT), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, WHOLE)]
    kept = kept_bytes(program, snaplen)
    own = [(code, jt, jf, kept if code == _RETURN and k else k) for code, jt, jf, k in program.rows]
    return rows + own


def kept_bytes(program: Program | None, snaplen: int) -> int:
    """Bytes that are kept of a packet without a tag."""
    return snaplen if program is None else max(snaplen, reach(program))


def longest_kept(rows: list[Instruction] | None) -> int:
    """Bytes of the longest packet that the instructions let in."""
    if rows is None:
        return WHOLE
    ends = [(code, k) for code, _, _, k in rows if code & 7 == op.RET]
    return min(WHOLE, max(k if code == _RETURN else WHOLE for code, k in ends))


def uncooked(program: Program) -> Program | None:
    """A filter for cooked packets (LINKTYPE_LINUX_SLL2) as a socket can run it, which sees what is behind the header.

    The header's fields are the kernel's own, asked for by its extensions; None where it takes more than those.
    """
    rows = []
    for code, jt, jf, k in program.rows:
        if code in (op.LD | op.W | op.LEN, op.LDX | op.W | op.LEN):
            return None  # the kernel's length has no header
        if reads_packet(code):
            if k >= COOKED_BYTES:
                k -= COOKED_BYTES
            elif (code, k) in _COOKED_FIELDS:
                code, k = _LOAD, _COOKED_FIELDS[code, k]
            else:
                return None
        rows.append((code, jt, jf, k))
    # Not Program.of: it knows programs for packet bytes only.
    return replace(program, instructions=np.array(rows, np.int64).reshape(-1, 4))


def _once(loopback: int) -> list[Instruction]:
    return [
        (_LOAD, 0, 0, _PACKET_TYPE), (_EQUAL, 0, 3, OUTGOING),
        (_LOAD, 0, 0, _INTERFACE), (_EQUAL, 0, 1, loopback), (_RETURN, 0, 0, 0),
    ]  # fmt: skip


def _direction(direction: str) -> list[Instruction]:
    """Let go on what goes out, or what does not."""
    skip = (1, 0) if direction == "out" else (0, 1)
    return [(_LOAD, 0, 0, _PACKET_TYPE), (_EQUAL, *skip, OUTGOING), (_RETURN, 0, 0, 0)]


def fits(program: Program) -> bool:
    """Whether the kernel takes it: it takes no jumps backward, and not too many instructions."""
    return len(program) <= LONGEST_PROGRAM and not any(
        code == op.JMP | op.JA and signed(k) < 0 for code, _, _, k in program.rows
    )
