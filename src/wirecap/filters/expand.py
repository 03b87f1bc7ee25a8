"""A program with sets as classic BPF has it: each set becomes a tree of comparisons.

What follows a word that was found, up to the next word of the same address, is there once for each number that was
found.  A conditional jump reaches 255 instructions; one that leads farther goes by an unconditional one beside it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from wirecap.filters import opcodes as op
from wirecap.filters.program import Program
from wirecap.filters.sets import Set

LEAF = 4
"""Values that are compared one by one; a tree down to single ones has twice as many instructions."""
BRANCH = 96
"""Values whose comparisons share their way out: few enough for jumps of 255 instructions."""

Label = Hashable
Row = tuple[int, Label, Label, int]
"""code, the labels of both ways (None: what follows), k."""


@lru_cache(64)
def plain(program: Program) -> Program:
    """The program without sets, as libpcap's interpreter and the kernel's sockets run it."""
    if not program.sets:
        return program
    rows = _Expansion(program).run()
    return replace(program, instructions=rows, sets=())


class _Expansion:
    def __init__(self, program: Program) -> None:
        self.program = program
        jumps = [at for at in range(len(program)) if program.rows[at][0] & 7 in (op.JMP, op.RET)]
        firsts = {0}.union(*(program.targets(at) for at in jumps), (at + 1 for at in jumps))
        self.firsts = sorted(at for at in firsts if at < len(program))
        self.lasts = dict(zip(self.firsts, [at - 1 for at in [*self.firsts[1:], len(program)]], strict=True))
        self.numbered = self._numbered()
        self.code: list[Row] = []
        self.labels: dict[Label, int] = {}
        self.wanted: dict[int, dict[int | None, None]] = {0: {None: None}}
        """For each block, the numbers with which it is come to."""

    def _numbered(self) -> set[int]:
        """The blocks that need the number that was found before them."""
        found: set[int] = set()
        before = -1
        while len(found) != before:
            before = len(found)
            for first, last in self.lasts.items():
                code = self.program.rows[last][0]
                passed_on = code != op.JMP | op.IN and any(to in found for to in self.program.targets(last))
                if code == op.JMP | op.NEXT or passed_on:
                    found.add(first)
        return found

    def run(self) -> np.ndarray:
        for first in self.firsts:
            for number in self.wanted.get(first, ()):
                self._block(first, number)
        return _laid_out(self.code, self.labels)

    def _block(self, first: int, number: int | None) -> None:
        label = (first, number)
        if self.code and self.code[-1][:2] == (op.JMP | op.JA, label):
            self.code.pop()
        self.labels[label] = len(self.code)
        for at in range(first, self.lasts[first] + 1):
            code, _, _, k = self.program.rows[at]
            targets = self.program.targets(at)
            if code in (op.JMP | op.IN, op.JMP | op.NEXT):
                self._search(self.program.sets[k], None if code == op.JMP | op.IN else number, *targets)
            elif code & 7 == op.JMP and len(targets) == 2:
                self.code.append((code, self._to(targets[0], number), self._to(targets[1], number), k))
            elif code & 7 == op.JMP or (at == self.lasts[first] and targets):
                if code & 7 != op.JMP:
                    self.code.append((code, None, None, k))
                self.code.append((op.JMP | op.JA, self._to(targets[0], number), None, 0))
            else:
                self.code.append((code, None, None, k))

    def _to(self, target: int, number: int | None) -> Label:
        number = number if target in self.numbered else None
        self.wanted.setdefault(target, {})[number] = None
        return (target, number)

    def _search(self, keys: Set, number: int | None, found: int, missed: int) -> None:
        """Compare the accumulator with the words of a set that follow a number."""
        low, high = 0, len(keys)
        if number is not None:
            low, high = (int(np.searchsorted(keys, np.uint64(at << 32))) for at in (number, number + 1))
        words = (keys[low:high] & np.uint64(0xFFFFFFFF)).tolist()
        out = self._to(missed, None)
        if found in self.numbered:
            self._tree(words, [self._to(found, low + at) for at in range(len(words))], out)
        else:
            self._tree(words, [self._to(found, None)] * len(words), out)

    def _tree(self, words: Sequence[int], found: Sequence[Label], missed: Label, shared: bool = False) -> None:
        if not shared and LEAF < len(words) <= BRANCH and len(set(found)) == 1:
            out = [(len(self.code), way) for way in ("found", "missed")]
            self._tree(words, [out[0]] * len(words), out[1], shared=True)
            for label, to in zip(out, (found[0], missed), strict=True):
                self.labels[label] = len(self.code)
                self.code.append((op.JMP | op.JA, to, None, 0))
        elif len(words) > LEAF:
            middle = len(words) // 2
            right = (len(self.code), "right")
            self.code.append((op.JMP | op.JGE, right, None, words[middle]))
            self._tree(words[:middle], found[:middle], missed, shared)
            self.labels[right] = len(self.code)
            self._tree(words[middle:], found[middle:], missed, shared)
        else:
            for word, to in zip(words[:-1], found[:-1], strict=True):
                self.code.append((op.JMP | op.JEQ, to, None, word))
            self.code.append((op.JMP | op.JEQ, found[-1], missed, words[-1]))


def _laid_out(code: Sequence[Row], labels: dict[Label, int]) -> np.ndarray:
    """The rows with distances in the place of labels."""
    far: list[list[Label]] = [[] for _ in code]
    """The ways of each row that go by a jump of their own."""
    grown = True
    while grown:
        grown = False
        places, place = [], 0
        for ways in far:
            places.append(place)
            place += 1 + len(ways)
        for at, (kind, *ways, _) in enumerate(code):
            if kind & 7 == op.JMP and kind != op.JMP | op.JA:
                for way in ways:
                    if way is not None and way not in far[at] and places[labels[way]] - places[at] - 1 > 255:
                        far[at].append(way)
                        grown = True
    rows: list[tuple[int, int, int, int]] = []
    for (kind, true, false, k), beside in zip(code, far, strict=True):
        place = len(rows)
        if kind == op.JMP | op.JA:
            rows.append((kind, 0, 0, (places[labels[true]] - place - 1) & 0xFFFFFFFF))
        elif kind & 7 != op.JMP:
            rows.append((kind, 0, 0, k))
        else:
            steps = [
                len(beside) if way is None else beside.index(way) if way in beside else places[labels[way]] - place - 1
                for way in (true, false)
            ]
            rows.append((kind, steps[0], steps[1], k))
            rows += [(op.JMP | op.JA, 0, 0, places[labels[way]] - place - 2 - at) for at, way in enumerate(beside)]
    made = np.array(rows, np.int64).reshape(-1, 4)
    made.flags.writeable = False
    return made
