"""On which NUMA node memory lies: mbind(2) and get_mempolicy(2)."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
from numpy.typing import NDArray

from wirecap.linux import syscall

PREFERRED = 1  # MPOL_PREFERRED, linux/mempolicy.h
_NODE, _ADDRESS = 1, 2  # MPOL_F_NODE, MPOL_F_ADDR
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


def node_of(memory: NDArray[np.uint8], offset: int = 0) -> int:
    """The node on which a touched byte lies; -1 if the kernel does not say."""
    node = ctypes.c_int(-1)
    address = ctypes.c_void_p(memory.ctypes.data + offset)
    wanted = _NODE | _ADDRESS
    if syscall.libc.syscall(syscall.number("get_mempolicy"), ctypes.byref(node), None, 0, address, wanted):
        return -1
    return node.value


def policy_of(memory: NDArray[np.uint8], offset: int = 0) -> tuple[int, list[int]]:
    """(policy, nodes) of the memory at a byte; (-1, []) if the kernel does not say."""
    mode, mask = ctypes.c_int(-1), (ctypes.c_ulong * (_MOST_NODES // 64))()
    result = syscall.libc.syscall(
        syscall.number("get_mempolicy"), ctypes.byref(mode), mask, ctypes.c_ulong(_MOST_NODES),
        ctypes.c_void_p(memory.ctypes.data + offset), _ADDRESS,
    )  # fmt: skip
    if result:
        return -1, []
    return mode.value, [64 * word + bit for word, bits in enumerate(mask) for bit in range(64) if bits >> bit & 1]
