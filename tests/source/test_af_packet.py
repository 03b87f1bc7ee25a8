"""Sizes of the packet engine's rings."""

from __future__ import annotations

import mmap

from hypothesis import given
from hypothesis import strategies as st

from wirecap.filters.in_socket import WHOLE, longest_kept, socket_program
from wirecap.kernels.af_packet import blocks as w
from wirecap.source.af_packet import slot_blocks


@given(st.integers(64, 100_000), st.integers(1, 2048), st.integers(1, 3000))
def test_slots_have_room_and_little_more(slots, slot, longest):
    """A ring of slots holds so many packets and less than a block more, filled as the kernel does it: never to a
    block's last byte; whole pages, and at least 16 packets in a block, or the longest one."""
    size, ring, spill = slot_blocks(slots, slot, max(slot, longest))
    in_block, used = 0, 48
    while used + slot < size:
        in_block, used = in_block + 1, used + slot
    assert size % mmap.PAGESIZE == 0
    assert in_block >= 16
    assert 48 + longest < size
    assert spill == 0
    assert slots <= ring * in_block < max(slots, 2 * in_block) + in_block


@given(st.integers(64, 10_000))
def test_whole_packets_have_large_blocks(slots):
    """Where packets may be as long as offloads make them, a block holds one of 64 KiB."""
    size, _, _ = slot_blocks(slots, 2048, w.packet_bytes(WHOLE))
    assert size > 48 + w.packet_bytes(65_536)


def test_what_a_program_keeps():
    """The longest packet that is let in: all of it without a program, else what its last instructions say."""
    assert longest_kept(None) == longest_kept(socket_program(None, WHOLE, "in")) == WHOLE
    assert longest_kept(socket_program(None, 96, "in")) == 96
    assert longest_kept([(0x16, 0, 0, 0)]) == WHOLE  # ret a: not known
