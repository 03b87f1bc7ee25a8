"""Hostile capture files through the kernels that read records: the scan, the queues in it, the index, conversion."""

from __future__ import annotations

import struct

import numpy as np

import mixed_trace
from hostile_dice import CASES_KIND, KIND, WORK, Target, below, is_new, mutated, new_cases
from wirecap.files.headers import Interface
from wirecap.kernels.base.jit import kernel
from wirecap.kernels.base.kinds import i64, lengths, table, words
from wirecap.kernels.base.unaligned import field32
from wirecap.kernels.file import read as at
from wirecap.kernels.file.index import BLOCKS, ROW, end_early, index_records, new_blocks
from wirecap.kernels.file.read import (
    DESCRIPTION,
    END,
    ERROR,
    FAILED,
    FINAL,
    FORMAT,
    FULL,
    KNOWN,
    MORE,
    OTHER_INTERFACE,
    OUTSIDE,
    PCAP,
    PCAPNG,
    POSITION,
    STOP,
    SWAPPED,
    has_options,
    recorded_queues,
    scan,
)  # fmt: skip

ROOM = 1536
LIMIT = 8
INTERFACES = 4
BIG_ENDIAN = 1  # of a case's kind; the rest of it chooses what a file's header said
BROKEN = 1 << 40
"""What ``try_files`` returns where a packet lies outside its file, or a scan does not come to an end."""


def records(order: str, count: int, seed: int) -> bytes:
    """Records of a pcap file."""
    return b"".join(
        struct.pack(order + "IIII", 1_700_000_000, us, len(data[:200]), size) + data[:200]
        for us, data, size in mixed_trace.packets(count, seed)
    )


def blocks(order: str, count: int, seed: int) -> bytes:
    """Blocks of a pcapng file: packets of each kind, with and without options, and others."""

    def block(kind: int, body: bytes) -> bytes:
        total = struct.pack(order + "I", len(body) + 12)
        return struct.pack(order + "I", kind) + total + body + total

    out = []
    for i, (us, data, size) in enumerate(mixed_trace.packets(count, seed)):
        data = data[:200]
        padded = data + bytes(-len(data) % 4)
        options = struct.pack(order + "HHIHH", 6, 4, i, 0, 0) if i & 1 else b""
        head = struct.pack(order + "IIIII", i % INTERFACES, 400_000, us, len(data), size)
        out.append(block(6, head + padded + options))
        if i % 3 == 0:
            out.append(block(3, struct.pack(order + "I", len(data)) + padded))
        if i % 4 == 0:
            out.append(block(2, struct.pack(order + "HHIIII", 1, 0, 400_000, us, len(data), size) + padded + options))
        if i % 5 == 0:
            out.append(block((4, 5, 10, 0xBAD)[i % 4], struct.pack(order + "III", i % INTERFACES, 1, 2)))
    return b"".join(out)


def seeds() -> list[tuple[int, bytes]]:
    """(kind, records) of both formats in both byte orders."""
    found = []
    for seed in range(1, 9):
        for swapped, order in enumerate("<>"):
            found.append((swapped | PCAP << 1 | seed << 2, records(order, 6, seed)[:ROOM]))
            found.append((swapped | PCAPNG << 1 | seed << 2, blocks(order, 6, seed)[:ROOM]))
    return found


def interfaces() -> np.ndarray:
    """Rows of INTERFACES interfaces: everyday ones, and all that a header can say of times and lengths."""
    many = [
        Interface(link, snaplen, resolution, offset)
        for resolution in (6, 9, 0, 3, 10, 18, 19, 38, 127, 128, 129, 160, 191, 192, 255)
        for link, snaplen, offset in ((1, 0, 0), (101, 96, -1), (276, 65535, 1 << 62), (231, 0x7FFFFFFF, -(1 << 63)),
                                      (113, 1, (1 << 63) - 1), (0, 262144, 9_223_372_036))
    ]  # fmt: skip
    rows = [np.concatenate([many[(i * INTERFACES + k * 7) % len(many)].words() for k in range(INTERFACES)])
            for i in range(64)]  # fmt: skip
    return np.array(rows, np.int64)


@kernel(i64(CASES_KIND, table, words, words, words, lengths, lengths, words, words, BLOCKS, i64))
def try_files(cases, known, state, own, address, captured, original, timestamp, queues, index, count):
    """Make and read so many files; returns how many said something new, or BROKEN."""
    run, fresh = cases.run, i64(0)
    for _ in range(count):
        size = mutated(cases)
        kind, data = run[KIND], cases.buffer[:size]
        if below(run, 8) == 0:
            kind ^= BIG_ENDIAN
        chosen = kind >> 2 if below(run, 2) else below(run, known.shape[0])
        for k in range(own.size):
            own[k] = known[chosen % known.shape[0], k]
        mixed, keep, final, older = below(run, 2), below(run, 2) << 16, below(run, 4) > 0, below(run, 5)
        said = i64(0)
        for pass_ in range(2):
            for k in range(state.size):
                state[k] = 0
            state[FORMAT], state[SWAPPED], state[END], state[FINAL] = kind >> 1 & 1, kind & 1, size, final
            state[at.HEADER], state[KNOWN], state[at.MIXED], state[at.KEEP] = (
                24 if older == 1 else 16,
                INTERFACES,
                mixed,
                keep,
            )
            state[at.LENGTHS] = older - 2 if older > 2 else 0
            state[at.LONGEST_BLOCK], state[at.BLOCK_BYTES] = at.MAX_BLOCK, 1 << 62
            if pass_:
                index.counts[0], index.counts[1], index.start[0] = 0, 256, 0
            work = 0
            while True:
                work += 1
                before = state[POSITION]
                if work > 2000 or before > size:
                    return BROKEN
                if pass_:
                    n = i64(0)
                    if (
                        index_records(data, state, own, address, captured, original, timestamp, index)
                        >= index.packets.size
                    ):
                        index.counts[0] = 0
                        index.start[0] = state[POSITION]
                        index.counts[1] = state[POSITION] + 256
                        if state[STOP] != FAILED and state[STOP] < MORE:
                            continue
                else:
                    n = scan(data, state, own, address, captured, original, timestamp, LIMIT)
                    for i in range(n):
                        if address[i] < 0 or address[i] + i64(captured[i]) > size:
                            return BROKEN
                        if state[FORMAT] == PCAPNG:
                            said += i64(has_options(data, address[i], i64(captured[i]), state[SWAPPED]))
                    if n and state[FORMAT] == PCAPNG:
                        recorded_queues(data, address, captured, n, state[SWAPPED], 0, 4, queues)
                said += n
                stop = state[STOP]
                if stop == DESCRIPTION:  # Python's work: here what it takes in is passed over
                    if state[POSITION] + 12 > size:
                        break
                    total = field32(data, state[POSITION] + 4, state[SWAPPED])
                    if total < 12 or total & 3 or state[POSITION] + total > size:
                        break
                    state[POSITION] += total
                elif stop >= MORE:
                    break
                elif n == 0 and stop != OTHER_INTERFACE and stop != FULL and state[POSITION] == before:
                    return BROKEN
            run[WORK] += work
            if pass_:
                end_early(index, state[POSITION])
            feature = (
                (kind & 3) ^ state[STOP] << 2 ^ state[ERROR] << 5 ^ min(said, 31) << 8 ^ min(work, 15) << 13
                ^ i64(state[OUTSIDE] > 0) << 17 ^ pass_ << 18 ^ (older << 19) ^ mixed << 22 ^ i64(final) << 23
            )  # fmt: skip
            fresh += i64(is_new(cases, feature))
    return fresh


class Files(Target):
    """Everything that ``try_files`` needs."""

    name = "files"

    def __init__(self, seed: int, given: list[tuple[int, bytes]] | None = None) -> None:
        self.cases = new_cases(given or seeds(), ROOM, seed)
        self._rest = (
            interfaces(), np.zeros(at.STATE_WORDS, np.int64), np.zeros(INTERFACES * at.INTERFACE_WORDS, np.int64),
            np.zeros(ROW, np.int64), np.zeros(ROW, np.uint32), np.zeros(ROW, np.uint32), np.zeros(ROW, np.int64),
            np.zeros(ROW, np.int64), new_blocks(8, size=256),
        )  # fmt: skip

    def run(self, count: int) -> None:
        if try_files(self.cases, *self._rest, count) == BROKEN:
            raise IndexError("a packet lies outside its file, or a scan goes round in circles")
