"""The reference of all commands, from the same text as their help: manual pages, and a page of the documentation.

``pages`` reads the commands; ``roff`` and ``markdown`` write what it found.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path

import click

from wirecap.cli.main import SECTIONS, main
from wirecap.errors import UsageError
from wirecap.version import __version__

Rows = list[tuple[str, str]]

STATUS: Rows = [
    ("0", "Done. A capture that Ctrl-C or SIGTERM ends is done."),
    ("1", "The run failed. One line on standard error says why; what had been captured is written."),
    ("2", "Bad usage or bad input. One line says what is wrong, and what to do."),
]
ENVIRONMENT: Rows = [
    ("WIRECAP_RUNTIME_DIR", "Where running captures show their counters to wirecap top. Else /dev/shm."),
    ("WIRECAP_CACHE_DIR", "Where compiled kernels are kept. Else XDG_CACHE_HOME/wirecap, else ~/.cache/wirecap."),
    ("WIRECAP_DEBUG", "If set, an error is printed with its traceback."),
    ("NO_COLOR", "If set and not empty, nothing is coloured. Colours go to terminals only, in any case."),
]
OTHER_PAGES = ("tcpdump(8)", "pcap-filter(7)", "dumpcap(1)", "editcap(1)", "tcpreplay(1)")


@dataclass(frozen=True)
class Text:
    """A paragraph, which is filled, or lines that stay as they are."""

    text: str
    verbatim: bool = False


@dataclass(frozen=True)
class Part:
    """A usage, what it does, and its options by section: of a command, or of a sub-command of it."""

    usage: str
    texts: list[Text]
    options: dict[str, Rows]


@dataclass(frozen=True)
class Page:
    """A command.  name: as it is typed.  parts: its own, then those of its sub-commands.  commands: by section."""

    name: str
    summary: str
    parts: list[Part]
    commands: dict[str, Rows]

    @property
    def file(self) -> str:
        return f"{self.name.replace(' ', '-')}.1"


def pages() -> list[Page]:
    """``wirecap`` and each of its commands, in the order of the help."""
    context = click.Context(main, info_name="wirecap", help_option_names=["-h", "--help"])
    commands = {section: list(rows.items()) for section, rows in SECTIONS.items()}
    summary = "lossless packet capture on commodity NICs"
    found = [Page("wirecap", summary, [_part(context)], commands)]
    for name, text in (row for rows in commands.values() for row in rows):
        command = main.get_command(context, name)
        assert command is not None, f"{name} has no module in cli/"
        inner = click.Context(command, context, name)
        parts = [_part(inner)]
        if isinstance(command, click.Group):
            parts += [_part(click.Context(sub, inner, called)) for called, sub in command.commands.items()]
        found.append(Page(f"wirecap {name}", text[0].lower() + text[1:].rstrip("."), parts, {}))
    return found


def _part(context: click.Context) -> Part:
    command = context.command
    options: dict[str, Rows] = {}
    for param in command.get_params(context):
        row = param.get_help_record(context)
        if row and isinstance(param, click.Option):
            options.setdefault(getattr(param, "section", "Options"), []).append((row[0], " ".join(row[1].split())))
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    return Part(usage, list(_texts(command.help or "")), options)


def _texts(help_text: str) -> Iterator[Text]:
    """The paragraphs; one that begins with click's mark \\b is verbatim."""
    for block in re.split(r"\n\s*\n", cleandoc(help_text)):
        mark, _, rest = block.partition("\n")
        if mark.strip() in ("\b", "\\b"):
            yield Text(textwrap.dedent(rest), verbatim=True)
        else:
            yield Text(" ".join(block.split()))


def roff(page: Page) -> str:
    """The page for man(1)."""
    name, own = page.name.replace(" ", "-"), page.parts[0]
    lines = [f'.TH "{_quoted(name.upper())}" 1 "" "WireCAP {__version__}" "WireCAP"']
    lines += [".SH NAME", f"{_quoted(name)} \\- {_quoted(page.summary)}", ".SH SYNOPSIS", ".nf"]
    lines += [_quoted(part.usage) for part in page.parts]
    lines += [".fi", ".SH DESCRIPTION", *_paragraphs(own.texts)]
    if own.options:
        lines.append(".SH OPTIONS")
    for section, rows in own.options.items():
        lines += [f".SS {_quoted(section)}", *_terms(rows)]
    if page.commands or page.parts[1:]:
        lines.append(".SH COMMANDS")
    for section, rows in page.commands.items():
        lines += [f".SS {_quoted(section)}", *_terms([(f"wirecap-{name}(1)", text) for name, text in rows])]
    for part in page.parts[1:]:
        lines += [f".SS {_quoted(part.usage)}", *_paragraphs(part.texts)]
        lines += [line for rows in part.options.values() for line in _terms(rows)]
    lines += [".SH EXIT STATUS", *_terms(STATUS), ".SH ENVIRONMENT", *_terms(ENVIRONMENT), ".SH SEE ALSO"]
    others = [f"wirecap-{name}(1)" for rows in SECTIONS.values() for name in rows]
    lines.append(_quoted(", ".join(one for one in ("wirecap(1)", *others, *OTHER_PAGES) if one != f"{name}(1)")))
    return "\n".join(lines) + "\n"


def _paragraphs(texts: list[Text]) -> list[str]:
    lines = []
    for text in texts:
        kept = [".RS 4", ".nf", _quoted(text.text), ".fi", ".RE"]
        lines += [".PP", *(kept if text.verbatim else [_quoted(text.text)])]
    return lines[1:]  # none behind a heading


def _terms(rows: Rows) -> list[str]:
    return [line for name, text in rows for line in (".TP", f"\\fB{_quoted(name)}\\fR", _quoted(text) or "\\&")]


_SPECIAL = {"\\": "\\e", "-": "\\-", "~": "\\(ti", "^": "\\(ha", "`": "\\(ga", "'": "\\(aq", '"': "\\(dq"}


def _quoted(text: str) -> str:
    """The text, as roff takes it for text."""
    text = "".join(_SPECIAL.get(letter, letter) for letter in text)
    return re.sub(r"^(?=\.)", r"\\&", text, flags=re.MULTILINE)


def markdown() -> str:
    """All commands as sections of one page of the documentation."""
    lines: list[str] = []
    for page in pages():
        lines += [f"## {page.name}", ""]
        for part in page.parts:
            lines += ["```text", part.usage, "```", ""]
            for text in part.texts:
                lines += ["```text", text.text, "```", ""] if text.verbatim else [_plain(text.text), ""]
            for section, rows in part.options.items():
                lines += _definitions(section, rows)
        for section, rows in page.commands.items():
            lines += _definitions(section, rows)
    for title, rows in (("Exit status", STATUS), ("Environment", ENVIRONMENT)):
        lines += [f"## {title}", "", *_definitions("", rows)]
    return "\n".join(lines)


def _definitions(title: str, rows: Rows) -> list[str]:
    heading = [f"**{title}**", ""] if title else []
    return [*heading, *(line for name, text in rows for line in (f"`{name}`", f": {_plain(text) or '-'}", ""))]


def _plain(text: str) -> str:
    """The text with the marks of Markdown quoted."""
    return re.sub(r"([\\`*_{}\[\]<>#|$~@])", r"\\\1", text)


def write(folder: Path) -> list[Path]:
    """Write every manual page into the folder, which is made; returns their paths.  Raises UsageError."""
    paths = [folder / page.file for page in pages()]
    at = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for at, page in zip(paths, pages(), strict=True):
            at.write_text(roff(page))
    except OSError as error:
        raise UsageError(
            f"{at}: {os.strerror(error.errno or 0).lower()}", "name a folder with wirecap man DIR"
        ) from None
    return paths
