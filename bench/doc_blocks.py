"""Figures in the documentation are written by scripts: a page has marked blocks, and a script writes one by its name.

<!-- block NAME: written by bench/SCRIPT.py -->
...
<!-- end of NAME -->
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def write(page: str, name: str, text: str) -> None:
    """Put ``text`` between the marks of block ``name`` on a page of docs/; LookupError if it has no such block."""
    path = DOCS / page
    whole, found = _marks(name).subn(lambda match: f"{match[1]}\n{text.strip()}\n\n{match[3]}", path.read_text())
    if found != 1:
        raise LookupError(f"docs/{page} has {found} blocks named {name}; it needs one")
    path.write_text(whole)


def write_rows(page: str, name: str, text: str) -> None:
    """As ``write``, of a table: rows that begin as none of these do stay, and the others keep their places."""
    found = _marks(name).search((DOCS / page).read_text())
    known, new = (_rows(each) for each in (found[2] if found else "", text))
    write(page, name, "\n".join((known | new).values()))


def _marks(name: str) -> re.Pattern[str]:
    begin, end = (rf"<!-- {mark} {re.escape(name)}" for mark in ("block", "end of"))
    return re.compile(rf"({begin}: [^>]*-->\n)(.*?)({end} -->)", re.DOTALL)


def _rows(text: str) -> dict[str, str]:
    """Lines of a table, by what stands in the first column."""
    return {line.split(" | ")[0]: line for line in text.strip().splitlines()}


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown; numbers stand to the right."""
    right = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(heads))]
    lines = [heads, ["--:" if one else "---" for one in right], *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")
