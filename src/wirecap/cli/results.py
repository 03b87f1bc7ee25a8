"""What ``simulate``, ``figure`` and ``plan`` have in common: they compile, and leave results as JSON."""

from __future__ import annotations

from typing import Any

import click

from wirecap.cli import closing
from wirecap.errors import UsageError


def compiling(name: str) -> None:
    """Tell that a kernel is compiled: that takes seconds."""
    click.echo(f"wirecap: compiling {name} (once)", err=True)


def write_json(path: str, found: dict[str, Any]) -> None:
    """A result as JSON into a file, or on the standard output."""
    try:
        closing.write_json(found, path, indent=1)
    except OSError as error:
        if path == "-":  # a reader that went away is told as for every command
            raise
        raise UsageError(
            f"{path}: {(error.strerror or str(error)).lower()}", "choose a file that can be written"
        ) from None
