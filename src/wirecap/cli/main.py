"""The ``wirecap`` command: loads sub-commands by name, and is the one place that turns errors into one line.

To add a command, add a module to this folder with a click command in ``command`` (or ``group``) and a line to SECTIONS.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from wirecap.cli import usage
from wirecap.cli.typed import as_typed
from wirecap.errors import UsageError, WirecapError
from wirecap.observe import log
from wirecap.version import __version__

SECTIONS: dict[str, dict[str, str]] = {
    "Capture": {
        "capture": "Capture from interfaces or a file, into a file or a handler.",
        "forward": "Receive on one interface, send on another: a middlebox, or a tap for several tools.",
        "serve": "Serve what is captured as pcap over IP: to Wireshark, Zeek, Arkime, or another wirecap.",
        "top": "Watch every running capture of this host: rates, queues, drops, disk.",
        "metrics": "Print a Grafana dashboard and alert rules for captures with --metrics.",
        "trigger": "Have a running capture with --keep save what it keeps.",
        "service": "Run a capture as a systemd service: without root, watched, started again when it fails.",
        "collect": "Collect many sensors' flow records from a broker into one dataset.",
        "libpcap": "Print what to preload, so that tcpdump, Wireshark or Suricata read a running capture.",
    },
    "Capture files": {
        "convert": "Merge, split, cut, deduplicate, anonymise, shift or select; other formats, and Parquet.",
        "find": "Find packets by time and filter, in many files, reading only where they can be.",
        "index": "Make indexes for find beside capture files that have none.",
        "map": "Run a handler over many capture files, on all cores or on a cluster.",
    },
    "Send": {
        "generate": "Send synthetic traffic: sizes, flows, queues, rates, profiles.",
        "replay": "Send a capture file to an interface, as recorded or at any speed.",
    },
    "Without a NIC": {
        "simulate": "Run capture engines on a workload, in virtual time.",
        "figure": "Reproduce the paper's figures 8 to 14: data, plot, and how well they agree.",
        "plan": "Work out M, R, T and memory from rate, burst and handler.",
    },
    "Other programs": {
        "wireshark": "Install WireCAP as a capture source of Wireshark and tshark, or remove it.",
    },
    "Try it": {
        "demo": "Take the one-minute tour: a burst, a slow handler, nothing lost.",
        "examples": "List, print or copy short programs to begin with.",
        "testbed": "Create, remove and show veth NICs with several queues.",
    },
    "This host": {
        "doctor": "Check what this host, its NICs and its kernel can do, and what to change.",
        "warmup": "Compile the kernels now, so that the first capture starts at once.",
        "completion": "Print the script that completes wirecap's commands in bash, zsh or fish.",
        "man": "Write the manual pages, for man(1).",
    },
}

HELP = """Lossless packet capture on commodity NICs.

A deep pool of buffers behind every receive queue holds the packets of a burst until the
application gets to them; overloaded queues hand chunks to idle ones.
"""


class Commands(click.Group):
    """Commands grouped by section; a command's module is imported only when the command runs, not for ``--help``."""

    def get_help(self, ctx: click.Context) -> str:
        return as_typed(super().get_help(ctx))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            capture = import_module("wirecap.cli.capture")
            if error.option_name not in usage.options(capture.command, ctx, hidden=True):
                raise
            capture.refuse(ctx, given)
            raise UsageError(
                f"unknown option {error.option_name}: options follow a command",
                f"did you mean 'wirecap capture {shlex.join(given)}'?",
            ) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module: Any = import_module(f"wirecap.cli.{cmd_name}")
        found: click.Command = getattr(module, "command", None) or module.group
        return found

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands with what they do, and for ``-`` the options; click would import every command for this."""
        texts = {name: text for section in SECTIONS.values() for name, text in section.items()}
        found = [CompletionItem(name, help=text) for name, text in texts.items() if name.startswith(incomplete)]
        return found if found or not incomplete.startswith("-") else click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name == "help" and len(args) > 1:  # as in git
            return self.resolve_command(ctx, [args[1], "--help"])
        if name in ("help", "version"):
            raise UsageError(f"unknown command {name!r}", f"did you mean 'wirecap --{name}'?")
        if name not in self.list_commands(ctx) and not name.startswith("-"):
            raise usage.unknown_command(name, self.list_commands(ctx), "wirecap --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.list_commands(ctx)))
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in commands.items()])


@click.group(
    cls=Commands,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    invoke_without_command=True,
    epilog="'wirecap COMMAND --help' lists a command's options. A first capture: wirecap capture -i eth1 -w out.pcapng",
)
@click.version_option(__version__, message="wirecap %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: Sequence[str], own_process: bool = False) -> int:
    """Run a command line and return its exit status: 0 for success, 1 for a failed run, 2 for bad usage or input.

    own_process: whether this process is there for nothing else, so that it may give up its rights.
    """
    if sys.stderr is None:  # 2>&-
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  open as long as the process runs
    log.use("text")
    try:
        if "_WIRECAP_COMPLETE" in os.environ:  # a shell asks what fits
            return import_module("wirecap.cli.completing").answer(main)  # type: ignore[no-any-return]
        # Not main.main(): it prints an empty line when interrupted.
        color = False if os.environ.get("NO_COLOR") else None
        with main.make_context("wirecap", list(arguments), color=color, obj=own_process) as context:
            main.invoke(context)
        if sys.stdout:
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
        # Nobody reads what is still buffered: without this the interpreter complains about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not log.has_begun():  # text alone, such as help: whoever has read enough (| head) wants no complaint
            return status
    if os.environ.get("WIRECAP_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)
    line = f"wirecap: {message} ({hint})" if hint else f"wirecap: {message}"
    log.tell(as_typed(" ".join(line.split())), "error", "error", reason=message, hint=as_typed(hint), status=status)
    return status


def _describe(error: BaseException) -> tuple[str, str, int]:
    """(message, hint, exit status) for an error."""
    match error:
        case WirecapError():
            return error.message, error.hint, error.exit_status
        case click.UsageError():
            return *usage.describe(error), 2
        case click.ClickException():
            return error.format_message(), "", 1
        case KeyboardInterrupt() | click.Abort():
            return "interrupted", "", 1
        case BrokenPipeError():
            return "broken pipe: nothing reads the output any more", "", 1
        case MemoryError():
            return "out of memory", "use a smaller M or R, or fewer queues", 1
        case OSError():
            return _describe_os_error(error)
    return (
        f"internal error: {type(error).__name__}: {error}",
        "please report it; WIRECAP_DEBUG=1 shows the traceback",
        1,
    )


_WRONG_INPUT = {errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}
_WAYS_OUT = {
    errno.ENOENT: "name one that exists",
    errno.EACCES: "name one that you may use, or change who may",
    errno.ENOSPC: "free some space, or write to another disk",
}


def _describe_os_error(error: OSError) -> tuple[str, str, int]:
    reason = (error.strerror or str(error)).lower()
    where = f"{error.filename}: " if error.filename is not None else ""
    return where + reason, _WAYS_OUT.get(error.errno or 0, ""), 2 if error.errno in _WRONG_INPUT else 1
