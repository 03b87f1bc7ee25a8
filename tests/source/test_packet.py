"""Sizes of the packet engine's rings."""

from __future__ import annotations

import mmap

from hypothesis import given
from hypothesis import strategies as st

from wirecap.filters.in_socket import WHOLE, longest_kept, socket_program
from wirecap.kernels import packet_words as w
from wirecap.source.packet import ring_blocks


@given(st.integers(64, 100_000), st.integers(1, 1950))
def test_slots_have_room_and_little_more(slots, kept):
    """A ring of slots holds so many packets of the kept length, and less than a block more where it is no smaller than
    the smallest ring; whole pages, and at least 16 packets in a block."""
    size, ring, spill = ring_blocks(slots * 2048, slots, kept)
    in_block = (size - 48) // (-(-(82 + kept) // 8) * 8)
    assert size % mmap.PAGESIZE == 0
    assert in_block >= 16
    assert spill == 0
    assert slots <= ring * in_block < max(slots, 8 * in_block) + in_block


@given(st.integers(64, 10_000))
def test_whole_packets_have_large_blocks(slots):
    """Where packets may be as long as offloads make them, a block holds one of 64 KiB."""
    size, _, _ = ring_blocks(slots * 2048, slots, WHOLE)
    assert size > 65_536 + w.PACKET_HEADER_BYTES + w.BLOCK_HEADER_BYTES


def test_what_a_program_keeps():
    """The longest packet that is let in: all of it without a program, else what its last instructions say."""
    assert longest_kept(None) == longest_kept(socket_program(None, WHOLE, "in")) == WHOLE
    assert longest_kept(socket_program(None, 96, "in")) == 96
    assert longest_kept([(0x16, 0, 0, 0)]) == WHOLE  # ret a: not known
