"""What the two sources with fill and RX rings share: AF_XDP and the memory NIC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wirecap.kernels.base import libc
from wirecap.kernels.pool import large
from wirecap.kernels.pool import pool as k
from wirecap.kernels.xdp import rings as r
from wirecap.kernels.xdp.capture_loop import BUSY, COALESCE_NS, LAZY, TIMEOUT_NS, WAIT_FD, capture_loop
from wirecap.linux.af_xdp import Ring
from wirecap.source.source import CaptureSettings

ATTACHED = 16384
"""Cells to keep attached: how many packets a queue can take while its capture thread is not scheduled."""


@dataclass(frozen=True)
class ArenaLayout:
    """Where packets lie in an arena: the cells of every queue, then every queue's large-packet memory.

    span: bytes of a queue's cells; stretch, units: bytes of a queue's large-packet memory, and the units in it.
    """

    queues: int
    span: int
    cell: int
    stretch: int
    units: int

    @property
    def size(self) -> int:
        return self.large_at + self.queues * self.stretch

    @property
    def large_at(self) -> int:
        return self.queues * self.span


def lay_out(queues: int, cells_per_queue: int, cell: int, share: float) -> ArenaLayout:
    """share: bytes of large-packet memory for a byte of cells; 0 for none."""
    span = cells_per_queue * cell
    stretch, units = large.stretch_bytes(cell, int(span * share)) if share else (0, 0)
    return ArenaLayout(queues, span, cell, stretch, units)


def ring_sizes(cells_per_queue: int, ring: int | None) -> tuple[int, int, int]:
    """(cells kept attached, RX entries, fill entries).

    The RX ring holds every attached cell, so it never overflows; the fill ring holds twice as many, because the
    kernel is late to publish what it has consumed.
    """
    attached = min(cells_per_queue, ring or ATTACHED)
    entries = 1 << max(6, (attached - 1).bit_length())
    return attached, entries, 2 * entries


def equip_queue(
    pool: k.Pool, rings: k.Rings, queue: int, fill: Ring, rx: Ring, socket: int, ledger: int, attached: int,
    layout: ArenaLayout, often: bool = False,
) -> None:  # fmt: skip
    """Put a queue's free cells on its stack and the positions of its rings into its words; attach the first cells.

    They are attached here and not by the capture thread, because packets may arrive before that runs.
    ledger: index of the queue's words in it; often: large packets are what is expected.
    """
    count, first, cell = pool.free_cells.shape[1], queue * layout.span, layout.cell
    pool.free_cells[queue] = first + np.arange(count, dtype=np.int64)[::-1] * cell
    words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
    words[r.FILL_PRODUCER], words[r.FILL_CONSUMER] = fill.producer // 4, fill.consumer // 4
    words[r.FILL_FLAGS], words[r.FILL_DESCRIPTORS] = fill.flags // 4, fill.descriptors // 8
    words[r.FILL_MASK] = fill.entries - 1
    words[r.RX_PRODUCER], words[r.RX_CONSUMER] = rx.producer // 4, rx.consumer // 4
    words[k.ARRIVED] = rx.producer // 4
    words[r.RX_DESCRIPTORS], words[r.RX_MASK] = rx.descriptors // 8, rx.entries - 1
    words[r.SOCKET] = socket
    words[r.REACH] = r.REACH_LARGE if often else r.REACH_CELLS
    words[r.UNPUBLISHED] = r.UNPUBLISHED_LARGE if often else r.UNPUBLISHED_CELLS
    words[large.LARGE_TABLE] = layout.large_at + queue * layout.stretch
    words[large.LARGE_FIRST] = layout.large_at + (queue + 1) * layout.stretch - layout.units * cell
    words[large.LARGE_UNITS], words[large.UNIT_BYTES] = layout.units, cell
    words[r.TARGET], words[r.CELL_MASK], words[r.IN_ORDER], words[r.LEDGER] = attached, -cell, True, ledger
    descriptors = fill.descriptors // 8
    rings.words[descriptors : descriptors + attached] = pool.free_cells[queue, count - attached :][::-1]
    words[k.FREE_CELLS] = count - attached
    words[r.SUBMITTED] = rings.halves[fill.producer // 4] = rings.ledger[ledger + r.OFFERED] = attached


def attached_cells(pool: k.Pool, rings: k.Rings, queue: int) -> NDArray[np.int64]:
    """The cells that are neither free nor in a chunk: those of the fill ring, and those that were exchanged for some
    of them.  While nobody serves the queue, its RX ring is empty and the kernel will put nothing there any more."""
    words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
    entries = np.arange(words[k.TAKEN], words[r.SUBMITTED]) & words[r.FILL_MASK]
    disputed = np.arange(words[r.DISPUTED], words[r.DISPUTED_END])
    cold = pool.free_cells[queue, pool.free_cells.shape[1] - words[r.DISPUTED_END] + disputed]
    return np.concatenate([rings.words[words[r.FILL_DESCRIPTORS] + entries], cold])


def renew_queue(pool: k.Pool, rings: k.Rings, queue: int, socket: int, cells: NDArray[np.int64]) -> None:
    """Go on with the empty rings of another socket, which are mapped where the old ones were.

    cells: the ``attached_cells`` that the old ones had.  A new ring's indices begin at 0, so the queue's numbers go on
    from the next multiple of 2^32; those left out count as cells of packets that took several.
    """
    words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
    top = int(words[k.FREE_CELLS])
    total = top + len(cells)
    pool.free_cells[queue, top:total] = cells[::-1]
    attached = min(int(words[r.TARGET]), total)
    descriptors, ledger = int(words[r.FILL_DESCRIPTORS]), int(words[r.LEDGER])
    rings.words[descriptors : descriptors + attached] = pool.free_cells[queue, total - attached : total][::-1]
    words[k.FREE_CELLS] = total - attached
    first = ((int(words[k.TAKEN]) >> 32) + 1) << 32
    words[large.MORE_CELLS] += first - words[k.TAKEN]  # before the ledger: a writer must not think that all is there
    words[k.TAKEN] = words[r.FRESH] = words[r.DISPUTED] = words[r.DISPUTED_END] = first
    words[r.SUBMITTED] = first + attached
    words[r.SHORT] = words[r.STALLED] = 0
    words[r.SOCKET] = socket
    rings.ledger[ledger + r.ADMITTED] = first
    rings.ledger[ledger + r.OFFERED] = first + attached
    rings.halves[words[r.FILL_PRODUCER]] = attached


def run_capture(pool: k.Pool, rings: k.Rings, mine: list[int], wait_fd: int, settings: CaptureSettings) -> None:
    """The life of a capture thread that serves rings."""
    words = np.zeros(8, np.int64)
    words[TIMEOUT_NS], words[COALESCE_NS] = settings.timeout_ns, settings.coalesce_ns
    words[WAIT_FD], words[BUSY], words[LAZY] = wait_fd, settings.busy_poll, settings.lazy
    depths = np.zeros(pool.tallies.shape[0], np.int64)
    capture_loop(pool, rings, np.array(mine, np.int64), words, depths, libc.scratch())


def ring_counts(pool: k.Pool, rings: k.Rings, queue: int) -> tuple[int, int, int]:
    """Packets (in the RX ring, lost to an exhausted pool, lost to a late capture thread).

    Packets lost since the capture thread last counted are counted as it would count them now.
    """
    words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
    waiting = _packets_in_ring(rings, words)
    exhausted, late = int(words[r.LOST_EXHAUSTED]), int(words[r.LOST_LATE])
    lost = int(rings.ledger[words[r.LEDGER] + r.LOST])  # last: it is never behind the sum of the other two
    if words[k.FREE_CELLS] == 0:
        return waiting, lost - late, late
    return waiting, exhausted, lost - exhausted


def _packets_in_ring(rings: k.Rings, words: NDArray[np.int64]) -> int:
    """Packets that wait in an RX ring: their last cells."""
    taken, mask = int(words[k.TAKEN]), int(words[r.RX_MASK])  # first: the capture thread may go on at any time
    cells = min((int(rings.halves[words[r.RX_PRODUCER]]) - taken) & 0xFFFFFFFF, mask + 1)
    entries = (taken + np.arange(cells)) & mask
    options = rings.words[int(words[r.RX_DESCRIPTORS]) + entries * 2 + 1]
    return int(np.count_nonzero(options & r.CONTINUED == 0))
