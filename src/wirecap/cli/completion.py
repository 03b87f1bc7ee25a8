"""``wirecap completion``: the script that has a shell complete this command."""

from __future__ import annotations

import click

from wirecap.cli.options import Command
from wirecap.errors import UsageError

HELP = """Print the script that completes wirecap's commands, options, interfaces, handlers and files.

SHELL is bash, zsh or fish. For the shell that you are in:

\b
  source <(wirecap completion bash)
  source <(wirecap completion zsh)
  wirecap completion fish | source

For every shell from now on, put the script where the shell looks for it:

\b
  wirecap completion bash > ~/.local/share/bash-completion/completions/wirecap
  wirecap completion zsh > ~/.zfunc/_wirecap    # a folder in $fpath, named before compinit runs
  wirecap completion fish > ~/.config/fish/completions/wirecap.fish
"""


@click.command(cls=Command, help=HELP)
@click.argument("shell", required=False, type=click.Choice(("bash", "zsh", "fish")), metavar="SHELL")
def command(shell: str | None) -> None:
    if shell is None:
        raise UsageError("no shell is named", "use 'wirecap completion bash', zsh or fish")
    from wirecap.cli.completing import script
    from wirecap.cli.main import main

    click.echo(script(shell, main), nl=False)
