"""The handlers that have a name.  A new one is a file, a line here, and a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wirecap.config import HandlerSpec
from wirecap.errors import UsageError
from wirecap.handlers import pkt_handler, queue_profiler
from wirecap.handlers.base import NativeHandler, Selection
from wirecap.handlers.compiled import CompiledHandler
from wirecap.handlers.load import load
from wirecap.handlers.python import PythonHandler
from wirecap.handlers.suggest import suggest
from wirecap.handlers.user import Way, as_handler

Handler = NativeHandler | PythonHandler
Options = Mapping[str, str]


def count(options: Options, selection: Selection) -> None:
    """Count packets and bytes: every thread does that, so that nothing is left to do."""
    if options:
        raise UsageError(f"handler count has no option {next(iter(options))!r}", "leave it out")


HANDLERS: dict[str, Callable[[Options, Selection], Handler | None]] = {
    "count": count,
    "pkt_handler": pkt_handler.make,
    "queue_profiler": queue_profiler.make,
}
WITH_RESULT = ("queue_profiler",)
"""Those that come to something at the end, as users' handlers do."""


def make(spec: HandlerSpec, selection: Selection) -> Handler | None:
    """The handler of that name, or None where there is nothing to do for it.

    ``package.module:object`` and ``./file.py:object`` are users' own.
    """
    name, options = spec.name, spec.options
    if spec.given is not None or ":" in name:
        return bind(load(name) if spec.given is None else spec.given, options)
    if name not in HANDLERS:
        names = [*HANDLERS, "write"]
        known = f"there are {', '.join(sorted(names))}, and ./my.py:function or package.module:object for your own"
        raise UsageError(f"there is no handler {name!r}", suggest(name, names) or known)
    return HANDLERS[name](options, selection)


def bind(given: Any, options: Options | None = None) -> Handler:
    """A user's handler for a pipeline; each capture has one of its own, for the state is the capture's."""
    user = as_handler(given)
    return CompiledHandler(user, options) if user.way is Way.COMPILED else PythonHandler(user, options)
