"""The memory source: an in-process NIC with the same rings and no kernel, for tests and a first look."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.files.interface import Interface
from wirecap.kernels import pool as k
from wirecap.kernels import rings as r
from wirecap.kernels import wires as w
from wirecap.kernels.capture import capture_loop
from wirecap.kernels.memory_nic import HOOK_OCTETS, HOOK_PACKETS, OVERSIZE, RX_RING_FULL, inject
from wirecap.linux import memory
from wirecap.linux.xsk import Ring
from wirecap.source.base import CaptureSettings, HookCounts, SourceQueue
from wirecap.source.rings import equip_queue, ring_counts, ring_sizes, run_capture
from wirecap.source.wires import WireTable

_HEADER_BYTES = 256


class MemorySource:
    """A NIC of ``queues`` receive queues that packets reach by ``inject``.

    wires: what is sent on them is taken by ``transmit``.
    """

    engine = "memory"
    truncates = False
    keeps_unread = False

    def __init__(
        self, queues: int, cells_per_queue: int, cell: int = 2048, ring: int | None = None, name: str = "memory0",
        wires: WireTable | None = None, tx_entries: int = 64,
    ) -> None:  # fmt: skip
        self.cell = cell
        self.interfaces = [Interface(name=name, snaplen=cell - r.HEADROOM_BYTES)]
        self.queues = [SourceQueue(name, queue) for queue in range(queues)]
        self._attached, self._rx_entries, self._fill_entries = ring_sizes(cells_per_queue, ring)
        self.arena = memory.cells(queues * cells_per_queue * cell)
        self._stride = 3 * _HEADER_BYTES + self._rx_entries * 16 + self._fill_entries * 8
        self.wires, count = wires, len(wires.places) if wires else 0
        sending = 2 * _HEADER_BYTES + tx_entries * (16 + 2 * 8)
        octets = np.zeros(queues * self._stride + count * sending, np.uint8)
        for wire in range(count):
            assert wires
            at = queues * self._stride + wire * sending
            tx = Ring(at, at + 64, at + 128, at + _HEADER_BYTES, tx_entries)
            at = tx.descriptors + tx_entries * 16
            wires.equip(wire, -1, tx, Ring(at, at + 64, at + 128, at + _HEADER_BYTES, 2 * tx_entries))
        ledger = np.zeros(queues * (r.STAMPS + self._rx_entries), np.int64)
        self.rings = r.Rings(octets.view(np.int64), octets.view(np.uint32), ledger)
        self._pool: k.Pool | None = None
        self._open = False
        self._injecting = [threading.Lock() for _ in self.queues]

    def equip(self, pool: k.Pool, cells_per_queue: int) -> None:
        self._pool = pool
        for queue in range(len(self.queues)):
            at = queue * self._stride
            fill = Ring(at, at + 64, at + 128, at + _HEADER_BYTES, self._fill_entries)
            at = fill.descriptors + self._fill_entries * 8
            rx = Ring(at, at + 64, at + 128, at + _HEADER_BYTES, self._rx_entries)
            first = queue * cells_per_queue * self.cell
            ledger = queue * (r.STAMPS + self._rx_entries)
            equip_queue(pool, self.rings, queue, fill, rx, -1, ledger, self._attached, first, self.cell)
            words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
            words[r.MEMORY_STATISTICS] = (rx.descriptors + self._rx_entries * 16) // 8

    def kernels(self) -> list[Any]:
        return [capture_loop, inject]

    def run(self, pool: k.Pool, mine: list[int], settings: CaptureSettings) -> None:
        run_capture(pool, self.rings, mine, -1, settings)

    def inject(
        self, queue: int, source: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64],
        stamps: NDArray[np.int64],
    ) -> None:  # fmt: skip
        """Packets arrive: packet i is source[starts[i] : starts[i] + sizes[i]], at stamps[i] ns.

        One thread per queue may inject at a time.  Packets that arrive before ``start`` or after ``stop``
        are not received, as on a NIC.
        """
        with self._injecting[queue]:
            if self._open and self._pool is not None:
                inject(
                    self.rings, self.arena, self._pool.queues, queue, self.cell, source, starts, sizes, stamps,
                    len(starts),
                )  # fmt: skip

    def transmit(self, wire: int, count: int) -> list[bytes]:
        """Frames leave: at most ``count`` of a wire's TX ring, which are completed.  One thread per wire."""
        assert self.wires
        words = self.wires.words[wire].tolist()
        halves, descriptors = self.rings.halves, self.rings.words
        done = int(halves[words[w.DONE_PRODUCER]])
        count = min(count, (int(halves[words[w.TX_PRODUCER]]) - done) & 0xFFFFFFFF)
        frames = []
        for number in range(done, done + count):
            at = words[w.TX_DESCRIPTORS] + (number & words[w.TX_MASK]) * 2
            address, size = int(descriptors[at]), int(descriptors[at + 1])
            frames.append(self.arena[address : address + size].tobytes())
            descriptors[words[w.DONE_DESCRIPTORS] + (number & words[w.DONE_MASK])] = address
        halves[words[w.DONE_PRODUCER]] = (done + count) & 0xFFFFFFFF
        return frames

    def claim(self) -> None: ...

    def start(self) -> None:
        self._open = True

    def check(self) -> None: ...

    def stop(self) -> None:
        self._open = False
        for lock in self._injecting:
            with lock:
                pass

    def counts(self, pool: k.Pool, queue: int) -> HookCounts:
        at = int(pool.queues[queue * k.QUEUE_WORDS + r.MEMORY_STATISTICS])
        statistics = self.rings.words[at : at + 8].tolist()
        in_ring, exhausted, late = ring_counts(pool, self.rings, queue)
        drops = {
            "pool_exhausted": exhausted,
            "capture_late": late,
            "rx_ring_full": statistics[RX_RING_FULL],
            "oversize": statistics[OVERSIZE],
        }
        return HookCounts(statistics[HOOK_PACKETS], statistics[HOOK_OCTETS], in_ring, drops)

    def describe(self) -> dict[str, object]:
        return {"xdp_mode": None, "zero_copy": False}

    def close(self) -> None:
        self._open = False
