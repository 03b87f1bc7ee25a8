"""A sender's AF_XDP queues whose NIC keeps the times: the verbs of kernels/transmit/xdp_queues.py, with metadata.

In front of each frame lies a struct xsk_tx_metadata (linux/if_xdp.h, Documentation/networking/xsk-tx-metadata.rst;
Linux 6.15), and an option of the descriptor says so.  It asks the NIC to send the frame at its launch time, and to put
the time at which it did so into the metadata.  Both are times of the NIC's own clock.

An address in these rings is that of the frame, ``METADATA_BYTES`` behind the beginning of its cell.
"""

from __future__ import annotations

from wirecap.kernels.base.jit import inline
from wirecap.kernels.base.kinds import i64
from wirecap.kernels.base.unaligned import load64, store64
from wirecap.kernels.transmit import xdp_queues
from wirecap.kernels.transmit.ring import TX_WORDS, describe

METADATA_BYTES = 24
FLAGS_AT, STAMP_AT, LAUNCH_AT = 0, 8, 16  # where the fields lie; the kernel leaves the launch time as it is
ASK_STAMP, ASK_LAUNCH = 1 << 0, 1 << 2  # XDP_TXMD_FLAGS_TIMESTAMP, _LAUNCH_TIME
HAS_METADATA = (1 << 1) << 32  # XDP_TX_METADATA in a descriptor's options

# words of a queue's ring, behind those of xdp_queues
(
    ORIGIN,  # the launch time of a frame that is due at 0
    STAMPED,  # frames that the NIC stamped; so many ns after their launch times, which may be before them:
    EARLIEST, LATEST, SUM,
) = range(xdp_queues.NUMBER_AT + 1, xdp_queues.NUMBER_AT + 6)  # fmt: skip

count, pending, unfinished, is_full = (
    xdp_queues.count, xdp_queues.pending, xdp_queues.unfinished, xdp_queues.is_full,
)  # fmt: skip


@inline
def put(queues, q, frames, i, which, addresses):
    """Copy packet i of ``frames`` into a free cell, say when it is to leave, and describe it in the TX ring."""
    b, own = q * TX_WORDS, queues.words
    address = queues.free[q, own[b + xdp_queues.FREE] - 1]
    at = own[b + xdp_queues.UMEM] + address - METADATA_BYTES
    store64(queues.umem, at + FLAGS_AT, i64(ASK_STAMP | ASK_LAUNCH))
    store64(queues.umem, at + STAMP_AT, i64(0))
    store64(queues.umem, at + LAUNCH_AT, own[b + ORIGIN] + frames.due[i])
    xdp_queues.put(queues, q, frames, i, which, addresses)
    length = i64(frames.length[i]) | HAS_METADATA
    describe(queues.rings, queues, q, own[b + xdp_queues.PENDING] - 1, address, length)


@inline
def flush(queues, q):
    """``flush`` of xdp_queues; then look at the stamps of what was completed: its cells lie on top of the free ones."""
    before = queues.words[q * TX_WORDS + xdp_queues.FREE]
    xdp_queues.flush(queues, q)
    for k in range(before, queues.words[q * TX_WORDS + xdp_queues.FREE]):
        note(queues, q, queues.free[q, k])


@inline
def note(queues, q, address):
    """Count a completed frame's stamp, if the NIC gave it one: it has room for few at a time."""
    b, own = q * TX_WORDS, queues.words
    at = own[b + xdp_queues.UMEM] + address - METADATA_BYTES
    stamp = load64(queues.umem, at + STAMP_AT)
    if stamp == 0:
        return
    late = stamp - load64(queues.umem, at + LAUNCH_AT)
    first = own[b + STAMPED] == 0
    own[b + EARLIEST] = late if first else min(own[b + EARLIEST], late)
    own[b + LATEST] = late if first else max(own[b + LATEST], late)
    own[b + SUM] += late
    own[b + STAMPED] += 1
