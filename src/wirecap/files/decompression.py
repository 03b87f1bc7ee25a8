"""Decompress a capture file while it is read: gzip, Zstandard, xz, bzip2 and lz4."""

from __future__ import annotations

import os
import select
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from wirecap.errors import UsageError
from wirecap.kernels.base.later import Later

if TYPE_CHECKING:
    import bz2
    import lzma

    import zstandard
else:
    bz2, lzma, zstandard = Later("bz2"), Later("lzma"), Later("zstandard")

_PIECE = 65536  # bytes of compressed input at a time
_SMALL_PIECE = 2048  # where the output has no bound, this keeps it in the tens of MB; and damage costs little
_MOST_MEMORY = 512 << 20  # bytes that an xz file may ask for: its level 9 takes 65 MiB


class ByteSource(Protocol):
    damage: str
    """What is wrong with the data behind those that were read, as far as that is known; else empty."""

    def read_into(self, view: memoryview, timeout_s: float | None) -> int | None: ...

    def close(self) -> None: ...


class Plain:
    """A file descriptor, after the bytes that were already read from it to look at its magic."""

    damage = ""

    def __init__(self, fd: int, start: bytes = b"") -> None:
        self._fd = fd
        self._start = start
        self._poller = select.poll()
        self._poller.register(fd, select.POLLIN)

    def read_into(self, view: memoryview, timeout_s: float | None) -> int | None:
        if self._start:
            count = min(len(self._start), len(view))
            view[:count] = self._start[:count]
            self._start = self._start[count:]
            return count
        if timeout_s is not None and not self._poller.poll(timeout_s * 1000):
            return None
        return os.readv(self._fd, [view])

    def close(self) -> None:
        os.close(self._fd)


class _Gzip:
    """Members one after the other, as gzip allows; zero bytes after the last are padding."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._fresh = True
        self.pending = b""

    def feed(self, room: int) -> bytes:
        if self._member.eof:
            self._member = zlib.decompressobj(wbits=31)
            self._fresh = True
        if self._fresh:
            self.pending = self.pending.lstrip(b"\0")
            if not self.pending:
                return b""
        self._fresh = False
        before = self._member.copy()
        try:
            out = self._member.decompress(self.pending, min(room, _PIECE))
        except zlib.error:
            return self._before_damage(before)
        self.pending = self._rest(self._member)
        return out

    @staticmethod
    def _rest(member: zlib._Decompress) -> bytes:
        """What was not consumed; at a member's end zlib leaves it in both places."""
        return member.unused_data if member.eof else member.unconsumed_tail

    def _before_damage(self, member: zlib._Decompress) -> bytes:
        """The bytes before the damaged place, one by one; ValueError when there are none."""
        found = bytearray()
        while True:
            before = member.copy()
            try:
                byte = member.decompress(self.pending, 1)
            except zlib.error as error:
                if not found:
                    raise ValueError(f"damaged gzip data ({error})") from error
                self._member = before
                return bytes(found)
            found += byte
            self.pending = self._rest(member)

    @property
    def whole(self) -> bool:
        return self._fresh or self._member.eof

    @property
    def at_edge(self) -> bool:
        """Whether what is pending begins a member."""
        return self.whole


class _Zstandard:
    def __init__(self) -> None:
        self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        self._out = b""
        self._fresh = True
        self.pending = b""

    def feed(self, room: int) -> bytes:
        if not self._out and self.pending:
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
            piece, self.pending = self.pending[:_SMALL_PIECE], self.pending[_SMALL_PIECE:]
            self._fresh = False
            try:
                self._out = self._frame.decompress(piece)
            except zstandard.ZstdError as error:
                raise ValueError(f"damaged Zstandard data ({error})") from error
            if self._frame.eof:
                self.pending = self._frame.unused_data + self.pending
        out, self._out = self._out[:room], self._out[room:]
        return out

    @property
    def whole(self) -> bool:
        return self._fresh or self._frame.eof

    @property
    def at_edge(self) -> bool:
        """Whether what is pending begins a frame."""
        return self.whole and not self._out


class _Streams:
    """Streams one behind the other, as bzip2, xz and lz4 allow; each is read by what ``start`` makes.

    padded: zero bytes may stand between them (xz).
    """

    def __init__(self, name: str, start: Callable[[], Any], padded: bool = False) -> None:
        self._name, self._start, self._padded = name, start, padded
        self._stream = start()
        self._fresh = True
        self.pending = b""

    def feed(self, room: int) -> bytes:
        if self._stream.eof:
            self._stream, self._fresh = self._start(), True
        if self._fresh and self._padded:
            self.pending = self.pending.lstrip(b"\0")
        piece = b""
        if self._stream.needs_input:
            if not self.pending:
                return b""
            piece, self.pending = self.pending[:_SMALL_PIECE], self.pending[_SMALL_PIECE:]
        self._fresh = False
        try:
            out: bytes = self._stream.decompress(piece, min(room, _PIECE))
        except (OSError, RuntimeError, ValueError, lzma.LZMAError) as error:
            raise ValueError(f"damaged {self._name} data ({error})") from error
        if self._stream.eof:
            self.pending = (self._stream.unused_data or b"") + self.pending
        return out

    @property
    def whole(self) -> bool:
        return self._fresh or bool(self._stream.eof)


def _lz4() -> _Streams:
    return _Streams("lz4", lz4_frames().LZ4FrameDecompressor)


def lz4_frames() -> Any:
    """The library, which only those need who read or write such files."""
    try:
        import lz4.frame  # type: ignore[import-untyped]
    except ImportError:
        raise UsageError("the lz4 library is not installed", "pip install lz4") from None
    return lz4.frame


_CODECS: dict[bytes, Callable[[], _Gzip | _Zstandard | _Streams]] = {
    b"\x1f\x8b": _Gzip,
    b"\x28\xb5\x2f\xfd": _Zstandard,
    b"\x50\x2a\x4d\x18": _Zstandard,  # pzstd begins with a frame to be skipped
    b"BZh": lambda: _Streams("bzip2", bz2.BZ2Decompressor),
    b"\xfd7zX": lambda: _Streams("xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_MEMORY), padded=True),
    b"\x04\x22\x4d\x18": _lz4,
}


def codec_of(start: bytes) -> Callable[[], _Gzip | _Zstandard] | None:
    """What decompresses a file of gzip members or Zstandard frames that begins like this; None for any other."""
    found = next((codec for magic, codec in _CODECS.items() if start.startswith(magic)), None)
    return found if found in (_Gzip, _Zstandard) else None


def is_compressed(start: bytes) -> bool:
    """Whether a file that begins like this, with 4 bytes, is decompressed while it is read."""
    return start.startswith(tuple(_CODECS))


class Compressed:
    """Decompress another source while it is read."""

    def __init__(self, source: ByteSource, codec: _Gzip | _Zstandard | _Streams) -> None:
        self._source = source
        self._codec = codec
        self._input = memoryview(bytearray(_PIECE))
        self.damage = ""

    def read_into(self, view: memoryview, timeout_s: float | None) -> int | None:
        if self.damage:
            raise ValueError(self.damage)
        done = 0
        while done < len(view):
            try:
                out = self._codec.feed(len(view) - done)
            except ValueError as error:
                self.damage = str(error)
                if done:
                    return done
                raise
            if out:
                view[done : done + len(out)] = out
                done += len(out)
            elif not self._codec.pending:
                count = self._source.read_into(self._input, 0 if done else timeout_s)
                if not count:
                    if count == 0 and not self._codec.whole:
                        if done:
                            return done
                        raise ValueError("the compressed data ends early")
                    return done or count
                self._codec.pending = bytes(self._input[:count])
        return done

    def close(self) -> None:
        self._source.close()


def open_source(fd: int, start: bytes, source: ByteSource | None = None) -> ByteSource:
    """The bytes of fd, decompressed if ``start``, read from it already, says that they are compressed.

    source: where the bytes come from instead, those of ``start`` among them.
    """
    plain = source or Plain(fd, start)
    for magic, codec in _CODECS.items():
        if start.startswith(magic):
            return Compressed(plain, codec())
    return plain
