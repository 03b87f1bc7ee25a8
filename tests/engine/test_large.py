"""Packets of several cells: one packet each for handlers, writers, wires and counters, whatever runs out."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import wirecap
from rig import Gate, Rig, check_identity, counted, until
from wire_rig import WireRig
from wirecap.handlers.pipeline import Pipeline
from wirecap.handlers.pkt_handler import Paced
from wirecap.handlers.table import bind
from wirecap.kernels.base.jit import kernel
from wirecap.kernels.base.kinds import byte_array, i64, words
from wirecap.kernels.pool import large
from wirecap.kernels.pool import pool as k

ROOM = 2048 - large.HEADROOM_BYTES


def packets_of(count, most=9000, seed=1, first=0):
    """Packets of 64 to ``most`` random bytes, numbered at their start."""
    chance = random.Random(seed)
    sizes = [chance.choice([64, ROOM, ROOM + 1, chance.randrange(64, most), most]) for _ in range(count)]
    return [number.to_bytes(8, "big") + chance.randbytes(size - 8) for number, size in enumerate(sizes, first)]


class Keeper:
    """A handler that keeps a copy of each packet."""

    def __init__(self) -> None:
        self.found: list[bytes] = []

        @wirecap.chunk_handler
        def keeps(chunk):
            self.found += [bytes(packet) for packet in chunk]

        self.handler = bind(keeps)


@pytest.mark.parametrize("most", [1793, 9000, large.LONGEST])
def test_packets_are_whole(most):
    """Handlers get each packet in one piece, with every byte, in order, however many cells it took."""
    keeper = Keeper()
    sent = packets_of(300, most)
    with Rig(Pipeline([keeper.handler]), M=16, R=16, large=True) as rig:
        for number, packet in enumerate(sent, 1):
            rig.inject(0, [packet])
            if number % 4 == 0:
                rig.done(number)
                rig.at_home()
        rig.stop()
        check_identity(rig.engine, received=len(sent))
        summary = rig.engine.summary()
        assert summary.total("delivered_bytes") == summary.total("received_bytes") == sum(map(len, sent))
        assert rig.drops() == {}
    assert keeper.found == sent


def test_longer_than_the_longest_is_named():
    """What is longer than any packet that a NIC hands over costs no cell."""
    with Rig(large=True, M=16, R=16) as rig:
        rig.inject(0, [bytes(large.LONGEST + 1), bytes(large.LONGEST)])
        rig.done(2)
        rig.stop()
        check_identity(rig.engine, received=2)
        assert rig.drops() == {"oversize": 1}


def test_exhausted_memory_waits():
    """Where large-packet memory is full, packets wait in the ring; what finds no cell then is named."""
    gate = Gate()
    size = 4 * ROOM + 1  # five cells; four units, as there is one headroom for all
    with Rig(Pipeline([gate.handler]), M=8, R=8, large=True) as rig:
        counters = rig.engine.pool.queues
        room = int(counters[large.LARGE_UNITS]) // 4
        waiting = 64 // 5
        for number in range(room + waiting):
            rig.inject(0, [counted(number, size)])
            until(lambda number=number: counters[k.TAKEN] == 5 * min(number + 1, room))
            if number < room:
                rig.at_home()
        for _ in range(7):
            rig.inject(0, [counted(0, size)])
        until(lambda: rig.ended() == 1 + 7)  # the first one is with the handler
        gate.let_go(1000)
        rig.done(room + waiting + 7)
        rig.stop()
        check_identity(rig.engine, received=room + waiting + 7)
        assert rig.drops() == {"pool_exhausted": 7}
        assert sum(gate.sizes) == room + waiting


def test_given_up_while_packets_wait():
    """Packets of several cells that nobody took count as one each."""
    gate = Gate()
    with Rig(Pipeline([gate.handler]), M=8, R=8, large=True) as rig:
        counters = rig.engine.pool.queues
        room = int(counters[large.LARGE_UNITS]) // 4
        for number in range(room + 10):
            rig.inject(0, [counted(number, 4 * ROOM + 1)])
            until(lambda number=number: counters[k.TAKEN] == 5 * min(number + 1, room))
        gate.let_go(1000)
        rig.stop(give_up=True)
        check_identity(rig.engine, received=room + 10)


@given(
    queues=st.integers(1, 3), M=st.integers(1, 9), R=st.integers(2, 6), threads=st.sampled_from([None, 1]),
    advanced=st.booleans(), limit=st.sampled_from([0, 0, 5, 60]), give_up=st.booleans(),
    rate=st.sampled_from([None, 20_000]),
    bursts=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 40), st.sampled_from([60, 1792, 1793, 9014, 65_535, 80_000])),
        max_size=12,
    ),
)  # fmt: skip
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_run(queues, M, R, threads, advanced, limit, give_up, rate, bursts):
    """Any shape of engine, any bursts, any end: nothing is unaccounted for."""
    application = Pipeline([Paced(rate)] if rate else [])
    with Rig(application, queues, M, R, capture_threads=threads, advanced=advanced, limit=limit, large=True) as rig:
        sent = 0
        for queue, count, size in bursts:
            rig.inject_copies(queue % queues, count, size)
            sent += count
        rig.stop(give_up)
        check_identity(rig.engine, received=sent)


def test_forwarded_whole():
    """A wire gets each packet in pieces that do not cross cells, counts it once, and gives its memory back."""
    sent = packets_of(400, 30_000)
    with WireRig(M=16, R=16, mtu=40_000, large=True, tx_entries=64) as rig:
        rig.run_kernel()
        for number, packet in enumerate(sent, 1):
            rig.inject(0, [packet])
            if number % 4 == 0:
                until(lambda number=number: rig.packets == number)
        until(lambda: rig.forwarded == len(sent))
        rig.stop()
        check_identity(rig.engine, received=len(sent))
        assert rig.forwarded == rig.packets == len(sent)
        assert rig.forwarder.unfinished(0) == 0
        assert rig.drops() == {}
        counters = rig.engine.pool.queues
        assert counters[large.LARGE_HEAD] > 0
    assert rig.sent[0] == sent


def test_too_long_for_the_wire():
    """A packet longer than the outgoing MTU, or than the kernel can take in pieces, is named."""
    with WireRig(M=16, R=16, mtu=65_000, large=True) as rig:
        rig.run_kernel()
        rig.inject(0, [bytes(60_000), bytes(30_000), bytes(64)])
        until(lambda: rig.forwarded == 2)
        rig.stop()
        check_identity(rig.engine, received=3)
        assert rig.drops() == {"tx_too_long": 1}


ALLOCATE, FREE, SEND, FREE_PIECE = range(4)


@kernel(i64(byte_array, words, i64, i64, i64))
def work(arena, queues, what, value, pieces):
    if what == ALLOCATE:
        return large.allocate(arena, queues, 0, value)
    if what == FREE:
        large.free(arena, queues, 0, value)
    elif what == SEND:
        large.send_pieces(arena, queues, 0, value, pieces)
    else:
        large.free_piece(arena, queues, 0, value)
    return 0


def test_runs_come_back_in_any_order():
    """Memory is handed out without overlap, and comes back in any order, pieces in transmission last."""
    arena = np.zeros(large.stretch_bytes(2048, 0)[0], np.uint8)
    queues = np.zeros(64, np.int64)
    _, units = large.stretch_bytes(2048, 0)
    queues[large.LARGE_FIRST], queues[large.LARGE_UNITS] = arena.size - units * 2048, units
    queues[large.UNIT_BYTES] = 2048
    chance = random.Random(3)
    held: dict[int, int] = {}
    refused = 0
    for _ in range(3000):
        size = chance.randrange(1793, large.LONGEST)
        address = work(arena, queues, ALLOCATE, size, 0)
        if address < 0:
            refused += 1
            gone = chance.choice(list(held))
            if chance.random() < 0.5:
                work(arena, queues, FREE, gone, 0)
            else:
                pieces = -(-held[gone] // 2048)
                work(arena, queues, SEND, gone, pieces)
                for piece in range(pieces):
                    work(arena, queues, FREE_PIECE, gone + min(piece * 2048, held[gone] - 1), 0)
            del held[gone]
            continue
        assert address % 2048 == large.HEADROOM_BYTES
        assert address + size <= arena.size
        assert all(address + size <= other or other + length <= address for other, length in held.items())
        held[address] = size
    assert refused > 100
