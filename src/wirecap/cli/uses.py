"""What a command line uses twice: files that it would write over, and options of which only the last would count."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from wirecap.config.convert import same_file
from wirecap.errors import UsageError

_REPORTS = ("ready_file", "summary_json", "json_file", "json_path", "summary_path", "decisions_file",
            "html_file")  # fmt: skip
"""Parameters that name what is written beside the packets."""
_SEVERAL_FILES = "for several files: wirecap convert FILES -w - | wirecap capture -r -"


class _File(NamedTuple):
    option: str
    path: str
    report: bool


def check_files(command: click.Command, ctx: click.Context) -> None:
    """Raise UsageError for a summary, a list or a ready file that would replace a file this command reads or writes.

    Also for one that is a capture in a folder that it reads.
    """
    files = list(_files(command.get_params(ctx), ctx.params))
    for at, file in enumerate(files):
        for other in files[at + 1 :]:
            if (file.report or other.report) and _one_file(file.path, other.path):
                option, path = (file if file.report else other)[:2]
                raise UsageError(f"{option} {path}: the file has another use", "use another name")
        if file.report and any(_is_capture_in(file.path, other.path) for other in files if not other.report):
            raise UsageError(f"{file.option} {file.path}: the file is one of the captures", "use another name")


def _files(params: Iterable[click.Parameter], values: dict[str, Any]) -> Iterator[_File]:
    """Those that the command line names: what the help calls a file or folder."""
    for param in params:
        given, name = values.get(str(param.name)), str(param.name)
        several = given if isinstance(given, list | tuple) else [given]
        if name == "ring":
            listed = (str(text).partition(":")[2] for text in several if str(text).startswith("printname:"))
            yield from (_File("-b printname:", path, True) for path in listed if path != "stderr")
        elif name in _REPORTS or any(word in str(param.metavar) for word in ("FILE", "FOLDER")):
            paths = (path for path in several if isinstance(path, str) and path not in ("", "-"))
            yield from (_File(param.opts[0], path, name in _REPORTS) for path in paths)


def _one_file(one: str, other: str) -> bool:
    """Whether both are one regular file, there already or not; terminals, pipes and /dev/null may be shared."""
    return same_file(one, other) and not (Path(one).exists() and not Path(one).is_file())


def _is_capture_in(path: str, folder: str) -> bool:
    if not Path(folder).is_dir() or not Path(path).is_file():
        return False
    from wirecap.files.decompression import is_compressed
    from wirecap.files.headers import is_pcap, is_section_header

    with Path(path).open("rb") as file:
        start = file.read(4)
    inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    return inside and (is_section_header(start) or is_pcap(start) or is_compressed(start))


def check_repeats(order: Sequence[click.Parameter]) -> None:
    """Raise UsageError where an option takes one value and got several.  order: the parameters as they were given."""
    seen: dict[str, click.Option] = {}
    for param in order:
        if not isinstance(param, click.Option) or param.multiple or param.count or not param.expose_value:
            continue
        before = seen.get(str(param.name))
        seen[str(param.name)] = param
        if before is param and not param.is_flag:
            hint = _SEVERAL_FILES if param.name == "read_file" else "give it once"
            raise UsageError(f"{param.opts[0]} is given twice", hint)
        if before and before is not param and before.flag_value != param.flag_value:
            raise UsageError(f"{before.opts[0]} and {param.opts[0]} cannot be combined", "use only one of them")
