"""``--config FILE.toml``: options from a file, which become arguments in front of those that were typed."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Callable, Iterator
from datetime import date, time
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import click

from wirecap.cli import keeping, usage, uses
from wirecap.cli.options import Command, Section
from wirecap.config.capture import CaptureConfig, WriteConfig
from wirecap.errors import UsageError, WirecapError, suggest
from wirecap.observe import log

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Settings = tuple[CaptureConfig, WriteConfig | None]

ALTERNATIVES = (
    {"sources", "read_file"},
    {"filter_text", "filter_file", "words"},
    {"R", "buffer_size"},
)
"""Parameters of which one makes the others meaningless: what is typed replaces all of a set."""
CHANGEABLE = {"T", "filter_text", "filter_file", "words", "limit", "min_free", "max_age_ns", *keeping.CHANGEABLE}
"""Parameters that SIGHUP may change."""
MOST_BYTES = 1 << 20
_TYPED, _SET = "wirecap.typed", "wirecap.set"
_OURS = ("config_file", "check_config")
_OF_FILTERS = {"filter ": ("filter_text", "filter_file"), "--save-on: ": ("save_on",)}
"""How what is wrong with filters begins, which only their compiler knows, and the parameters that they are in."""
_AS = 'write it as: filter = "tcp port 443"'


class Setting(NamedTuple):
    """What a file says, if no typed option replaces it: where, the parameter, and what would be typed for it."""

    place: str
    name: str
    arguments: list[str]


class Configurable(Command):
    """A command with ``--config`` and ``--check-config``.

    checks: raises what the command raises for parameters, as far as that takes no capture.
    """

    def __init__(self, *args: Any, checks: Callable[[dict[str, Any]], object], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._checks = checks

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_TYPED], ctx.meta[_SET] = list(args), []
        _log_as_asked(args)
        if not ctx.resilient_parsing:
            ctx.meta[_SET] = list(_from_file(self, ctx, args))
        try:
            return super().parse_args(ctx, _joined(ctx.meta[_SET], args))
        except UsageError as error:
            place(ctx, error)
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            place(ctx, error)
            raise

    def refusal(self, ctx: click.Context, settings: list[Setting]) -> str:
        """With which message these settings are refused, beside what was typed; "" if they are not."""
        tried = click.Context(self, ctx.parent, ctx.info_name)
        try:
            Command.parse_args(self, tried, _joined(settings, ctx.meta[_TYPED]))
            uses.check_files(self, tried)
            self._checks(dict(tried.params))
        except (WirecapError, click.UsageError, OSError) as error:
            return _words(error)[0]
        return ""


def _joined(settings: list[Setting], typed: list[str]) -> list[str]:
    return [*(word for setting in settings for word in setting.arguments), *typed]


def place(ctx: click.Context, error: UsageError) -> None:
    """Put the file and the line in front of what is wrong with the value of a key, alone or beside others' values."""
    if found := _blamed(ctx, error.message):
        error.message = found.place + error.message


def _blamed(ctx: click.Context, message: str) -> Setting | None:
    """The last of the keys that have a part in it and without which nothing would be refused."""
    settings: list[Setting] = ctx.meta.get(_SET, [])
    if not settings or message.startswith(tuple(setting.place for setting in settings)):
        return None
    for start, names in _OF_FILTERS.items():
        if message.startswith(start):
            return next((setting for setting in settings if setting.name in names), None)
    refusal = cast("Configurable", ctx.command).refusal
    if refusal(ctx, settings) != message:
        return None
    part = list(settings)
    for setting in settings:
        others = [one for one in part if one is not setting]
        if refusal(ctx, others) == message:
            part = others
    for setting in reversed(part):
        if not refusal(ctx, [one for one in part if one is not setting]):
            return setting
    return part[0] if len(part) == 1 else None  # without it, something else would be refused


def _log_as_asked(args: list[str]) -> None:
    """Log what is wrong with the other arguments as --log-format says, before any of them is looked at."""
    for word, following in zip(args, [*args[1:], ""], strict=False):
        name, _, value = word.partition("=")
        if name == "--log-format" and (wanted := value or following) in log.FORMATS:
            log.use(wanted)


def options(where: Section, instead: Section) -> Callable[[Decorated], Decorated]:
    """The two options, given the sections of the help in which they stand."""

    config = where("--config", "config_file", metavar="FILE", help="Read options from a TOML file: long names as keys."
                   " What is typed beside it wins.")  # fmt: skip
    check = instead("--check-config", is_flag=True, help="Check the file of --config and these options; status 0 or 2.")

    def decorate(function: Decorated) -> Decorated:
        for option in (check, config):
            function = option(function)
        return function

    return decorate


def reloader(
    ctx: click.Context, given: dict[str, Any], settings: Callable[[dict[str, Any]], Settings]
) -> Callable[[Callable[[CaptureConfig, WriteConfig | None], None]], None] | None:
    """What SIGHUP calls: it reads the file again and applies what may change; None without a file.

    given: the parameters as they were parsed.  settings: from such parameters to the configuration.
    """
    if given["config_file"] is None:
        return None
    typed, before = list(ctx.meta[_TYPED]), dict(given)

    def reload(apply: Callable[[CaptureConfig, WriteConfig | None], None]) -> None:
        again = None
        try:
            again = ctx.command.make_context(ctx.info_name, list(typed), parent=ctx.parent)
            now = again.params
            _check_changes(again, before, now)
            apply(*settings(dict(now)))
        except (WirecapError, click.UsageError, OSError) as error:
            if isinstance(error, UsageError) and again:
                place(again, error)
            message, hint = _words(error)
            log.use(before["log_format"])
            said = f"wirecap: the old settings stay: {message}" + (f" ({hint})" if hint else "")
            log.tell(said, "reload_refused", "warning", reason=message, hint=hint)
            return
        before.update(now)
        log.tell(f"wirecap: {before['config_file']}: reloaded", "reloaded", file=before["config_file"])

    return reload


def _check_changes(ctx: click.Context, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UsageError for a change that only another capture can make."""
    places = {setting.name: setting.place for setting in ctx.meta[_SET]}
    for param in ctx.command.params:
        name = str(param.name)
        if name not in CHANGEABLE and name in before and repr(before[name]) != repr(now[name]):
            key = max(param.opts, key=len).lstrip("-")
            where = places.get(name, "")  # a key that has gone has none
            raise UsageError(f"{where}{key} cannot change while packets are captured", "restart the capture")


def _words(error: Exception) -> tuple[str, str]:
    """The message and the hint of an error."""
    if isinstance(error, click.UsageError):
        return usage.describe(error)
    if isinstance(error, WirecapError):
        return error.message, error.hint
    return str(error), ""


def check_is_asked(given: dict[str, Any]) -> bool:
    """Whether --check-config was given.  Raises UsageError if there is nothing to check."""
    if given["check_config"] and given["config_file"] is None:
        raise UsageError("--check-config needs a file to check", "add --config FILE")
    return bool(given["check_config"])


def tell_checked(given: dict[str, Any], expression: str) -> None:
    """Compile the filters, which nothing has done so far, and say that all is well."""
    from wirecap.filters.expression import compile_filter
    from wirecap.source import link_types

    name = given.get("link_type")
    link = link_types.number(name) if name else link_types.ETHERNET
    compile_filter(expression, link)
    try:
        compile_filter(given.get("save_on") or "", link)
    except UsageError as error:
        raise UsageError(f"--save-on: {error.message}", error.hint) from None
    click.echo(f"{given['config_file']}: ok")


def read(path: str) -> tuple[dict[str, Any], str]:
    """What a TOML file says, and its text.  Raises UsageError if it cannot be read or is no TOML."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"--config {path}: {reason}", "name a TOML file that you can read") from None
    if len(data) > MOST_BYTES:
        raise UsageError(f"--config {path}: more than 1 MiB", "name a TOML file with options in it")
    try:
        text = data.decode()
        return tomllib.loads(text), text
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8", "TOML files are text in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        twice = "overwrite" in str(error)
        hint = 'each key once, and a list for several: interface = ["eth1", "eth2"]' if twice else _AS
        raise UsageError(_place(path, text, str(error)), hint) from None
    except RecursionError:
        raise UsageError(f"{path}: lists in lists, too deep", 'write it as: interface = ["eth1", "eth2"]') from None


def _place(path: str, text: str, message: str) -> str:
    """tomllib's message with its place in front, as compilers write it."""
    what, _, where = message.rpartition(" (at ")
    if found := re.fullmatch(r"line (\d+), column (\d+)\)", where):
        line, column = found.groups()
    else:
        line, column = str(text.count("\n") + 1), str(len(text) - text.rfind("\n"))
    what = what or message
    return f"{path}:{line}:{column}: {what[:1].lower()}{what[1:]}"


def line_of(text: str, key: str) -> int:
    """The line on which a key of a TOML file stands."""
    starts = re.compile(rf"""\s*\[*\s*(["']?){re.escape(key)}\1\s*[.=\]]""")
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if starts.match(line):
            try:
                tomllib.loads("".join(lines[: number - 1]))
            except tomllib.TOMLDecodeError:
                continue  # inside a string or list of several lines
            return number
    return 1


def _from_file(command: click.Command, ctx: click.Context, typed: list[str]) -> Iterator[Setting]:
    """What the file says, without what ``typed`` replaces.  Raises UsageError."""
    try:
        values, _, order = command.make_parser(ctx).parse_args(list(typed))
    except click.UsageError:
        return  # refused when the arguments are parsed
    path = values.get("config_file")
    if not isinstance(path, str):
        return
    words = values.get("words")
    replaced = {str(param.name) for param in order if isinstance(param, click.Option)}
    if isinstance(words, list | tuple) and words:  # else what click has for nothing
        replaced.add("words")
    for several in ALTERNATIVES:
        if not replaced.isdisjoint(several):
            replaced |= several
    found, text = read(path)
    if found.get("log-format") in log.FORMATS and "log_format" not in replaced:
        log.use(found["log-format"])  # what is wrong with the file is logged so, too
    params, seen = _keys(command, ctx), dict[str, str]()
    for key, value in found.items():
        where = f"{path}:{line_of(text, key)}: "
        param = params.get(key)
        if param is None:
            raise UsageError(f"{where}unknown key {key!r}", _hint(key, value, params, usage.options(command, ctx)))
        if (other := seen.setdefault(str(param.name), key)) != key:
            raise UsageError(f"{where}{key} and {other} are the same option", "leave one of them out")
        arguments = _arguments(where, key, value, param, ctx)
        if param.name not in replaced:
            yield Setting(where, str(param.name), arguments)


def _keys(command: click.Command, ctx: click.Context) -> dict[str, click.Option]:
    """The options that a file may have, by their long names without the dashes."""
    return {
        name.removeprefix("--"): param
        for param in command.get_params(ctx)
        if isinstance(param, click.Option) and not param.hidden and param.name not in (*_OURS, "help")
        if not getattr(param, "section", "").startswith("Instead")
        for name in param.opts
        if name.startswith("--")
    }


def _hint(key: str, value: Any, params: dict[str, click.Option], typed: list[str]) -> str:
    """The key that may have been meant, by a letter or by a name that is nearly right.  typed: all options."""
    if isinstance(value, dict):
        return f"there are no tables: leave out [{key}], and write the keys alone"
    if f"--{key}" in typed:
        return "this option is only for the command line"
    for name, param in params.items():
        if f"-{key}" in param.opts:
            return f"did you mean {name}?"
    return suggest(key, params) or "keys are the long names of options, as --help lists them"


def _arguments(where: str, key: str, value: Any, param: click.Option, ctx: click.Context) -> list[str]:
    """A key and its value as they would be typed.  Raises UsageError, with the key in place of the option's name."""
    option = f"--{key}"
    if param.count and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10:
        return [option] * value
    if param.is_flag or param.count:
        if not isinstance(value, bool):
            more = ", or how many times" if param.count else ""
            raise UsageError(f"{where}{key}: {_shown(value)} is neither true nor false", f"{key} = true{more}")
        return [option] if value else []
    if isinstance(value, list) and not param.multiple:
        raise UsageError(f"{where}{key} takes one value, not a list", "write it without brackets")
    values = value if isinstance(value, list) else [value]
    for one in values:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            raise UsageError(f"{where}{key}: {_shown(one)} is not a value for it", f'write it as {key} = "..."')
        _check(where, key, str(one), param, ctx)
    return [f"{option}={one}" for one in values]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, date | time):
        return str(value)
    return "a list" if isinstance(value, list) else repr(value)


def _check(where: str, key: str, text: str, param: click.Option, ctx: click.Context) -> None:
    named = copy.copy(param)
    named.opts = [key]
    try:
        named.type(text, named, ctx)
    except click.BadParameter as error:
        message, hint = usage.describe(error)
        raise UsageError(where + message, hint) from None
    except UsageError as error:
        raise UsageError(where + error.message, error.hint) from None
