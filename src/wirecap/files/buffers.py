"""The memory that a capture file's records are put together in, before they are written."""

from __future__ import annotations

import threading
from collections import deque

from wirecap.files.reader import Bytes
from wirecap.linux import af_xdp

BUFFER_BYTES = 4 << 20
BUFFERS = 8
PAGE = 4096


class Buffer:
    """``bytes`` (uint8): the caller fills bytes[start:]; what lies before start is there already.

    bytes[k] goes to byte ``offset + k`` of the file.
    """

    def __init__(self, data: Bytes) -> None:
        self.bytes = data
        self.start = 0
        self.offset = 0
        self.users = 1


class Buffers:
    """A fixed set of buffers, shared by the sinks of one writer (a rotated file follows on at once)."""

    def __init__(self, count: int = BUFFERS, size: int = BUFFER_BYTES) -> None:
        if size % PAGE:
            raise ValueError(f"a buffer of {size} bytes is no multiple of {PAGE}")
        self.size = size
        whole = af_xdp.transparent(count * size)  # a direct write pins each page
        self._free = deque(Buffer(whole[k * size : (k + 1) * size]) for k in range(count))
        self._freed = threading.Condition()

    def enlarge(self, buffer: Buffer, size: int) -> None:
        """Room for so many bytes in a buffer that was taken: a single record may be longer than any before it."""
        if size > len(buffer.bytes):
            larger = af_xdp.transparent(size + -size % PAGE)
            larger[: buffer.start] = buffer.bytes[: buffer.start]
            buffer.bytes = larger

    def take(self, timeout_s: float | None = None) -> Buffer | None:
        """A free buffer, or None when there was none for timeout_s seconds (None: wait)."""
        with self._freed:
            if not self._freed.wait_for(lambda: self._free, timeout_s):
                return None
            return self._free.pop()

    @property
    def all_in_use(self) -> bool:
        """Whether there is no free one at this moment."""
        return not self._free

    def share(self, buffer: Buffer) -> None:
        """One more will give it back: it is free after the last has."""
        with self._freed:
            buffer.users += 1

    def give_back(self, buffer: Buffer) -> None:
        with self._freed:
            buffer.users -= 1
            if not buffer.users:
                buffer.users = 1
                self._free.append(buffer)
                self._freed.notify()
