"""The ``wirecap`` command: sub-commands loaded by name, and the one place where errors become one line.

A new command is a module of this folder with a click command in ``command`` (or ``group``) and a line in SECTIONS.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from wirecap import __version__
from wirecap.errors import UsageError, WirecapError

SECTIONS: dict[str, dict[str, str]] = {
    "Capture": {
        "capture": "Capture from interfaces or a file, into a file or a handler.",
        "forward": "Receive on one interface, send on another: a middlebox, or a tap for several tools.",
    },
    "Send": {
        "generate": "Synthetic traffic: sizes, flows, queues, rates, profiles.",
        "replay": "A capture file onto an interface, as recorded or at any speed.",
    },
    "Without a NIC": {
        "simulate": "Capture engines on a workload, in virtual time.",
        "figure": "The paper's figures 8 to 14: data, plot, and how far they agree.",
        "plan": "From rate, burst and handler to M, R, T and memory.",
    },
    "Try it": {
        "demo": "The first-minute tour: a burst, a slow handler, nothing lost.",
        "testbed": "Make, remove and show veth NICs with several queues.",
    },
    "This host": {
        "doctor": "What this host, its NICs and kernel can do, and what to change.",
        "warmup": "Compile ahead, so that the first capture starts at once.",
    },
}

HELP = """Lossless packet capture on commodity NICs.

A deep pool of buffers behind every receive queue keeps the packets of a burst until the
application has time for them; queues in trouble hand chunks to idle ones.
"""


class Commands(click.Group):
    """Commands by section; a command's module is imported when the command runs, not for ``--help``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module: Any = import_module(f"wirecap.cli.{cmd_name}")
        found: click.Command = getattr(module, "command", None) or module.group
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.list_commands(ctx) and not name.startswith("-"):
            close = get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f"did you mean {close[0]}?" if close else "wirecap --help lists the commands"
            raise UsageError(f"there is no command {name!r}", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(f"{name:<9}", text) for name, text in commands.items()])


@click.group(
    cls=Commands,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    invoke_without_command=True,
    epilog="'wirecap COMMAND --help' tells a command's options. A first capture: wirecap capture -i eth1 -w out.pcapng",
)
@click.version_option(__version__, message="wirecap %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit status: 0 done, 1 a run that failed, 2 bad usage or input."""
    if "_WIRECAP_COMPLETE" in os.environ:  # the shell asks for completions
        main.main(prog_name="wirecap")
    try:
        # Not main.main(): it prints an empty line when it is interrupted.
        with main.make_context("wirecap", list(arguments)) as context:
            main.invoke(context)
        sys.stdout.flush()
        return 0
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except BaseException as error:
        return report(error)


def report(error: BaseException) -> int:
    """Print one line about an error on stderr; return the exit status."""
    message, hint, status = _describe(error)
    if isinstance(error, BrokenPipeError):
        # What is still buffered has no reader: without this the interpreter complains about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if os.environ.get("WIRECAP_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)
    line = f"wirecap: {message} ({hint})" if hint else f"wirecap: {message}"
    click.echo(" ".join(line.split()), err=True)
    return status


def _describe(error: BaseException) -> tuple[str, str, int]:
    """(message, hint, exit status) of what went wrong."""
    match error:
        case WirecapError():
            return error.message, error.hint, error.exit_status
        case click.UsageError():
            return _describe_usage(error)
        case click.ClickException():
            return error.format_message(), "", 1
        case KeyboardInterrupt() | click.Abort():
            return "interrupted", "", 1
        case BrokenPipeError():
            return "the reader of the output went away", "", 1
        case MemoryError():
            return "out of memory", "take a smaller M or R, or fewer queues", 1
        case OSError():
            return _describe_os_error(error)
    return (
        f"internal error: {type(error).__name__}: {error}",
        "please report it; WIRECAP_DEBUG=1 shows the traceback",
        1,
    )


def _describe_usage(error: click.UsageError) -> tuple[str, str, int]:
    command = error.ctx.command_path if error.ctx else "wirecap"
    hint = f"{command} --help tells the usage"
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption):
        message = f"there is no option {error.option_name}"
        if error.possibilities:
            hint = f"did you mean {' or '.join(sorted(error.possibilities))}?"
    return message, hint, 2


_WRONG_INPUT = {errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}


def _describe_os_error(error: OSError) -> tuple[str, str, int]:
    reason = (error.strerror or str(error)).lower()
    where = f"{error.filename}: " if error.filename is not None else ""
    return where + reason, "", 2 if error.errno in _WRONG_INPUT else 1
