"""What bytes of a capture file are written to: a file or a pipe, past the page cache, or through a compressor."""

from __future__ import annotations

import bz2
import errno
import fcntl
import lzma
import os
import select
import stat
import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard

from wirecap.files.buffers import BUFFERS, PAGE
from wirecap.files.decompression import lz4_frames
from wirecap.files.reserve import UNKNOWN, Reserve
from wirecap.files.retention import UNBOUNDED, Space

_GZIP_LEVEL = 1  # a capture must keep up: level 6 takes three times as long for a tenth less
_ZSTANDARD_LEVEL = 1
_MOST_WORKERS = 4
_XZ_LEVEL = 0

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PIECES = 65_536, 16_384, 4096  # lz4's blocks are of 64 KiB at most
"""Sizes of the pieces in which a block is written that does not fit whole."""


class Target(Protocol):
    granule: int
    """Writes are multiples of this many bytes, except ``write_end``."""

    written: int
    """Bytes of the stream that are in the file; also after an OSError."""

    at_once: int
    """How many blocks ``write`` is best given, where so many wait."""

    def write(self, *blocks: memoryview) -> None: ...

    def write_end(self, data: bytes) -> None:
        """Put the bytes that are less than a granule into the file; ``write`` will get them once more."""

    def read_back(self, start: int, end: int) -> bytes | None:
        """Written bytes, None where that is impossible."""

    def truncate(self, size: int) -> None:
        """Leave size bytes of the stream in the file, where that is possible."""

    def close(self) -> None: ...


class Plain:
    """A file descriptor written through the page cache, or a pipe."""

    granule = at_once = 1

    def __init__(self, fd: int, space: Space = UNBOUNDED) -> None:
        self._fd, self._space = fd, space
        self.written = self._begin = 0
        status = os.fstat(fd)
        self.regular = stat.S_ISREG(status.st_mode)
        if self.regular:  # a redirected standard output may have begun with something else
            appending = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
            self._begin = status.st_size if appending else os.lseek(fd, 0, os.SEEK_CUR)

    def write(self, *blocks: memoryview) -> None:
        for data in blocks:
            self._space.grow(self._begin + self.written + len(data))
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
        if self.regular:
            os.ftruncate(self._fd, self._begin + size)
            os.lseek(self._fd, self._begin + size, os.SEEK_SET)
            self.written = size

    def close(self) -> None:
        try:
            os.close(self._fd)
        finally:
            self._space.end(self._begin + self.written)


class Direct:
    """A regular file, written past the page cache (O_DIRECT); its unaligned end goes through the cache.

    All blocks of a ``write`` are on their way to the disk at once, and become part of the file at once: its length
    never covers a block that is not there.  Threads that write block by block would not gain by it: a file system
    lets one at a time make a file longer.

    locked_fd: the descriptor that keeps others from writing it.
    """

    granule = PAGE
    at_once = BUFFERS // 2

    def __init__(
        self, direct_fd: int, cached_fd: int, locked_fd: int, space: Space = UNBOUNDED, most: int = UNKNOWN
    ) -> None:
        self._direct_fd, self._cached_fd, self._locked_fd = direct_fd, cached_fd, locked_fd
        self._space, self._reserve = space, Reserve(cached_fd, space, most)
        self.written = 0
        self._offset = 0

    def write(self, *blocks: memoryview) -> None:
        start = self._offset
        self._reserve.cover(start + sum(map(len, blocks)))
        try:
            self._put([block for block in blocks if block])
        except OSError:
            if len(blocks) == 1:
                raise
            self._put_singly(start, blocks)

    def _put_singly(self, start: int, blocks: tuple[memoryview, ...]) -> None:
        """As many of the blocks, which begin at ``start``, as the disk takes: together they are refused together."""
        for block in blocks:
            if self._offset < start + len(block):
                self._put([block[self._offset - start :]])
            start += len(block)

    def _put(self, blocks: list[memoryview]) -> None:
        while blocks:
            try:
                count = os.pwritev(self._direct_fd, blocks, self._offset)
            except OSError as error:
                flags = fcntl.fcntl(self._direct_fd, fcntl.F_GETFL)
                if error.errno != errno.EINVAL or not flags & os.O_DIRECT:
                    raise
                fcntl.fcntl(self._direct_fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)  # a stricter file system
                continue
            self._offset += count
            self.written = max(self.written, self._offset)
            while blocks and count >= len(blocks[0]):
                count -= len(blocks.pop(0))
            if count:
                blocks[0] = blocks[0][count:]

    def write_end(self, data: bytes) -> None:
        self._reserve.cover(self._offset + len(data))
        done = 0
        while done < len(data):
            done += os.pwrite(self._cached_fd, data[done:], self._offset + done)
            self.written = max(self.written, self._offset + done)

    def read_back(self, start: int, end: int) -> bytes | None:
        return os.pread(self._cached_fd, end - start, start)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._cached_fd, size)

    def close(self) -> None:
        size = os.fstat(self._cached_fd).st_size
        try:
            self._reserve.give_back(size)
            for fd in (self._direct_fd, self._cached_fd, self._locked_fd):
                os.close(fd)
        finally:
            self._space.end(size)


class _OneFrame:
    """A single frame, flushed after each write: what many readers expect, Wireshark 4.0 among them."""

    def __init__(self, suffix: str) -> None:
        self._pack: Callable[[memoryview], bytes]
        self._raw: Callable[[int], bytes]
        if suffix == ".zst":
            workers = min(_MOST_WORKERS, os.cpu_count() or 1)
            threads = workers if workers > 1 else 0
            packer = zstandard.ZstdCompressor(level=_ZSTANDARD_LEVEL, threads=threads).compressobj()
            self._pack = lambda data: packer.compress(data) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
            self._begin, self.end = b"", b"\1\0\0"  # an empty last block (RFC 8878, 3.1.1.2)
            self._raw = lambda size: (size << 3).to_bytes(3, "little")  # the header of a raw block
        else:
            frame = lz4_frames().LZ4FrameCompressor(auto_flush=True)
            self._pack, self._begin, self.end = frame.compress, frame.begin(), bytes(4)  # the end mark
            self._raw = lambda size: (size | 1 << 31).to_bytes(4, "little")

    def pack(self, data: memoryview) -> bytes:
        begin, self._begin = self._begin, b""
        return begin + self._pack(data)

    def pack_again(self, piece: memoryview) -> bytes:
        """A part of a block that was packed already but not written: as it is, for the compressor has gone on."""
        return self._raw(len(piece)) + piece


class _Frames:
    """A gzip member, a Zstandard or lz4 frame, an xz or bzip2 stream for each write, which can be read by itself."""

    end = b""

    def __init__(self, suffix: str) -> None:
        packers: dict[str, Callable[[], Callable[[memoryview], bytes]]] = {
            ".gz": lambda: lambda data: zlib.compress(data, _GZIP_LEVEL, 31),
            ".zst": lambda: zstandard.ZstdCompressor(level=_ZSTANDARD_LEVEL, write_checksum=True).compress,
            ".lz4": lambda: lz4_frames().compress,
            ".xz": lambda: lambda data: lzma.compress(data, preset=_XZ_LEVEL),
            ".bz2": lambda: bz2.compress,
        }
        self.pack = self.pack_again = packers[suffix]()


class Compressed:
    """What was written so far is whole after each write, so that a failing write costs nothing that came before.

    Of a block for which the disk has no room it writes as many pieces as fit.

    independent: each write is a frame of its own, also where one for all would do.
    """

    granule = at_once = 1

    def __init__(self, plain: Plain, suffix: str, independent: bool) -> None:
        self._plain = plain
        one = suffix in (".zst", ".lz4") and not independent
        self._codec: _OneFrame | _Frames = _OneFrame(suffix) if one else _Frames(suffix)
        self.written = 0
        self._kept = 0
        self._block, self._pieces = memoryview(b""), [(0, 0)]  # the ends of its pieces, in the stream and in the file

        self.frames: list[tuple[int, int]] = []
        """Where each write begins, in the stream and in the file, if it can be read by itself."""

    def write(self, *blocks: memoryview) -> None:
        for data in blocks:
            if isinstance(self._codec, _Frames):
                self.frames.append((self.written, self._plain.written))
            try:
                self._put(self._codec.pack(data), len(data))
            except OSError as error:
                if self._plain.regular and error.errno in _NO_ROOM:
                    self._save(data)
                raise

    def _put(self, packed: bytes, length: int) -> None:
        self._plain.write(memoryview(packed))
        self.written += length
        self._kept = self._plain.written

    def _save(self, block: memoryview) -> None:
        """Write the beginning of a block, in pieces as large as there is room for."""
        self._block, self._pieces = block, [(self.written, self._kept)]
        for size in _PIECES:
            try:
                while rest := block[self.written - self._pieces[0][0] :][:size]:
                    self._plain.truncate(self._kept)
                    self._put(self._codec.pack_again(rest), len(rest))
                    self._pieces.append((self.written, self._kept))
            except OSError:
                continue

    def write_end(self, data: bytes) -> None:
        """Nothing is ever left over."""

    def read_back(self, start: int, end: int) -> bytes | None:
        return None

    def truncate(self, size: int) -> None:
        """Of the block that was written in part, records may end within a piece, which is then written up to there."""
        start = self._pieces[0][0]
        while len(self._pieces) > 1 and self._pieces[-1][0] > size:
            self._pieces.pop()
        if self._block:
            self.written, self._kept = self._pieces[-1]
        self._plain.truncate(self._kept)
        if rest := self._block[self.written - start : max(0, size - start)]:
            self._put(self._codec.pack_again(rest), len(rest))

    def close(self) -> None:
        try:
            if self._kept:
                self._plain.write(memoryview(self._codec.end))
        finally:
            self._plain.close()
