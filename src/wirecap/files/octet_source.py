"""Where the bytes of a capture file that cannot be mapped come from: a pipe, gzip, Zstandard.

``read_into(view, timeout_s)`` gives the number of bytes read, 0 at the end, None when a pipe has
nothing yet.  Damaged or cut compressed data raises ValueError, once all that came before it was read.
"""

from __future__ import annotations

import os
import select
import zlib
from typing import Protocol

import zstandard

GZIP_MAGIC = b"\x1f\x8b"
ZSTANDARD_MAGIC = b"\x28\xb5\x2f\xfd"
_PIECE = 65536  # bytes of compressed input at a time
_ZSTANDARD_PIECE = 2048  # its decompressor has no bound on the output; this one keeps it in the tens of MB


class OctetSource(Protocol):
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
            self.pending = self._member.unused_data + self.pending
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
        self.pending = self._member.unconsumed_tail
        return out

    def _before_damage(self, member: zlib._Decompress) -> bytes:
        """The bytes before the damaged place, one by one; ValueError when there are none."""
        found = bytearray()
        while True:
            before = member.copy()
            try:
                octet = member.decompress(self.pending, 1)
            except zlib.error as error:
                if not found:
                    raise ValueError(f"damaged gzip data ({error})") from error
                self._member = before
                return bytes(found)
            found += octet
            self.pending = member.unconsumed_tail

    @property
    def whole(self) -> bool:
        return self._fresh or self._member.eof


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
            piece, self.pending = self.pending[:_ZSTANDARD_PIECE], self.pending[_ZSTANDARD_PIECE:]
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


class Compressed:
    """Decompress another source while it is read."""

    def __init__(self, source: OctetSource, magic: bytes) -> None:
        self._source = source
        self._codec: _Gzip | _Zstandard = _Gzip() if magic == GZIP_MAGIC else _Zstandard()
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


def open_source(fd: int, start: bytes) -> OctetSource:
    """The bytes of fd, decompressed if ``start``, read from it already, says that they are compressed."""
    plain = Plain(fd, start)
    for magic in (GZIP_MAGIC, ZSTANDARD_MAGIC):
        if start.startswith(magic):
            return Compressed(plain, magic)
    return plain
