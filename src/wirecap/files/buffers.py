"""Page-aligned buffers that packets are formatted into and that the kernel writes from."""

from __future__ import annotations

import threading
from collections import deque

from wirecap.files.feed import Octets
from wirecap.linux import memory

BUFFER_BYTES = 4 << 20
BUFFERS = 8
PAGE = 4096


class Buffer:
    """``octets`` (uint8): the caller fills octets[start:]; what lies before start is there already.

    octets[k] goes to byte ``offset + k`` of the file.
    """

    def __init__(self, octets: Octets) -> None:
        self.octets = octets
        self.start = 0
        self.offset = 0


class Buffers:
    """A fixed set of buffers, shared by the sinks of one writer (a rotated file follows on at once)."""

    def __init__(self, count: int = BUFFERS, size: int = BUFFER_BYTES) -> None:
        if size % PAGE:
            raise ValueError(f"a buffer of {size} bytes is no multiple of {PAGE}")
        self.size = size
        whole = memory.transparent(count * size)  # a direct write pins each page
        self._free = deque(Buffer(whole[k * size : (k + 1) * size]) for k in range(count))
        self._freed = threading.Condition()

    def take(self, timeout_s: float | None = None) -> Buffer | None:
        """A free buffer, or None when there was none for timeout_s seconds (None: wait)."""
        with self._freed:
            if not self._freed.wait_for(lambda: self._free, timeout_s):
                return None
            return self._free.pop()

    def give_back(self, buffer: Buffer) -> None:
        with self._freed:
            self._free.append(buffer)
            self._freed.notify()
