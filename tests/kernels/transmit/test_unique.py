"""Each pass has IP addresses of its own, as tcpreplay 4.4.3 sent them with --unique-ip (values from its output)."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from wirecap.kernels.transmit.unique import make_unique

A, B, LOW, HIGH = 0x0A000005, 0x0A0000C8, 1, 0xFFFFFFFE
MOST = 0xFFFFFFFF
SENT = {  # source and destination as recorded: those of loops 1 to 4
    (A, B): [(A - 1, B + 1), (A - 2, B + 2), (A - 3, B + 3), (A - 4, B + 4)],
    (B, A): [(B + 1, A - 1), (B + 2, A - 2), (B + 3, A - 3), (B + 4, A - 4)],
    (A, A): [(A + 1, A - 1), (A + 2, A - 2), (A + 3, A - 3), (A + 4, A - 4)],
    (LOW, A): [(0, A + 1), (0xFFFFFFFE, A + 2), (0xFFFFFFFD, A + 3), (0xFFFFFFFC, A + 4)],
    (A, HIGH): [(A - 1, MOST), (A - 2, 1), (A - 3, 2), (A - 4, 3)],
    (HIGH, A): [(MOST, A - 1), (1, A - 2), (2, A - 3), (3, A - 4)],
    (0, MOST): [(MOST, 0), (0xFFFFFFFE, 1), (0xFFFFFFFD, 2), (0xFFFFFFFC, 3)],
    (LOW, MOST): [(0, 1), (MOST, 1), (0xFFFFFFFE, 2), (0xFFFFFFFD, 3)],
}  # fmt: skip


def ipv4(source, destination):
    return (
        bytes.fromhex("4500002400070000401100000000")[:12] + struct.pack("!II", source, destination) + b"payload!" * 2
    )


def ipv6(source, destination):
    prefix = bytes.fromhex("fd0000000000000000000000")
    ends = prefix + struct.pack("!I", source) + prefix + struct.pack("!I", destination)
    return bytes.fromhex("6000000000101140") + ends + b"payload!" * 2


def sent(packets, header, in_pass, first, loops):
    """The packets with their passes' addresses."""
    length = np.array([len(packet) for packet in packets], np.uint32)
    address = (np.cumsum(length) - length).astype(np.int64)
    arena = np.frombuffer(b"".join(packets), np.uint8).copy()
    out, place = np.zeros(arena.size, np.uint8), np.empty(len(packets), np.int64)
    assert make_unique(arena, address, length, len(packets), header, in_pass, first, loops, out, place) == arena.size
    return [out[at : at + int(size)].tobytes() for at, size in zip(place, length, strict=True)]


@pytest.mark.parametrize("make", [ipv4, ipv6])
@pytest.mark.parametrize("link", [bytes(12), bytes(12) + b"\x81\0\0\7", bytes(12) + b"\x88\xa8\0\7\x81\0\0\1", b""])
def test_addresses_are_those_of_tcpreplay(make, link):
    """In Ethernet frames with and without VLAN tags, and in IP packets alone; nothing else changes."""
    kind = b"\x08\0" if make is ipv4 else b"\x86\xdd"
    front = link + kind if link else b""
    once = [front + make(*ends) for ends in SENT]
    found = sent(once * 5, len(front) and 14, len(once), 0, 1)
    for loop in range(5):
        wanted = [front + make(*(ends if loop == 0 else later[loop - 1])) for ends, later in SENT.items()]
        assert found[loop * len(once) : (loop + 1) * len(once)] == wanted


def test_several_loops_can_share_addresses():
    """With 2: loops 0 and 1 are as recorded, 2 and 3 have the first others, and so on."""
    packet = bytes(12) + b"\x08\0" + ipv4(A, B)
    steps = [A - struct.unpack_from("!I", found, 26)[0] for found in sent([packet] * 5, 14, 1, 1, 2)]
    assert steps == [0, 1, 1, 2, 2]


def test_what_has_no_addresses_stays():
    """ARP, and an IP packet that was cut before its addresses."""
    packets = [bytes(12) + b"\x08\x06" + bytes(28), (bytes(12) + b"\x08\0" + ipv4(A, B))[:30], bytes(14)]
    assert sent(packets, 14, 1, 3, 1) == packets
