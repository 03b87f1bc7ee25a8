"""What click refuses, in this project's words: the option, the value, and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import click

from wirecap.errors import UsageError

_NUMBERS = {"integer": "a whole number", "float": "a number"}


def describe(error: click.UsageError) -> tuple[str, str]:
    """(message, hint) for wrong usage."""
    command = error.ctx.command_path if error.ctx else "wirecap"
    help = f"{command} --help shows the usage"
    match error:
        case click.NoSuchOption():
            near = _near(error.option_name, options(error.ctx.command, error.ctx)) if error.ctx else []
            return f"unknown option {error.option_name}", f"did you mean {' or '.join(near)}?" if near else help
        case click.MissingParameter():
            return f"{_name(error.param)} is missing", help
        case click.BadParameter(param=click.Parameter() as param):
            return _bad_value(error, param, help)
        case click.BadOptionUsage() if "requires an argument" in error.message:
            json = error.option_name in ("--json", "--summary-json")
            return f"{error.option_name} needs a value", "a file, or - for standard output" if json else help
        case click.BadOptionUsage() if "does not take a value" in error.message:
            return f"{error.option_name} takes no value", f"leave out what follows {error.option_name}"
        case _ if error.message.startswith("Got unexpected extra argument"):
            given = error.message.partition("(")[2].rstrip(").")
            return f"{given!r} is not expected here", help
    return error.format_message().rstrip("."), help


def _bad_value(error: click.BadParameter, param: click.Parameter, help: str) -> tuple[str, str]:
    """The value stands in click's own message only, in quotes before what is wrong with it."""
    message, kind = error.message.rstrip("."), param.type
    value = message.partition(" is not ")[0]
    if isinstance(kind, click.Choice):
        return f"{_name(param)}: {value} is not known", f"use {_one_of(list(map(str, kind.choices)))}"
    if isinstance(kind, click.IntRange | click.FloatRange) and "in the range" in message:
        wanted = message.partition("in the range ")[2]
        return f"{_name(param)}: {value} is out of range", f"give a number with {wanted}"
    if kind.name.removesuffix(" range") in _NUMBERS:
        wanted = _NUMBERS[kind.name.removesuffix(" range")]
        return f"{_name(param)}: {value} is not {wanted}", f"write it as {_name(param)} 10"
    return f"{_name(param)}: {message[:1].lower()}{message[1:]}", help


def _one_of(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"


def _name(param: click.Parameter | None) -> str:
    """An option as it is written, an argument as the usage line shows it."""
    if isinstance(param, click.Option):
        return param.opts[0]
    return param.make_metavar(click.Context(click.Command(""))).strip("[].") if param else "an argument"


def unknown_command(name: str, known: Iterable[str], help: str) -> UsageError:
    """For a name that no command has.  help: the command line that lists them."""
    close = get_close_matches(name, list(known), n=1)
    return UsageError(
        f"unknown command {name!r}", f"did you mean {close[0]}?" if close else f"{help} lists the commands"
    )


def options(command: click.Command, ctx: click.Context, hidden: bool = False) -> list[str]:
    """The names of a command's options."""
    found: list[Any] = [param for param in command.get_params(ctx) if isinstance(param, click.Option)]
    return [name for param in found if hidden or not param.hidden for name in (*param.opts, *param.secondary_opts)]


def _near(written: str, known: Iterable[str]) -> list[str]:
    """The long options that someone who wrote this may have meant: what it begins, else what it nearly is."""
    names = {name.lstrip("-"): name for name in known if name.startswith("--")}
    bare = written.lstrip("-")
    if begun := sorted(name for name in names if len(bare) > 2 and name.startswith(bare)):
        return [names[name] for name in begun]
    return [names[name] for name in get_close_matches(bare, names, n=2, cutoff=0.75)]
