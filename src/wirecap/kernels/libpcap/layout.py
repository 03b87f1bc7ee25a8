"""What a running capture and the program that reads its packets agree on: a greeting, and a ring in shared memory.

The capture greets each program that connects with one message: the words below, and descriptors with them (those of
the ring, of the two eventfds, of the arena, and of each piece that is mapped over the arena).  The ring has PLACES
places, each for the descriptors of one chunk; the packets themselves stay where they were captured.

    ring:   HEAD, TAIL, DROPPED, CLOSED  (each in a cache line of its own), then the places from byte PAGE on
    place:  n, then from byte ROWS on  address int64 (M,), timestamp int64 (M,), captured uint32 (M,), original (M,)

The capture fills the place at HEAD, adds 1 and rings the program's doorbell; the program gives the place at TAIL back
by adding 1 and ringing the other.  While a place is not given back, the chunk behind it stays in use.
"""

from __future__ import annotations

from wirecap.kernels.base.jit import inline

VERSION = 0x77697265_00000001
"""Changed with every change of this file: a program whose shared object is another version's is told so."""

# words of the greeting; behind them PIECE_WORDS for each piece
GREETING_VERSION, DLT, SNAPLEN, ARENA_BYTES, RING_BYTES, PLACES, M, PIECES = range(8)
GREETING_WORDS = 8
PIECE_AT, PIECE_FILE_OFFSET, PIECE_BYTES = range(3)
PIECE_WORDS = 3
MOST_PIECES = 200
"""The kernel passes 253 descriptors with a message (SCM_MAX_FD)."""
RING_FD, DOORBELL_FD, RELEASE_FD, ARENA_FD, FIRST_PIECE_FD = range(5)

HEAD, TAIL, DROPPED, CLOSED = 0, 64, 128, 192
"""Byte offsets into the ring; DROPPED: packets that the capture has lost since the program connected."""
PAGE = 4096
ROWS = 64
"""Byte offset of the rows in a place."""

SOCKET_PREFIX = "wirecap/libpcap/"
"""Abstract socket names begin with this and end with the interface; they belong to a network namespace."""


@inline
def place_bytes(m):
    """Bytes of a place for chunks of up to m packets."""
    return (ROWS + 24 * m + 63) & -64
