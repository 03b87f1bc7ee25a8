"""Looking at packets: ``--print``, and tcpdump's options that format what it shows."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from wirecap.cli.options import section
from wirecap.config.capture import MAX_SNAPLEN, WriteConfig
from wirecap.config.printing import MOST_TIMES, PrintConfig
from wirecap.errors import UsageError

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

show = section("Looking at packets (tcpdump or tshark prints them)")

_LETTERS = {
    "numeric": "n", "unverified": "K", "verbose": "v", "quiet": "q", "hex_only": "x", "hex_and_text": "X",
    "text_only": "A", "link_header": "e", "time_format": "t", "absolute_sequence": "S", "numbered": "#", "lines": "l",
    "no_domains": "N", "undecoded_handles": "u", "mesh": "H",
}  # fmt: skip
"""tcpdump's letter for each parameter."""
_ALONE = ("numeric", "unverified", "verbose", "quiet")
"""Those that say something without printed packets too, and so do not ask for them."""
_VALUES = {"secrets": "-E", "modules": "-m"}


def options(function: Decorated) -> Decorated:
    """The options, each as tcpdump has it."""
    for option in reversed([
        show("--print", "printing", is_flag=True, help="Show packets, also with -w; what the printer cannot take is"
             " skipped and counted."),
        show("-n", "--numeric", count=True, help="No names for addresses and ports."),
        show("-e", "--link-header", is_flag=True, help="With link-level headers."),
        show("-x", "--hex", "hex_only", count=True, help="With data in hex; -xx with the link-level header."),
        show("-X", "--hex-ascii", "hex_and_text", count=True,
             help="With data in hex and ASCII; -XX with the link-level header."),
        show("-A", "--ascii", "text_only", is_flag=True, help="With data in ASCII."),
        show("-t", "--time-format", count=True, help="Without time; -tt seconds, -ttt since the one before, -tttt with"
             " the date, -ttttt since the first."),
        show("-S", "--absolute-tcp-sequence-numbers", "absolute_sequence", is_flag=True,
             help="TCP sequence numbers as they are."),
        show("-#", "--number", "numbered", is_flag=True, help="With the number of each packet."),
        show("-l", "--line-buffered", "lines", is_flag=True, help="Write each line as soon as it is printed."),
        show("-K", "--dont-verify-checksums", "unverified", is_flag=True, help="Do not verify checksums."),
        click.option("-N", "no_domains", is_flag=True, hidden=True),
        click.option("-u", "undecoded_handles", is_flag=True, hidden=True),
        click.option("-H", "mesh", is_flag=True, hidden=True),
        click.option("-E", "secrets", multiple=True, hidden=True),
        click.option("-m", "modules", multiple=True, hidden=True),
    ]):  # fmt: skip
        function = option(function)
    return function


def is_asked(given: dict[str, Any]) -> bool:
    """Whether packets are to be printed: --print says so, and so do options that format them, where nothing else is
    made of the packets.  As in tcpdump, those change nothing about -w and --count."""
    formats = any(given[name] for name in (*_LETTERS, *_VALUES) if name not in _ALONE)
    return given["printing"] or (formats and given["write_path"] is None and not given["count_only"])


def is_meant(given: dict[str, Any]) -> bool:
    """Whether tcpdump's -n, -K or -vv stand where nothing is printed: packets were probably to be seen."""
    other = given["handlers"] or given["count_only"] or given["quiet"]
    return not other and bool(given["numeric"] or given["unverified"] or given["verbose"] > 1)


def config_of(given: dict[str, Any]) -> PrintConfig | None:
    """Raises UsageError for more -t than mean anything."""
    if given["time_format"] > MOST_TIMES:
        raise UsageError(f"-{'t' * given['time_format']} means nothing", "give -t up to five times: -ttttt")
    if not is_asked(given):
        return None
    letters = "".join(letter * int(given[name]) for name, letter in _LETTERS.items())
    values = tuple((option, value) for name, option in _VALUES.items() for value in given[name])
    return PrintConfig(letters, values, given["precision"] == "nano")


def without_a_file(given: dict[str, Any], printing: PrintConfig) -> WriteConfig:
    """The writer's settings where packets are printed and not kept."""
    return WriteConfig(path=os.devnull, snaplen=given["snaplen"] or MAX_SNAPLEN, printing=printing, only_printed=True)
