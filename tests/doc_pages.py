"""The command lines of README.md and docs/*.md, and what surrounds them.

A block of commands is fenced as ``sh``, ``bash`` or ``console`` (there, the lines behind ``$``; the others are output).
A comment before a block, which readers do not see, says what the tests are to know:

    <!-- not run: REASON -->      the block cannot be run in a network namespace on one machine
    <!-- file: my.py -->          the block's text is a file that later commands use
    <!-- file: my.py ... -->      the same, with the text inside the comment

Python whose first line is ``# my.py`` is that file, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHELLS = ("sh", "bash", "console")
OTHERS = ("text", "python", "json", "ini", "toml", "yaml", "lua", "diff")


@dataclass(frozen=True)
class Block:
    """A fenced block.  line: that of its fence.  reason: why it is not run, else empty.  file: its name as a file."""

    line: int
    language: str
    text: str
    reason: str = ""
    file: str = ""

    def commands(self) -> list[tuple[int, str]]:
        """(line number, command), of several lines where a backslash, a quote or a here-document goes on."""
        rows = list(enumerate(self.text.splitlines(), self.line + 1))
        if self.language == "console":
            rows = [(number, row[2:]) for number, row in rows if row.startswith(("$ ", "> "))]
        found: list[tuple[int, str]] = []
        whole = True
        for number, row in rows:
            if whole:
                found.append((number, row))
            else:
                found[-1] = found[-1][0], f"{found[-1][1]}\n{row}"
            whole = _ends(found[-1][1])
        return [(number, text) for number, text in found if re.sub(r"^\s*#.*", "", text).strip()]


def _ends(command: str) -> bool:
    """Whether a shell would run this, without waiting for another line."""
    if command.endswith("\\"):
        return False
    here = re.search(r"<<-?\s*['\"]?(\w+)['\"]?", command)
    if here:
        return re.search(rf"^\s*{here[1]}$", command, re.MULTILINE) is not None
    bare = re.sub(r"\\.|(?<!\S)#.*", "", command)
    bare = re.sub(r"'[^']*'" + r'|"[^"]*"', "", bare)
    return "'" not in bare and '"' not in bare


@dataclass
class Page:
    """A page.  hidden: files that its comments hold.  spans: (line number, text) of code in the middle of sentences."""

    path: Path
    blocks: list[Block] = field(default_factory=list)
    hidden: dict[str, str] = field(default_factory=dict)
    spans: list[tuple[int, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    def runs(self) -> list[Block]:
        return [block for block in self.blocks if block.language in SHELLS and not block.reason]


def pages() -> list[Page]:
    """Every page of the documentation."""
    return [read(path) for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))]


_FENCE = re.compile(r"^( *)(```+)([\w{}-]*) *\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--\s*(file|not run)[^:\n]*:\s*(.*?)\s*-->", re.DOTALL)


def read(path: Path) -> Page:
    """A page's blocks and spans."""
    text, page = path.read_text(), Page(path)
    marks = {}
    for mark in _COMMENT.finditer(text):
        name, _, content = mark[2].partition("\n")
        if mark[1] == "file" and content:
            page.hidden[name.strip()] = content + "\n"
        else:
            marks[mark.end()] = (mark[1], " ".join(mark[2].split()))
    for fence in _FENCE.finditer(text):
        if fence[3].startswith("{"):  # a directive of the website
            continue
        before = text[: fence.start()].rstrip()
        kind, said = marks.get(len(before), ("", ""))
        inner = re.sub(rf"^{fence[1]}", "", fence[4], flags=re.MULTILINE)
        reason, file = (said if kind == "not run" else ""), (said if kind == "file" else "")
        if named := re.match(r"# ([\w/-]+\.py)\n", inner):
            file = file or named[1]
        page.blocks.append(Block(_line(text, fence.start()), fence[3], inner, reason, file))
    bare = re.sub(_FENCE, lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    bare = re.sub(r"<!--.*?-->", lambda found: re.sub(r"[^\n]", " ", found[0]), bare, flags=re.DOTALL)
    page.spans += _spans(bare)
    return page


def _spans(text: str) -> Iterator[tuple[int, str]]:
    for span in re.finditer(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", text, re.DOTALL):
        if "\n\n" not in span[2]:
            yield _line(text, span.start()), " ".join(span[2].replace("\\|", "|").split())


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
