"""The handlers that have a name.  A new one is a file, a line here, and a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wirecap.errors import UsageError
from wirecap.handlers import pkt_handler
from wirecap.handlers.base import NativeHandler, Selection

Options = Mapping[str, str]


def count(options: Options, selection: Selection) -> None:
    """Count packets and bytes: every thread does that, so that nothing is left to do."""
    if options:
        raise UsageError(f"handler count has no option {next(iter(options))!r}", "leave it out")


HANDLERS: dict[str, Callable[[Options, Selection], NativeHandler | None]] = {
    "count": count,
    "pkt_handler": pkt_handler.make,
}


def make(name: str, options: Options, selection: Selection) -> NativeHandler | None:
    """The handler of that name, or None where there is nothing to do for it."""
    if name not in HANDLERS:
        raise UsageError(f"there is no handler {name!r}", f"there are {', '.join(sorted([*HANDLERS, 'write']))}")
    return HANDLERS[name](options, selection)
