"""A user's compiled handler in a pipeline: its kernel, its threads' words, its result, and why it fails to compile."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.engine.engine import Engine
from wirecap.errors import UsageError, suggest
from wirecap.handlers.comparisons import check_comparisons
from wirecap.handlers.handler import Handler, link_of
from wirecap.handlers.parts import Fold, Merging, Summing, fields_of
from wirecap.handlers.state import Records
from wirecap.handlers.user import UserHandler, reason_of
from wirecap.kernels.base.later import numba
from wirecap.kernels.handlers import user as k
from wirecap.kernels.handlers import user as raised
from wirecap.kernels.handlers.tables import COUNTER, HISTOGRAM, TOP, TRIGGER, Kind
from wirecap.kernels.packet.compare import UnlikeError
from wirecap.kernels.packet.edit import ALLOWED
from wirecap.kernels.packet.fields import LAYER_ATTRIBUTES, METHODS, PACKET_ATTRIBUTES
from wirecap.kernels.packet.headers import HASHED
from wirecap.kernels.pool import pool
from wirecap.source.source import Source

_BY_USE = sorted(LAYER_ATTRIBUTES, key=lambda layer: not layer.startswith("ip"))
"""Layers, those first whose fields are mostly meant."""
FIELDS = "docs/handlers.md lists the fields"
TAKES = "compiled code can use numbers, tuples, NumPy arrays and functions under @numba.njit"
SPEAKS = "docs/handlers.md says which Python can be compiled"


def explain(user: UserHandler, error: Exception) -> UsageError:
    """The error as one line: where, what, and a hint."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error.args[0] if isinstance(error, KeyError) else error))
    reason, hint, name = _reason(user, error, text)
    return UsageError(f"{_place(user, error, text, name)}: handler {user.name} does not compile: {reason}", hint)


def returns(user: UserHandler, kind: str) -> UsageError:
    """The error for a handler that returns a value, which nobody would use."""
    what = "is a generator" if "generator" in kind else f"returns a value ({_type(kind)})"
    return UsageError(f"{_place(user)}: handler {user.name} {what}", "return nothing, and count in the state instead")


def _place(user: UserHandler, error: Exception | None = None, text: str = "", name: str = "") -> str:
    """The first of the user's lines that the error names, else the first one with the name, else the function's."""
    at = getattr(error, "loc", None)
    named = [*re.findall(r"(?:at|from) (\S.*?) \((\d+)\)", text), *([(at.filename, at.line)] if at else [])]
    for file, line in named:
        if file and not file.startswith(_not_the_users()):
            return f"{file}, line {line}"
    code = user.function.__code__
    return f"{code.co_filename}, line {_line_of(user, name) or code.co_firstlineno}"


def _not_the_users() -> tuple[str, str]:
    """Where Numba and WireCAP are."""
    return str(Path(numba.__file__ or "").parent), str(Path(__file__).parent.parent)


def _line_of(user: UserHandler, name: str) -> int | None:
    try:
        lines, first = inspect.getsourcelines(user.function)
        tree = ast.parse(inspect.cleandoc("\n" + "".join(lines)))
    except (OSError, SyntaxError):
        return None
    for node in ast.walk(tree):
        if name and name in (getattr(node, part, None) for part in ("attr", "id", "value")):
            return first + getattr(node, "lineno", 1) - 1
    return None


def _reason(user: UserHandler, error: Exception, text: str) -> tuple[str, str, str]:
    """(what is wrong, a hint, the name in question)."""
    text = re.sub(r"^(?:(?:Failed in \w+ mode|- Resolution failure).*\n)+", "", text.strip()).strip()
    first = re.sub(r"\.* Raised from .*", "", text.partition("\n")[0].strip())
    if isinstance(error, UnlikeError):
        what, hint, compared = error.args
        return what, hint, compared
    table = next((name for name, one in user.tables.items() if repr(one) in text), "")
    if isinstance(error, KeyError):
        table = _method_of(user, text)
    if table:
        return *_misused(user.tables[table], f"state.{table}", text), table
    if isinstance(error, KeyError):
        return _unknown("state", text, user.kind().names or ())
    found = re.match(r"Unknown attribute '(\w+)' of type (.*)", first)
    if found:
        name, of = found.groups()
        if of.startswith("Record"):
            return _unknown("state", name, user.kind().names or ())
        known = {"packet": [*PACKET_ATTRIBUTES, *METHODS, *LAYER_ATTRIBUTES]}
        known |= {layer: list(fields) for layer, fields in LAYER_ATTRIBUTES.items()}
        return _unknown(_type(of), name, known.get(of, ()))
    found = re.match(r"Untyped global name '(\w+)':.*<class '([\w.]+)'>", first)
    if found:
        name, kind = found.groups()
        if kind == "function":
            return f"{name} is a Python function", f"write @numba.njit above def {name}", name
        return f"{name} is a Python {kind}", TAKES, name
    found = re.search(r">>> (.+?)\((.*)\)", text)
    if found and first.startswith("No implementation"):
        if "exception_match" in found[1]:
            return "it catches a particular exception", "compiled code can only catch all of them: except Exception", ""
        bound = re.search(r"BoundFunction\(.*'(\w+)'\) for (\w+)", text)
        if bound:
            return f"{bound[2]}.{bound[1]} does not take {_type(found[2]).removeprefix('packet, ')}", FIELDS, bound[1]
        call = f"{found[1]}({_type(found[2])})"
        arrays = _subscript(found[2]) if found[1] in ("getitem", "setitem") else ""
        return f"{call} is not supported", arrays or SPEAKS, ""
    found = re.match(r"Cannot unify (.+) and (.+) for '([^']*)'", first)
    if found:
        name = found[3].partition(".")[0] if not found[3].startswith("$") else "a value"
        return f"{name} is {_type(found[1])} in one place and {_type(found[2])} in another", "", ""
    found = re.match(r"(?:No definition for lowering|Cannot resolve setattr:) ([()\w.]+) = ", first)
    if found:
        name = found[1].replace("(", "").replace(")", "")
        return f"{name} cannot be set", "docs/forwarding.md lists the fields that can", name.split(".")[-1]
    found = re.match(r"Cannot cast (\S+) to (\w+)", first)
    if found:
        return f"{_type(found[1])} cannot become {_type(found[2])}", "", ""
    if first.startswith("NameError"):
        return first, "", ""
    named = re.search(r"'(\w+)'[^']*$", first)
    return first or type(error).__name__, SPEAKS, named[1] if named else ""


def _misused(kind: Kind, table: str, text: str) -> tuple[str, str]:
    """What is wrong, and a hint, where code does with a table what only ``add`` can do."""
    if kind.policy == TRIGGER:
        return f"{table} is a Trigger, and only its fire can be called", f"write {table}.fire(packet)"
    what, takes = ("packet", "the packet") if kind.names else ("number", "a whole number")
    ways = f"write {table}.add({what}) or {table}.add({what}, amount)"
    if "BoundFunction" in text:
        return f"{table}.add takes {takes} and, if it is not 1, a whole amount", ways
    one = {COUNTER: "Counter", TOP: "Top", HISTOGRAM: "Histogram"}[kind.policy]
    return f"{table} is a {one}, and only its add can be called", ways


def _method_of(user: UserHandler, name: str) -> str:
    """The table behind which the function writes this name; an empty string if there is none."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(user.function)))
    except (OSError, SyntaxError):
        return ""
    owners = [node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == name]
    return next((one.attr for one in owners if isinstance(one, ast.Attribute) and one.attr in user.tables), "")


def _unknown(owner: str, name: str, known: Iterable[str]) -> tuple[str, str, str]:
    there = [field for field in known if not field.startswith("_")]
    if owner == "packet":
        layers = [f"packet.{layer}.{name}" for layer in _BY_USE if name in LAYER_ATTRIBUTES[layer]]
        if layers:
            ways = " or ".join(filter(None, (", ".join(layers[:-1]), layers[-1])))
            return f"packet has no {name!r}", f"write {ways}", name
    has = f"it has {', '.join(there)}" if 0 < len(there) < 8 else FIELDS
    return f"{owner} has no {name!r}", suggest(name, there) or has, name


def _type(text: str) -> str:
    """A type as Python names it."""
    text = re.sub(r"Literal\[(\w+)\]\([^()]*\)", r"\1", text)
    text = re.sub(r"unicode_type", "str", text)
    text = re.sub(r"\bu?int(8|16|32|64)\b", "int", text)
    text = re.sub(r"\bfloat(32|64)\b", "float", text)
    return re.sub(r"Record\(.*", "state", text)


def _subscript(of: str) -> str:
    if of.startswith("packet"):
        return "packet[i] is one byte, packet.u16(i) and packet.u32(i) are numbers"
    return 'declare an array: state={"ports": (np.int64, 65536)}'


class CompiledHandler(Handler):
    """``process`` is the kernel; it is compiled by ``compile``."""

    has_result = True

    def __init__(self, user: UserHandler, options: Mapping[str, str] | None = None) -> None:
        self.user, self.name = user, user.name
        self._options = user.options(options or {})
        self.records = Records(user.kind(), user.tables)
        self._function = k.compile_user(user.function)
        self.process = k.build_process(self._function, self.records.kind, self._options, self.records.tables)
        self._link = k.UNKNOWN_LINK
        self._keep_going = self._editable = self._hashed = False
        self._unhashed = "files have none"

    def compile(self, tell: Callable[[str], None]) -> None:
        """Compile, or load what was compiled before.  Raises UsageError with the user's line if that fails."""
        try:
            check_comparisons(self.user.function)
            k.compile_process(
                self.process, self._function, self.records.kind, self._options, self.records.tables,
                lambda: tell(f"handler {self.name}"),
            )  # fmt: skip
        except k.ReturnedError as error:
            raise returns(self.user, str(error)) from None
        except Exception as error:  # what Numba raises is of many types
            raise explain(self.user, error) from error

    def check(self, source: Source) -> None:
        link_of(self.name, (interface.dlt for interface in source.interfaces))

    def open(self, engine: Engine, keep_going: bool, editable: bool) -> None:
        link_types = (interface.dlt for interface in engine.source.interfaces)
        self.connect(link_types, keep_going, editable, bool(engine.pool.control[pool.HASHED]))
        if engine.source.live:
            served = engine.source.name == "pcap-over-ip"
            remedy = "with AF_XDP, nic_hash=True or --nic-hash asks the NIC for it"
            self._unhashed = "a server's packets have none" if served else remedy

    def warnings(self) -> list[str]:
        if self._hashed or not self.user.reads("nic_hash"):
            return []
        return [f"handler {self.name} reads packet.nic_hash, which is 0 here: {self._unhashed}"]

    def connect(
        self, link_types: Iterable[int], keep_going: bool, editable: bool = False, hashed: bool = False
    ) -> None:
        """Set how packets begin, whether failures are counted, and whether packets may be changed.

        hashed: whether the NIC's hash lies in front of them.
        """
        self._link, self._keep_going, self._editable = link_of(self.name, link_types), keep_going, editable
        self._hashed = hashed

    def state(self, consumer: int) -> NDArray[np.int64]:
        words = np.zeros(k.OPTIONS + len(self._options), np.int64)
        words[k.RECORD] = self.records.new()
        words[k.LINK], words[k.KEEP_GOING] = self._link, self._keep_going
        words[k.HASH], words[k.EDIT + ALLOWED] = HASHED if self._hashed else 0, self._editable
        words[k.OPTIONS :] = k.option_words(self._options)
        return words

    def failures(self, words: NDArray[np.int64]) -> int:
        return int(words[k.FAILURES])

    def reason(self, words: NDArray[np.int64]) -> str:
        """With the user's file and line."""
        what, file, line = raised.explain_error(int(words[k.RAISED]), self.user.function)
        return f"{what} ({file}, {f'line {line}' if line else f'in {self.name}'})"

    def alarms(self) -> list[tuple[str, Any]]:
        tables = [(name, kind) for name, kind in self.records.tables.items() if kind.policy == TRIGGER]
        return [(f"{self.name}: {name}", getattr(record, name)) for record in self.records.all() for name, _ in tables]

    def result(self) -> Any:
        return self.records.merged(self.user.merge)

    def fold(self) -> Fold:
        kind, tables, merge = self.records.kind, self.records.tables, self.user.merge
        return Merging(kind, tables, merge) if merge else Summing(kind, tables)

    def part(self) -> Any:
        return self.records.copies() if self.user.merge else fields_of(self.records)

    def explain(self, error: BaseException) -> str:
        return reason_of(error, self.user.merge or self.user.function)
