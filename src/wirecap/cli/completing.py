"""What a shell is offered behind ``wirecap``: commands, options, interfaces, handlers, files, words of a filter.

The scripts of ``wirecap completion`` call ``wirecap`` with _WIRECAP_COMPLETE; ``answer`` prints a suggestion a line.
What an option takes is known by the name that its help gives to the value (``-w FILE``), so a new option needs nothing
here.  Nothing heavy is imported: an answer takes some 0.1 s.
"""

from __future__ import annotations

import ast
import os
import re
import socket
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    split_arg_string,
)

from wirecap.config.handlers import HANDLERS
from wirecap.config.sources import MODELS
from wirecap.errors import WirecapError

VARIABLE = "_WIRECAP_COMPLETE"
FILTER_WORDS = (
    "host", "net", "port", "portrange", "src", "dst", "tcp", "udp", "icmp", "icmp6", "sctp", "ip", "ip6", "arp",
    "ether", "vlan", "proto", "and", "or", "not", "less", "greater", "inbound", "outbound",
)  # fmt: skip
FIGURES = (*map(str, range(8, 15)), "all")

Items = list["CompletionItem[str]"]
Values = Callable[[click.Context, str], Items]


class Bash(BashComplete):
    """Bash, told the line as it was typed: its own words end at ``:``, ``=`` and ``@``, and ours do not."""

    source_template = r"""%(complete_func)s() {
    local IFS=$'\n' answer kind value
    answer=$(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
    COMPREPLY=()
    for value in $answer; do
        kind=${value%%%%,*} value=${value#*,}
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            *) COMPREPLY+=("$value") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    @staticmethod
    def _check_version() -> None:
        """Whoever prints the script need not have bash here."""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE", "")
        words = split_arg_string(line)[1:]
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        self._typed = incomplete
        return words, incomplete

    def format_completion(self, item: CompletionItem[str]) -> str:
        """The item without the part of the word that bash takes for other words."""
        option, equals, _ = self._typed.partition("=")
        value = item.value
        if equals and option.startswith("--") and not value.startswith("--"):
            value = f"{option}={value}"
        breaks = [mark for mark in ":=@" if mark in os.environ.get("COMP_WORDBREAKS", ":=@")]
        # A word begins behind ":" and "=", but with "@", which readline keeps.
        done = max((self._typed.rfind(mark) + (mark != "@") for mark in breaks), default=0)
        return f"{item.type},{value.removeprefix(self._typed[: max(done, 0)])}"


class Fish(FishComplete):
    """Fish; click's own script cuts values and descriptions at their first comma."""

    source_template = r"""function %(complete_func)s
    set -lx COMP_WORDS (commandline -cp)
    set -lx COMP_CWORD (commandline -t)
    for line in (env %(complete_var)s=fish_complete %(prog_name)s 2>/dev/null)
        set -l found (string split -m 1 "," -- $line)
        switch $found[1]
            case dir
                __fish_complete_directories (commandline -t)
            case file
                __fish_complete_path (commandline -t)
            case '*'
                echo $found[2]
        end
    end
end
complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""  # fmt: skip


SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "fish": Fish, "zsh": ZshComplete}
"""The shells that ``wirecap completion`` has a script for."""


def script(shell: str, main: click.Command) -> str:
    """The script that a shell runs to have ``wirecap`` completed."""
    return SHELLS[shell](main, {}, "wirecap", VARIABLE).source().lstrip()


def answer(main: click.Command) -> int:
    """Print what fits the line that the shell tells of; nothing for a line that makes no sense.  The exit status."""
    shell, _, asked = os.environ[VARIABLE].partition("_")
    if shell not in SHELLS or asked != "complete":
        return 1
    try:
        text = SHELLS[shell](main, {}, "wirecap", VARIABLE).complete()
    except (WirecapError, click.ClickException, OSError, ValueError, KeyError):
        return 1  # a message in the middle of somebody's line helps nobody
    if text:
        click.echo(text)
    return 0


def values(param: click.Parameter, ctx: click.Context, incomplete: str) -> Items | None:
    """What a parameter may be given, by the name of its value; None where that says nothing."""
    if isinstance(param.type, click.Choice):
        return None
    metavar = re.sub(r"[\[\].]", "", param.make_metavar(ctx))
    for pattern, found in _BY_NAME.items():
        if re.fullmatch(pattern, f"{param.opts[-1]} {metavar}"):
            return found(ctx, incomplete)
    return None


def _files(ctx: click.Context, incomplete: str) -> Items:
    return [CompletionItem(incomplete, type="file")]


def _folders(ctx: click.Context, incomplete: str) -> Items:
    return [CompletionItem(incomplete, type="dir")]


def _interfaces(ctx: click.Context, incomplete: str) -> Items:
    """Interfaces of the namespace, the last one of ``v0,v1``; behind ``eth1@`` its receive queues."""
    before = incomplete[: len(incomplete) - len(re.split(r"[,+]", incomplete)[-1])]
    last = incomplete[len(before) :]
    name, at, _ = last.partition("@")
    names = _in_namespace(ctx, lambda: sorted(name for _, name in socket.if_nameindex()))
    if at:
        queues = _in_namespace(ctx, lambda: _queues(name))
        last_queue = len(queues) - 1
        found = [f"{name}@{queue}" for queue in queues] + ([f"{name}@0-{last_queue}"] if last_queue > 0 else [])
    else:
        found = [*names, "any"]
    return _starting(last, found, before)


def _queues(name: str) -> list[int]:
    folder = Path("/sys/class/net") / name / "queues"
    return sorted(int(path.name[3:]) for path in folder.glob("rx-*"))


def _in_namespace(ctx: click.Context, look: Callable[[], list[Any]]) -> list[Any]:
    namespace = ctx.params.get("netns")
    if not namespace:
        return look()
    from wirecap.linux import netns

    return netns.call(namespace, look)


def _namespaces(ctx: click.Context, incomplete: str) -> Items:
    folder = Path("/run/netns")
    return _starting(incomplete, sorted(path.name for path in folder.iterdir()) if folder.is_dir() else ())


def _handlers(ctx: click.Context, incomplete: str) -> Items:
    """The handlers with a name; files; and the functions of ``./my.py:``."""
    file, colon, name = incomplete.partition(":")
    if colon and file.endswith(".py"):
        return _starting(name, _functions(Path(file)), f"{file}:")
    if colon:
        return []
    if "/" in incomplete or incomplete.startswith("."):
        return _files(ctx, incomplete)
    return [*_starting(incomplete, HANDLERS), CompletionItem(incomplete, type="file")]


def _functions(path: Path) -> list[str]:
    """Handlers that a file defines: its decorated functions, or all if none is decorated."""
    try:
        body = ast.parse(path.read_text()).body
    except (SyntaxError, UnicodeDecodeError):
        return []
    found = [node for node in body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    decorated = [node for node in found if any("handler" in ast.unparse(mark) for mark in node.decorator_list)]
    return [node.name for node in decorated or found]


def _models(ctx: click.Context, incomplete: str) -> Items:
    return _starting(incomplete, [*MODELS, "all"])


def _link_types(ctx: click.Context, incomplete: str) -> Items:
    return _starting(incomplete.upper(), ["EN10MB", "RAW", "NULL", "LINUX_SLL2"])


def _filter(ctx: click.Context, incomplete: str) -> Items:
    return _starting(incomplete, FILTER_WORDS)


def _pair_and_filter(ctx: click.Context, incomplete: str) -> Items:
    """``forward IN OUT FILTER``."""
    given = ctx.params.get("words") or ()
    wanted = 1 if ctx.params.get("targets") else 2
    return _interfaces(ctx, incomplete) if len(given) < wanted else _filter(ctx, incomplete)


def _figures(ctx: click.Context, incomplete: str) -> Items:
    return _starting(incomplete, FIGURES)


def _examples(ctx: click.Context, incomplete: str) -> Items:
    names = (path.name for path in (resources.files("wirecap") / "examples").iterdir())
    return _starting(incomplete, sorted(name[:-3] for name in names if name.endswith(".py") and name[0] != "_"))


def _starting(incomplete: str, found: Iterable[str], before: str = "") -> Items:
    return [CompletionItem(before + one) for one in found if one.startswith(incomplete)]


_BY_NAME: dict[str, Values] = {
    "--netns NAME": _namespaces,
    "--linktype NAME": _link_types,
    r"--engine NAME:KEY=VALUE,?": _models,
    r"--handler .*": _handlers,
    r"\S+ ((\w*_|KEY)?FILES?|PATTERN)": _files,
    r"\S+ (DIR|FOLDERS?)": _folders,
    r"\S+ (INTERFACE|IN,OUT|OUT,OUT,?|eth1@0-3\+eth2|GROUP)": _interfaces,
    "words IN OUT FILTER": _pair_and_filter,
    r"words (FILTER FOLDER\|URL|FILE\|FOLDER\|URL FILTER)": _files,
    "handler HANDLER": _handlers,
    r"\S+ FILTER": _filter,
    r"\S+ FIGURE": _figures,
    "names NAME": _examples,
}
"""Patterns for an option's last name and the name of its value, without brackets and dots."""
