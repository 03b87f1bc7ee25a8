"""``wirecap examples``: the short programs that come with the package, listed, printed or copied."""

from __future__ import annotations

import ast
import json
import os
from importlib.resources import files
from pathlib import Path

import click

from wirecap.cli.options import Command, argument, section
from wirecap.errors import UsageError, suggest


@click.command(cls=Command)
@argument("names", nargs=-1, metavar="[NAME...]")
@section("Options")("--copy", "folder", metavar="DIR", help="Copy them (or those named) to a folder, which is made.")
@section("Options")("--json", "as_json", is_flag=True, help="List them as JSON: name, what it does, text.")
def command(names: tuple[str, ...], folder: str | None, as_json: bool) -> None:
    """List the examples, print the named ones, or copy them to begin with.

    Each is a short program, a handler of your own in most cases, which runs as it is: the first line says how.
    """
    known = texts()
    if as_json:  # other commands take - there, for standard output
        names = tuple(name for name in names if name != "-")
    for name in names:
        if name.removesuffix(".py") not in known:
            hint = suggest(name, known) or f"there are {', '.join(known)}"
            raise UsageError(f"there is no example {name!r}", hint)
    chosen = {name: known[name] for name in dict.fromkeys(name.removesuffix(".py") for name in names)} or known
    if as_json:
        rows = [{"name": name, "about": about(text), "text": text} for name, text in chosen.items()]
        click.echo(json.dumps(rows, indent=1))
    if folder is not None:
        copy(chosen, Path(folder))
    elif names and not as_json:
        click.echo("\n".join(chosen.values()), nl=False)
    elif not as_json:
        width = max(map(len, chosen))
        for name, text in chosen.items():
            click.echo(f"{name:{width}}  {about(text)}")
        click.echo("\nwirecap examples NAME prints one; wirecap examples --copy DIR copies them")


def texts() -> dict[str, str]:
    """Each example's text by its name.  Raises UsageError for a package without them."""
    try:
        programs = [path for path in (files("wirecap") / "examples").iterdir() if path.name.endswith(".py")]
        found = {path.name.removesuffix(".py"): path.read_text() for path in programs}
    except OSError:
        found = {}
    if not found:
        raise UsageError("this installation has no examples", "install the package again")
    return dict(sorted(found.items()))


def about(text: str) -> str:
    """What an example does: its first line, without the command that runs it."""
    first = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return first.partition("  ")[0]


def copy(chosen: dict[str, str], folder: Path) -> None:
    """Write the examples to a folder; a file that is there already is left as it is.  Raises UsageError."""
    there = [str(folder / f"{name}.py") for name in chosen if (folder / f"{name}.py").exists()]
    if there:
        raise UsageError(f"{there[0]} already exists", "choose another folder: nothing was copied")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in chosen.items():
            (folder / f"{name}.py").write_text(text)
            click.echo(str(folder / f"{name}.py"), err=True)
    except OSError as error:
        raise UsageError(f"{folder}: {os.strerror(error.errno or 0)}", "name a folder that can be written to") from None
