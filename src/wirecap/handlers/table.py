"""The handlers that have a name (config/handlers.py): their classes, and users' own beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from wirecap.config.capture import WriteConfig
from wirecap.config.forward import ForwardConfig
from wirecap.config.handlers import HANDLERS, is_users, kind_of
from wirecap.config.serve import ServeConfig
from wirecap.config.specs import HandlerSpec
from wirecap.errors import UsageError, suggest
from wirecap.handlers.handler import Handler, Setting


def complete(
    specs: Sequence[HandlerSpec], write: WriteConfig | None, forward: ForwardConfig | None = None,
    to: Sequence[str] = (), serve: ServeConfig | None = None,
) -> list[HandlerSpec]:  # fmt: skip
    """The handlers of a capture, including ``write`` if there is a file to write.

    Raises UsageError for a name that is not in the table, for ``write`` without a file, and for ``to`` without flows.
    """
    for spec in specs:
        _check_name(spec)
    kinds = [kind_of(spec) for spec in specs]
    writes = any(kind.writes for kind in kinds)
    if writes and forward:
        raise UsageError("forward cannot write a file", "capture on the outgoing side: wirecap capture -w FILE")
    if any(kind.lends for kind in kinds) and (len(specs) > 1 or write or forward):
        raise UsageError(
            "handler share lends whole chunks to other programs, and works alone",
            "leave -w, --print and other handlers out: a program that reads what is shared can write it",
        )
    if any(kind.serves for kind in kinds) != (serve is not None):
        raise UsageError("the handler serve needs a place for its clients to connect", "use wirecap serve")
    flows = sum(kind.exports for kind in kinds)
    if to and not flows:
        raise UsageError(f"--to {to[0]}: only the handler flows has records to put there", "use the handler flows")
    if flows > 1:
        raise UsageError("the handler flows is asked for twice", "use one, with --to for each target")
    if writes and write is None:
        raise UsageError("the handler write needs a file to write to", "add -w FILE; in Python, write='FILE'")
    return [*specs, *([HandlerSpec("write")] if write and not writes else [])]


def _check_name(spec: HandlerSpec) -> None:
    if not is_users(spec) and spec.name not in HANDLERS:
        known = f"use {', '.join(sorted(HANDLERS))}, or your own: ./my.py:function or package.module:object"
        raise UsageError(f"unknown handler {spec.name!r}", suggest(spec.name, HANDLERS) or known)


def _class_at(home: str) -> type[Handler]:
    module, _, name = home.partition(":")
    found: type[Handler] = getattr(import_module(module), name)
    return found


def make(spec: HandlerSpec, setting: Setting) -> Handler:
    """The handler that a spec names."""
    if is_users(spec):
        from wirecap.handlers.user import load_handler

        return bind(load_handler(spec.name) if spec.given is None else spec.given, spec.options)
    _check_name(spec)
    kind = kind_of(spec)
    keeps = setting.write is not None and setting.write.keep is not None
    return _class_at(kind.keeping if keeps and kind.keeping else kind.home).make(spec.options, setting)


def has_result(spec: HandlerSpec) -> bool:
    """Whether the summary lists the handler's result."""
    return is_users(spec) or _class_at(kind_of(spec).home).has_result


def bind(given: Any, options: Mapping[str, str] | None = None) -> Handler:
    """A user's handler for a pipeline; each capture gets its own, because the state belongs to the capture."""
    from wirecap.handlers.compiled import CompiledHandler  # takes a while to load, and most captures have none
    from wirecap.handlers.python import PythonHandler
    from wirecap.handlers.user import Way, as_handler

    user = as_handler(given)
    return CompiledHandler(user, options) if user.way is Way.COMPILED else PythonHandler(user, options)
