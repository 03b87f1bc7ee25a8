"""Packet rings against a model of the kernel's side: whose a block is, and that every packet comes once, as it was."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wirecap.engine.pool import build
from wirecap.files.interface import Interface
from wirecap.kernels import libc
from wirecap.kernels import packet_words as w
from wirecap.kernels import pool as k
from wirecap.kernels.jit import i64, kernel, prepare, words
from wirecap.kernels.lanes import EMPTY, pop
from wirecap.kernels.packet_loop import turn
from wirecap.kernels.pool import POOL
from wirecap.kernels.rings import RINGS, Rings
from wirecap.source.base import SourceQueue

M, R, BLOCKS, SPILLS, BLOCK_BYTES = 4, 6, 4, 2, 4096
HEADER, MAC = 48, 82


@kernel(i64(POOL, RINGS, words, i64, words, words))
def look(pool, rings, held, now, depths, scratch):
    """What a capture thread does in every round of its loop."""
    return turn(pool, rings, 0, held, now, 1, depths, scratch)


@kernel(i64(words, i64, i64))
def take_chunk(lanes, base, mask):
    """What a handler does to get a chunk."""
    return pop(lanes, base, mask)


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    prepare([look, take_chunk, k.give_back])


@dataclass
class Frame:
    """A packet on its way; tag: what the kernel took out of it, and its type."""

    data: bytes
    stamp: int
    tag: tuple[int, int] | None = None

    def whole(self) -> bytes:
        if self.tag is None:
            return self.data
        return self.data[:12] + struct.pack("!HH", self.tag[1], self.tag[0]) + self.data[12:]


@dataclass
class Kernel:
    """The kernel's side of a ring: fills blocks in order, and waits for one that it does not have."""

    memory: np.ndarray
    active: int = 0
    used: int = 0
    packets: int = 0
    last: int = 0
    lost: int = 0
    passed_on: list[int] = field(default_factory=list)

    def word(self, offset: int, value: int | None = None) -> int:
        view = self.memory.view(np.uint32)
        if value is not None:
            view[offset // 4] = value
        return int(view[offset // 4])

    @property
    def base(self) -> int:
        return self.active * BLOCK_BYTES

    def deliver(self, frame: Frame) -> bool:
        """False when it is lost."""
        size = (MAC + len(frame.data) + 7) & ~7
        if self.packets and self.used + size > BLOCK_BYTES:
            self.close()
        if not self.packets:
            if self.word(self.base + w.STATUS * 4) != w.TP_STATUS_KERNEL:
                self.lost += 1
                return False
            self.used = HEADER
        at = self.base + self.used
        if self.packets:
            self.word(self.last, at - self.last)
        status = (w.VLAN_VALID | w.VLAN_TYPE_VALID) if frame.tag else 0
        tag, kind = frame.tag or (0, 0)
        header = struct.pack(
            "<6I2H2I2H", 0, frame.stamp // 10**9, frame.stamp % 10**9, len(frame.data), len(frame.data), status, MAC, 0,
            0, tag, kind, 0,
        )  # fmt: skip
        self.memory[at : at + len(header)] = np.frombuffer(header, np.uint8)
        self.memory[at + MAC : at + MAC + len(frame.data)] = np.frombuffer(frame.data, np.uint8)
        self.last, self.used, self.packets = at, self.used + size, self.packets + 1
        self.word(self.base + w.PACKETS * 4, self.packets)
        return True

    def close(self) -> None:
        """Pass the block on: it is full, or its time is over."""
        if self.packets:
            self.word(self.base + w.FIRST * 4, HEADER)
            self.word(self.base + w.USED * 4, self.used)
            self.word(self.base + w.STATUS * 4, w.TP_STATUS_USER)
            self.active, self.packets = (self.active + 1) % BLOCKS, 0


class Source:
    """As much of a source as a pool wants."""

    truncates = True

    def __init__(self):
        self.arena = np.zeros((BLOCKS + SPILLS) * BLOCK_BYTES + 4096, np.uint8)
        self.queues, self.interfaces = [SourceQueue("ring", 0)], [Interface()]
        self.rings = Rings(self.arena.view(np.int64), self.arena.view(np.uint32), np.zeros(1, np.int64))
        self.held = np.zeros(BLOCKS + SPILLS, np.int64)

    def equip(self, pool, cells_per_queue):
        q = pool.queues
        q[w.SOCKET], q[w.RING], q[w.BLOCKS], q[w.BLOCK_BYTES] = -1, 0, BLOCKS, BLOCK_BYTES
        q[w.SPILL], q[w.SPILLS], q[w.SPILLING] = BLOCKS * BLOCK_BYTES, SPILLS, EMPTY
        q[k.ARRIVED] = (BLOCKS + SPILLS) * BLOCK_BYTES // 4
        q[k.WAITING_AT] = w.PACKETS + 1


class Desk:
    """A kernel, a capture thread and handlers; each acts when the test says so."""

    def __init__(self):
        self.source = Source()
        self.pool = build(self.source, M, R, [0], [[0]], 1)
        self.kernel = Kernel(self.source.arena)
        self.chunks: list[int] = []
        self.seen: list[tuple[int, bytes]] = []
        self.sent: list[Frame] = []
        self.now = 0

    def send(self, frame: Frame) -> None:
        if self.kernel.deliver(frame):
            self.sent.append(frame)

    def capture(self) -> None:
        self.now += 10
        look(self.pool, self.source.rings, self.source.held, self.now, np.zeros(1, np.int64), libc.scratch())

    def take(self) -> None:
        """A handler takes a chunk and keeps it."""
        slot = take_chunk(self.pool.lanes, 0, int(self.pool.control[k.LANE_MASK]))
        if slot >= 0:
            self.chunks.append(slot)

    def finish(self, which: int) -> None:
        """A handler is done with one of the chunks that are held; its packets are looked at last."""
        if not self.chunks:
            return
        slot = self.chunks.pop(which % len(self.chunks))
        pool, m = self.pool, slot * k.SLOT_WORDS
        for i in range(int(pool.meta[m + k.COUNT])):
            at, size = int(pool.address[slot, i]), int(pool.captured[slot, i])
            assert size == pool.original[slot, i]
            self.seen.append((int(pool.stamp[slot, i]), bytes(pool.arena[at : at + size])))
        assert k.give_back(pool, slot, int(pool.meta[m + k.STATE]) >> 2)

    def drain(self) -> None:
        self.kernel.close()
        for _ in range(400):
            self.capture()
            self.take()
            self.finish(0)

    def check(self) -> None:
        """What holds at any time: nobody has a block that the kernel has; what is counted is what was sent."""
        q, halves = self.pool.queues, self.source.rings.halves
        status = [int(halves[b * BLOCK_BYTES // 4 + w.STATUS]) for b in range(BLOCKS)]
        assert all(
            not (count and state == w.TP_STATUS_KERNEL) for count, state in zip(self.source.held, status, strict=False)
        )
        for slot in self.chunks:
            places = self.pool.address[slot, : int(self.pool.meta[slot * k.SLOT_WORDS + k.COUNT])] // BLOCK_BYTES
            assert all(self.source.held[places] > 0)
        waiting = sum(int(halves[b * BLOCK_BYTES // 4 + w.PACKETS]) for b in range(BLOCKS))
        assert int(q[k.TAKEN]) + waiting == len(self.sent)
        assert int(halves[q[k.ARRIVED]]) == int(q[k.TAKEN])
        assert int(q[w.HELD_BLOCKS]) == sum(count > 0 for count in self.source.held[:BLOCKS])


FRAMES = st.builds(
    lambda size, fill, tag: (size, fill, tag),
    st.one_of(st.integers(14, 100), st.integers(700, 1500)), st.integers(0, 255),
    st.one_of(st.none(), st.tuples(st.integers(0, 0xFFFF), st.sampled_from([0x8100, 0x88A8]))),
)  # fmt: skip
STEPS = st.one_of(
    st.tuples(st.just("send"), FRAMES), st.tuples(st.just("send"), FRAMES),
    st.tuples(st.sampled_from(["capture", "capture", "close", "take"]), st.none()),
    st.tuples(st.just("finish"), st.integers(0, 20)),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=120))
def test_every_packet_comes_once_as_it_was(steps):
    """Whatever the order of events: all bytes arrive, tags are back, no block is taken while a chunk has it."""
    desk = Desk()
    for number, (what, given_) in enumerate(steps):
        if what == "send":
            size, fill, tag = given_
            data = struct.pack("<I", number) + bytes([fill]) * (size - 4)
            desk.send(Frame(data, 1_000_000_000 + number, tag))
        elif what == "close":
            desk.kernel.close()
        elif what == "finish":
            desk.finish(given_)
        else:
            getattr(desk, what)()
        desk.check()
    desk.drain()
    desk.check()
    assert sorted(desk.seen) == [(frame.stamp, frame.whole()) for frame in desk.sent]
    held = desk.source.held
    assert held[:BLOCKS].sum() == 0
    assert held.sum() == (desk.pool.queues[w.SPILLING] != EMPTY)
    assert desk.pool.queues[k.FREE_SLOTS] == 2 * R


def test_a_chunk_lies_in_one_place():
    """A sparse block and a full one that are taken at once make two chunks, each with its own memory."""
    desk = Desk()
    desk.send(Frame(b"a" * 60, 1))
    desk.kernel.close()
    for number in range(3):
        desk.send(Frame(bytes([number]) * 900, 2 + number))
    desk.kernel.close()
    desk.capture()
    for _ in range(2):
        desk.take()
        desk.check()
    assert len(desk.chunks) == 2
    desk.drain()
    assert [stamp for stamp, _ in desk.seen] == [1, 2, 3, 4]


def test_overtaking_is_put_right():
    """Packets that CPUs delivered in another order than they were stamped are in time order in a chunk."""
    desk = Desk()
    for stamp in (5, 3, 9, 1):
        desk.send(Frame(struct.pack("<I", stamp) * 20, stamp))
    desk.drain()
    assert [stamp for stamp, _ in desk.seen] == [1, 3, 5, 9]
    assert all(data == struct.pack("<I", stamp) * 20 for stamp, data in desk.seen)


def test_sparse_blocks_go_back_at_once():
    """A block with little in it is copied out: the kernel has it again while the handler still has the chunk."""
    desk = Desk()
    for number in range(3 * BLOCKS):
        desk.send(Frame(bytes([number]) * 60, number))
        desk.kernel.close()
        desk.capture()
        desk.take()
    assert desk.kernel.lost == 0
    assert desk.source.held[:BLOCKS].sum() == 0
    assert desk.pool.queues[w.COPIED] == 3 * BLOCKS
    desk.drain()
    assert len(desk.seen) == 3 * BLOCKS


@pytest.mark.parametrize(("size", "copied"), [(300, True), (900, False)])
def test_long_packets_stay_while_handlers_are_behind(size, copied):
    """With more than half of the ring held, short packets make room in the ring; long ones cost no copy."""
    desk = Desk()
    for number in range(60):
        desk.send(Frame(bytes([number]) * size, number))
        desk.capture()
        desk.take()
    assert bool(desk.pool.queues[w.COPIED]) == copied
    assert desk.pool.queues[w.HELD_BLOCKS] == (BLOCKS // 2 if copied else BLOCKS)
    desk.drain()


def test_a_full_ring_says_so():
    """While handlers have all blocks the queue is full; once they are done the kernel goes on."""
    desk = Desk()
    for number in range(200):
        desk.send(Frame(bytes([number]) * 700, number))
        desk.capture()
        desk.take()
    assert desk.kernel.lost > 0
    assert desk.pool.queues[w.FULL] == 1
    desk.drain()
    desk.capture()
    assert desk.pool.queues[w.FULL] == 0
    assert desk.kernel.deliver(Frame(bytes(60), 1))
