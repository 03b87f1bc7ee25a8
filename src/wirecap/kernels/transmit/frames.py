"""The frames of a batch, and the copies of them that a sender puts into its ring, with other Ethernet addresses."""

from __future__ import annotations

from typing import Any, NamedTuple

from wirecap.kernels.base.jit import inline
from wirecap.kernels.base.kinds import byte_array, lengths, record, words
from wirecap.kernels.base.unaligned import copy

TO_DESTINATION, TO_SOURCE = 1, 2  # bits of which addresses are put in
ADDRESS_BYTES = 12  # of the two addresses that a queue's frames get


class Frames(NamedTuple):
    """n packets, in the order in which they are sent."""

    arena: Any  # uint8
    address: Any  # int64 (n,): offsets in the arena
    length: Any  # uint32 (n,): bytes
    due: Any  # int64 (n,): ns after the start
    queue: Any  # int64 (n,): which of the sender's queues


FRAMES = record(Frames, byte_array, words, lengths, words, words)


@inline
def copy_frame(target, to, arena, start, length, which, addresses, first):
    """Copy a packet to target[to:]; put the Ethernet addresses at addresses[first:] (destination, source) in, as
    ``which`` says.
    """
    copy(target, to, arena, start, length)
    if which & TO_DESTINATION:
        for k in range(6):
            target[to + k] = addresses[first + k]
    if which & TO_SOURCE:
        for k in range(6, 12):
            target[to + k] = addresses[first + k]
