"""What hostile bytes are made with: a compiled mutator, which changes a case in place, and says when one is new.

A case is a row of ``seeds``.  ``mutated`` copies one into a buffer and changes a few of its bytes; ``is_new`` looks
whether what the kernels said of it was said before, and a case of which it was not becomes a seed itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, byte_table, i64, lengths, record, words

SEED, CASES, KEPT, GIVEN, SIZE, KIND, FOUND, WORK = range(8)
"""Words of ``run``: the dice; cases so far; seeds, and those that were given; of the case at hand its size and kind;
what was new so far; what the kernels did in all, which bounds the time of a case."""
RUN_WORDS = 16
FEATURE_BITS = 16
MOST_CHANGES = 6
INTERESTING = np.array(
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 15, 16, 17, 20, 27, 28, 31, 32, 40, 41, 43, 44, 47, 50, 51, 58, 60, 63, 64, 69, 79,
     96, 127, 128, 129, 132, 135, 136, 139, 140, 224, 239, 240, 254, 255], np.uint8,
)  # fmt: skip
PAIRS = np.array(
    [0x0800, 0x86DD, 0x0806, 0x8035, 0x8100, 0x88A8, 0x9100, 0x8847, 0x8848, 0x8864, 0x6558, 4789, 6081, 2152, 3544,
     0xFFFF, 0, 0x7FFF, 0x8000, 0x4500, 0x4F00, 0x6000, 0x1FFF, 0x2000, 0x3FFF, 0x30FF, 0x34FF, 0xFFFE, 0x0108],
    np.int64,
)  # fmt: skip


class Cases(NamedTuple):
    """Seeds, the case at hand, and what was seen."""

    seeds: Any  # uint8 (K, ROOM)
    sizes: Any  # int64 (K,): bytes of each
    kinds: Any  # int64 (K,): what each is, a link type for instance
    buffer: Any  # uint8 (ROOM,): the case
    seen: Any  # uint8 (2**FEATURE_BITS,)
    run: Any  # int64 (RUN_WORDS,)


CASES_KIND = record(Cases, byte_table, words, words, byte_array, byte_array, words)


def new_cases(given: list[tuple[int, bytes]], room: int, seed: int, kept: int = 2048) -> Cases:
    """given: (kind, bytes) of each seed; what does not fit into ``room`` is cut."""
    count = len(given) + kept
    cases = Cases(
        np.zeros((count, room), np.uint8), np.zeros(count, np.int64), np.zeros(count, np.int64),
        np.zeros(room, np.uint8), np.zeros(1 << FEATURE_BITS, np.uint8), np.zeros(RUN_WORDS, np.int64),
    )  # fmt: skip
    for i, (kind, data) in enumerate(given):
        data = data[:room]
        cases.seeds[i, : len(data)] = np.frombuffer(data, np.uint8)
        cases.sizes[i], cases.kinds[i] = len(data), kind
    cases.run[KEPT] = cases.run[GIVEN] = len(given)
    cases.run[SEED] = seed * 0x9E3779B97F4A7C15 % (1 << 62) | 1
    return cases


def case_at_hand(cases: Cases) -> tuple[int, bytes]:
    """(kind, bytes) of the case that was tried last: what a failure is about."""
    return int(cases.run[KIND]), cases.buffer[: int(cases.run[SIZE])].tobytes()


class Target:
    """Something that is tried with cases: ``run`` tries so many, and raises what a kernel raises."""

    cases: Cases

    def at_hand(self) -> tuple[int, bytes]:
        return case_at_hand(self.cases)

    def counts(self) -> tuple[int, int]:
        """Cases so far, and how many of them said something new."""
        return int(self.cases.run[CASES]), int(self.cases.run[FOUND])


@inline
def thrown(run):
    """The next number, 0 to 2**63 - 1 (Marsaglia, "Xorshift RNGs", 2003)."""
    x = run[SEED]
    x ^= x << 13
    x ^= x >> 7 & 0x01FFFFFFFFFFFFFF
    x ^= x << 17
    run[SEED] = x
    return x & 0x7FFFFFFFFFFFFFFF


@inline
def below(run, n):
    return (thrown(run) >> 11) % n


@inline
def change(cases, size):
    """Change something; returns how many bytes the case has now."""
    run, buffer = cases.run, cases.buffer
    if size == 0:
        return 1 + below(run, 32)
    # Headers stand in front: most changes are made there.
    at, what = below(run, size) if below(run, 3) == 0 else below(run, min(size, 96)), below(run, 12)
    if what < 3:
        buffer[at] = thrown(run) >> 20 & 0xFF
    elif what < 5:
        buffer[at] ^= 1 << below(run, 8)
    elif what < 7:
        buffer[at] = INTERESTING[below(run, INTERESTING.size)]
    elif what < 9 and at + 1 < size:
        pair = PAIRS[below(run, PAIRS.size)]
        turned = below(run, 4) == 0
        buffer[at], buffer[at + 1] = pair >> (0 if turned else 8) & 0xFF, pair >> (8 if turned else 0) & 0xFF
    elif what == 9 and at + 3 < size:
        for k in range(4):
            buffer[at + k] = 0xFF if what & 1 else 0
        buffer[at + below(run, 4)] = thrown(run) >> 20 & 0xFF
    elif what == 10:
        return at
    else:
        other = below(run, run[KEPT])
        count = min(below(run, 40), cases.sizes[other])
        begin = below(run, cases.sizes[other] - count + 1)
        count = min(count, buffer.size - at)
        for k in range(count):
            buffer[at + k] = cases.seeds[other, begin + k]
        return max(size, at + count)
    return size


@inline
def mutated(cases):
    """Make the next case in the buffer; returns its size in bytes, which is also in run[SIZE]."""
    run, buffer = cases.run, cases.buffer
    row = below(run, run[KEPT])
    size = cases.sizes[row]
    for k in range(size):
        buffer[k] = cases.seeds[row, k]
    run[KIND] = cases.kinds[row]
    for _ in range(1 + below(run, MOST_CHANGES)):
        size = min(change(cases, size), buffer.size)
    run[SIZE] = size
    run[CASES] += 1
    return size


@inline
def is_new(cases, feature):
    """Whether this was not seen before; then the case at hand becomes a seed.  feature: any number."""
    run, size = cases.run, cases.run[SIZE]
    place = feature & 0xFFFFFFFF
    place = (place ^ place >> 16) * 0x45D9F3B & 0xFFFFFFFF
    place = (place ^ place >> 16) & (cases.seen.size - 1)
    if cases.seen[place]:
        return False
    cases.seen[place] = 1
    run[FOUND] += 1
    row, most = run[KEPT], cases.sizes.size
    if row == most:
        row = run[GIVEN] + below(run, most - run[GIVEN])
    else:
        run[KEPT] = row + 1
    for k in range(size):
        cases.seeds[row, k] = cases.buffer[k]
    cases.sizes[row], cases.kinds[row] = size, run[KIND]
    return True


@kernel(i64(CASES_KIND, byte_array, words, lengths, i64))
def next_cases(cases, arena, address, captured, count):
    """Make so many cases, one behind the other in the arena; returns how many bytes they take in all."""
    place = i64(0)
    for i in range(count):
        size = mutated(cases)
        for k in range(size):
            arena[place + k] = cases.buffer[k]
        address[i], captured[i] = place, np.uint32(size)
        place += size
    return place
