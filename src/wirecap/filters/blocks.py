"""The basic blocks of a program whose jumps lead forward, and which block dominates which."""

from __future__ import annotations

from dataclasses import dataclass, field

from wirecap.filters import opcodes as op
from wirecap.filters.program import Program


@dataclass
class Block:
    """Instructions first to last; ``children`` are the blocks that it immediately dominates, in order."""

    first: int
    last: int
    children: list[int] = field(default_factory=list)
    depth: int = 0
    parent: int = -1


def dominators(program: Program) -> dict[int, Block]:
    """The program's basic blocks by first instruction, each with the blocks that it immediately dominates."""
    jumps = [at for at in range(len(program)) if program.rows[at][0] & 7 == op.JMP]
    after = (at + 1 for at in jumps if at + 1 < len(program))
    firsts = sorted({0}.union(*(program.targets(at) for at in jumps), after))
    blocks = {at: Block(at, until - 1) for at, until in zip(firsts, [*firsts[1:], len(program)], strict=True)}
    for block in blocks.values():
        returns = [at for at in range(block.first, block.last) if program.rows[at][0] & 7 == op.RET]
        block.last = min([block.last, *returns])
    for first, block in blocks.items():
        if first and block.parent < 0:
            continue  # nothing leads here
        for target in program.targets(block.last):
            known = blocks[target].parent
            blocks[target].parent = first if known < 0 else _common(blocks, known, first)
            blocks[target].depth = blocks[blocks[target].parent].depth + 1
    for first, block in blocks.items():
        if block.parent >= 0:
            blocks[block.parent].children.append(first)
    return blocks


def _common(blocks: dict[int, Block], one: int, two: int) -> int:
    while one != two:
        if blocks[one].depth < blocks[two].depth:
            two = blocks[two].parent
        elif blocks[one].depth > blocks[two].depth:
            one = blocks[one].parent
        else:
            one, two = blocks[one].parent, blocks[two].parent
    return one
