"""Where things lie in the memory of a flow table; all of it is int64 words but ``due``, which is uint32.

control: the words below.  entries: ENTRY_WORDS for each flow.  index: open addressing, a power of two of words, each a
hash's tag << 32 | entry + 1, or 0.  due: for each entry the earliest tick at which its flow may end, NEVER if it is
free.  ring: finished records, each as its entry was, with the reason why it ended in FLAGS.  keys: scratch.  ways: for
each interface how its packets' direction is known (origin.py); the last word is for all further interfaces.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from wirecap.kernels.base.kinds import lengths, record, words

ENTRY_WORDS = 16
# words of an entry.  A and B are the two ends, of which A has the lower address (the lower port, if they are the same).
A_HIGH, A_LOW, B_HIGH, B_LOW, KEY, FIRST, LAST = range(7)
PACKETS, IP_BYTES, FRAME_BYTES, CAPTURED, FLAGS, MORE = 7, 9, 11, 13, 14, 15  # three pairs: forward, reverse
NEXT_FREE = 0  # in an entry without a flow: the next one of these + 1
EMPTY_FIRST = (1 << 63) - 1  # FIRST while no packet has come since the last record, and the latest time

# KEY: ports of A and B, protocol, VLAN, IP version
PORT_A, PORT_B, PROTOCOL, VLAN, IS_IP6 = 16, 0, 32, 40, 52
# FLAGS: TCP flags (12 bits) by direction; whether B is the source; whether that is known to have begun; FINs by
# direction; whether both have ended, or one has reset; whether FROM_B is decided; in a record: why it ended
REVERSE_FLAGS, FROM_B, INITIATED, FIN, CLOSED, DIRECTED, REASON = 12, 24, 25, 26, 28, 29, 32
TCP_FLAGS = 0xFFF
# MORE: type of service by direction; ICMP's type and code; whether these are known; origins (origin.py) by direction
REVERSE_TOS, ICMP, HAS_ICMP, ORIGIN = 8, 16, 32, 33
# an origin: the interface's place in the source's list + 1, 0 if it has none; IN, OUT or 0
INTERFACE_MASK, DIRECTION, ORIGIN_BITS = 0xFFF, 12, 14
IN, OUT = 1, 2

IDLE, ACTIVE, END, FORCED, EVICTED = 1, 2, 3, 4, 5
"""Why a flow ended: IPFIX's flowEndReason (RFC 5102, section 5.11.3)."""

NOT_IP, MALFORMED, TRUNCATED, FRAGMENT = 1, 2, 3, 4
KINDS = {NOT_IP: "not_ip", MALFORMED: "malformed", TRUNCATED: "truncated", FRAGMENT: "fragment"}
"""Packets without a flow."""

# control
LOCK, TAIL, HEAD = 0, 8, 16  # a cache line each
(
    FREE, HIGH, HELD, HAND, NOW, EPOCH, SWEEP_AT, SWEPT, LINK, IDLE_NS, ACTIVE_NS, LINGER_NS, WAITS, INNER,
    FAILED, PHASE_AT, LOST, LOST_PACKETS, LOST_BYTES, FLOW_PACKETS, FLOW_BYTES, MOST_HELD,
) = range(24, 46)  # fmt: skip
MADE = 48  # records by reason, LAST_REASON + 1 words
OTHERS, OTHER_BYTES = 56, 64  # packets without a flow and their captured bytes, by kind
SEED = 72  # odd numbers, one for each word of a key
SCRATCH = 80  # for sleeping
CONTROL_WORDS = 96
NEVER_SEEN = -(1 << 63)

NEVER = 0xFFFFFFFF
TICK_BITS = 26  # a tick is 2**26 ns

BLOCK = 64
"""Packets that are looked up together, so that memory is fetched for all of them at once."""
KEY_WORDS = 10
ROOM = 4 * BLOCK
"""Free places in the ring without which a block is not begun, and no flow ended by looking around."""


class FlowTable(NamedTuple):
    """The parts, as kernels take them."""

    control: Any
    entries: Any
    index: Any
    due: Any
    ring: Any
    keys: Any
    ways: Any


FLOW_TABLE = record(FlowTable, words, words, words, lengths, words, words, words)
