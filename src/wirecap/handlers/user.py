"""Users' handlers: a function and how it is called; by decorator, or undecorated by its first parameters.

    @wirecap.handler          def dns(packet, state): ...            compiled, once for each packet
    @wirecap.chunk_handler    def sizes(chunk): ...                  Python over NumPy views of a chunk
    @wirecap.packet_handler   def show(timestamp_ns, data): ...      plain Python for each packet

Parameters after these are options: they have a default, and ``--handler my.py:dns:port=5353`` sets them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, overload

import numpy as np

from wirecap.errors import UsageError
from wirecap.handlers.state import Declared, Merge, counters_in, dtype_of
from wirecap.handlers.suggest import suggest

Function = Callable[..., Any]


class Way(Enum):
    """How a function is called: its first parameters."""

    COMPILED = ("packet", "state")
    CHUNK = ("chunk",)
    CALLBACK = ("timestamp_ns", "data")


@dataclass(frozen=True, eq=False)
class UserHandler:
    """A function, how it is called, what its threads count in.  Calling it calls the function."""

    function: Function
    way: Way
    declared: Declared | None = None
    merge: Merge | None = None

    def __post_init__(self) -> None:
        parameters = list(inspect.signature(self.function).parameters.values())
        required = [p.name for p in parameters if p.default is p.empty]
        wanted = list(self.way.value)
        stateful = wanted if "state" in wanted else [*wanted, "state"]
        if any(p.kind is not p.POSITIONAL_OR_KEYWORD for p in parameters) or len(required) not in (
            len(wanted), len(stateful),
        ):  # fmt: skip
            raise UsageError(
                f"handler {self.name} takes {inspect.signature(self.function)}",
                f"write def {self.name}({', '.join(stateful)}); options after these have defaults",
            )
        if len(required) < len(stateful) and self.declared is not None:
            raise UsageError(f"handler {self.name} has a state and no parameter for it", "add the parameter state")
        for name, value in self.defaults.items():
            kinds = (bool, int, float) if self.way is Way.COMPILED else (bool, int, float, str)
            if not isinstance(value, kinds):
                raise UsageError(
                    f"handler {self.name}: the option {name} is {value!r}",
                    f"options are of type {', '.join(kind.__name__ for kind in kinds)}",
                )

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def defaults(self) -> dict[str, Any]:
        """The options and their default values."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}

    @property
    def takes_state(self) -> bool:
        return len(inspect.signature(self.function).parameters) - len(self.defaults) > len(
            [name for name in self.way.value if name != "state"]
        )

    def kind(self) -> np.dtype[Any]:
        """The dtype of a thread's record; where none is declared, a counter for each name that is used."""
        declared = self.declared
        if declared is None and self.takes_state:
            parameters = list(inspect.signature(self.function).parameters)
            declared = counters_in(self.function, parameters[len(self.way.value) - (self.way is Way.COMPILED)])
        return dtype_of(declared, self.name)

    def options(self, given: Mapping[str, str]) -> list[Any]:
        """The values of all options, those that are given as text among them."""
        defaults = self.defaults
        for name in given:
            if name not in defaults:
                there = f"it has {', '.join(defaults)}" if defaults else "it has none"
                raise UsageError(f"handler {self.name} has no option {name!r}", suggest(name, defaults) or there)
        values = {name: _value(self.name, name, given[name], defaults[name]) for name in given}
        return list((defaults | values).values())

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.function(*arguments, **options)


_TRUTH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _value(handler: str, option: str, text: str, like: Any) -> Any:
    kind = type(like)
    try:
        return _TRUTH[text.lower()] if kind is bool else int(text, 0) if kind is int else kind(text)
    except (KeyError, ValueError):
        what = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise UsageError(f"handler {handler}: {option} is {text!r}, not {what}", f"the default is {like}") from None


def _decorator(way: Way, function: Function | None, state: Declared | None, merge: Merge | None) -> Any:
    def decorate(function: Function) -> UserHandler:
        return UserHandler(getattr(function, "py_func", function), way, state, merge)

    return decorate if function is None else decorate(function)


@overload
def handler(function: Function) -> UserHandler: ...
@overload
def handler(*, state: Declared | None = None, merge: Merge | None = None) -> Callable[[Function], UserHandler]: ...
def handler(function: Function | None = None, *, state: Declared | None = None, merge: Merge | None = None) -> Any:
    """A function ``(packet, state)`` that is compiled and runs on every queue's thread without the GIL.

    state: what a thread counts in (``{"packets": np.int64, "ports": (np.int64, 65536)}`` or a structured dtype);
    left out, it has an int64 counter for each name that the function uses.  merge: gets the list of all threads'
    records at the end and returns the result; left out, the result is a dict with the sum of each field.
    """
    return _decorator(Way.COMPILED, function, state, merge)


@overload
def chunk_handler(function: Function) -> UserHandler: ...
@overload
def chunk_handler(
    *, state: Declared | None = None, merge: Merge | None = None
) -> Callable[[Function], UserHandler]: ...
def chunk_handler(
    function: Function | None = None, *, state: Declared | None = None, merge: Merge | None = None
) -> Any:
    """A function ``(chunk)`` or ``(chunk, state)`` in Python, called for each chunk with its wirecap.Chunk.

    The chunk's arrays are valid until the function returns.  state and merge are as for ``handler``.
    """
    return _decorator(Way.CHUNK, function, state, merge)


@overload
def packet_handler(function: Function) -> UserHandler: ...
@overload
def packet_handler(
    *, state: Declared | None = None, merge: Merge | None = None
) -> Callable[[Function], UserHandler]: ...
def packet_handler(
    function: Function | None = None, *, state: Declared | None = None, merge: Merge | None = None
) -> Any:
    """A function ``(timestamp_ns, data)`` or ``(timestamp_ns, data, state)`` in Python, called for each packet.

    timestamp_ns: int, since the epoch.  data: bytes, a copy of what was captured.
    """
    return _decorator(Way.CALLBACK, function, state, merge)


def as_handler(given: Any) -> UserHandler:
    """A handler as users write it: decorated, or a function whose first parameters say how it is called."""
    if isinstance(given, UserHandler):
        return given
    function = getattr(given, "py_func", given)  # numba.njit's
    if not inspect.isfunction(function):
        raise UsageError(f"{given!r} is no handler", "write a function, under @wirecap.handler for example")
    names = list(inspect.signature(function).parameters)
    for way in Way:
        if names[: len(way.value)] == list(way.value):
            return UserHandler(function, way)
    raise UsageError(
        f"handler {function.__name__} takes {inspect.signature(function)}",
        "write (packet, state), (chunk) or (timestamp_ns, data), or say which with a decorator: @wirecap.handler",
    )
