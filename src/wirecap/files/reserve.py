"""Blocks of the disk that a file has before it needs them; its length does not show them, so readers never see them."""

from __future__ import annotations

import contextlib
import os

from wirecap.files.retention import Space
from wirecap.linux.syscall import reserve_blocks

STEP = 64 << 20
LEAST_FREE = 16 * STEP
"""On a disk with less there may be others who need the room now."""
UNKNOWN = 1 << 62


class Reserve:
    """What a file that is being written has ahead: as much as it has bytes, STEP at most, and not beyond ``most``.

    A file system that reserves nothing costs nothing: each write takes its blocks then.
    """

    def __init__(self, fd: int, space: Space, most: int = UNKNOWN) -> None:
        self._fd, self._space, self._most = fd, space, most
        self._end = 0
        self._reserved = self._refused = False

    def cover(self, end: int) -> None:
        """The file is about to have ``end`` bytes.  Returns once there is room for them."""
        if end <= self._end:
            return
        begin, self._end = self._end, self._space.grow(end, self._ahead(end))
        if self._end > end:
            try:
                reserve_blocks(self._fd, begin, self._end - begin)
                self._reserved = True
            except OSError:
                self._end, self._refused = end, True

    def _ahead(self, end: int) -> int:
        ahead = max(0, min(end, STEP, self._most - end))
        return ahead if ahead and not self._refused and self._is_free() else 0

    def _is_free(self) -> bool:
        status = os.fstatvfs(self._fd)
        return status.f_bavail * status.f_frsize >= LEAST_FREE

    def give_back(self, size: int) -> None:
        """The file ends after so many bytes."""
        if self._reserved:
            with contextlib.suppress(OSError):  # what is left goes with the file
                os.ftruncate(self._fd, size)
