"""The memory of a flow table: reserved whole, touched only as far as there are flows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.kernels.flows import layout as f
from wirecap.kernels.flows.origin import UNKNOWN
from wirecap.kernels.flows.process import advance, finish, process
from wirecap.linux.af_xdp import transparent

RING_RECORDS = 1 << 15
"""Finished records that wait to be taken; a power of two."""
KERNELS = (process, advance, finish)


def _reserve(count: int, kind: Any) -> Any:
    """A whole number of zeros; in huge pages, where the kernel has some."""
    size = np.dtype(kind).itemsize
    return transparent(count * size).view(kind)


class Table:
    """A flow table of one thread.  capacity: flows.  Times are in ns.  waits: records are waited for, not lost.
    inner: a tunnel's packets belong to the flows inside it.  ways: how the packets of each interface, and of all
    further ones, show their direction (kernels/flows/origin.py)."""

    def __init__(
        self,
        capacity: int,
        idle_ns: int,
        active_ns: int,
        linger_ns: int,
        link: int,
        waits: bool,
        inner: bool = False,
        seed: int | None = None,
        ways: Sequence[int] = (UNKNOWN,),
    ) -> None:
        places = 1 << (2 * capacity).bit_length()  # a quarter to a half of them are taken
        control = np.zeros(f.CONTROL_WORDS, np.int64)
        self.kernel = f.FlowTable(
            control, _reserve(capacity * f.ENTRY_WORDS, np.int64), _reserve(places, np.int64),
            _reserve(capacity, np.uint32), _reserve(RING_RECORDS * f.ENTRY_WORDS, np.int64),
            np.zeros(f.BLOCK * f.KEY_WORDS, np.int64), np.array(ways, np.int64),
        )  # fmt: skip
        self.control = control
        self.ring = self.kernel.ring.reshape(-1, f.ENTRY_WORDS)
        dice = np.random.default_rng(int.from_bytes(os.urandom(16), "little") if seed is None else seed)
        control[f.SEED : f.SEED + 5] = dice.integers(0, 1 << 62, 5) << 1 | 1  # nobody can make flows that collide
        control[f.LINK], control[f.WAITS], control[f.INNER] = link, waits, inner
        control[f.IDLE_NS], control[f.ACTIVE_NS], control[f.LINGER_NS] = idle_ns, active_ns, linger_ns
        control[f.NOW] = f.NEVER_SEEN

    def state(self, phase_at: int) -> NDArray[np.int64]:
        """The words of a handler's state: addresses of the parts, their sizes in elements, the chunk's interface.

        phase_at: the address of the pool's control words.
        """
        self.control[f.PHASE_AT] = phase_at
        parts = list(self.kernel)
        return np.array([part.ctypes.data for part in parts] + [part.size for part in parts] + [0], np.int64)

    def take(self) -> NDArray[np.int64]:
        """The records that have been finished, int64 (n, ENTRY_WORDS), a copy; their places are free again."""
        tail, head = int(self.control[f.TAIL]), int(self.control[f.HEAD])
        found: NDArray[np.int64] = self.ring.take(np.arange(tail, head) & RING_RECORDS - 1, axis=0)
        self.control[f.TAIL] = head
        return found
