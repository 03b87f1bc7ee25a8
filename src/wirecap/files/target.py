"""What a sink writes to: a file past the page cache, a file or pipe through it, a compressed file."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import zlib
from typing import Protocol

import zstandard

from wirecap.errors import UsageError
from wirecap.files.buffers import PAGE
from wirecap.files.feed import being_read

_GZIP_LEVEL = 1  # a capture must keep up: level 6 takes three times as long for a tenth less
_ZSTANDARD_LEVEL = 1


class Target(Protocol):
    granule: int
    """Writes are multiples of this many bytes, except ``write_end``."""

    written: int
    """Bytes of the stream that are in the file; also after an OSError."""

    def write(self, data: memoryview) -> None: ...

    def write_end(self, data: bytes) -> None:
        """Put the bytes that are less than a granule into the file; ``write`` will get them once more."""

    def read_back(self, start: int, end: int) -> bytes | None:
        """Written bytes, None where that is impossible."""

    def truncate(self, size: int) -> None:
        """Leave size bytes of the stream in the file, where that is possible."""

    def close(self) -> None: ...


class Plain:
    """A file descriptor written through the page cache, or a pipe."""

    granule = 1

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.written = 0
        status = os.fstat(fd)
        self._regular = stat.S_ISREG(status.st_mode)
        if self._regular:  # a redirected standard output may have begun with something else
            appending = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
            self._begin = status.st_size if appending else os.lseek(fd, 0, os.SEEK_CUR)

    def write(self, data: memoryview) -> None:
        while data:
            try:
                count = os.write(self._fd, data)
            except BlockingIOError:
                select.select([], [self._fd], [])
                continue
            self.written += count
            data = data[count:]

    def write_end(self, data: bytes) -> None:
        """Nothing is ever left over."""

    def read_back(self, start: int, end: int) -> bytes | None:
        return None

    def truncate(self, size: int) -> None:
        if self._regular:
            os.ftruncate(self._fd, self._begin + size)

    def close(self) -> None:
        os.close(self._fd)


class Direct:
    """A regular file, written past the page cache (O_DIRECT); its unaligned end goes through the cache."""

    granule = PAGE

    def __init__(self, direct_fd: int, cached_fd: int) -> None:
        self._direct_fd, self._cached_fd = direct_fd, cached_fd
        self.written = 0
        self._offset = 0

    def write(self, data: memoryview) -> None:
        while data:
            try:
                count = os.pwrite(self._direct_fd, data, self._offset)
            except OSError as error:
                flags = fcntl.fcntl(self._direct_fd, fcntl.F_GETFL)
                if error.errno != errno.EINVAL or not flags & os.O_DIRECT:
                    raise
                fcntl.fcntl(self._direct_fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)  # a stricter file system
                continue
            self._offset += count
            self.written = max(self.written, self._offset)
            data = data[count:]

    def write_end(self, data: bytes) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._cached_fd, data[done:], self._offset + done)
            self.written = max(self.written, self._offset + done)

    def read_back(self, start: int, end: int) -> bytes | None:
        return os.pread(self._cached_fd, end - start, start)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._cached_fd, size)

    def close(self) -> None:
        os.close(self._direct_fd)
        os.close(self._cached_fd)


class Compressed:
    """Each write is a gzip member or Zstandard frame of its own, so that a cut file ends with a whole one."""

    granule = 1

    def __init__(self, plain: Plain, suffix: str) -> None:
        self._plain = plain
        self._frames = (
            zstandard.ZstdCompressor(level=_ZSTANDARD_LEVEL, write_checksum=True) if suffix == ".zst" else None
        )
        self.written = 0
        self._kept = 0

    def write(self, data: memoryview) -> None:
        if self._frames is not None:
            member = self._frames.compress(data)
        else:
            stream = zlib.compressobj(_GZIP_LEVEL, wbits=31)
            member = stream.compress(data) + stream.flush()
        self._plain.write(memoryview(member))
        self.written += len(data)
        self._kept = self._plain.written

    def write_end(self, data: bytes) -> None:
        """Nothing is ever left over."""

    def read_back(self, start: int, end: int) -> bytes | None:
        return None

    def truncate(self, size: int) -> None:
        self._plain.truncate(self._kept)

    def close(self) -> None:
        self._plain.close()


def open_target(path: str, direct: bool = True, compression: str = "") -> Target:
    """Create path, or empty it; ``-`` is the standard output; compression is ``.gz``, ``.zst`` or nothing.

    Raises UsageError if that is impossible.
    """
    try:
        if path == "-":
            fd = os.dup(1)
            direct = False
        else:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(f"{path}: {os.strerror(error.errno or 0)}", "name a file that can be written") from error
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) in being_read:
        os.close(fd)
        raise UsageError(f"{path}: the file is being read", "write to another name")
    if path != "-" and stat.S_ISREG(status.st_mode):
        os.ftruncate(fd, 0)
    if compression:
        return Compressed(Plain(fd), compression)
    if direct and stat.S_ISREG(status.st_mode):
        return _open_direct(path, fd)
    return Plain(fd)


def _open_direct(path: str, fd: int) -> Target:
    try:
        cached_fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # a file that may be written but not read
        return Plain(fd)
    try:
        direct_fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:  # a file system that does not take O_DIRECT
        os.close(cached_fd)
        return Plain(fd)
    os.close(fd)
    return Direct(direct_fd, cached_fd)
