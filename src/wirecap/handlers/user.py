"""Users' handlers: a function and how it is called, which a decorator says, or else its first parameters.

    @wirecap.handler          def dns(packet, state): ...            compiled, once for each packet
    @wirecap.chunk_handler    def sizes(chunk): ...                  Python over NumPy views of a chunk
    @wirecap.packet_handler   def show(timestamp_ns, data): ...      plain Python for each packet

Any further parameters are options: they have defaults, and ``--handler my.py:dns:port=5353`` sets them.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, overload

import numpy as np

from wirecap.config.specs import file_of
from wirecap.errors import UsageError, suggest
from wirecap.files.shared import others_may_write
from wirecap.handlers.state import FORMS, Declared, Merge, counters_in, dtype_of, tables_of
from wirecap.kernels.handlers.tables import Kind

Function = Callable[..., Any]


class Way(Enum):
    """How a function is called, by its first parameters."""

    COMPILED = ("packet", "state")
    CHUNK = ("chunk",)
    CALLBACK = ("timestamp_ns", "data")


@dataclass(frozen=True, eq=False)
class UserHandler:
    """A function, how it is called, and what its threads count in.  Calling it calls the function."""

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
                f"write def {self.name}({', '.join(stateful)}); further parameters are options and need defaults",
            )
        if len(required) < len(stateful) and self.declared is not None:
            raise UsageError(f"handler {self.name} has a state but no parameter for it", "add the parameter state")
        if self.factory and self.way is Way.COMPILED:
            raise UsageError(f"handler {self.name} is compiled, and its state is {self.declared!r}", FORMS)
        if self.tables and self.way is not Way.COMPILED:
            raise UsageError(
                f"handler {self.name} is Python, and state.{next(iter(self.tables))} is for compiled ones",
                "use collections.Counter: state=collections.Counter",
            )
        for name, value in self.defaults.items():
            kinds = (bool, int, float) if self.way is Way.COMPILED else (bool, int, float, str)
            if not isinstance(value, kinds):
                raise UsageError(
                    f"handler {self.name}: option {name} has an unsupported default: {value!r}",
                    f"use one of the types {', '.join(kind.__name__ for kind in kinds)}",
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

    @property
    def factory(self) -> Callable[[], Any] | None:
        """What makes a thread's state, if that is not a record."""
        return self.declared if callable(self.declared) else None

    @property
    def tables(self) -> dict[str, Kind]:
        """The fields of its state that are counters by key, top-N tables or histograms."""
        return tables_of(self.declared)

    def reads(self, field: str) -> bool:
        """Whether the function, one that it calls by name, or a key of a table uses this field of packets.

        A field of the state that has the same name hides it.
        """
        if any(field in table.names for table in self.tables.values()):
            return True
        if field in (self.kind().names or ()):
            return False
        to_do, done = [self.function], set[Function]()
        while to_do:
            function = to_do.pop()
            if field in _names(function.__code__):
                return True
            done.add(function)
            used = inspect.getclosurevars(function)
            called = [getattr(one, "py_func", one) for one in (*used.globals.values(), *used.nonlocals.values())]
            to_do += [one for one in called if inspect.isfunction(one) and one not in done]
        return False

    def kind(self) -> np.dtype[Any]:
        """The dtype of a thread's record; if none is declared, a counter for each name that is used."""
        declared = None if self.factory else self.declared
        if declared is None and not self.factory and self.takes_state:
            parameters = list(inspect.signature(self.function).parameters)
            declared = counters_in(self.function, parameters[len(self.way.value) - (self.way is Way.COMPILED)])
        return dtype_of(declared, self.name)

    def options(self, given: Mapping[str, str]) -> list[Any]:
        """The values of all options, including those given as text."""
        defaults = self.defaults
        for name in given:
            if name not in defaults:
                there = f"its options are {', '.join(defaults)}" if defaults else "it has no options"
                raise UsageError(f"handler {self.name} has no option {name!r}", suggest(name, defaults) or there)
        values = {name: _value(self.name, name, given[name], defaults[name]) for name in given}
        values = defaults | values
        for name, value in values.items():
            if self.way is Way.COMPILED and isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
                raise UsageError(f"handler {self.name}: {name}={value} has more than 64 bits", "use a smaller number")
        return list(values.values())

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.function(*arguments, **options)


_TRUTH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _value(handler: str, option: str, text: str, like: Any) -> Any:
    kind = type(like)
    try:
        return _TRUTH[text.lower()] if kind is bool else int(text, 0) if kind is int else kind(text)
    except (KeyError, ValueError):
        what = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise UsageError(
            f"handler {handler}: {option} must be {what}, not {text!r}", f"the default is {like}"
        ) from None


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

    state: what a thread counts in (``{"packets": np.int64, "ports": (np.int64, 65536)}`` or a structured dtype), with
    tables among it if you like (``{"sources": wirecap.Counter("src"), "talkers": wirecap.Top(10, "src", "dst")}``);
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

    The chunk's arrays are valid until the function returns.  state and merge are as for ``handler``; the state may also
    be any object that a call makes (``state=collections.Counter``), and then the result is all threads' as one.
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

    timestamp_ns: int, since the epoch.  data: bytes, a copy of what was captured.  state and merge are as for
    ``chunk_handler``.
    """
    return _decorator(Way.CALLBACK, function, state, merge)


def as_handler(given: Any) -> UserHandler:
    """A handler as users write it: decorated, or a function whose first parameters say how to call it."""
    if isinstance(given, UserHandler):
        return given
    function = getattr(given, "py_func", given)  # numba.njit's
    if not inspect.isfunction(function):
        raise UsageError(f"{given!r} is not a handler", "write a function, for example under @wirecap.handler")
    names = list(inspect.signature(function).parameters)
    for way in Way:
        if names[: len(way.value)] == list(way.value):
            return UserHandler(function, way)
    raise UsageError(
        f"handler {function.__name__} takes {inspect.signature(function)}",
        "use (packet, state), (chunk) or (timestamp_ns, data), or a decorator such as @wirecap.handler",
    )


def load_handler(name: str) -> UserHandler:
    """Import the module and find the object.  Raises UsageError, with the user's file and line if it fails."""
    place, _, target = name.rpartition(":")
    module = _from_file(Path(place)) if file_of(name) else _from_package(place)
    found = getattr(module, target, None)
    if found is None:
        handlers = [key for key, value in vars(module).items() if isinstance(value, UserHandler)]
        there = f"it has {', '.join(handlers)}" if handlers else "it has no handlers"
        raise UsageError(f"{place} has no {target!r}", suggest(target, vars(module)) or there)
    return as_handler(found)


def check_file(path: str | Path) -> None:
    """Raise UsageError where there is no such file."""
    if not Path(path).is_file():
        raise UsageError(f"{path}: no such file", "write it as ./my.py:function")


def _from_file(path: Path) -> ModuleType:
    check_file(path)
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path.absolute()):
        return known
    name = path.stem if known is None else f"{path.stem}_of_{abs(hash(str(path.absolute())))}"
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file", "write it as ./my.py:function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that what it defines can be pickled
    make_importable(str(path.absolute().parent))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        raise failed_import(str(path), error) from None
    return module


def _from_package(name: str) -> ModuleType:
    make_importable(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(f"no module named {error.name!r}", "for a file, write ./my.py:function") from None
        raise failed_import(name, error) from None
    except BaseException as error:
        raise failed_import(name, error) from None


def _names(code: CodeType) -> set[str]:
    """What the code of a function, and of functions and comprehensions in it, names."""
    return set(code.co_names).union(*(_names(one) for one in code.co_consts if isinstance(one, CodeType)))


def make_importable(folder: str) -> None:
    """Make modules next to a handler importable, as ``python file.py`` does.

    Not where others can put modules, which would be taken for those of our own that are imported later.
    """
    if folder not in sys.path and not others_may_write(folder):
        sys.path.insert(0, folder)


def failed_import(name: str, error: BaseException) -> BaseException:
    if isinstance(error, KeyboardInterrupt):
        return error
    if isinstance(error, UsageError):
        not_theirs = (str(Path(__file__).parent.parent), "<")  # "<string>": a dataclass's
        places = [frame for frame in _frames(error) if not frame.filename.startswith(not_theirs)]
        where = f"{places[-1].filename}, line {places[-1].lineno}" if places else name
        return UsageError(f"{where}: {error.message}", error.hint)
    if isinstance(error, SyntaxError):
        return UsageError(f"{error.filename}, line {error.lineno}: {error.msg}", "fix the syntax error")
    frames = _frames(error)
    place = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else name
    return UsageError(f"{place}: {type(error).__name__}: {error}", f"{name} cannot be imported until this is fixed")


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]


def reason_of(error: BaseException, function: Callable[..., Any]) -> str:
    """What was raised, with the last line of the function's file in the traceback."""
    code = getattr(function, "__code__", None)  # a merge may be a built-in function
    file = code and code.co_filename
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    what = ": ".join(filter(None, [type(error).__name__, _text(error)]))
    return f"{what} ({file}, line {frames[-1].lineno})" if frames else what


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a user's own class whose __str__ fails
        return ""
