"""The words of a capture file that is being scanned, and how a scan reports why it stopped.

``state`` is one int64 array of STATE_WORDS.  ``interfaces`` is int64, INTERFACE_WORDS per interface.
Offsets are into the arena; ``ORIGIN`` plus an arena offset is the offset in the (uncompressed) file.
"""

from __future__ import annotations

from wirecap.kernels.jit import inline

FORMAT = 0  # PCAP or PCAPNG
POSITION = 1  # where the next record starts
END = 2  # end of the bytes that are there
FINAL = 3  # 1: no bytes will follow END, so a record cut there is an error
SWAPPED = 4  # 1: the file, or the pcapng section, is big-endian
HEADER = 5  # bytes of a pcap record header: 16, or 24 in Kuznetzov's variant
STOP = 6  # why the last scan stopped
INTERFACE = 7  # interface of the row that the last scan filled: an index into `interfaces`
SECTION = 8  # index of the first interface of this pcapng section
KNOWN = 9  # interfaces described so far
ERROR = 10
ERROR_AT = 11  # arena offset of the record that is wrong
WANTED = 12  # bytes, or the id, that the error is about
GOT = 13
BLOCK_BYTES = 14  # a packet at address a lies in block (a - 1) // BLOCK_BYTES of the arena
ORIGIN = 15
MIXED = 16  # 1, set by the caller: a row may hold packets of all interfaces of one link type; INTERFACE is the last
STATE_WORDS = 17

PCAP, PCAPNG = 0, 1

# STOP
FULL, OTHER_INTERFACE, DESCRIPTION, MORE, ENDED, FAILED = 0, 1, 2, 3, 4, 5

# ERROR
CUT_HEADER, CUT_PACKET, ABSURD_LENGTH, BLOCK_LENGTH, TRAILER, NO_INTERFACE, PACKET_IN_BLOCK = 1, 2, 3, 4, 5, 6, 7

# An interface's words.
LARGEST = 0  # captured lengths above this are absurd
SNAPLEN = 1  # 0: unlimited
MULTIPLIER = 2  # ns = ticks * MULTIPLIER // DIVISOR + OFFSET_NS, or by SHIFT if that is not zero
DIVISOR = 3
SHIFT = 4  # ticks of 2**-SHIFT seconds, 1 to 62
OFFSET_NS = 5
LOWEST, HIGHEST = 6, 7  # ticks beyond these do not fit int64 ns and are moved to them
LINKTYPE = 8
INTERFACE_WORDS = 9

MAX_CAPTURED = 262144  # libpcap's MAXIMUM_SNAPLEN: no capture that it made has longer packets
MAX_BLOCK = 16 << 20  # libpcap's bound for a pcapng block

AHEAD = 4096  # bytes that a scan asks the memory for ahead of what it reads


@inline
def fail(state, code, position, wanted, got):
    state[STOP] = FAILED
    state[ERROR] = code
    state[ERROR_AT] = position
    state[WANTED] = wanted
    state[GOT] = got


@inline
def cut(state, code, position, wanted):
    """The record at position does not fit: the end of the data, a cut file, or more must be read first."""
    state[WANTED] = wanted
    if not state[FINAL]:
        state[STOP] = MORE
    elif position >= state[END]:
        state[STOP] = ENDED
    else:
        fail(state, code, position, wanted, state[END] - position)
