"""What commands share: parameters with units, options in sections, options of other tools that are refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wirecap import units
from wirecap.errors import UsageError

if TYPE_CHECKING:
    AnyParamType = click.ParamType[Any]
else:  # not generic in older versions of click
    AnyParamType = click.ParamType

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Parsed(AnyParamType):
    """A parameter that ``parse`` reads; the option's name goes before what it complains about."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except UsageError as error:
            where = f"{param.opts[0]}: " if param and param.opts else ""
            raise UsageError(where + error.message, error.hint) from None


def output_path(text: str) -> str:
    """A file to be made at the end of a run, or ``-``; what cannot be is known before the run."""
    path, reason = Path(text), ""
    if text == "-":
        return text
    if path.is_dir():
        reason = "is a directory"
    elif not path.parent.is_dir():
        reason = "there is no such folder"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        reason = "it may not be written"
    if reason:
        raise UsageError(f"{text}: {reason}", "choose a file in a folder that can be written")
    return text


SIZE = Parsed("SIZE", units.parse_size)
COUNT = Parsed("N", units.parse_count)
DURATION = Parsed("TIME", units.parse_duration_ns)
PERCENT = Parsed("PERCENT", units.parse_percent)
OUTPUT = Parsed("FILE", output_path)


class Option(click.Option):
    """An option that stands in a section of the help text."""

    def __init__(self, *args: Any, section: str = "Other", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class Command(click.Command):
    """A command whose help lists the options by section, in the order in which they are declared."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record and isinstance(param, click.Option):
                sections.setdefault(getattr(param, "section", "Other"), []).append(record)
        for name, rows in sections.items():
            with formatter.section(name):
                formatter.write_dl(rows, col_max=28)


def section(name: str) -> Callable[..., Callable[[Decorated], Decorated]]:
    """An ``option`` decorator for one section."""

    def option(*args: Any, **kwargs: Any) -> Callable[[Decorated], Decorated]:
        return click.option(*args, cls=Option, section=name, **kwargs)

    return option


def refused(*names: str, message: str, hint: str) -> Callable[[Decorated], Decorated]:
    """Hidden flags that other tools have and this one refuses, each with the reason."""

    def refuse(ctx: click.Context, param: click.Parameter, value: object) -> None:
        if value not in (None, False, 0):
            raise UsageError(f"{param.opts[0]}: {message}", hint)

    def decorate(function: Decorated) -> Decorated:
        for name in names:
            destination = f"refused_{name.encode().hex()}"
            takes = name.endswith("=")
            kind: dict[str, Any] = {} if takes else {"is_flag": True}
            option = click.option(
                name.rstrip("="), destination, hidden=True, expose_value=False, callback=refuse, **kind
            )
            function = option(function)
        return function

    return decorate
