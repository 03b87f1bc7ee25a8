"""Memory that the kernel fills: the UMEM's cells, and one region in which all rings lie side by side."""

from __future__ import annotations

import contextlib
import ctypes
import mmap

import numpy as np
from numpy.typing import NDArray

from wirecap.linux import syscall

MAP_FIXED, MAP_HUGETLB = 0x10, 0x40000  # asm-generic/mman-common.h, mman.h
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_HUGE_PAGE = 2 << 20

syscall.libc.mmap.restype = ctypes.c_void_p
syscall.libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
]  # fmt: skip


def page_round(size: int, page: int = mmap.PAGESIZE) -> int:
    return -(-size // page) * page


def cells(size_bytes: int) -> NDArray[np.uint8]:
    """Zeroed memory, uint8 (size_bytes,): on huge pages where there are any, else on transparent ones."""
    try:
        area = mmap.mmap(-1, page_round(size_bytes, _HUGE_PAGE), flags=_PRIVATE | MAP_HUGETLB)
    except OSError:
        return transparent(size_bytes)
    return np.frombuffer(area, dtype=np.uint8)[:size_bytes]


def transparent(size_bytes: int) -> NDArray[np.uint8]:
    """Zeroed memory, uint8 (size_bytes,), on transparent huge pages where the kernel has them."""
    area = mmap.mmap(-1, page_round(size_bytes, _HUGE_PAGE), flags=_PRIVATE)
    with contextlib.suppress(OSError):  # a kernel without them
        area.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(area, dtype=np.uint8)[:size_bytes]


class Region:
    """One stretch of address space that several descriptors' memory is mapped into, piece by piece.

    A mapping keeps its socket alive, so that ``close`` puts empty memory in its place: a late reader meets
    zeros, not a fault.
    """

    def __init__(self, size_bytes: int) -> None:
        self._area = mmap.mmap(-1, page_round(size_bytes))
        self.octets: NDArray[np.uint8] = np.frombuffer(self._area, dtype=np.uint8)
        self._used = 0

    def reserve(self, size_bytes: int) -> int:
        """Offset of the next free, page-aligned piece."""
        at = self._used
        self._used += page_round(size_bytes)
        if self._used > len(self._area):
            raise ValueError("the region is full")
        return at

    def map(self, fd: int, file_offset: int, size_bytes: int, what: str) -> int:
        """Map a descriptor's memory, shared; its offset in the region."""
        at = self.reserve(size_bytes)
        address = self.octets.ctypes.data + at
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        got = syscall.libc.mmap(address, size_bytes, protection, mmap.MAP_SHARED | MAP_FIXED, fd, file_offset)
        syscall.call(f"mapping {what}", 0 if got == address else -1)
        return at

    def close(self) -> None:
        size, protection = len(self._area), mmap.PROT_READ | mmap.PROT_WRITE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED
        syscall.libc.mmap(self.octets.ctypes.data, size, protection, flags, -1, 0)
