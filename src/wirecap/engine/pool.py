"""Lays out an engine's arrays: slots, stacks, queues, counters.  Who owns what: docs/ownership.md."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wirecap.kernels import lanes
from wirecap.kernels import pool as k
from wirecap.kernels.handle import TALLY_WORDS
from wirecap.source.base import Source


def build(
    source: Source, M: int, R: int, consumer_of: list[int], groups: list[list[int]], consumers: int, decisions: int = 0,
    transmits: bool = False,
) -> k.Pool:  # fmt: skip
    """The pool of every home queue of ``source``.

    consumer_of: the home consumer of each home queue.  groups: buddy groups, lists of consumers; every home
    consumer is in exactly one.  consumers: how many there are, writers behind handlers included.
    decisions: how many offload decisions to keep.  transmits: cells may leave by a TX ring.
    """
    queues = len(source.queues)
    slots = 2 * R
    total = queues * slots
    lane_words, _, mask = lanes.allocate(consumers + queues, total)
    returned, _, return_mask = lanes.allocate(queues, R * M)
    captured = np.zeros((total, M), np.uint32)
    pool = k.Pool(
        arena=source.arena,
        address=np.zeros((total, M), np.int64),
        captured=captured,
        original=np.zeros((total, M), np.uint32) if source.truncates else captured,
        stamp=np.zeros((total, M), np.int64),
        meta=np.zeros(total * k.SLOT_WORDS, np.int64),
        queues=np.zeros(queues * k.QUEUE_WORDS, np.int64),
        free_slots=np.arange(total, dtype=np.int64).reshape(queues, slots)[:, ::-1].copy(),
        free_cells=np.zeros((queues, R * M), np.int64),
        lanes=lane_words,
        members=np.zeros((consumers, 1 + consumers), np.int64),
        control=np.zeros(k.CONTROL_WORDS, np.int64),
        tallies=np.zeros((consumers, queues, TALLY_WORDS), np.int64),
        decisions=np.zeros((decisions, k.DECISION_WORDS + consumers), np.int64),
        returned=returned if transmits else np.zeros(0, np.int64),
    )
    pool.control[k.RETURN_MASK] = return_mask
    pool.control[k.LANE_MASK] = mask
    pool.control[k.CAPACITY] = R
    group_of = {}
    for number, members in enumerate(groups):
        pool.members[number, 0] = len(members)
        pool.members[number, 1 : 1 + len(members)] = members
        group_of.update(dict.fromkeys(members, number))
    for queue in range(queues):
        words = queue_words(pool, queue)
        words[k.FREE_SLOTS] = slots
        words[k.FILL_SLOT] = lanes.EMPTY
        words[k.CONSUMER] = consumer_of[queue]
        words[k.GROUP] = group_of[consumer_of[queue]]
        words[k.CAPTURE_INTERFACE] = source.queues[queue].interface_id
    source.equip(pool, R * M)
    return pool


def queue_words(pool: k.Pool, queue: int) -> NDArray[np.int64]:
    """A home queue's words, a view."""
    words: NDArray[np.int64] = pool.queues
    return words[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
