"""The ring that the live frames' program reads: every packet whole, in order, and none over one that is unread."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wirecap.kernels.transmit import live_records as k
from wirecap.kernels.transmit.frames import Frames

SIZE = 1024


class Ring:
    """A small ring, read as the program reads it."""

    def __init__(self) -> None:
        self.bytes = np.zeros(SIZE + k.HEAD_BYTES + 300, np.uint8)
        self.state = np.zeros(k.PACK_WORDS, np.int64)
        self.rewrite = 0
        self.addresses = np.arange(12, dtype=np.uint8)
        self.cursor = 0

    def put(self, packets: list[bytes], first: int = 0) -> int:
        sizes = np.array([len(packet) for packet in packets], np.uint32)
        starts = (np.cumsum(sizes) - sizes).astype(np.int64)
        arena, due = np.frombuffer(b"".join(packets), np.uint8).copy(), np.arange(len(packets)) * 10
        frames = Frames(arena, starts, sizes, due, np.zeros(len(packets), np.int64))
        last = len(packets)
        return int(k.pack(self.bytes, SIZE, frames, first, last, self.state, self.rewrite, self.addresses))

    def take(self) -> tuple[bytes, int]:
        for _ in range(2):
            at = self.cursor & (SIZE - 1) & ~7
            length, following, due = struct.unpack_from("<IIq", self.bytes, at)
            self.cursor = following
            if length:
                return self.bytes[at + k.HEAD_BYTES : at + k.HEAD_BYTES + length].tobytes(), due
        raise AssertionError("two records without a packet")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(min_size=14, max_size=300), min_size=1, max_size=60), st.integers(1, 6))
def test_packets_come_out_as_they_went_in(packets: list[bytes], unread: int) -> None:
    """However full the ring is, packets leave it byte for byte and in order, with their times, round and round."""
    ring, ends, taken = Ring(), [], []

    def take() -> None:
        taken.append(ring.take())
        ring.state[k.TAIL] = ends[len(taken) - 1]

    for number in range(len(packets)):
        while ring.put(packets[: number + 1], number) == number:
            assert len(taken) < len(ends), "an empty ring takes no packet"
            take()
        ends.append(int(ring.state[k.HEAD]))
        while len(ends) - len(taken) > unread:
            take()
    while len(taken) < len(packets):
        take()
    assert [packet for packet, _ in taken] == packets
    assert [due for _, due in taken] == [10 * number for number in range(len(packets))]


def test_addresses_are_put_in_as_wished() -> None:
    """Bit 1 writes the destination address, bit 2 the source; what follows them stays."""
    packet = bytes(range(100, 160))
    for which, start in (
        (1, bytes(range(6)) + packet[6:12]),
        (2, packet[:6] + bytes(range(6, 12))),
        (3, bytes(range(12))),
    ):
        ring = Ring()
        ring.rewrite = which
        ring.put([packet])
        assert ring.take()[0] == start + packet[12:]
