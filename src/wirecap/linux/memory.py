"""On which NUMA node memory is to lie: mbind(2)."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
from numpy.typing import NDArray

from wirecap.linux import syscall

PREFERRED = 1  # MPOL_PREFERRED, linux/mempolicy.h
_MOST_NODES = 1024


def prefer_node(memory: NDArray[np.uint8], node: int) -> bool:
    """Let pages come from a node as long as it has any; pages that were touched stay.  False if the kernel refuses."""
    start = memory.ctypes.data & -mmap.PAGESIZE
    end = (memory.ctypes.data + memory.size + mmap.PAGESIZE - 1) & -mmap.PAGESIZE
    mask = (ctypes.c_ulong * (_MOST_NODES // 64))()
    mask[node // 64] = 1 << node % 64
    result = syscall.libc.syscall(
        syscall.number("mbind"), ctypes.c_void_p(start), ctypes.c_ulong(end - start), PREFERRED, mask,
        ctypes.c_ulong(_MOST_NODES), 0,
    )  # fmt: skip
    return bool(result == 0)
