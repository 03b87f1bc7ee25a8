"""The thread that looks at a capture's counters some tens of times a second, so that its losses can be explained.

It takes nothing from the threads that touch packets: the capture loop notes each chunk that it hands over in a ring
(Pool.handed), and the XDP program counts lost packets by their time in the ledger.  Both are read here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from wirecap.engine.accounting import QueueCounts
from wirecap.engine.engine import Engine
from wirecap.forensics.losses import PEACE_MS, Loss, Losses
from wirecap.forensics.series import History, Recent, Words, by_millisecond
from wirecap.kernels.pool import handler_loop as h
from wirecap.kernels.pool import pool as k
from wirecap.kernels.pool import work_queues
from wirecap.kernels.pool.large import MORE_CELLS
from wirecap.kernels.xdp import rings as r
from wirecap.linux import xdp_program as x

INTERVAL_S = 0.04
SELDOM = 3
"""Looks from one at what was lost to the next: 120 ms, of 268 ms that the samples reach back."""
NOT_LOST = ("unread_at_stop", "by_handler")
"""Drops that somebody wanted."""
IN_A_CELL = ("pool_exhausted", "capture_late", "ring_full")
"""Drops for want of a cell, which the XDP program samples."""
SETTLED = 4
"""A sample's row is not read before so many others have begun."""
TICKS = 1024
"""Looks that are remembered: 40 s."""
FILE_INTERVAL_S = 0.01
"""A file is read as fast as it goes."""
MS = 1_000_000

Disk = Callable[[], bool]
"""Whether a writer waits for the disk."""


class Look(NamedTuple):
    """What was found at one look."""

    at_ns: int
    freed: tuple[int, ...]
    """Packets of each home queue that are done with, so far."""
    held: tuple[int, ...]
    """Packets of each home queue that wait, or are worked on."""
    taken: tuple[int, ...]
    """Packets that each consumer has taken, so far."""
    depths: tuple[int, ...]
    returning: tuple[int, ...]
    """Chunks of each home queue that are done with, and wait for its capture thread."""


class Recorder:
    """Records an engine from ``start`` to ``stop``.

    disk: whether a writer waits for the disk.  tell: gets each loss that is over while the engine runs.

    Of a file, time is that of its packets.
    """

    def __init__(self, engine: Engine, disk: Disk = lambda: False, tell: Callable[[Loss], None] | None = None) -> None:
        self.engine, self._disk, self._tell = engine, disk, tell
        queues = len(engine.source.queues)
        self._live = engine.source.live
        self.began_ns = time.time_ns() if self._live else 0
        self.history, self.losses = History(), Losses()
        self.given = np.zeros((queues, engine.consumers), np.int64)
        """Packets of each home queue that each consumer was given."""
        self._recent = Recent(queues)
        self._chunks = [0] * queues
        self._entered = [0] * queues
        self._busiest = [(0, 0)] * queues
        """When most packets came since losses were looked at, and how many: what has no time was likely lost then."""
        self._counted = [dict[str, int]() for _ in range(queues)]
        self._samples = [engine.source.lost_samples(queue) for queue in range(queues)]
        self._lost = [0] * queues
        """Packets that had found no cell when losses were looked at before."""
        self._counted_ns = self.began_ns
        self._sampled_to = [0] * queues
        self._sampled = [0] * queues
        self._looks: list[Look] = []
        self._turn = 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._looks.append(self._counters(self.began_ns))
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look once more, after the engine has stopped and before its source is closed."""
        self._over.set()
        if self._thread:
            self._thread.join()
            self._thread = None
            self.look(last=True)

    def _run(self) -> None:
        while not self._over.wait(INTERVAL_S if self._live else FILE_INTERVAL_S):
            self.look()

    def look(self, last: bool = False) -> None:
        """Read all that has changed since the last look; last: what is on its way has come through."""
        now_ns = self._now_ns()
        now_ms = max(0, (now_ns - self.began_ns) // MS)
        self._recent.advance(now_ms)
        self.history.reach(now_ms)
        look = self._counters(now_ns)
        for queue in range(len(self._chunks)):
            self._read_chunks(queue, now_ms)
        self._turn += 1
        if last or self._turn % SELDOM == 0:
            lost = self._lost_so_far()
            for queue, counts in enumerate(self.engine.summary().queues):
                self._read_losses(queue, counts, now_ns, last)
            self._lost, self._counted_ns = lost, now_ns
            self._busiest = [(now_ms, 0)] * len(lost)
        for consumer, depth in enumerate(look.depths):
            self.history.peak(f"depth {consumer}", np.array([now_ms]), np.array([depth]))
        for queue, held in enumerate(look.held if self.engine.source.cells_circulate else ()):
            self.history.peak(f"held {queue}", np.array([now_ms]), np.array([-(-held // self.engine.M)]))
        self._looks.append(look)
        if len(self._looks) > 2 * TICKS:
            del self._looks[:TICKS]
        for loss in self.losses.going_on():
            self._follow(loss, look, now_ms, last)

    def _now_ns(self) -> int:
        """The time; of a file, that of the latest packet that was handed over."""
        if self._live:
            return time.time_ns()
        lasts = [rows[:, k.LAST_NS].max() for rows in self.engine.pool.handed]
        firsts = self.engine.pool.handed[:, :, k.FIRST_NS]
        if not self.began_ns and (firsts > 0).any():
            self.began_ns = int(firsts[firsts > 0].min())
        return max(self.began_ns, int(max(lasts)))

    def _lost_so_far(self) -> list[int]:
        """Packets that found no cell, for each home queue; 0 where the source has no such count."""
        if not self.engine.source.cells_circulate:
            return [0] * len(self._chunks)
        ledgers = self.engine.pool.queues[r.LEDGER :: k.QUEUE_WORDS]
        found: list[int] = self.engine.source.rings.ledger[ledgers + r.LOST].tolist()
        return found

    def _counters(self, now_ns: int) -> Look:
        pool, engine = self.engine.pool, self.engine
        words = pool.queues.reshape(-1, k.QUEUE_WORDS)
        tallies = pool.tallies[:, :, [h.DELIVERED, h.FILTERED, h.UNREAD]].sum(axis=2)
        if engine.source.cells_circulate:
            elsewhere = words[:, k.FREE_CELLS] + words[:, r.SUBMITTED] + words[:, r.DISPUTED_END] - words[:, r.DISPUTED]
            held = pool.free_cells.shape[1] + words[:, k.TAKEN] - elsewhere
            freed = words[:, k.TAKEN] - words[:, MORE_CELLS] - held
        else:
            freed = tallies.sum(axis=0)
            held = words[:, k.TAKEN] - freed
        taken, depths = tallies.sum(axis=1), self._waiting()
        consumers = engine.consumers
        return Look(
            now_ns, *(tuple(found.tolist()) for found in (freed, held, taken, depths[:consumers], depths[consumers:]))
        )

    def _waiting(self) -> Words:
        """Chunks in each work queue: those of the consumers, then those on their way home."""
        places = work_queues.PLACES + int(self.engine.pool.control[k.WORK_QUEUE_MASK]) + 1
        rows = self.engine.pool.work_queues.reshape(-1, places)
        found: Words = rows[:, work_queues.TAIL] - rows[:, work_queues.HEAD]
        return found

    def _milliseconds(self, times_ns: Words, now_ms: int) -> Words:
        """Times since the beginning; those of a clock that is not ours are taken for now."""
        ms = (times_ns - self.began_ns) // MS
        return np.where((ms < 0) | (ms > now_ms), now_ms, ms)

    def _read_chunks(self, queue: int, now_ms: int) -> None:
        """Enter the chunks that were handed over since the last look."""
        pool = self.engine.pool
        done = int(pool.queues[queue * k.QUEUE_WORDS + k.CHUNKS])
        first = max(self._chunks[queue], done - k.HANDED_CHUNKS)
        forgotten = first > self._chunks[queue]
        self._chunks[queue] = done
        if first == done:
            return
        rows = pool.handed[queue, np.arange(first, done) & (k.HANDED_CHUNKS - 1)]
        firsts, lasts = (self._milliseconds(rows[:, word], now_ms) for word in (k.FIRST_NS, k.LAST_NS))
        ms, packets = by_millisecond(firsts, lasts, rows[:, k.PACKETS])
        self._recent.add(queue, ms, packets)
        self.history.add(f"arrived {queue}", ms, packets)
        most = int(packets.argmax())
        self._busiest[queue] = max(self._busiest[queue], (int(ms[most]), int(packets[most])), key=lambda one: one[1])
        self._entered[queue] += int(packets.sum())
        if forgotten:
            words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
            more = int(words[MORE_CELLS]) if self.engine.source.cells_circulate else 0
            missing = int(words[k.TAKEN] - words[k.FILL_COUNT]) - more - self._entered[queue]
            self._enter_late(queue, now_ms, max(0, missing))
        given = rows[:, k.GIVEN_TO]
        np.add.at(self.given[queue], given, rows[:, k.PACKETS])
        home = int(pool.queues[queue * k.QUEUE_WORDS + k.CONSUMER])
        if (away := given != home).any():
            self.history.add(f"offloaded {queue}", lasts[away], rows[away, k.PACKETS])
        for consumer in set(given.tolist()):
            its = given == consumer
            self.history.peak(f"depth {consumer}", lasts[its], rows[its, k.DEPTH] + 1)

    def _enter_late(self, queue: int, now_ms: int, packets: int) -> None:
        """Packets of chunks that were forgotten before this look: their time is not known."""
        self._entered[queue] += packets
        self._recent.add(queue, np.array([now_ms]), np.array([packets]))
        self.history.add(f"arrived {queue}", np.array([now_ms]), np.array([packets]))

    def _read_losses(self, queue: int, counts: QueueCounts, now_ns: int, last: bool) -> None:
        before = self._counted[queue]
        now = {name: count for name, count in counts.drops.items() if count and name not in NOT_LOST}
        new = {name: count - before.get(name, 0) for name, count in now.items() if count > before.get(name, 0)}
        self._counted[queue] = now
        if new:
            sampled = self._samples[queue] is not None and set(new) <= set(IN_A_CELL)
            since_ns = self._counted_ns
            ends = (now_ns, since_ns) if sampled else (since_ns, now_ns)  # within these; samples say more
            loss = self.losses.of(queue, *ends, exact=sampled)
            loss.drops.update(new)
        placed = self._read_samples(queue, now_ns, last)
        for name, count in new.items():
            if placed is None or name not in IN_A_CELL:
                self._enter(queue, name, np.array([self._busiest[queue][0]]), np.array([count]))

    def _enter(self, queue: int, name: str, ms: Words, packets: Words) -> None:
        self._recent.add(queue, ms, packets)
        self.history.add(f"arrived {queue}", ms, packets)
        self.history.add(f"lost {name}", ms, packets)

    def _read_samples(self, queue: int, now_ns: int, last: bool) -> int | None:
        """Enter what the XDP program counted by time; None if this source has no such counts."""
        rows = self._samples[queue]
        if rows is None:
            return None
        clock_ns = self.engine.source.lost_clock_ns()
        latest = (now_ns - clock_ns >> x.SAMPLE_BITS) + (1 if last else -SETTLED)
        times = rows[:, x.SAMPLE_TIME]
        fresh = rows[(times > self._sampled_to[queue]) & (times <= latest)]
        if not len(fresh):
            return self._place_rest(queue, last)
        fresh = fresh[np.argsort(fresh[:, x.SAMPLE_TIME])]
        totals = np.maximum.accumulate(np.maximum(fresh[:, x.SAMPLE_LOST], self._sampled[queue]))
        packets = np.diff(totals, prepend=self._sampled[queue])
        self._sampled_to[queue], self._sampled[queue] = int(fresh[-1, x.SAMPLE_TIME]), int(totals[-1])
        at_ns = fresh[:, x.SAMPLE_AT] + clock_ns
        loss = self.losses.of(queue, int(at_ns[0]), int(at_ns[-1]))
        name = next((name for name, _ in loss.drops.most_common() if name in IN_A_CELL), IN_A_CELL[0])
        now_ms = (now_ns - self.began_ns) // MS
        self._enter(queue, name, self._milliseconds(at_ns, now_ms), packets)
        for row, count in zip(fresh, packets.tolist(), strict=True):
            size = int(row[x.SAMPLE_BYTES])
            loss.flows.add(row[x.SAMPLE_HEADER :].tobytes()[:size], count)
        loss.sampled += int(packets.sum())
        return int(packets.sum()) + self._place_rest(queue, last)

    def _place_rest(self, queue: int, last: bool) -> int:
        """Enter lost packets that no sample has counted since: fewer than come to one sample, a look ago."""
        rest = (self._lost_so_far()[queue] if last else self._lost[queue]) - self._sampled[queue]
        if rest <= 0:
            return 0
        self._sampled[queue] += rest
        self._enter(queue, IN_A_CELL[0], np.array([self._busiest[queue][0]]), np.array([rest]))
        return rest

    def _follow(self, loss: Loss, look: Look, now_ms: int, last: bool) -> None:
        """Note who has the chunks of a queue that loses packets; close the loss when it is over."""
        last_ms = (loss.last_ns - self.began_ns) // MS
        if now_ms - last_ms <= 2 * INTERVAL_S * 1000:
            loss.held[self._holder(loss.queue, look)] += 1
        empty = look.held[loss.queue] <= self.engine.M
        if last or (now_ms - last_ms > PEACE_MS and (empty or now_ms - last_ms > 10 * PEACE_MS)):
            self._keep(loss, now_ms)
            self.losses.close(loss)
            if self._tell and loss.packets and not last:
                self._tell(loss)

    def _holder(self, queue: int, look: Look) -> str:
        """Who works on the queue's chunks too slowly."""
        layout = self.engine.layout
        home = int(self.engine.pool.queues[queue * k.QUEUE_WORDS + k.CONSUMER])
        if look.returning[queue] > look.depths[home]:
            return "capture thread"
        if layout.handlers and self.engine.consumers == layout.handlers and layout.sharing:
            return "handler"
        if self._disk():
            return "disk"
        behind = max(look.depths[layout.handlers :], default=0)
        if not layout.sharing:
            return "writer" if layout.threads else "handler"
        return "writer" if behind > look.depths[home] else "handler"

    def _keep(self, loss: Loss, now_ms: int) -> None:
        """What is needed to replay it: the arrivals since the queue was empty, and what its consumers did meanwhile."""
        begins = [
            (look.at_ns - self.began_ns) // MS
            for look in self._looks
            if look.held[loss.queue] <= self.engine.M and look.at_ns < loss.first_ns
        ]
        start = max([0, self._recent.first_ms, *begins[-1:]])
        loss.first_ms, loss.since_start = start, bool(begins) or start == 0
        loss.arrivals = self._recent.between(start, max(start, now_ms + 1))
        loss.rates_pps, loss.handler_pps = self._rates(start)

    def _rates(self, start_ms: int) -> tuple[tuple[float, ...], float]:
        """Packets per second of each home queue, and of a handler thread, while they had something to do.

        A queue that a handler thread serves has the rate of that thread, which is more exact: cells may come home late
        where no more packets come.
        """
        looks = [look for look in self._looks if look.at_ns >= self.began_ns + start_ms * MS]
        layout = self.engine.layout
        handlers = layout.handlers if self.engine.consumers == layout.handlers and layout.sharing else 0
        taken = [[look.taken[c] for look in looks] for c in range(layout.handlers)]
        each = [_rate(looks, counts, [look.depths[c] > 0 for look in looks]) for c, counts in enumerate(taken)]
        freed = [[look.freed[q] for look in looks] for q in range(len(self._chunks))]
        queues = [
            (each[layout.consumer_of[q]] if handlers else 0.0)
            or _rate(looks, counts, [look.held[q] > self.engine.M for look in looks])
            or _least(looks, counts)
            for q, counts in enumerate(freed)
        ]
        busy = [rate for rate in each if rate] or [max((_least(looks, counts) for counts in taken), default=0.0)]
        return tuple(queues), sum(busy) / len(busy)


def _rate(looks: list[Look], counts: list[int], busy: list[bool]) -> float:
    """Packets per second between looks that both found something to do; 0 if there were none."""
    packets = duration_ns = 0
    for one in range(len(looks) - 1):
        if busy[one] and busy[one + 1]:
            packets += counts[one + 1] - counts[one]
            duration_ns += looks[one + 1].at_ns - looks[one].at_ns
    return packets * 1e9 / duration_ns if duration_ns else 0.0


def _least(looks: list[Look], counts: list[int]) -> float:
    """Packets per second, at least, where all was over between two looks: up to the last one that found progress."""
    ends = [one for one in range(1, len(looks)) if counts[one] > counts[one - 1]]
    if not ends:
        return 0.0
    return (counts[ends[-1]] - counts[0]) * 1e9 / (looks[ends[-1]].at_ns - looks[0].at_ns)
