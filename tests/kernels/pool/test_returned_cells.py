"""Cells on their way home (docs/ownership.md): a model of their queues, driven step by step."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rig import Nobody, Rig
from wirecap.engine.engine import ThreadLayout
from wirecap.kernels.base.jit import PURE, kernel, prepare
from wirecap.kernels.base.kinds import byte_array, i64, none, words
from wirecap.kernels.pool import large
from wirecap.kernels.pool import pool as k
from wirecap.kernels.pool import work_queues as wq
from wirecap.kernels.pool.pool import POOL, give_cells, take_cells

QUEUES, M, R, CELL, DONE = 2, 4, 4, 2048, 64
FREE = 1  # of a run's word, below its pieces in transmission


@kernel(none(POOL, i64, words, i64, i64, i64))
def give(pool, home, entries, first, mask, count):
    """What a thread that reads a completion ring does."""
    give_cells(pool, home, entries, first, mask, count)


@kernel(i64(POOL, i64))
def take(pool, queue):
    """What a capture thread does in every round of its loop."""
    return take_cells(pool, queue)


@kernel(i64(byte_array, words, i64, i64, i64))
def send_large(arena, queues, queue, size, pieces):
    """A large packet gets its memory and goes onto a wire; where it lies, or -1."""
    q = queue * k.QUEUE_WORDS
    address = large.allocate(arena, queues, q, size)
    if address >= 0:
        large.send_pieces(arena, queues, q, address, pieces)
    return address


class Sender(Nobody):
    """A forwarder without threads."""

    def layout(self, queues):
        return ThreadLayout(list(range(queues)), queues, 0, threads=False, transmits=True)


@dataclass
class OnItsWay:
    """A place of a queue of returned cells: taken by a ticket, and filled when ``stored``."""

    place: int
    address: int
    stored: bool


@dataclass
class Packet:
    """A large packet on wires: the addresses of its pieces, and how many are not home."""

    pieces: list[int]
    left: int


class ReturnedCells(RuleBasedStateMachine):
    """Cells and pieces of large packets leave, are completed and come home in any order; senders stop anywhere."""

    @initialize(number=st.sampled_from([0, 5, 2**32 - 3, 2**62]))
    def begin(self, number):
        self.rig = Rig(Sender(), QUEUES, M, R, CELL, large=True)
        prepare([give, take, send_large])
        self.pool = self.rig.engine.pool
        self.places = int(self.pool.control[k.RETURN_MASK]) + 1
        for queue in range(QUEUES):
            self.lane(queue)[[wq.HEAD, wq.TAIL]] = number
        self.stacks = [self.stack(queue) for queue in range(QUEUES)]
        self.out = [[] for _ in range(QUEUES)]  # addresses with senders
        self.coming = [[] for _ in range(QUEUES)]  # in the order of their tickets
        self.large = [[] for _ in range(QUEUES)]
        self.entries, self.completed = np.zeros(DONE, np.int64), 0

    def lane(self, queue):
        """A home queue's words of the returned cells."""
        stride = wq.PLACES + self.places
        return self.pool.returned[queue * stride : (queue + 1) * stride]

    def words(self, queue):
        return self.pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]

    def stack(self, queue):
        return self.pool.free_cells[queue, : self.words(queue)[k.FREE_CELLS]].tolist()

    def run_word(self, queue, address):
        """The word of the run that an address lies in."""
        unit = (address - int(self.words(queue)[large.LARGE_FIRST])) // CELL
        return self.table_word(queue, self.table_word(queue, unit, 0), 8)

    def table_word(self, queue, unit, byte):
        at = int(self.words(queue)[large.LARGE_TABLE]) + unit * large.TABLE_BYTES + byte
        return int(self.pool.arena[at : at + 8].view(np.int64)[0])

    @rule(queue=st.integers(0, QUEUES - 1), count=st.integers(1, M * R))
    def cells_leave(self, queue, count):
        words = self.words(queue)
        count = min(count, int(words[k.FREE_CELLS]))
        words[k.FREE_CELLS] -= count
        for _ in range(count):
            self.out[queue].append(self.stacks[queue].pop())

    @rule(queue=st.integers(0, QUEUES - 1), size=st.integers(1, large.LONGEST))
    def a_large_packet_leaves(self, queue, size):
        count = -(-(large.HEADROOM_BYTES + size) // CELL)
        address = send_large(self.pool.arena, self.pool.queues, queue, size, count)
        if address < 0:
            assert self.large[queue], "no room, and none is taken"
            return
        first = address - large.HEADROOM_BYTES
        pieces = [address, *(first + i * CELL for i in range(1, count))]
        others = {piece // CELL for packet in self.large[queue] for piece in packet.pieces}
        assert others.isdisjoint(piece // CELL for piece in pieces), "two packets have the same memory"
        self.large[queue].append(Packet(pieces, count))
        self.out[queue] += pieces

    def some(self, data, queue):
        """Addresses of one home that a completion ring has, one after the other."""
        count = data.draw(st.integers(1, min(len(self.out[queue]), DONE)))
        chosen = data.draw(st.permutations(range(len(self.out[queue]))))[:count]
        addresses = [self.out[queue][i] for i in chosen]
        self.out[queue] = [one for i, one in enumerate(self.out[queue]) if i not in set(chosen)]
        return addresses

    def tickets(self, queue, addresses, stored):
        tail = int(self.lane(queue)[wq.TAIL])
        made = [OnItsWay(wq.PLACES + (tail + i) % self.places, one, stored) for i, one in enumerate(addresses)]
        self.coming[queue] += made
        return made

    @rule(data=st.data(), queue=st.integers(0, QUEUES - 1))
    def sender_gives(self, data, queue):
        if not self.out[queue]:
            return
        addresses = self.some(data, queue)
        self.tickets(queue, addresses, True)
        first = self.completed % DONE
        for i, address in enumerate(addresses):
            self.entries[(first + i) % DONE] = address
        self.completed += len(addresses)
        give(self.pool, queue, self.entries, first, DONE - 1, len(addresses))

    @rule(data=st.data(), queue=st.integers(0, QUEUES - 1))
    def sender_stops_behind_its_tickets(self, data, queue):
        if self.out[queue]:
            addresses = self.some(data, queue)
            self.tickets(queue, addresses, False)
            self.lane(queue)[wq.TAIL] += len(addresses)

    @precondition(lambda self: any(not one.stored for coming in self.coming for one in coming))
    @rule(data=st.data())
    def sender_goes_on(self, data):
        queue, one = data.draw(st.sampled_from(
            [(queue, one) for queue in range(QUEUES) for one in self.coming[queue] if not one.stored]
        ))  # fmt: skip
        self.lane(queue)[one.place] = one.address + 1
        one.stored = True

    @rule(queue=st.integers(0, QUEUES - 1))
    def home_thread_takes(self, queue):
        coming = self.coming[queue]
        count = next((i for i, one in enumerate(coming) if not one.stored), len(coming))
        assert take(self.pool, queue) == count, "it takes all up to one that is not there yet"
        home = [one.address for one in coming[:count]]
        del coming[:count]
        for address in home:
            packet = next((each for each in self.large[queue] if address in each.pieces), None)
            if packet is None:
                self.stacks[queue].append(address)
            else:
                packet.left -= 1
        for packet in self.large[queue]:
            assert packet.left or self.run_word(queue, packet.pieces[0]) & FREE, "a packet that was sent is not free"
        self.large[queue] = [packet for packet in self.large[queue] if packet.left]

    @invariant()
    def free_cells_are_those_that_came_home(self):
        for queue in range(QUEUES):
            assert self.stack(queue) == self.stacks[queue]

    @invariant()
    def places_hold_what_is_on_its_way(self):
        for queue in range(QUEUES):
            lane = self.lane(queue)
            expected = np.zeros(self.places, np.int64)
            for one in self.coming[queue]:
                expected[one.place - wq.PLACES] = (one.address + 1) * one.stored
            assert lane[wq.PLACES :].tolist() == expected.tolist()
            assert lane[wq.TAIL] - lane[wq.HEAD] == len(self.coming[queue]) <= self.places

    @invariant()
    def memory_is_not_free_before_all_pieces_are_home(self):
        for queue in range(QUEUES):
            for packet in self.large[queue]:
                pieces, flag = divmod(self.run_word(queue, packet.pieces[0]) % (1 << 16), 2)
                assert (pieces, flag) == (packet.left, 0)


ReturnedCells.TestCase.settings = settings(
    max_examples=40 if PURE else 100,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestReturnedCells = ReturnedCells.TestCase
