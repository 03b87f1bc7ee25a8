"""The memory source: an in-process NIC with the same rings but no kernel, for tests and a first look."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.files.headers import Interface
from wirecap.kernels.pool import pool as k
from wirecap.kernels.pool.large import HEADROOM_BYTES, LONGEST
from wirecap.kernels.transmit import ring as t
from wirecap.kernels.xdp import rings as r
from wirecap.kernels.xdp.capture_loop import capture_loop
from wirecap.kernels.xdp.memory_nic import HOOK_BYTES, HOOK_PACKETS, OVERSIZE, RX_RING_FULL, inject
from wirecap.linux import af_xdp
from wirecap.linux.af_xdp import Ring
from wirecap.source.rings import equip_queue, lay_out, ring_counts, ring_sizes, run_capture
from wirecap.source.source import CaptureSettings, HookCounts, Source, SourceQueue
from wirecap.source.wires import WireTable

_HEADER_BYTES = 256


class MemorySource(Source):
    """A NIC with ``queues`` receive queues; ``inject`` makes packets arrive.

    wires: ``transmit`` takes what is sent on them.
    """

    name = "memory"
    cells_circulate = True

    def __init__(
        self, queues: int, cells_per_queue: int, cell: int = 2048, ring: int | None = None, interface: str = "memory0",
        wires: WireTable | None = None, tx_entries: int = 64, large: bool = False,
    ) -> None:  # fmt: skip
        """large: packets may take several cells."""
        self.cell = cell
        self.longest = LONGEST if large else cell - HEADROOM_BYTES
        self.interfaces = [Interface(name=interface, snaplen=self.longest)]
        self.queues = [SourceQueue(interface, queue) for queue in range(queues)]
        self._attached, self._rx_entries, self._fill_entries = ring_sizes(cells_per_queue, ring)
        self._layout = lay_out(queues, cells_per_queue, cell, 1 if large else 0)
        self.large_units = self._layout.units
        self.arena = af_xdp.cells(self._layout.size)
        self._stride = 3 * _HEADER_BYTES + self._rx_entries * 16 + self._fill_entries * 8
        self.wires, count = wires, len(wires.places) if wires else 0
        if wires:
            wires.lay_out(cell, self._layout.large_at, self._layout.stretch or 1)
        sending = 2 * _HEADER_BYTES + tx_entries * (16 + 2 * 8)
        data = np.zeros(queues * self._stride + count * sending, np.uint8)
        for wire in range(count):
            assert wires
            at = queues * self._stride + wire * sending
            tx = Ring(at, at + 64, at + 128, at + _HEADER_BYTES, tx_entries)
            at = tx.descriptors + tx_entries * 16
            wires.put_ring(wire, -1, tx, Ring(at, at + 64, at + 128, at + _HEADER_BYTES, 2 * tx_entries))
        ledger = np.zeros(queues * (r.TIMESTAMPS + self._rx_entries), np.int64)
        self.rings = k.Rings(data.view(np.int64), data.view(np.uint32), ledger)
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
            ledger = queue * (r.TIMESTAMPS + self._rx_entries)
            equip_queue(pool, self.rings, queue, fill, rx, -1, ledger, self._attached, self._layout)
            words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
            words[r.MEMORY_STATISTICS] = (rx.descriptors + self._rx_entries * 16) // 8

    def kernels(self) -> list[Any]:
        return [capture_loop, inject]

    def run(self, pool: k.Pool, mine: list[int], settings: CaptureSettings) -> None:
        run_capture(pool, self.rings, mine, -1, settings)

    def inject(
        self, queue: int, source: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64],
        timestamps: NDArray[np.int64],
    ) -> None:  # fmt: skip
        """Make packets arrive: packet i is source[starts[i] : starts[i] + sizes[i]], at timestamps[i] ns.

        Only one thread per queue may inject at a time.  As on a NIC, packets that arrive before ``start`` or after
        ``stop`` are not received.
        """
        with self._injecting[queue]:
            if self._open and self._pool is not None:
                inject(
                    self.rings, self.arena, self._pool.queues, queue, self.cell, self.longest, source, starts, sizes,
                    timestamps, len(starts),
                )  # fmt: skip

    def room(self, queue: int) -> int:
        """How many packets a sender may inject that waits for a capture thread which stands still, and for no pool that
        is full: half of what is attached, without what lies there."""
        assert self._pool is not None
        half = max(1, self._attached // 2)
        waiting = ring_counts(self._pool, self.rings, queue)[0]
        return max(0, half - waiting) if self._pool.queues[queue * k.QUEUE_WORDS + k.FREE_SLOTS] else half

    def transmit(self, wire: int, count: int) -> list[bytes]:
        """Take at most ``count`` descriptors from a wire's TX ring and complete them: the frames that ended with them.

        One thread per wire; frames of several pieces must not be cut by ``count``.
        """
        assert self.wires
        words = self.wires.words[wire].tolist()
        halves, descriptors = self.rings.halves, self.rings.words
        done = int(halves[words[t.DONE_PRODUCER]])
        count = min(count, (int(halves[words[t.TX_PRODUCER]]) - done) & 0xFFFFFFFF)
        frames, frame = [], b""
        for number in range(done, done + count):
            at = words[t.TX_DESCRIPTORS] + (number & words[t.TX_MASK]) * 2
            address, size = int(descriptors[at]), int(descriptors[at + 1])
            frame += self.arena[address : address + (size & 0xFFFFFFFF)].tobytes()
            if not size & r.CONTINUED:
                frames.append(frame)
                frame = b""
            descriptors[words[t.DONE_DESCRIPTORS] + (number & words[t.DONE_MASK])] = address
        halves[words[t.DONE_PRODUCER]] = (done + count) & 0xFFFFFFFF
        return frames

    def answer(self, wire: int, budget: int, stalls: int = 0, refuses: int = 0) -> None:
        """Let a wire's frames leave from now on when its user wakes the NIC, instead of by ``transmit``.

        A call takes at most ``budget`` frames; ``stalls`` of every ``stalls + 1`` calls take none; every
        ``refuses``-th frame is dropped (0: none).
        """
        assert self.wires
        answer(self.wires.words[wire], self.rings.halves, budget, stalls, refuses)

    def start(self) -> None:
        self._open = True

    def stop(self) -> None:
        self._open = False
        for lock in self._injecting:
            with lock:
                pass

    def counts(self, pool: k.Pool, queue: int) -> HookCounts:
        at = int(pool.queues[queue * k.QUEUE_WORDS + r.MEMORY_STATISTICS])
        statistics = self.rings.words[at : at + 8]
        in_ring, exhausted, late = ring_counts(pool, self.rings, queue)
        drops = {
            "pool_exhausted": exhausted,
            "capture_late": late,
            "rx_ring_full": int(statistics[RX_RING_FULL]),
            "oversize": int(statistics[OVERSIZE]),
        }
        return HookCounts(int(statistics[HOOK_PACKETS]), int(statistics[HOOK_BYTES]), in_ring, drops)

    def close(self) -> None:
        self._open = False


def answer(words: NDArray[np.int64], halves: NDArray[np.uint32], budget: int, stalls: int, refuses: int) -> None:
    """Make the memory NIC behind a transmit ring (its words, int64 (TX_WORDS,)) ask to be woken."""
    words[t.MEMORY_BUDGET], words[t.MEMORY_STALLS], words[t.MEMORY_REFUSES] = budget, stalls, refuses
    halves[words[t.TX_FLAGS]] = r.NEED_WAKEUP
