"""What the two sources with fill and RX rings share: AF_XDP and the memory NIC."""

from __future__ import annotations

import numpy as np

from wirecap.kernels import libc
from wirecap.kernels import pool as k
from wirecap.kernels import rings as r
from wirecap.kernels.capture import COALESCE_NS, TIMEOUT_NS, WAIT_FD, capture_loop
from wirecap.linux.xsk import Ring
from wirecap.source.base import CaptureSettings

ATTACHED = 16384
"""Cells kept attached: what a queue can take while its capture thread is not scheduled."""


def ring_sizes(cells_per_queue: int, ring: int | None) -> tuple[int, int, int]:
    """(cells kept attached, RX entries, fill entries).

    The RX ring holds every attached cell, so that it never overflows; the fill ring twice as many, because
    the kernel publishes late what it has consumed.
    """
    attached = min(cells_per_queue, ring or ATTACHED)
    entries = 1 << max(6, (attached - 1).bit_length())
    return attached, entries, 2 * entries


def equip_queue(
    pool: k.Pool, rings: r.Rings, queue: int, fill: Ring, rx: Ring, socket: int, ledger: int, attached: int,
    first: int, cell: int,
) -> None:  # fmt: skip
    """Put a queue's free cells on its stack and the places of its rings into its words; attach the first cells.

    They are attached here, and not by the capture thread, because packets may come before it runs.
    ledger: index of the queue's words there; first: the byte in the arena where the queue's cells begin.
    """
    count = pool.free_cells.shape[1]
    pool.free_cells[queue] = first + np.arange(count, dtype=np.int64)[::-1] * cell
    words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
    words[r.FILL_PRODUCER], words[r.FILL_CONSUMER] = fill.producer // 4, fill.consumer // 4
    words[r.FILL_FLAGS], words[r.FILL_DESCRIPTORS] = fill.flags // 4, fill.descriptors // 8
    words[r.FILL_MASK] = fill.entries - 1
    words[r.RX_PRODUCER], words[r.RX_CONSUMER] = rx.producer // 4, rx.consumer // 4
    words[k.ARRIVED] = rx.producer // 4
    words[r.RX_DESCRIPTORS], words[r.RX_MASK] = rx.descriptors // 8, rx.entries - 1
    words[r.SOCKET] = socket
    words[r.TARGET], words[r.CELL_MASK], words[r.IN_ORDER], words[r.LEDGER] = attached, -cell, True, ledger
    descriptors = fill.descriptors // 8
    rings.words[descriptors : descriptors + attached] = pool.free_cells[queue, count - attached :][::-1]
    words[k.FREE_CELLS] = count - attached
    words[r.SUBMITTED] = rings.halves[fill.producer // 4] = rings.ledger[ledger + r.OFFERED] = attached


def run_capture(pool: k.Pool, rings: r.Rings, mine: list[int], wait_fd: int, settings: CaptureSettings) -> None:
    """A capture thread over rings."""
    words = np.zeros(8, np.int64)
    words[TIMEOUT_NS], words[COALESCE_NS] = settings.timeout_ns, settings.coalesce_ns
    words[WAIT_FD] = wait_fd
    depths = np.zeros(pool.tallies.shape[0], np.int64)
    capture_loop(pool, rings, np.array(mine, np.int64), words, depths, libc.scratch())


def ring_counts(pool: k.Pool, rings: r.Rings, queue: int) -> tuple[int, int, int]:
    """(in the RX ring, lost to an exhausted pool, lost to a late capture thread), packets.

    What was lost since the capture thread's last look counts as it would count it now.
    """
    words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
    waiting = (int(rings.halves[words[r.RX_PRODUCER]]) - int(words[k.TAKEN])) & 0xFFFFFFFF
    lost = int(rings.ledger[words[r.LEDGER] + r.LOST])
    exhausted, late = int(words[r.LOST_EXHAUSTED]), int(words[r.LOST_LATE])
    if words[k.FREE_CELLS] == 0:
        return waiting, lost - late, late
    return waiting, exhausted, lost - exhausted
