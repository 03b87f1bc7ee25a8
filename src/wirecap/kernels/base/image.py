"""Compiled code as it is kept on disk, and how it gets into memory: without LLVM, whose import takes longer.

An image is machine code with its constants, linked but for the words that hold addresses.  A file begins with a
digest of its content, so that one that was cut short or damaged is as good as none.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import marshal
import mmap
import os
import struct
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from wirecap.kernels.base.cache import content_of

_DIGEST_BYTES = 32


class Image(NamedTuple):
    """Machine code that can be put anywhere, on the boundary of a page."""

    entries: dict[str, int]
    """Where its functions are, by name: offsets."""
    imports: list[tuple[int, str]]
    """Offsets of words that hold the address of something outside, mostly a C library's function."""
    relative: list[int]
    """Offsets of words that hold an offset, to become an address."""
    code: bytes
    """What is only read, then what is executed, then what is written, by ``relative`` and ``imports`` too."""
    executed: int
    """The offset where code begins."""
    written: int
    """The offset where code ends."""


class Code:
    """An image in memory, which can be executed as long as this object lives."""

    def __init__(self, image: Image, known: Mapping[str, int] | None = None) -> None:
        """``known``: the addresses of imports that are no library's.

        Raises OSError if a library has no function of the name, or memory may not be made executable.
        """
        self._memory = mmap.mmap(
            -1, len(image.code), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE
        )
        self._memory.write(image.code)
        first = ctypes.c_char.from_buffer(self._memory)
        base = ctypes.addressof(first)
        for place in image.relative:
            (offset,) = struct.unpack_from("<Q", self._memory, place)
            struct.pack_into("<Q", self._memory, place, base + offset)
        for place, name in image.imports:
            struct.pack_into("<Q", self._memory, place, (known or {}).get(name) or _address_of(name))
        _make_executable(base, len(image.code))
        self.addresses = {name: base + offset for name, offset in image.entries.items()}


def _make_executable(base: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(base), ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "memory cannot be made executable")
    # Linux makes instruction caches see what is in pages that become executable.


@cache
def _address_of(name: str) -> int:
    for library in (None, "libm.so.6"):
        with contextlib.suppress(AttributeError):
            return ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value or 0
    raise OSError(f"no C library has a function {name}")


def read(path: Path) -> Image | None:
    """The image in a file, or None if there is none that is whole."""
    try:
        content = content_of(path)
        if hashlib.sha256(content[_DIGEST_BYTES:]).digest() == content[:_DIGEST_BYTES]:
            return Image(*marshal.loads(content[_DIGEST_BYTES:]))
    except (OSError, EOFError, TypeError, ValueError):  # not there, or written by another version
        pass
    return None


def write(path: Path, image: Image, most: int = 0) -> None:
    """Keep an image, if the disk takes it; others see the whole file or none.  most: files to keep, 0 for all."""
    content = marshal.dumps(tuple(image), 4)  # which all versions of Python read
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(exist_ok=True)
        partial.touch(0o644)  # whatever the umask allows others
        partial.write_bytes(hashlib.sha256(content).digest() + content)
        partial.replace(path)
        if most:
            keep_newest(path.parent, most)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()


def keep_newest(folder: Path, most: int) -> None:
    """Delete the oldest files of a folder; raises OSError."""
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[most:]:
        path.unlink(missing_ok=True)


def first_of(paths: Iterable[Path]) -> Image | None:
    """The first image that is there and whole."""
    return next((image for path in paths if (image := read(path))), None)
