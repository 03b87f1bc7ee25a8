"""How kernels are declared, compiled ahead, kept and called; nothing is compiled at import.

A kernel is a function that touches packets.  ``@kernel(signature)`` marks an entry point that Python
calls; it has one signature, so it can be compiled without being called.  ``@inline`` marks a helper
that only kernels call.  ``prepare`` loads entry points, and compiles and announces the ones that are not kept.
Numba is imported only to compile: what is kept is called without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from wirecap.kernels.base import cache, image, shipped
from wirecap.kernels.base.call import binder, caller
from wirecap.kernels.base.kinds import Signature

PURE = bool(int(os.environ.get("NUMBA_DISABLE_JIT") or 0))
"""True under NUMBA_DISABLE_JIT=1, when kernels run as plain Python."""

CHECKED = PURE or bool(int(os.environ.get("NUMBA_BOUNDSCHECK") or 0))
"""True if every byte is to be accessed through an array index."""

_entry_points: dict[str, Kernel] = {}
_preparing = threading.RLock()  # importing Numba and compiling in two threads at once would do both twice
_extensions: list[Callable[[], None]] = []


class Compiled:
    """A function that Numba knows how to call, once it is needed: ``resolve`` gives Numba's object for it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.py_func = function
        self.__doc__, self.__module__ = function.__doc__, function.__module__
        self.__qualname__ = self.__name__ = function.__qualname__
        self._resolved: Any = None

    def resolve(self) -> Any:
        """Numba's object, made when it is first asked for."""
        if self._resolved is None:
            self._resolved = self._make()
        return self._resolved

    def _make(self) -> Any:
        raise NotImplementedError


class Helper(Compiled):
    """A function that only kernels call."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        super().__init__(function)
        self._options = options
        self._called: Any = None

    def _make(self) -> Any:
        return compiler().dispatcher(self.py_func, **self._options)

    def __call__(self, *arguments: Any) -> Any:
        """Only tests call helpers from Python, through a function of its own for each."""
        if self._called is None:
            self._called = compiler().callable_from_python(self)
        return self._called(*arguments)


class Intrinsic(Compiled):
    """A function that gives its type, and a function that emits its code (numba.extending.intrinsic)."""

    def _make(self) -> Any:
        return compiler().intrinsic(self.py_func)


class External(Compiled):
    """A function of the C library."""

    def __init__(self, name: str, signature: Signature) -> None:
        self.name, self.signature = name, signature
        self._resolved = None

    def _make(self) -> Any:
        return compiler().external(self.name, self.signature)


class Choice(Compiled):
    """One of several functions, chosen when something is compiled."""

    def _make(self) -> Any:
        return self.py_func().resolve()


class Kernel(Compiled):
    """An entry point: what Python calls."""

    def __init__(self, function: Callable[..., Any], signature: Signature) -> None:
        super().__init__(function)
        self.signature = signature
        self.name = f"{function.__module__.removeprefix('wirecap.kernels.')}.{function.__qualname__}"
        """Its place under kernels/, which no other entry point has: two folders can each have a ``capture_loop``."""
        self._code: image.Code | None = None
        self._call: Callable[..., Any] = self._first_call

    def _make(self) -> Any:
        return compiler().dispatcher(self.py_func)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def _first_call(self, *arguments: Any) -> Any:
        prepare([self])
        return self._call(*arguments)

    def binder(self, arrays: int) -> Callable[..., Any]:
        """A function that gets the first arguments, so many arrays, and returns what takes the others.

        For where a tenth of a microsecond counts.
        """
        if self._code is None:
            prepare([self])
        assert self._code
        return binder(self.py_func, self.signature, self._code.addresses["call"], arrays)

    @property
    def is_ready(self) -> bool:
        return self._code is not None

    def use(self, found: image.Image) -> None:
        """Take this as the kernel's code; raises OSError if it cannot be executed here."""
        self._code = image.Code(found)
        self._call = caller(self.py_func, self.signature, self._code.addresses["call"])

    @property
    def address(self) -> int:
        """Where the code is that compiled code calls; by Numba's calling convention."""
        if self._code is None:
            prepare([self])
        assert self._code
        return self._code.addresses["function"]


def inline(function: Callable[..., Any]) -> Any:
    """A helper that only kernels call; it is compiled into its callers."""
    return function if PURE else Helper(function)


def inline_always(function: Callable[..., Any]) -> Any:
    """``inline`` for a helper that the compiler finds too large; for code that is called once in a loop."""
    return function if PURE else Helper(function, forceinline=True)


def intrinsic(function: Callable[..., Any]) -> Any:
    """A helper whose LLVM code is made by Python: ``function`` is what numba.extending.intrinsic takes."""
    return Intrinsic(function)


def external(name: str, signature: Signature) -> Any:
    """A function of the C library, for kernels; pointers are int64."""
    return External(name, signature)


def chosen(function: Callable[[], Any]) -> Any:
    """The helper that ``function`` returns when something is compiled."""
    return Choice(function)


def kernel(signature: Signature) -> Callable[[Callable[..., Any]], Any]:
    """An entry point with one signature, for example ``@kernel(i64(byte_array, words, i64))``."""

    def decorate(function: Callable[..., Any]) -> Any:
        made = Kernel(function, signature)
        assert made.name not in _entry_points, f"two entry points are named {made.name}"
        _entry_points[made.name] = made
        return function if PURE else made

    return decorate


def extends_numba(register: Callable[[], None]) -> Callable[[], None]:
    """Mark a function that teaches Numba types or attributes: it is called before anything is compiled."""
    _extensions.append(register)
    return register


def compiler() -> Any:
    """The module that compiles, with all that Numba has to know for it."""
    with _preparing:
        found = import_module("wirecap.kernels.base.compile")
        while _extensions:
            _extensions.pop(0)()
        return found


def entry_points() -> list[str]:
    """The names of all entry points imported so far."""
    return sorted(_entry_points)


def prepare(
    kernels: Iterable[Any] | None = None, tell: Callable[[str], None] | None = None, as_shipped: bool = True
) -> int:
    """Load (or compile and keep) the given entry points, by default all that are imported.

    Returns how many there were.  ``tell`` is called with the name of each one that is not kept, before it is
    compiled.  as_shipped: object code that the package brings will do.
    """
    if PURE:
        return 0
    wanted = list(_entry_points.values() if kernels is None else dict.fromkeys(kernels))
    wanted = [one for one in wanted if isinstance(one, Kernel)]
    with _preparing:
        for one in wanted:
            if not one.is_ready and not _load(one, as_shipped):
                cache.tell()
                if tell:
                    tell(one.name)
                compiled = compiler().compile_kernel(one)
                if cache.CACHE_DIR:
                    image.write(cache.CACHE_DIR / _file_of(one), compiled)
                one.use(compiled)
    return len(wanted)


def _file_of(one: Kernel) -> str:
    """Under what name it is kept.  The folder's name has the digest of all kernels; one from elsewhere has its own."""
    place = Path(one.py_func.__code__.co_filename)
    if place.is_relative_to(cache.ROOT):
        return f"{one.name}.code"
    return f"{one.name}.{hashlib.sha256(place.read_bytes()).hexdigest()[:16]}.code"


def _load(one: Kernel, as_shipped: bool) -> bool:
    """Take what is kept of a kernel; False if there is nothing that is whole."""
    found = image.first_of(folder / _file_of(one) for folder in _folders(as_shipped))
    if found:
        with contextlib.suppress(OSError):
            one.use(found)
    return one.is_ready


def _folders(as_shipped: bool) -> Iterator[Path]:
    """Where to look: what was compiled here comes first."""
    yield from cache.folders()
    brought = shipped.folder() if as_shipped else None
    if brought:
        yield brought
