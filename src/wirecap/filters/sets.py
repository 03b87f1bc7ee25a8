"""Sets in the place of long lists: where the stand-ins of ``wirecap.filters.lists`` went, and what libpcap compiles.

The instruction ``IN`` compares the accumulator with all members of a set at once.  Addresses of several words are
compared one word after the other: each ``IN`` that succeeds leaves the number of what it found, and ``NEXT`` looks for
that number and the accumulator together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from wirecap.filters import opcodes as op
from wirecap.filters.lists import Group
from wirecap.filters.program import Program

Set = npt.NDArray[np.uint64]
"""What is looked for, sorted: the number of the words before it << 32 | a word."""


def with_sets(variants: Sequence[Program], groups: Sequence[Group]) -> Program | None:
    """A program with sets in the place of stand-ins; None where they went elsewhere than expected.

    variants: the same program for each value of the stand-ins.
    """
    program = _without_empty_masks(variants[0])
    if len({len(other) for other in variants}) != 1:
        return None
    known = {group.signature(piece): (group, piece) for group in groups for piece in group.pieces}
    sites: dict[int, tuple[Group, int]] = {}
    for at, same in enumerate(zip(*(other.rows for other in variants), strict=True)):
        if len({k for *_, k in same}) > 1:
            found = known.get(tuple(k for *_, k in same))
            if not found or len({row[:3] for row in same}) > 1 or same[0][0] != op.JMP | op.JEQ | op.K:
                return None
            sites[at] = found
    rows, sets = program.instructions.copy(), list[Set]()
    for group in groups:
        own = {at: piece for at, (other, piece) in sites.items() if other is group}
        chains = _chains(program, own)
        orders = {tuple(own[at] for at in chain) for chain in chains}
        order = orders.pop() if len(orders) == 1 else ()
        if sorted(order) != group.pieces or any(_meets(program, chain[-1], own) for chain in chains):
            return None
        for chain in chains:
            for level, at in enumerate(chain):
                rows[at, 0], rows[at, 3] = op.JMP | (op.NEXT if level else op.IN), len(sets) + level
        sets += _sets([group.words(piece) for piece in order])
    rows.flags.writeable = False
    return replace(program, instructions=rows, sets=tuple(sets))


def _without_empty_masks(program: Program) -> Program:
    """The program where a word of which no bit counts, as libpcap compares it in IPv6 networks, always fits."""
    rows, entered = program.instructions.copy(), _entered(program)
    for at, (code, jt, _, k) in enumerate(program.rows):
        empty = at and program.rows[at - 1][0] == op.ALU | op.AND | op.K and not program.rows[at - 1][3]
        if empty and code == op.JMP | op.JEQ | op.K and not k and entered[at] == 1:
            rows[at, 2] = jt
    return replace(program, instructions=rows)


def _entered(program: Program) -> Counter[int]:
    """How many instructions lead to each."""
    return Counter(target for at in range(len(program)) for target in set(program.targets(at)))


def _chains(program: Program, sites: dict[int, int]) -> list[list[int]]:
    """The sites in the order in which they compare the words of one address."""
    entered = _entered(program)
    following: dict[int, int] = {}
    for at in sites:
        there, otherwise = program.targets(at)
        # What compares the next word can only be come to from here.
        while entered[there] == 1 and there not in sites and program.rows[there][0] & 7 not in (op.JMP, op.RET):
            there += 1
        if there in sites and entered[there] == 1 and there != otherwise:
            following[at] = there
    chains = [[at] for at in sites if at not in following.values()]
    for chain in chains:
        while chain[-1] in following:
            chain.append(following[chain[-1]])
    return chains


def _meets(program: Program, last: int, sites: dict[int, int]) -> bool:
    """Whether an address that was found may be looked for again: one member must then fit twice, not one each time."""
    seen: set[int] = set()
    ahead = [program.targets(last)[0]]
    while ahead:
        at = ahead.pop()
        if at in sites:
            return True
        if at not in seen:
            seen.add(at)
            ahead += program.targets(at)
    return False


def _sets(words: list[npt.NDArray[np.uint64]]) -> list[Set]:
    """The sets for each word of the addresses."""
    sets: list[Set] = []
    numbers = np.zeros(len(words[0]), np.uint64)
    for word in words:
        keys = numbers << np.uint64(32) | word
        sets.append(np.unique(keys))
        numbers = np.searchsorted(sets[-1], keys).astype(np.uint64)
    return sets
