"""The arena of a capture file: the mapped file, or a ring of blocks that a stream is read into."""

from __future__ import annotations

import ctypes
import enum
import mmap
import os
import threading
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wirecap.files.octet_source import OctetSource
from wirecap.kernels import scan_state as at
from wirecap.linux.syscall import libc

being_read: list[tuple[int, int]] = []
"""(device, inode) of every file that is open for reading: emptying one of them would kill the process (SIGBUS)."""

Octets = npt.NDArray[np.uint8]
Words = npt.NDArray[np.int64]

BLOCK_BYTES = 4 << 20
BLOCKS = 8
_UNBOUNDED = 1 << 62

MADV_POPULATE_READ = 22  # asm-generic/mman-common.h
PIECE_BYTES, AHEAD_BYTES, AHEAD_WAIT_S = 4 << 20, 64 << 20, 0.001


class Progress(enum.Enum):
    """What came of an attempt to go on."""

    READY = "ready"  # scan again
    BUSY = "busy"  # the next block is still held by chunks; scan again when some were recycled
    IDLE = "idle"  # a pipe has nothing to read yet
    ENDED = "ended"


class Feed(Protocol):
    arena: Octets
    held: Words

    def refill(self, state: Words, timeout_s: float | None) -> Progress:
        """Get more bytes after state[END], or set state[FINAL]; may raise ValueError or OSError."""

    def close(self) -> None: ...


class _ReadOnlyPages:
    """Gives NumPy a mapping as a plain array: kernels have one signature, for arrays that may be written.

    The pages themselves are read-only: a kernel that writes to them would be killed by the CPU.
    """

    def __init__(self, pages: mmap.mmap) -> None:
        self.pages = pages
        address = np.frombuffer(pages, dtype=np.uint8).__array_interface__["data"][0]
        self.__array_interface__: dict[str, Any] = {
            "shape": (len(pages),), "typestr": "|u1", "data": (address, False), "version": 3,
        }  # fmt: skip


class Mapped:
    """A regular file, mapped whole.  It must not be truncated while it is read (SIGBUS)."""

    damage = ""

    def __init__(self, fd: int, size: int) -> None:
        pages = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
        pages.madvise(mmap.MADV_SEQUENTIAL)
        os.close(fd)
        self.arena: Octets = np.asarray(_ReadOnlyPages(pages))
        self.held: Words = np.zeros(1, dtype=np.int64)

    def prepare(self, state: Words) -> None:
        state[at.END] = len(self.arena)
        state[at.FINAL] = 1
        state[at.BLOCK_BYTES] = _UNBOUNDED

    def refill(self, state: Words, timeout_s: float | None) -> Progress:
        return Progress.ENDED

    def map_ahead(self, state: Words, stopped: threading.Event) -> None:
        """Stay some way ahead of the scan, so that it meets no page fault; for a thread of its own."""
        address, size, done = self.arena.ctypes.data, self.arena.size, 0
        while done < size and not stopped.is_set():
            position = int(state[at.POSITION])
            if done > position + AHEAD_BYTES:
                stopped.wait(AHEAD_WAIT_S)
                continue
            done = max(done, position // PIECE_BYTES * PIECE_BYTES)
            start, length = ctypes.c_void_p(address + done), ctypes.c_size_t(min(PIECE_BYTES, size - done))
            if libc.madvise(start, length, MADV_POPULATE_READ):
                return  # before Linux 5.14, or the file shrinks
            done += PIECE_BYTES

    def close(self) -> None:
        self.arena = np.zeros(0, dtype=np.uint8)


class Streamed:
    """A ring of blocks.  ``held`` counts the chunks that point into each block; a held one is not reused."""

    def __init__(self, source: OctetSource, block_bytes: int = BLOCK_BYTES, blocks: int = BLOCKS) -> None:
        self._source = source
        self._block_bytes = block_bytes
        self._block = 0
        self._skip = 0
        self.arena: Octets = np.zeros(block_bytes * blocks, dtype=np.uint8)
        self.held: Words = np.zeros(blocks, dtype=np.int64)

    @property
    def damage(self) -> str:
        """What is wrong with the compressed data that come next, as far as that is known; else empty."""
        return self._source.damage

    def prepare(self, state: Words) -> None:
        state[at.BLOCK_BYTES] = self._block_bytes

    def refill(self, state: Words, timeout_s: float | None) -> Progress:
        if self._skip:
            return self._discard(state, timeout_s)
        if state[at.END] == (self._block + 1) * self._block_bytes:
            if state[at.POSITION] == self._block * self._block_bytes:
                return self._pass_over(state)
            if not self._next_block(state):
                return Progress.BUSY
        end = int(state[at.END])
        count = self._read(end, (self._block + 1) * self._block_bytes, timeout_s)
        if count is None:
            return Progress.IDLE
        state[at.END] += count
        state[at.FINAL] = count == 0
        return Progress.READY

    def _read(self, start: int, end: int, timeout_s: float | None) -> int | None:
        return self._source.read_into(self.arena.data[start:end], timeout_s)

    def _next_block(self, state: Words) -> bool:
        """Go on in the next block of the ring; a record that is cut at this one's end moves there."""
        following = (self._block + 1) % len(self.held)
        if self.held[following]:
            return False
        position, end, start = int(state[at.POSITION]), int(state[at.END]), following * self._block_bytes
        self.arena[start : start + end - position] = self.arena[position:end]
        state[at.POSITION], state[at.END] = start, start + end - position
        state[at.ORIGIN] += position - start
        self._block = following
        return True

    def _pass_over(self, state: Words) -> Progress:
        """The record fills the whole block: skip it if it is no packet."""
        kind = int.from_bytes(self.arena[state[at.POSITION] :][:4].tobytes(), "big" if state[at.SWAPPED] else "little")
        if state[at.FORMAT] != at.PCAPNG or kind in (1, 2, 3, 6, 0x0A0D0D0A):
            raise ValueError(f"a record of {state[at.WANTED]} bytes is too long to be streamed")
        self._skip = int(state[at.WANTED]) - self._block_bytes
        state[at.END] = state[at.POSITION]
        state[at.ORIGIN] += self._block_bytes
        return Progress.READY

    def _discard(self, state: Words, timeout_s: float | None) -> Progress:
        start = self._block * self._block_bytes
        count = self._read(start, start + min(self._skip, self._block_bytes), timeout_s)
        if count is None:
            return Progress.IDLE
        if count == 0:
            raise ValueError(f"the last block is cut short by {self._skip} bytes")
        state[at.ORIGIN] += count
        self._skip -= count
        return Progress.READY

    def close(self) -> None:
        self._source.close()
