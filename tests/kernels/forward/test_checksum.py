"""Checksums that a local stack left to its device: finished where they are missing, and nothing else is touched."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import dpkt
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from wirecap.kernels.base.jit import PURE, kernel
from wirecap.kernels.base.kinds import byte_array, i64, lengths, words
from wirecap.kernels.forward.checksum import finish_all

TCP, UDP = 6, 17
SPACING = 2048


@kernel(i64(byte_array, words, lengths, i64))
def finished(arena, address, captured, n):
    """What a forwarding thread does with the packets of a chunk."""
    return finish_all(arena, address, captured, n)


def finish(*frames: bytes) -> tuple[int, list[bytes]]:
    """How many of the frames were unfinished, and the frames afterwards."""
    arena = np.zeros(SPACING * (len(frames) + 1), np.uint8)
    address = np.arange(len(frames), dtype=np.int64) * SPACING + 256
    captured = np.array([len(frame) for frame in frames], np.uint32)
    for at, frame in zip(address.tolist(), frames, strict=True):
        arena[at : at + len(frame)] = np.frombuffer(frame, np.uint8)
    before = arena.copy()
    count = finished(arena, address, captured, len(frames))
    for at, frame in zip(address.tolist(), frames, strict=True):
        before[at : at + len(frame)] = arena[at : at + len(frame)]
    assert (before == arena).all(), "a byte outside the packets was written"
    places = zip(address.tolist(), frames, strict=True)
    return count, [arena[at : at + len(frame)].tobytes() for at, frame in places]


@dataclass(frozen=True)
class Shape:
    """A packet of TCP or UDP; its checksum is put in by ``frame``."""

    version: int
    protocol: int
    tags: int
    options: int  # 32-bit words of IPv4 options, or extension headers of IPv6
    source: bytes
    target: bytes
    payload: bytes
    trailer: int
    fragment: str = ""  # first, later

    def segment(self, checksum: int) -> bytes:
        if self.protocol == TCP:
            return struct.pack("!HHIIHHHH", 1000, 2000, 1, 2, 5 << 12 | 16, 100, checksum, 0) + self.payload
        return struct.pack("!HHHH", 1000, 2000, 8 + len(self.payload), checksum) + self.payload

    @property
    def pseudo(self) -> bytes:
        """RFC 793, RFC 8200 section 8.1."""
        size = len(self.segment(0))
        if self.version == 4:
            return self.source + self.target + struct.pack("!BBH", 0, self.protocol, size)
        return self.source + self.target + struct.pack("!IxxxB", size, self.protocol)

    @property
    def unfinished(self) -> int:
        """What the stack leaves in the field: the sum of the pseudo-header alone."""
        return 0xFFFF ^ dpkt.in_cksum(self.pseudo)

    @property
    def right(self) -> int:
        found = int(dpkt.in_cksum(self.pseudo + self.segment(0)))
        return 0xFFFF if found == 0 and self.protocol == UDP else found

    def frame(self, checksum: int) -> bytes:
        segment = self.segment(checksum)
        tags = b"".join(struct.pack("!HH", 0x8100 if n else 0x88A8, n) for n in range(self.tags))
        if self.version == 4:
            offset = {"": 0x4000, "first": 0x2000, "later": 0x0010}[self.fragment]
            size = 20 + 4 * self.options
            header = struct.pack("!BBHHHBBH", 0x40 | size // 4, 0, size + len(segment), 7, offset, 64, self.protocol, 0)
            network = header + self.source + self.target + b"\1" * 4 * self.options
            kind = 0x0800
        else:
            kinds, parts = [60] * self.options, b""
            if self.fragment:
                kinds.append(44)
            for number, _ in enumerate(kinds):
                following = [*kinds[1:], self.protocol][number]
                rest = b"\0" + (b"\0\1" if self.fragment == "first" else b"\0\x10") + b"\0\0\0\1"
                parts += bytes([following]) + (rest if kinds[number] == 44 else b"\0\1\4\0\0\0\0")
            first = kinds[0] if kinds else self.protocol
            header = struct.pack("!IHBB", 6 << 28, len(parts) + len(segment), first, 64)
            network = header + self.source + self.target + parts
            kind = 0x86DD
        return b"\2" * 12 + tags + struct.pack("!H", kind) + network + segment + b"\xee" * self.trailer


WHOLE = st.just("")


@st.composite
def shapes(draw, fragment=WHOLE):
    version = draw(st.sampled_from([4, 6]))
    size = 4 if version == 4 else 16
    return Shape(
        version, draw(st.sampled_from([TCP, UDP])), draw(st.integers(0, 3)), draw(st.integers(0, 3)),
        draw(st.binary(min_size=size, max_size=size)), draw(st.binary(min_size=size, max_size=size)),
        draw(st.binary(max_size=120)), draw(st.integers(0, 7)), draw(fragment),
    )  # fmt: skip


EXAMPLES = settings(max_examples=60 if PURE else 400, deadline=None, suppress_health_check=list(HealthCheck))


@EXAMPLES
@given(shapes(), shapes())
def test_an_unfinished_checksum_is_finished(one, other):
    """As dpkt computes it: IPv4 and IPv6, with options, extension headers, VLAN tags, odd lengths and trailers."""
    count, (first, second) = finish(one.frame(one.unfinished), other.frame(other.right))
    assert first == one.frame(one.right)
    assert second == other.frame(other.right)
    assert count == (one.unfinished != one.right)


@EXAMPLES
@given(shapes(), st.integers(0, 0xFFFF))
def test_a_checksum_that_is_there_is_left(shape, checksum):
    """Right or wrong, or 0 for none: unless it is the sum of the pseudo-header it is the sender's own."""
    for value in {checksum, 0} - {shape.unfinished}:
        frame = shape.frame(value)
        assert finish(frame) == (0, [frame])


@EXAMPLES
@given(shapes(st.sampled_from(["first", "later"])), st.integers(0, 0xFFFF))
def test_fragments_are_left(shape, checksum):
    """A fragment does not have what its checksum is of."""
    for value in (checksum, shape.unfinished):
        frame = shape.frame(value)
        assert finish(frame) == (0, [frame])


@EXAMPLES
@given(shapes(), st.data())
def test_a_packet_that_was_cut_is_left(shape, data):
    """Without all of its bytes there is no checksum."""
    whole = shape.frame(shape.unfinished)
    end = len(whole) - shape.trailer
    frame = whole[: data.draw(st.integers(0, end - 1))]
    assert finish(frame) == (0, [frame])


@pytest.mark.parametrize("protocol", [1, 33, 58, 132, 136])
def test_other_protocols_are_left(protocol):
    """Whatever stands where TCP's or UDP's checksum would be."""
    shape = Shape(4, UDP, 0, 0, bytes(4), bytes(4), bytes(30), 0)
    frame = bytearray(shape.frame(shape.unfinished))
    frame[23] = protocol
    pseudo = struct.pack("!8xBBH", 0, protocol, 38)
    frame[40:42] = struct.pack("!H", 0xFFFF ^ dpkt.in_cksum(pseudo))
    assert finish(bytes(frame)) == (0, [bytes(frame)])


def test_a_datagram_shorter_than_its_packet_is_left():
    """UDP whose own length is not the packet's: nobody says which one the checksum is of."""
    shape = Shape(4, UDP, 0, 0, b"\1" * 4, b"\2" * 4, bytes(30), 0)
    frame = bytearray(shape.frame(shape.unfinished))
    frame[38:40] = struct.pack("!H", 20)
    assert finish(bytes(frame)) == (0, [bytes(frame)])
