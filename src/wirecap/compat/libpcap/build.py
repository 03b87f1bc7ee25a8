"""The shared object on disk: compiled and linked once, and kept with the compiled kernels."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from wirecap.compat.libpcap import elf
from wirecap.errors import UsageError, WirecapError
from wirecap.kernels.base import cache, jit

SONAME = "libpcap-wirecap.so"
_SEPARATORS = " :\t\n"
"""What separates the names in LD_PRELOAD (ld.so(8))."""


def shared_object(tell: Callable[[str], None]) -> Path:
    """Its path; ``tell`` gets a line if it has to be made.

    Raises WirecapError where it cannot be made, UsageError where it could not be preloaded.
    """
    if platform.machine() not in elf.MACHINES:
        raise WirecapError(
            f"this project makes no shared objects for {platform.machine()}",
            "wirecap capture -w - | tcpdump -r - reads packets without one",
        )
    if jit.PURE:
        raise UsageError("NUMBA_DISABLE_JIT=1 leaves nothing compiled to preload", "unset it")
    if cache.CACHE_DIR is None:
        raise WirecapError("there is no folder to keep the shared object in", cache.CACHE_HINT)
    path = cache.CACHE_DIR / f"libpcap-{_digest()}.so"
    if any(separator in str(path) for separator in _SEPARATORS):
        raise UsageError(f"LD_PRELOAD cannot hold a path with a space or a colon: {path}", cache.CACHE_HINT)
    try:
        cache.content_of(path)
    except OSError:  # not there yet, or somebody else's
        tell("wirecap: compiling libpcap's functions (once)")
        _keep(path, make())
    return path


def make() -> bytes:
    """The shared object's bytes."""
    from wirecap.kernels.libpcap import export, surface

    return elf.shared_object(export.image(surface.PASSED_ON, elf.PAGE), SONAME, platform.machine())


def _digest() -> str:
    """Of what makes the file; the folder's name has that of the kernels."""
    return hashlib.sha256(Path(elf.__file__).read_bytes()).hexdigest()[:16]


def _keep(path: Path, data: bytes) -> None:
    """Put it there at once, as two processes may make it at the same time."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o755)
        Path(name).rename(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
