"""How kernels are compiled: cached by a digest of all kernels, ahead of the first packet, never at import.

A kernel is a function that touches packets.  ``@kernel(signature)`` marks an entry point that Python
calls; it has one signature, so that it can be compiled without being called.  ``@inline`` marks a
helper that only kernels call.  ``prepare`` compiles entry points and tells which ones were not cached.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.core import config, event
from numba.core.errors import NumbaExperimentalFeatureWarning
from numba.core.runtime import rtsys

warnings.filterwarnings("ignore", category=NumbaExperimentalFeatureWarning)  # first-class functions

PURE = bool(config.DISABLE_JIT)
"""True under NUMBA_DISABLE_JIT=1: kernels then run as plain Python."""

# The vocabulary of signatures.  Everything that is added to an index is int64: Numba turns a mix of
# int64 and uint64 into a float.
i64 = types.int64
u32 = types.uint32
octets = types.uint8[::1]
words = types.int64[::1]
table = types.int64[:, ::1]
lengths = types.uint32[::1]

_entry_points: dict[str, tuple[Any, Any]] = {}
_preparing = threading.Lock()  # an entry point that two threads load at once would have two equal signatures


def cache_root() -> Path:
    """The folder of compiled kernels: WIRECAP_CACHE_DIR, else XDG_CACHE_HOME/wirecap, else ~/.cache/wirecap."""
    own = os.environ.get("WIRECAP_CACHE_DIR")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wirecap"


def _digest() -> str:
    """One digest over every kernel's text: Numba's own cache does not see an edit in another file."""
    digest = hashlib.sha256(f"{numba.__version__} {config.BOUNDSCHECK} {config.OPT}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


CACHE_DIR = cache_root() / _digest()


def _compile_lazily(function: Callable[..., Any], **options: Any) -> Any:
    # The cache reads its folder when the function is decorated; other users of Numba keep their own.
    before = config.CACHE_DIR
    config.CACHE_DIR = str(CACHE_DIR)
    try:
        # Kernels allocate nothing: without Numba's run-time no array is counted up and down at every call.
        return numba.njit(nogil=True, _nrt=False, **options)(function)
    finally:
        config.CACHE_DIR = before


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"


def inline(function: Callable[..., Any]) -> Any:
    """A helper that is called from kernels only; compiled into its callers."""
    return _compile_lazily(function)


def inline_always(function: Callable[..., Any]) -> Any:
    """``inline`` where the compiler would find the helper too large; for what is called once in a loop."""
    return _compile_lazily(function, forceinline=True)


def kernel(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """An entry point with one signature, e.g. ``@kernel(i64(octets, words, i64))``."""

    def decorate(function: Callable[..., Any]) -> Any:
        compiled = _compile_lazily(function, cache=True)
        _entry_points[_name(function)] = (compiled, signature)
        return compiled

    return decorate


class _Announce(event.Listener):
    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell

    def on_start(self, event: Any) -> None:
        name = _name(event.data["dispatcher"].py_func)
        if name in _entry_points:
            self.tell(name)

    def on_end(self, event: Any) -> None: ...


def _load(compiled: Any, signature: Any) -> bool:
    """Load an entry point from the cache, if it is there.

    What Dispatcher.compile does, without the refresh of all of Numba's registries: that takes 0.2 s, and only
    compiling needs it.
    """
    context = compiled.targetctx
    rtsys.initialize(context)
    overload = compiled._cache._load_overload(signature, context)
    if overload is None:
        return False
    context.insert_user_function(overload.entry_point, overload.fndesc, [overload.library])
    compiled.add_overload(overload)
    return True


def prepare(kernels: Iterable[Any] | None = None, tell: Callable[[str], None] | None = None) -> int:
    """Compile (or load from the cache) the given entry points, by default all that are imported.

    Returns how many there were.  ``tell`` is called with the name of each that the cache did not hold, before it
    is compiled.
    """
    if PURE:
        return 0
    wanted = [pair for pair in _entry_points.values() if kernels is None or pair[0] in kernels]
    announce = _Announce(tell or (lambda name: None))
    with _preparing, event.install_listener("numba:compile", announce):
        for compiled, signature in wanted:
            if not compiled.signatures:
                if not _load(compiled, signature):
                    compiled.compile(signature)
                compiled.disable_compile()  # one signature: arguments convert to it, function pointers too
    return len(wanted)
