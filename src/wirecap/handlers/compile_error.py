"""A handler that does not compile: the user's file and line and one reason, out of what Numba says."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable
from pathlib import Path

import numba

import wirecap
from wirecap.errors import UsageError
from wirecap.handlers.suggest import suggest
from wirecap.handlers.user import UserHandler
from wirecap.kernels.fields import LAYER_ATTRIBUTES, METHODS, PACKET_ATTRIBUTES

_NOT_THE_USERS = tuple(str(Path(package.__file__ or "").parent) for package in (numba, wirecap))

FIELDS = "docs/handlers.md lists the fields"
TAKES = "compiled code takes numbers, tuples, NumPy arrays and functions under @numba.njit"
SPEAKS = "docs/handlers.md says which Python can be compiled"


def explain(user: UserHandler, error: Exception) -> UsageError:
    """One line: where, what, and a hint."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error.args[0] if isinstance(error, KeyError) else error))
    reason, hint, name = _reason(user, error, text)
    return UsageError(f"{_place(user, error, text, name)}: handler {user.name} does not compile: {reason}", hint)


def returns(user: UserHandler, kind: str) -> UsageError:
    """A handler that returns a value, which would be nobody's."""
    what = "is a generator" if "generator" in kind else f"returns a value ({_type(kind)})"
    return UsageError(f"{_place(user)}: handler {user.name} {what}", "a handler returns nothing: count in its state")


def _place(user: UserHandler, error: Exception | None = None, text: str = "", name: str = "") -> str:
    """The first of the user's lines that the error names, else the first that has the name, else the function's."""
    at = getattr(error, "loc", None)
    named = [*re.findall(r"(?:at|from) (\S.*?) \((\d+)\)", text), *([(at.filename, at.line)] if at else [])]
    for file, line in named:
        if file and not file.startswith(_NOT_THE_USERS):
            return f"{file}, line {line}"
    code = user.function.__code__
    return f"{code.co_filename}, line {_line_of(user, name) or code.co_firstlineno}"


def _line_of(user: UserHandler, name: str) -> int | None:
    try:
        lines, first = inspect.getsourcelines(user.function)
        tree = ast.parse(inspect.cleandoc("\n" + "".join(lines)))
    except (OSError, SyntaxError):
        return None
    for node in ast.walk(tree):
        if name and name in (getattr(node, "attr", None), getattr(node, "id", None)):
            return first + getattr(node, "lineno", 1) - 1
    return None


def _reason(user: UserHandler, error: Exception, text: str) -> tuple[str, str, str]:
    """(what is wrong, a hint, the name that it is about)."""
    text = re.sub(r"^(?:(?:Failed in \w+ mode|- Resolution failure).*\n)+", "", text.strip()).strip()
    first = re.sub(r"\.* Raised from .*", "", text.partition("\n")[0].strip())
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
            return f"{name} is a function of Python", f"write @numba.njit above def {name}", name
        return f"{name} is a {kind} of Python", TAKES, name
    found = re.search(r">>> (.+?)\((.*)\)", text)
    if found and first.startswith("No implementation"):
        if "exception_match" in found[1]:
            return "it catches a particular exception", "compiled code has except Exception, for all of them", ""
        bound = re.search(r"BoundFunction\(.*'(\w+)'\) for (\w+)", text)
        if bound:
            return f"{bound[2]}.{bound[1]} does not take {_type(found[2]).removeprefix('packet, ')}", FIELDS, bound[1]
        call = f"{found[1]}({_type(found[2])})"
        arrays = _subscript(found[2]) if found[1] in ("getitem", "setitem") else ""
        return f"there is no {call}", arrays or SPEAKS, ""
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


def _unknown(owner: str, name: str, known: Iterable[str]) -> tuple[str, str, str]:
    there = [field for field in known if not field.startswith("_")]
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
        return "packet[i] is one octet, packet.u16(i) and packet.u32(i) are numbers"
    return 'an array is declared: state={"ports": (np.int64, 65536)}'
