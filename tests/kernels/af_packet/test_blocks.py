"""Packet rings against a model of the kernel's side: whose a block is, and that every packet comes once, as it was."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wirecap.engine.engine import build_pool
from wirecap.files.headers import Interface
from wirecap.kernels.af_packet import blocks as w
from wirecap.kernels.af_packet.capture_loop import turn
from wirecap.kernels.base import libc
from wirecap.kernels.base.jit import kernel, prepare
from wirecap.kernels.base.kinds import i64, words
from wirecap.kernels.pool import pool as k
from wirecap.kernels.pool.pool import POOL, RINGS, Rings
from wirecap.kernels.pool.work_queues import EMPTY, pop
from wirecap.source.source import SourceQueue

M, R, BLOCKS, SPILLS, BLOCK_BYTES = 4, 6, 4, 2, 4096
HEADER, MAC = 48, 82


@kernel(i64(POOL, RINGS, words, i64, words, words))
def look(pool, rings, held, now, depths, scratch):
    """What a capture thread does in every round of its loop."""
    return turn(pool, rings, 0, held, now, 1, depths, scratch)


@kernel(i64(words, i64, i64))
def take_chunk(work_queues, base, mask):
    """What a handler does to get a chunk."""
    return pop(work_queues, base, mask)


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    prepare([look, take_chunk, k.give_back])


@dataclass
class Frame:
    """A packet on its way; tag: what the kernel took out of it, and its type."""

    data: bytes
    timestamp: int
    tag: tuple[int, int] | None = None
    packet_type: int = 0  # sll_pkttype

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
            "<6I2H2I2H", 0, frame.timestamp // 10**9, frame.timestamp % 10**9, len(frame.data), len(frame.data),
            status, MAC, 0,
            0, tag, kind, 0,
        )  # fmt: skip
        self.memory[at : at + len(header)] = np.frombuffer(header, np.uint8)
        self.memory[at + w.PACKET_TYPE] = frame.packet_type
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
    large_units = 0

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
        self.pool = build_pool(self.source, M, R, [0], [[0]], 1)
        self.kernel = Kernel(self.source.arena)
        self.chunks: list[int] = []
        self.seen: list[tuple[int, bytes]] = []
        self.flags: dict[int, int] = {}  # the byte before each packet, by timestamp
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
        slot = take_chunk(self.pool.work_queues, 0, int(self.pool.control[k.WORK_QUEUE_MASK]))
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
            self.flags[int(pool.timestamp[slot, i])] = int(pool.arena[at - 1]) if at else 0
            self.seen.append((int(pool.timestamp[slot, i]), bytes(pool.arena[at : at + size])))
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
@given(st.lists(STEPS, max_size=120), st.booleans())
def test_every_packet_comes_once_as_it_was(steps, marked):
    """Whatever the order of events: all bytes arrive, tags are back, flags too; no chunk's block is taken."""
    desk = Desk()
    desk.pool.queues[w.MARKED] = marked
    for number, (what, given_) in enumerate(steps):
        if what == "send":
            size, fill, tag = given_
            data = struct.pack("<I", number) + bytes([fill]) * (size - 4)
            desk.send(Frame(data, 1_000_000_000 + number, tag, number % 7))
        elif what == "close":
            desk.kernel.close()
        elif what == "finish":
            desk.finish(given_)
        else:
            getattr(desk, what)()
        desk.check()
    desk.drain()
    desk.check()
    assert sorted(desk.seen) == [(frame.timestamp, frame.whole()) for frame in desk.sent]
    flags = [0b00101, 0b01101, 0b01001, 0b10001, 0b00010, 0, 0]  # direction, then to whom, by sll_pkttype
    if marked:
        assert desk.flags == {frame.timestamp: flags[frame.packet_type] for frame in desk.sent}
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
    assert [timestamp for timestamp, _ in desk.seen] == [1, 2, 3, 4]


def test_overtaking_is_put_right():
    """Packets that CPUs delivered in another order than they were timestamped are in time order in a chunk."""
    desk = Desk()
    for timestamp in (5, 3, 9, 1):
        desk.send(Frame(struct.pack("<I", timestamp) * 20, timestamp))
    desk.drain()
    assert [timestamp for timestamp, _ in desk.seen] == [1, 3, 5, 9]
    assert all(data == struct.pack("<I", timestamp) * 20 for timestamp, data in desk.seen)


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
