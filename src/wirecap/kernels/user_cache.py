"""Compiled handlers on disk, found by a digest of everything that went into them.

That is the function's code and constants, what it refers to outside itself (followed into other functions),
the types of its arguments, the CPU, and the text of all kernels, which names the folder.  A function that
refers to something without a digest is compiled anew each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import sys
import types as python_types
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import compiler, serialize
from numba.core.dispatcher import Dispatcher
from numba.core.registry import cpu_target

from wirecap.kernels.jit import CACHE_DIR

FOLDER = CACHE_DIR / "handlers"
MOST_KEPT = 200
_PACKAGES = ("numpy", "numba", "math", "builtins", "operator", "wirecap")


class UnknownError(Exception):
    """Something that a function refers to has no digest."""


def digest_of(function: Callable[..., Any], *more: Any) -> str | None:
    """The digest of a function and of ``more``; None where there is none."""
    digest = hashlib.sha256(repr((sys.version, cpu_target.target_context.codegen().magic_tuple(), more)).encode())
    try:
        _add(digest.update, function, set())
    except UnknownError:
        return None
    return digest.hexdigest()[:32]


def _add(update: Callable[[bytes], None], value: Any, seen: set[int]) -> None:
    """Feed what stands for ``value``; each object once."""
    value = getattr(value, "py_func", value) if isinstance(value, Dispatcher) else value
    name = f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}"
    known = name.partition(".")[0] in _PACKAGES
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None), np.generic, np.dtype)):
        update(f"{type(value).__name__} {value!r};".encode())
    elif isinstance(value, (tuple, frozenset)):
        update(f"{type(value).__name__} {len(value)};".encode())
        for part in sorted(value, key=repr) if isinstance(value, frozenset) else value:
            _add(update, part, seen)
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        update(f"array {value.dtype} {value.shape};".encode())
        update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, python_types.ModuleType):
        update(f"module {value.__name__} {getattr(value, '__version__', '')};".encode())
    elif isinstance(value, python_types.FunctionType) and not known:
        if id(value) not in seen:
            seen.add(id(value))
            _add_function(update, value, seen)
    elif isinstance(value, type) and issubclass(value, Exception):
        update(f"exception {name};".encode())
    elif known or isinstance(value, (python_types.BuiltinFunctionType, np.ufunc)):
        update(f"known {name};".encode())
    else:
        raise UnknownError(name)


def _add_function(update: Callable[[bytes], None], function: Any, seen: set[int]) -> None:
    _add_code(update, function.__code__, seen)
    for name in sorted(set(_names(function.__code__))):
        if name in function.__globals__:
            value = function.__globals__[name]
            _add(update, value, seen)
            if isinstance(value, python_types.ModuleType) and value.__name__.partition(".")[0] not in _PACKAGES:
                for attribute in sorted(set(_names(function.__code__))):
                    if hasattr(value, attribute):
                        _add(update, getattr(value, attribute), seen)
    for cell in function.__closure__ or ():
        _add(update, cell.cell_contents, seen)
    _add(update, function.__defaults__, seen)


def _add_code(update: Callable[[bytes], None], code: Any, seen: set[int]) -> None:
    """Its place counts too: exceptions carry it."""
    update(f"{code.co_filename} {code.co_firstlineno} {code.co_varnames} {code.co_names};".encode())
    update(code.co_code + code.co_linetable)
    for constant in code.co_consts:
        if isinstance(constant, python_types.CodeType):
            _add_code(update, constant, seen)
        else:
            _add(update, constant, seen)


def _names(code: Any) -> list[str]:
    inner = [name for part in code.co_consts if isinstance(part, python_types.CodeType) for name in _names(part)]
    return [*code.co_names, *inner]


class Store:
    """One compiled function in a file, under the methods that Numba's dispatchers ask a cache for."""

    def __init__(self, digest: str) -> None:
        self.path = FOLDER / digest
        self.cache_path = str(FOLDER)

    def load_overload(self, signature: Any, context: Any) -> Any:
        """What is there for that function, or None."""
        context.refresh()
        try:
            return compiler.CompileResult._rebuild(context, *pickle.loads(self.path.read_bytes()))
        except FileNotFoundError:
            return None
        except Exception:  # cut short, or of another time: it is compiled anew
            self.path.unlink(missing_ok=True)
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep it where it can be kept; a folder that cannot be written to is no failure."""
        if result.lifted or result.library.has_dynamic_globals:
            return
        partial = self.path.with_suffix(f".{os.getpid()}")
        try:
            FOLDER.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(serialize.dumps(result._reduce()))
            partial.replace(self.path)
            _prune()
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()

    def enable(self) -> None: ...

    def disable(self) -> None: ...

    def flush(self) -> None: ...


def _prune() -> None:
    """Every edit of a handler leaves a file behind: the oldest ones go."""
    files = sorted(FOLDER.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[MOST_KEPT:]:
        path.unlink(missing_ok=True)
