"""The handles (pcap_t) that the program has, as the shared object knows them: a table of HANDLE_BYTES each.

A handle is real libpcap's until ``pcap_activate`` finds a running capture.  From then on it is *served*: packets come
from the capture, and what else libpcap does with a handle (compiling, link types, errors) is done with the *inner*
handle, which ``pcap_open_dead`` has made.
"""

from __future__ import annotations

from wirecap.kernels.base.jit import inline
from wirecap.kernels.libpcap.export import export, real
from wirecap.kernels.libpcap.memory import HANDLES_BYTES, c_function, handles, load64, store64, swap64, text

HANDLE_BYTES = 1024
COUNT_OF_HANDLES = HANDLES_BYTES // HANDLE_BYTES - 1
"""The last place holds what pcap_lib_version returns."""

# byte offsets of a handle's words
PCAP, STAGE, INNER, SNAPLEN, TIMEOUT_MS, PRECISION, NONBLOCK, STOP = range(0, 64, 8)
SOCKET, DOORBELL, RELEASE, WAITER, ARENA, ARENA_BYTES, RING, RING_BYTES = range(64, 128, 8)
PLACES, M, PLACE, AT, COUNT, TAKEN, ACCEPTED, FILTER, ERROR = range(128, 200, 8)
HEADER = 208  # struct pcap_pkthdr: seconds and parts of a second (64 bits each), captured and original length
NAME, NAME_BYTES = 256, 64
SCRATCH = 384

# stages
FREE, KNOWN, SERVED = 0, 1, 2

stpcpy, strnlen = c_function("stpcpy", 2), c_function("strnlen", 2)
real_geterr = real("pcap_geterr")


@inline
def find(pcap):
    """The address of what is known of a program's handle, or 0."""
    table = handles()
    for number in range(COUNT_OF_HANDLES):
        entry = table + number * HANDLE_BYTES
        if load64(entry + PCAP) == pcap and load64(entry + STAGE) != FREE:
            return entry
    return 0


@inline
def served(pcap):
    """The same, if the handle is served; 0 for any other."""
    entry = find(pcap)
    if entry != 0 and load64(entry + STAGE) == SERVED:
        return entry
    return 0


@inline
def add(device):
    """A place for a handle of this interface, whose PCAP is still 0; 0 if there is none, or the name is too long."""
    name = device if device != 0 else text("any")
    if strnlen(name, NAME_BYTES) >= NAME_BYTES - 1:
        return 0
    table = handles()
    for number in range(COUNT_OF_HANDLES):
        entry = table + number * HANDLE_BYTES
        if load64(entry + STAGE) == FREE and swap64(entry + STAGE, FREE, KNOWN):
            for at in range(16, HANDLE_BYTES, 8):
                store64(entry + at, 0)
            stpcpy(entry + NAME, name)
            return entry
    return 0


@inline
def forget(entry):
    store64(entry + PCAP, 0)
    store64(entry + STAGE, FREE)


@inline
def note(pcap, word, value):
    """Remember a setting, in case the handle is served later."""
    entry = find(pcap)
    if entry != 0 and load64(entry + STAGE) == KNOWN:
        store64(entry + word, value)


@export("wirecap.known_as", 1)
def known_as(pcap):
    """The handle that real libpcap should get for a program's."""
    entry = served(pcap)
    return load64(entry + INNER) if entry != 0 else pcap


@inline
def fail(entry, message):
    """Leave 'eth1: MESSAGE' for pcap_geterr, or in ERROR where there is no handle yet; return PCAP_ERROR."""
    buffer = load64(entry + ERROR)
    if buffer == 0:
        which = load64(entry + INNER) if load64(entry + STAGE) == SERVED else load64(entry + PCAP)
        buffer = real_geterr(which, 0, 0, 0, 0, 0)
    if buffer != 0:
        stpcpy(stpcpy(stpcpy(buffer, entry + NAME), text(": ")), message)
    return -1
