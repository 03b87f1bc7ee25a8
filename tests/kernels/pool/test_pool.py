"""Ownership of cells and slots (docs/ownership.md): a model of one queue's life, driven step by step."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rig import Nobody, Rig, counted
from wirecap.kernels.base import libc
from wirecap.kernels.base.jit import PURE, kernel, prepare
from wirecap.kernels.base.kinds import i64, words
from wirecap.kernels.pool import pool as k
from wirecap.kernels.pool import work_queues
from wirecap.kernels.pool.large import HEADROOM_BYTES
from wirecap.kernels.pool.pool import POOL, give_back, work_queue
from wirecap.kernels.pool.work_queues import pop
from wirecap.kernels.xdp import rings as r
from wirecap.kernels.xdp.capture_loop import turn

QUEUES, M, R, CELL = 2, 4, 2, 2048
TIMEOUT_NS = 1_000_000


@kernel(i64(POOL, i64))
def pop_of(pool, consumer):
    """What a handler thread does first."""
    return pop(pool.work_queues, work_queue(pool, consumer), pool.control[k.WORK_QUEUE_MASK])


@kernel(i64(POOL, k.RINGS, i64, i64, i64, words, words))
def one_turn(pool, rings, queue, now, timeout_ns, depths, scratch):
    """What a capture thread does in every round of its loop."""
    return turn(pool, rings, queue, now, timeout_ns, depths, scratch)


class Ownership(RuleBasedStateMachine):
    """Packets arrive, are captured, handled and recycled in any order; wrong recycles are tried all the time."""

    @initialize(advanced=st.booleans(), threshold=st.sampled_from([1, 34, 67, 100]), ring=st.sampled_from([None, 5]))
    def begin(self, advanced, threshold, ring):
        self.rig = Rig(Nobody(), QUEUES, M, R, CELL, ring, advanced=advanced, T=threshold)
        prepare([pop_of, one_turn, give_back])
        self.pool, self.rings = self.rig.engine.pool, self.rig.source.rings
        self.rig.source.start()
        self.depths, self.scratch = np.zeros(QUEUES, np.int64), libc.scratch()
        self.now, self.number, self.refused = 10**9, 0, 0
        self.arrived = [0] * QUEUES
        self.oversize = [0] * QUEUES
        self.accepted = [deque() for _ in range(QUEUES)]  # numbers of the packets that were not dropped
        self.held = []  # (slot, sequence) of chunks that a handler has
        self.gone = []  # (slot, sequence) of chunks that were recycled
        self.handled = [{} for _ in range(QUEUES)]  # numbers of a chunk's packets by its sequence

    def words(self, queue):
        return self.pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]

    def meta(self, slot, word):
        return int(self.pool.meta[slot * k.SLOT_WORDS + word])

    def on_their_way(self, queue):
        """Chunks of a home queue that wait for any handler."""
        every = (slot for consumer in range(QUEUES) for slot in self.in_work_queue(consumer))
        return [slot for slot in every if self.meta(slot, k.HOME) == queue]

    @rule(queue=st.integers(0, QUEUES - 1), count=st.integers(1, 2 * M * R))
    def packets_arrive(self, queue, count):
        free = self.in_fill_ring(queue)
        self.rig.inject(queue, [counted(self.number + i, 64) for i in range(count)])
        self.accepted[queue].extend(range(self.number, self.number + min(count, len(free))))
        self.number += count
        self.arrived[queue] += count

    @rule(queue=st.integers(0, QUEUES - 1))
    def too_long_a_packet_arrives(self, queue):
        self.rig.inject(queue, [bytes(CELL - HEADROOM_BYTES + 1)])
        self.arrived[queue] += 1
        self.oversize[queue] += 1

    @rule(queue=st.integers(0, QUEUES - 1), later_ns=st.sampled_from([0, TIMEOUT_NS // 2, TIMEOUT_NS, 10**9]))
    def capture_thread_looks(self, queue, later_ns):
        self.now += later_ns
        words = self.words(queue)
        busy, before, chunks = bool(self.in_work_queue(queue)), self.on_their_way(queue), int(words[k.CHUNKS])
        one_turn(self.pool, self.rings, queue, self.now, TIMEOUT_NS, self.depths, self.scratch)
        new = set(self.on_their_way(queue)) - set(before)
        assert not busy or all(self.meta(slot, k.COUNT) == M for slot in new), "a partial chunk for a busy handler"
        waits = words[k.FILL_COUNT] and self.now - words[k.FILL_SINCE] >= TIMEOUT_NS and words[k.CHUNKS] == chunks
        room = words[k.FREE_SLOTS] * M >= words[k.FREE_CELLS] + words[r.SUBMITTED] - words[k.TAKEN]
        assert not (waits and room and not self.in_work_queue(queue)), "a packet waits for no reason"
        in_use = 2 * R - words[k.FREE_SLOTS]  # the one being filled among them
        idle = self.asleep(queue)[0] == work_queues.EMPTY_HANDED
        assert not (words[k.FILL_COUNT] and idle and room and in_use == 1), "a packet waits for an idle handler"
        assert self.asleep(queue)[0] == 0 or not new, "a chunk does not wake its handler"

    def asleep(self, consumer):
        """The word in which a consumer says that it sleeps."""
        stride = work_queues.PLACES + int(self.pool.control[k.WORK_QUEUE_MASK]) + 1
        return self.pool.work_queues[consumer * stride + work_queues.WAITING :][:1]

    @rule(consumer=st.integers(0, QUEUES - 1), how=st.sampled_from([work_queues.EMPTY_HANDED, work_queues.HOLDING]))
    def handler_sleeps(self, consumer, how):
        if not self.in_work_queue(consumer):
            self.asleep(consumer)[0] = how

    @rule(queue=st.integers(0, QUEUES - 1))
    def packet_trickles_through(self, queue):
        self.packets_arrive(queue, 1)
        self.capture_thread_looks(queue, 0)
        self.capture_thread_looks(queue, TIMEOUT_NS)
        self.handler_takes(queue)

    @rule(consumer=st.integers(0, QUEUES - 1))
    def handler_takes(self, consumer):
        self.asleep(consumer)[0] = 0
        slot = pop_of(self.pool, consumer)
        if slot == work_queues.EMPTY:
            assert not self.in_work_queue(consumer)
            return
        state = self.meta(slot, k.STATE)
        assert state % 4 == k.CAPTURED
        home = self.meta(slot, k.HOME)
        count = self.meta(slot, k.COUNT)
        assert 0 < count <= M
        offloaded = consumer != home
        assert self.meta(slot, k.OFFLOADED) == offloaded
        assert not offloaded or self.pool.control[k.ADVANCED]
        starts = self.pool.address[slot, :count].tolist()
        numbers = [int.from_bytes(self.pool.arena[at : at + 8].tobytes(), "big") for at in starts]
        assert self.pool.captured[slot, :count].tolist() == [64] * count
        self.handled[home][state >> 2] = numbers
        self.held.append((slot, state >> 2))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def handler_recycles(self, data):
        chunk = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        assert give_back(self.pool, *chunk)
        self.gone.append(chunk)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def handler_recycles_again(self, data):
        self.refuse(*data.draw(st.sampled_from(self.gone)))

    @rule(
        slot=st.sampled_from([-1, -(2**61), 2 * R * QUEUES, 2**31, 2**60, 2**61, 2**61 + 1, 2**63 - 1]),
        sequence=st.integers(0, 5),
    )
    def handler_recycles_what_is_not_there(self, slot, sequence):
        self.refuse(slot, sequence)

    @rule(slot=st.integers(0, 2 * R * QUEUES - 1), sequence=st.integers(-1, 50))
    def handler_recycles_a_guess(self, slot, sequence):
        state = self.meta(slot, k.STATE)
        if state == sequence * 4 + k.CAPTURED:
            return
        self.refuse(slot, sequence)

    def refuse(self, slot, sequence):
        assert not give_back(self.pool, slot, sequence)
        self.refused += 1
        assert self.pool.control[k.REFUSED] == self.refused

    @rule(threshold=st.integers(1, 100))
    def user_changes_the_threshold(self, threshold):
        self.rig.engine.set_threshold(threshold)

    # where everything is

    def ring(self, queue, producer, consumer, descriptors, mask, stride):
        words = self.words(queue)
        first, end = int(self.rings.halves[words[consumer]]), int(self.rings.halves[words[producer]])
        places = [words[descriptors] + (at & words[mask]) * stride for at in range(first, end)]
        return [int(self.rings.words[place]) for place in places]

    def in_fill_ring(self, queue):
        return self.ring(queue, r.FILL_PRODUCER, r.FILL_CONSUMER, r.FILL_DESCRIPTORS, r.FILL_MASK, 1)

    def in_rx_ring(self, queue):
        return self.ring(queue, r.RX_PRODUCER, r.RX_CONSUMER, r.RX_DESCRIPTORS, r.RX_MASK, 2)

    def in_work_queue(self, number):
        stride = work_queues.PLACES + int(self.pool.control[k.WORK_QUEUE_MASK]) + 1
        places = self.pool.work_queues[number * stride + work_queues.PLACES : (number + 1) * stride]
        return (places[places > 0] - 1).tolist()

    @invariant()
    def every_cell_is_in_one_place(self):
        for queue in range(QUEUES):
            words = self.words(queue)
            cells = self.pool.free_cells[queue, : words[k.FREE_CELLS]].tolist()
            cells += self.in_fill_ring(queue) + self.in_rx_ring(queue)
            if words[k.FILL_SLOT] != work_queues.EMPTY:
                cells += self.pool.address[words[k.FILL_SLOT], : words[k.FILL_COUNT]].tolist()
            for slot in range(2 * R * queue, 2 * R * (queue + 1)):
                if self.meta(slot, k.STATE) % 4 in (k.CAPTURED, k.RECYCLED):
                    cells += self.pool.address[slot, : self.meta(slot, k.COUNT)].tolist()
            first = queue * R * M * CELL
            assert sorted(cell // CELL * CELL for cell in cells) == list(range(first, first + R * M * CELL, CELL))

    @invariant()
    def every_slot_is_in_one_place(self):
        held = [slot for slot, _ in self.held]
        captured = [slot for consumer in range(QUEUES) for slot in self.in_work_queue(consumer)]
        for queue in range(QUEUES):
            words = self.words(queue)
            mine = set(range(2 * R * queue, 2 * R * (queue + 1)))
            places = {
                k.FREE: self.pool.free_slots[queue, : words[k.FREE_SLOTS]].tolist(),
                k.FILLING: [int(words[k.FILL_SLOT])] if words[k.FILL_SLOT] != work_queues.EMPTY else [],
                k.CAPTURED: [slot for slot in captured + held if slot in mine],
                k.RECYCLED: self.in_work_queue(QUEUES + queue),
            }
            assert self.rig.engine.depths()[queue] == len(self.in_work_queue(queue))
            assert sorted(slot for slots in places.values() for slot in slots) == sorted(mine)
            for state, slots in places.items():
                assert all(self.meta(slot, k.STATE) % 4 == state for slot in slots)

    @invariant()
    def a_cell_never_waits_for_a_slot(self):
        for queue in range(QUEUES):
            words = self.words(queue)
            room = words[k.FREE_SLOTS] * M
            if words[k.FILL_SLOT] != work_queues.EMPTY:
                room += M - words[k.FILL_COUNT]
            assert room >= words[k.FREE_CELLS] + words[r.SUBMITTED] - words[k.TAKEN]

    @invariant()
    def packets_come_in_order_and_are_counted(self):
        for queue in range(QUEUES):
            counts = self.rig.source.counts(self.pool, queue)
            assert counts.received == self.arrived[queue]
            assert counts.received - sum(counts.drops.values()) == len(self.accepted[queue])
            assert counts.drops["oversize"] == self.oversize[queue]
            known = self.handled[queue]
            waiting = self.on_their_way(queue)
            assert self.words(queue)[k.CHUNKS] == len(known) + len(waiting)
            for one, following in pairwise(sorted(known)):
                assert known[one][-1] < known[following][0]
            if sorted(known) == list(range(len(known))):  # no gap: all that was taken so far is there
                numbers = [number for sequence in sorted(known) for number in known[sequence]]
                assert numbers == list(self.accepted[queue])[: len(numbers)]


Ownership.TestCase.settings = settings(
    max_examples=60 if PURE else 100,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestOwnership = Ownership.TestCase
