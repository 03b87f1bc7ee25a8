"""Makes a user's per-packet function a kernel of PROCESS_SIGNATURE: compiled for it, and cached by its text.

The function is called through Numba's calling convention, so that an exception is a status here and does not unwind
a thread that does not hold the GIL; a pointer to what was raised goes into the state's words.

Compiled handlers are found on disk by a digest of everything that went into them: the function's code and constants,
what it refers to outside itself (followed into other functions), the types of its arguments, the CPU, and the text of
all kernels, which names the folder.  A function that refers to something without a digest is compiled every time.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import pickle
import sys
import traceback
import types as python_types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import wirecap.kernels.packet.attributes  # noqa: F401  what can follow "packet."
from wirecap.kernels.base.cache import CACHE_DIR, ROOT, content_of
from wirecap.kernels.base.call import raised_at
from wirecap.kernels.base.image import keep_newest
from wirecap.kernels.base.jit import PURE, compiler, intrinsic
from wirecap.kernels.base.later import Later, cgutils, ir, numba, types
from wirecap.kernels.handlers.tables import Kind, add_of, fire, state_type
from wirecap.kernels.packet.compare import of_a_handler
from wirecap.kernels.packet.edit import ALLOWED, DROPPED, EDIT_WORDS, TAG, carry_out, editable
from wirecap.kernels.packet.headers import at, hashed, model
from wirecap.kernels.pool.handler_loop import PROCESS_SIGNATURE

core: Any = Later("numba.core")
FOLDER = CACHE_DIR / "handlers" if CACHE_DIR else None
MOST_KEPT = 200
_KNOWN = ("numpy", "numba", "math", "builtins", "operator", "wirecap.kernels")
"""Packages whose versions, or text, name the folder."""


class UnknownError(Exception):
    """Something that a function refers to has no digest."""


def _target() -> Any:
    """What Numba makes code for."""
    return core.registry.cpu_target.target_context.codegen().magic_tuple()


def digest_of(function: Callable[..., Any], *more: Any) -> str | None:
    """The digest of a function and of ``more``; None if something in them has none."""
    digest = hashlib.sha256(repr((sys.version, _target(), more)).encode())
    try:
        _add_function(digest.update, getattr(function, "py_func", function), set())
    except UnknownError:
        return None
    return digest.hexdigest()[:32]


Update = Callable[[bytes], None]


def _add(update: Update, value: Any, seen: set[int]) -> None:
    """Feed what identifies a value, which is no module: each function only once."""
    if isinstance(value, core.dispatcher.Dispatcher):
        update(f"options {sorted(value.targetoptions.items())};".encode())
        if not _is_known(value.py_func):
            _add_function(update, value.py_func, seen)
            return
        value = value.py_func
    name = f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}"
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None), np.generic, np.dtype, types.Type)):
        update(f"{type(value).__name__} {value!r};".encode())
    elif isinstance(value, (tuple, frozenset)):
        update(f"{type(value).__name__} {len(value)} {getattr(value, '_fields', ())};".encode())
        for part in sorted(value, key=repr) if isinstance(value, frozenset) else value:
            _add(update, part, seen)
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        update(f"array {value.dtype} {value.shape};".encode())
        update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, type) and issubclass(value, Exception):
        update(f"exception {name};".encode())
    elif _is_known(value) or isinstance(value, (python_types.BuiltinFunctionType, np.ufunc)):
        update(f"known {name};".encode())
    else:  # a plain function among them: Numba calls what somebody registered in its place
        raise UnknownError(name)


def _is_known(value: Any) -> bool:
    """Whether it is one of the known packages' own things, and nothing that holds what a user made (DUFunc, CFunc)."""
    made_by = type(value).__module__.partition(".")[0]
    return _is_of_known(str(getattr(value, "__module__", ""))) and made_by != "numba"


def _is_of_known(module: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in _KNOWN)


def _add_function(update: Update, function: Any, seen: set[int]) -> None:
    """Feed a function's code, and all that it refers to by name: its globals, what it closes over, its defaults."""
    if id(function) in seen:
        return
    seen.add(id(function))
    _add_code(update, function.__code__, seen)
    names = sorted(set(_names(function.__code__)))
    outside = {name: function.__globals__[name] for name in names if name in function.__globals__}
    inside = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    try:
        outside |= {name: cell.cell_contents for name, cell in inside}
    except ValueError:  # a cell that nothing was put into yet
        raise UnknownError(function.__qualname__) from None
    _add_named(update, outside, names, seen, set())
    _add(update, function.__defaults__, seen)


def _add_named(update: Update, found: dict[str, Any], names: list[str], seen: set[int], passed: set[int]) -> None:
    """Feed values with their names; of modules, at any depth, whatever has one of the names that the function uses."""
    for name, value in found.items():
        update(f"{name}=".encode())
        if not isinstance(value, python_types.ModuleType):
            _add(update, value, seen)
        else:
            update(f"module {value.__name__} {getattr(value, '__version__', '')};".encode())
            if not _is_of_known(value.__name__) and id(value) not in passed:
                passed.add(id(value))
                inner = {one: getattr(value, one) for one in names if hasattr(value, one)}
                _add_named(update, inner, names, seen, passed)


def _add_code(update: Update, code: Any, seen: set[int]) -> None:
    """Feed the code, including its file and line, which exceptions carry."""
    update(f"{code.co_filename} {code.co_firstlineno} {code.co_varnames} {code.co_names};".encode())
    update(code.co_code + code.co_linetable)
    for constant in code.co_consts:
        if isinstance(constant, python_types.CodeType):
            _add_code(update, constant, seen)
        else:
            _add(update, constant, seen)


def _names(code: Any) -> list[str]:
    """The names that code uses; a text may be one, for getattr."""
    inner = [name for part in code.co_consts if isinstance(part, python_types.CodeType) for name in _names(part)]
    return [*code.co_names, *(text for text in code.co_consts if isinstance(text, str) and text.isidentifier()), *inner]


class Store:
    """One compiled function in a file, with the methods that Numba's dispatchers expect of a cache."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.path = folder / digest
        self.cache_path = str(folder)

    def load_overload(self, signature: Any, context: Any) -> Any:
        """What is stored for that function, or None."""
        context.refresh()
        try:
            return core.compiler.CompileResult._rebuild(context, *pickle.loads(content_of(self.path)))
        except FileNotFoundError:
            return None
        except Exception:  # truncated or outdated: it is compiled again
            self.path.unlink(missing_ok=True)
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Store it if possible; a folder that cannot be written to is not an error."""
        if result.lifted or result.library.has_dynamic_globals:
            return
        partial = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.touch(0o644)  # whatever the umask allows others
            partial.write_bytes(core.serialize.dumps(result._reduce()))
            partial.replace(self.path)
            keep_newest(self.path.parent, MOST_KEPT)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()

    def enable(self) -> None: ...

    def disable(self) -> None: ...

    def flush(self) -> None: ...


_raised: list[BaseException] = []


def keep_error(error: BaseException) -> int:
    """Keep an exception from plain Python; returns its number."""
    _raised.append(error)
    return len(_raised)


if PURE:

    def forget_error(error):  # type: ignore[no-untyped-def]
        """Forget what was raised last."""
        _raised.pop()

else:

    @intrinsic
    def forget_error(typing, error):  # type: ignore[no-untyped-def]
        """Free a description whose arguments were only known at run time (numba/core/callconv.py)."""

        def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
            info = builder.load(builder.inttoptr(values[0], core.callconv.excinfo_ptr_t))
            dynamic = builder.icmp_signed(">", builder.extract_value(info, 4), ir.Constant(ir.IntType(32), 0))
            with builder.if_then(dynamic, likely=False):
                context.nrt.free(builder, builder.extract_value(info, 2))
                context.nrt.free(builder, builder.inttoptr(values[0], ir.IntType(8).as_pointer()))
            return context.get_dummy_value()

        return types.void(types.int64), generate


def explain_error(kept: int, function: Callable[..., Any]) -> tuple[str, str, int]:
    """(exception's name and text, file, line) of a thread's first failure; line 0 if it is not known.

    Numba knows the line of a ``raise`` or an ``assert``, but not that of an index or a division.
    """
    if PURE:
        error = _raised[kept - 1]
        code = function.__code__
        lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code is code]
        return _named(type(error), error.args), code.co_filename, lines[-1]
    kind, arguments, place = raised_at(kept)
    _, file, line = place or ("", "", 0)
    if not line or Path(file).is_relative_to(ROOT):
        file, line = function.__code__.co_filename, 0
    known = [argument for argument in arguments or () if isinstance(argument, (str, int, float))]
    return _named(kind, known), file, line


def _named(kind: Any, arguments: Any) -> str:
    name = kind.__name__
    return f"{name}: {', '.join(map(str, arguments))}" if arguments else name


class Record:
    """The user's record, with numbers as Python's own and arrays as views (NumPy's records hide size, max or sum)."""

    __slots__ = ("_address", "_row", "_tables")

    def __init__(self, address: int, kind: np.dtype[Any], tables: Tables | None = None) -> None:
        data = np.ctypeslib.as_array((ctypes.c_uint8 * kind.itemsize).from_address(address))
        object.__setattr__(self, "_row", data.view(kind)[0])
        object.__setattr__(self, "_address", address)
        object.__setattr__(self, "_tables", tables or {})

    def __getattr__(self, name: str) -> Any:
        if name not in (self._row.dtype.names or ()):
            raise AttributeError(f"state has no {name!r}")
        if name in self._tables:
            return Table(self._address + self._row.dtype.fields[name][1], self._tables[name])
        field = self._row[name]
        return field if isinstance(field, np.ndarray) else field.item()

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in (self._row.dtype.names or ()):
            raise AttributeError(f"state has no {name!r}")
        self._row[name] = value

    def __repr__(self) -> str:
        return f"Record({', '.join(f'{name}={getattr(self, name)!r}' for name in self._row.dtype.names or ())})"


class Table(Record):
    """A table of the user's record, with the method that compiled code has."""

    __slots__ = ("_kind",)

    def __init__(self, address: int, kind: Kind) -> None:
        super().__init__(address, kind.dtype)
        object.__setattr__(self, "_kind", kind)

    def add(self, what: Any, amount: int = 1) -> None:
        if not isinstance(amount, (int, np.integer, np.bool_)):
            raise TypeError(f"an amount is a whole number, not {amount!r}")
        add_of(self._kind)(self, what, amount)

    def fire(self, packet: Any) -> None:
        fire(self, packet)


# The words of a thread's state: the address of the user's own record; the link type; 1 to count failures and carry
# on; how many there were; what the first one raised; HASHED (kernels/packet/headers.py) if the NIC's hash lies in
# front of each packet; permission to change packets, and what was decided about the current one
# (kernels/packet/edit.py); the options.
RECORD, LINK, KEEP_GOING, FAILURES, RAISED, HASH, EDIT = range(7)
OPTIONS = EDIT + EDIT_WORDS

UNKNOWN_LINK = -1

AHEAD = 16
"""Packets between the one being prefetched and the one being handled: a fetch from memory takes that long."""

FETCHED = (12, 40)
"""Bytes of a packet that most handlers look at: the EtherType, and the ports of TCP or UDP over IPv4."""


class ReturnedError(Exception):
    """A handler returns something; the text is its type."""


def option_words(values: list[Any]) -> list[int]:
    """Options (bool, int, float) as the state's words."""
    return [int(np.float64(value).view(np.int64)) if isinstance(value, float) else int(value) for value in values]


def compile_user(function: Callable[..., Any]) -> Any:
    """The user's function for Numba: exceptions as in Python, indices checked."""
    options = {"nogil": True, "boundscheck": True, "error_model": "python", "forceinline": True}
    return function if PURE else numba.njit(**options)(function)


Tables = dict[str, Kind]
"""The fields of a state that are tables."""


def signature(kind: np.dtype[Any], options: list[Any], tables: Tables) -> tuple[Any, ...]:
    """The argument types of a user's function: packet, state, options."""
    state = state_type(kind, tables)
    return (model.PACKET, state, *(numba.typeof(value) for value in options))


def build_process(user: Any, kind: np.dtype[Any], options: list[Any], tables: Tables) -> Any:
    """The kernel (not yet compiled) that calls ``user(packet, state, *options)`` for each packet of a chunk."""
    call = _call_python(user, kind, options, tables) if PURE else _call_compiled(user, kind, options, tables)

    def process(arena, address, captured, original, timestamp, n, state):  # type: ignore[no-untyped-def]
        for i in range(min(n, AHEAD)):
            fetch(arena, address[i])
        for i in range(n):
            if i + AHEAD < n:
                fetch(arena, address[i + AHEAD])
            if captured[i] == 0 and state[EDIT + ALLOWED]:
                continue  # an earlier handler dropped it
            packet = at(arena, address[i], np.int64(captured[i]), np.int64(original[i]), timestamp[i], state[LINK])
            packet = hashed(packet, arena, address[i], state[HASH])
            error = call(editable(packet, state, EDIT), state)
            if state[EDIT + DROPPED] | state[EDIT + TAG]:
                carry_out(arena, address, captured, i, state, EDIT)
            if error:
                state[FAILURES] += 1
                if state[FAILURES] == 1:
                    state[RAISED] = error
                else:
                    forget_error(error)
                if not state[KEEP_GOING]:
                    return i + 1
        return 0

    return process if PURE else numba.njit(nogil=True)(process)


def _described(kind: np.dtype[Any]) -> list[tuple[str, str, int]]:
    return [(name, str(field[0]), field[1]) for name, field in (kind.fields or {}).items()]


def compile_process(
    process: Any, user: Any, kind: np.dtype[Any], options: list[Any], tables: Tables, tell: Callable[[], None]
) -> None:
    """Compile, or load what was compiled before; ``tell`` is called before anything that takes time.

    Raises Numba's errors if the user's function does not compile, and ReturnedError if it returns something.
    """
    if PURE or process.signatures:
        return
    digest = digest_of(user, _described(kind), repr(tables), [type(value).__name__ for value in options])
    store = Store(FOLDER, digest) if FOLDER and digest else None
    if store:
        process._cache = store
    compiler()  # which teaches Numba what can follow "packet." and "state."
    if not (store and store.path.exists()):
        tell()
        arguments = signature(kind, options, tables)
        with of_a_handler():
            user.compile(arguments)
        returned = user.overloads[arguments].signature.return_type
        if returned != types.none:
            raise ReturnedError(str(returned))
    process.compile(compiler().signature_of(PROCESS_SIGNATURE))
    process.disable_compile()


def _call_python(user: Any, kind: np.dtype[Any], options: list[Any], tables: Tables) -> Callable[[Any, Any], int]:
    def call(packet, state):  # type: ignore[no-untyped-def]
        given = [type(value)(_option(word, value)) for word, value in zip(state[OPTIONS:], options, strict=False)]
        try:
            user(packet, Record(int(state[RECORD]), kind, tables), *given)
        except Exception as error:
            return keep_error(error)
        return 0

    return call


def _option(word: Any, like: Any) -> Any:
    return np.int64(word).view(np.float64) if isinstance(like, float) else word


def _call_compiled(user: Any, kind: np.dtype[Any], options: list[Any], tables: Tables) -> Any:
    arguments = signature(kind, options, tables)

    @intrinsic
    def call(typing, packet, state):  # type: ignore[no-untyped-def]
        user.compile(arguments)
        result = user.overloads[arguments]

        def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
            context.add_linking_libs([result.library])
            words = context.make_array(signature.args[1])(context, builder, values[1]).data

            def word(number: int) -> Any:
                return builder.load(builder.gep(words, [ir.Constant(ir.IntType(64), number)]))

            record = builder.inttoptr(word(RECORD), context.get_value_type(arguments[1]))
            given = [values[0], record]
            for number, one in enumerate(arguments[2:]):
                raw = word(OPTIONS + number)
                given.append(
                    builder.bitcast(raw, ir.DoubleType()) if one == types.float64
                    else context.cast(builder, raw, types.int64, one)
                )  # fmt: skip
            status, _ = context.call_internal_no_propagate(builder, result.fndesc, result.signature, given)
            pointer = builder.ptrtoint(status.excinfoptr, ir.IntType(64))
            return builder.select(status.is_error, pointer, ir.Constant(ir.IntType(64), 0))

        return types.int64(packet, state), generate

    return call


if PURE:

    def fetch(arena, address):  # type: ignore[no-untyped-def]
        """There is nothing to prefetch."""

else:

    @intrinsic
    def fetch(typing, arena, address):  # type: ignore[no-untyped-def]
        """Prefetch the cache lines of a packet's headers."""

        def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
            data = context.make_array(signature.args[0])(context, builder, values[0]).data
            half, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [pointer, half, half, half])
            prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            for offset in FETCHED:
                place = builder.gep(data, [builder.add(values[1], ir.Constant(ir.IntType(64), offset))])
                builder.call(prefetch, [place, *(ir.Constant(half, word) for word in (0, 3, 1))])
            return context.get_dummy_value()

        return types.void(arena, types.int64), generate
