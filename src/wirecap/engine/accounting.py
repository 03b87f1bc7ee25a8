"""The counters of a run: where every packet ended up, for each home queue.

Every packet is counted once at the hook and once where it ended up: delivered, filtered out, or dropped under a
name.  Any difference between the two sides is shown as the drop ``unaccounted``, which no run may have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from wirecap.kernels.file.merge import Merge
from wirecap.kernels.pool import handler_loop as h
from wirecap.kernels.pool import pool as k
from wirecap.kernels.pool import work_queues
from wirecap.source.source import HookCounts, Source


@dataclass
class QueueCounts:
    """The counts of one home queue, in packets unless the name says bytes."""

    interface: str
    queue: int
    received: int = 0
    received_bytes: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    filtered_out: int = 0
    offloaded: int = 0
    forwarded: int = 0
    pending: int = 0
    """Packets on their way through the engine; 0 once it has stopped."""
    drops: dict[str, int] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        return sum(self.drops.values())


@dataclass
class Summary:
    """All queues of a run, and what is not counted per queue."""

    queues: list[QueueCounts]
    refused_recycles: int

    def total(self, name: str) -> int:
        return sum(getattr(queue, name) for queue in self.queues)

    def drops(self) -> dict[str, int]:
        """Packets by reason, over all queues, with every reason that any queue knows."""
        names = dict.fromkeys(name for queue in self.queues for name in queue.drops)
        return {name: sum(queue.drops.get(name, 0) for queue in self.queues) for name in names}


def summarize(
    pool: k.Pool, source: Source, handlers: int, stopped: bool, account: Callable[[int, QueueCounts], None]
) -> Summary:
    """Read every counter: for each queue first those of packets that ended somewhere, last that of all.

    Counters only grow, and a packet is counted at the hook before it ends anywhere.  So what was read first can never
    exceed what was read last, whatever moves in between, and the difference is ``pending``.

    handlers: how many capture queues there are.  account: adds what the application knows about a home queue's packets.
    """
    queues = []
    for number, place in enumerate(source.queues):
        counts = QueueCounts(place.interface, place.queue)
        _count_ended(pool, number, counts)
        account(number, counts)
        hook = source.counts(pool, number)
        _count_received(source, hook, counts)
        _settle(pool, source, number, hook, handlers, stopped, counts)
        queues.append(counts)
    return Summary(queues, refused_recycles=int(pool.control[k.REFUSED]))


def _count_ended(pool: k.Pool, number: int, counts: QueueCounts) -> None:
    unread = int(pool.tallies[:, number, h.UNREAD].sum())  # before DELIVERED, from which ``give_up`` moves packets
    tally = pool.tallies[:, number, :].sum(axis=0).tolist()
    counts.delivered, counts.delivered_bytes = tally[h.DELIVERED], tally[h.DELIVERED_BYTES]
    counts.filtered_out, counts.offloaded = tally[h.FILTERED], tally[h.DELIVERED_OFFLOADED]
    counts.drops = {"unread_at_stop": unread}


def _count_received(source: Source, hook: HookCounts, counts: QueueCounts) -> None:
    counts.received, counts.received_bytes = hook.received, hook.received_bytes
    counts.filtered_out += hook.filtered
    counts.drops = hook.drops | counts.drops
    if not source.live:  # nobody lost them: they are still in the file
        counts.received -= counts.drops.pop("unread_at_stop")


def _settle(
    pool: k.Pool, source: Source, number: int, hook: HookCounts, handlers: int, stopped: bool, counts: QueueCounts
) -> None:
    """Classify what was received but ended nowhere: pending while the engine runs, else unread or unaccounted."""
    left = counts.received - counts.delivered - counts.filtered_out - counts.dropped
    if not stopped:
        counts.pending = left
        return
    waiting, waiting_bytes = _in_slots(pool, number, handlers)
    waiting += hook.in_ring
    if source.live:
        counts.drops["unread_at_stop"] += waiting
    else:
        counts.received -= waiting
        counts.received_bytes -= waiting_bytes + int(pool.tallies[:, number, h.UNREAD_BYTES].sum())
    if left != waiting:
        counts.drops["unaccounted"] = left - waiting


def give_up(pool: k.Pool, consumer: int, slot: int, first: int) -> None:
    """Count the packets of a delivered chunk from ``first`` on as unread: its consumer did not get to them.

    For that consumer's own thread.
    """
    kept, home = pool.meta[slot * k.SLOT_WORDS + k.KEPT], pool.meta[slot * k.SLOT_WORDS + k.HOME]
    count, byte_count = kept - first, pool.captured[slot, first:kept].sum()
    tally = pool.tallies[consumer, home]
    tally[h.DELIVERED] -= count  # before UNREAD: a reader may miss them for a moment, but never finds them twice
    tally[h.DELIVERED_BYTES] -= byte_count
    if pool.meta[slot * k.SLOT_WORDS + k.OFFLOADED]:
        tally[h.DELIVERED_OFFLOADED] -= count
    tally[h.UNREAD] += count
    tally[h.UNREAD_BYTES] += byte_count


def give_up_merged(pool: k.Pool, consumer: int, merge: Merge) -> None:
    """``give_up`` what a merge that takes chunks itself has admitted but not written."""
    for queue in merge.mine.tolist():
        rest = [(slot - 1, 0) for slot in merge.pending[queue].tolist() if slot]
        if merge.head[queue] >= 0:
            rest.append((int(merge.head[queue]), int(merge.cursor[queue])))
        for slot, first in rest:
            give_up(pool, consumer, slot, first)


def _in_slots(pool: k.Pool, queue: int, handlers: int) -> tuple[int, int]:
    """Packets and bytes that a stopped engine holds in a filling slot or in chunks that no handler took.

    Chunks on their way from a handler to a writer have already been delivered.
    """
    words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
    stride = work_queues.PLACES + int(pool.control[k.WORK_QUEUE_MASK]) + 1
    places = pool.work_queues[: handlers * stride].reshape(-1, stride)[:, work_queues.PLACES :]
    slots = [slot for slot in (places[places > 0] - 1).tolist() if pool.meta[slot * k.SLOT_WORDS + k.HOME] == queue]
    waiting = [(slot, int(pool.meta[slot * k.SLOT_WORDS + k.COUNT])) for slot in slots]
    waiting.append((int(words[k.FILL_SLOT]), int(words[k.FILL_COUNT])))
    byte_count = sum(int(pool.captured[slot, :count].sum()) for slot, count in waiting)
    return sum(count for _, count in waiting), byte_count
