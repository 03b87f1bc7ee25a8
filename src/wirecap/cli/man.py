"""``wirecap man``: manual pages, from the same text as the help."""

from __future__ import annotations

from pathlib import Path

import click

from wirecap.cli.options import Command, argument

HELP = """Write the manual pages: wirecap.1, and one for each command.

DIR is ~/.local/share/man/man1 if it is left out, where man(1) finds them if ~/.local/bin is in the PATH.
They have the same text as the help.

\b
  wirecap man
  man wirecap-capture
"""


@click.command(cls=Command, help=HELP)
@argument("folder", metavar="[DIR]", required=False)
def command(folder: str | None) -> None:
    from wirecap.cli.manual import write

    path = Path(folder) if folder else Path.home() / ".local/share/man/man1"
    paths = write(path)
    click.echo(f"{len(paths)} pages in {path}")
