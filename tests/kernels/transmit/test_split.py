"""Which of two interfaces a packet goes to: the flow's client to the first, its server to the second."""

from __future__ import annotations

import struct

import numpy as np

from wirecap.kernels.transmit import split as k

A, B, C = 0x0A000001, 0x0A000002, 0xFA000003
TCP, UDP, SYN, ACK = 6, 17, 2, 16


def ip4(source, destination, protocol, body, fragment=0):
    head = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(body), 7, fragment, 64, protocol, 0, source, destination)
    return bytes(12) + b"\x08\0" + head + body


def ip6(source, destination, protocol, body):
    ends = bytes(12) + struct.pack("!I", source) + b"\xfd" + bytes(11) + struct.pack("!I", destination)
    if source > destination:
        ends = ends[16:28] + struct.pack("!I", source) + ends[:12] + struct.pack("!I", destination)
    return bytes(12) + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + ends + body


def udp(source, destination):
    return struct.pack("!HHHH", source, destination, 8, 0)


def tcp(source, destination, flags):
    return struct.pack("!HHIIBBHHH", source, destination, 0, 0, 0x50, flags, 0, 0, 0)


def split(packets, link=1, table=None, at_once=1000):
    """The places of packets, given in parts."""
    table = np.zeros(64, np.int64) if table is None else table
    length = np.array([len(packet) for packet in packets], np.uint32)
    address = (np.cumsum(length) - length).astype(np.int64)
    arena, used = np.frombuffer(b"".join(packets) + bytes(64), np.uint8).copy(), np.zeros(1, np.int64)
    chosen, done = np.full(len(packets), k.UNDECIDED), 0
    while done < len(packets):
        last = min(done + at_once, len(packets))
        reached = int(k.by_flow(arena, address, length, done, last, link, table, used, chosen))
        if reached < last:
            larger = np.zeros(4 * table.size, np.int64)
            k.regrow(table, larger)
            table = larger
        done = reached
    return chosen.tolist()


def test_client_is_who_spoke_first():
    """In each flow of its own, of either protocol and family, whichever address is the higher."""
    packets = [
        ip4(A, B, UDP, udp(1000, 53)), ip4(B, A, UDP, udp(53, 1000)), ip4(B, A, UDP, udp(53, 1001)),
        ip4(A, B, UDP, udp(1001, 53)), ip4(C, A, UDP, udp(1, 2)), ip4(A, C, UDP, udp(2, 1)),
        ip6(A, B, UDP, udp(1000, 53)), ip6(B, A, UDP, udp(53, 1000)), ip4(A, B, TCP, tcp(1000, 53, ACK)),
        ip4(B, A, 1, bytes(8)), ip4(A, B, 1, bytes(8)), bytes(12) + b"\x08\x06" + bytes(28),
    ]  # fmt: skip
    assert split(packets) == [0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0]
    assert split([packet[14:] for packet in packets[:6]], link=101) == [0, 1, 0, 1, 0, 1]


def test_syn_tells_who_the_client_is():
    """A recording that begins with the answer; and ports that are used again the other way round."""
    answer, ask = tcp(80, 1000, SYN | ACK), tcp(1000, 80, SYN)
    packets = [
        ip4(B, A, TCP, answer), ip4(A, B, TCP, tcp(1000, 80, ACK)), ip4(B, A, TCP, tcp(80, 1000, ACK)),
        ip4(B, A, TCP, tcp(80, 1000, SYN)), ip4(A, B, TCP, tcp(1000, 80, SYN | ACK)), ip4(A, B, TCP, ask),
    ]  # fmt: skip
    assert split(packets) == [1, 0, 1, 0, 1, 0]


def test_fragments_stay_with_their_hosts():
    """All fragments of a datagram go one way, whether or not they have the ports."""
    first, later = ip4(A, B, UDP, udp(1000, 53), 0x2000), ip4(A, B, UDP, bytes(16), 1)
    back = ip4(B, A, UDP, udp(53, 1000), 0x2000)
    assert split([first, later, back, ip4(B, A, UDP, bytes(16), 1)]) == [0, 0, 1, 1]


def test_fragmented_answers_come_from_the_server():
    """Fragments have no ports: who asked is known from the flow before them, in each protocol and family."""
    ask, answer = ip4(A, B, UDP, udp(1000, 53)), ip4(B, A, UDP, udp(53, 1000), 0x2000)
    assert split([ask, answer, ip4(B, A, UDP, bytes(16), 1), ip4(A, B, TCP, bytes(16), 1)]) == [0, 1, 1, 0]
    late = [ip4(B, A, TCP, tcp(80, 1000, SYN | ACK)), ip4(B, A, TCP, tcp(80, 1000, ACK), 0x2000), answer]
    assert split(late) == [1, 1, 0]
    for source, destination in ((A, B), (B, A), (A, C)):
        ask = ip6(source, destination, UDP, udp(1000, 53))
        answer = ip6(destination, source, 44, struct.pack("!BBHI", UDP, 0, 1, 7) + udp(53, 1000))
        later = ip6(destination, source, 44, struct.pack("!BBHI", UDP, 0, 8, 7) + bytes(8))
        assert split([ask, answer, later]) == [0, 1, 1]


def test_table_grows_with_the_flows():
    """5,000 flows in a table that begins with 64 entries, each packet followed by its answer at the end."""
    there = [ip4(A + number, B, UDP, udp(1000, 53)) for number in range(5000)]
    back = [ip4(B, A + number, UDP, udp(53, 1000)) for number in range(5000)]
    assert split(there + back) == [0] * 5000 + [1] * 5000
    assert split(there[:100] + back[:100], at_once=7) == [0] * 100 + [1] * 100


def test_what_is_decided_stays():
    """A packet whose direction was recorded keeps its place."""
    packet = ip4(A, B, UDP, udp(1, 2))
    chosen = np.array([1, -1])
    arena = np.frombuffer(packet * 2 + bytes(64), np.uint8).copy()
    length = np.full(2, len(packet), np.uint32)
    k.by_flow(arena, np.array([0, len(packet)]), length, 0, 2, 1, np.zeros(64, np.int64), np.zeros(1, np.int64), chosen)
    assert chosen.tolist() == [1, 0]


def enhanced(order, interface, data, options=b""):
    head = struct.pack(order + "5I", interface, 0, 0, len(data), len(data))
    body = head + data + bytes(-len(data) % 4) + options
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", 6) + size + body + size


def test_direction_and_interface_stand_in_the_block():
    """epb_flags behind other options, in either byte order; a cooked header otherwise; else nobody knows."""
    for order, swapped in (("<", 0), (">", 1)):
        comment = struct.pack(order + "HH4s", 1, 3, b"abc")
        blocks = [
            enhanced(order, n % 3, bytes(60 + n), b"" if flags is None else
                     comment + struct.pack(order + "HHIHH", 2, 4, flags, 0, 0))
            for n, flags in enumerate([1, 2, None, 0, 0x12 << 5 | 2])
        ]  # fmt: skip
        ends = np.cumsum([len(block) for block in blocks])
        address = np.array([0, *ends[:-1]]) + 28
        captured = np.array([60 + n for n in range(len(blocks))], np.uint32)
        arena, chosen = np.frombuffer(b"".join(blocks), np.uint8).copy(), np.empty(len(blocks), np.int64)
        k.by_direction(arena, address, captured, len(blocks), 1, swapped, 1, chosen)
        assert chosen.tolist() == [0, 1, -1, -1, 1]
        k.by_interface(arena, address, captured, len(blocks), swapped, chosen)
        assert chosen.tolist() == [0, 1, 2, 0, 1]
    for link, place, size in ((k.SLL, 0, 16), (k.SLL2, 9, 20)):
        cooked = [bytes(place) + struct.pack("!H", kind) + bytes(size) for kind in (0, 1, 4)] + [bytes(4)]
        captured = np.array([len(packet) for packet in cooked], np.uint32)
        address = (np.cumsum(captured) - captured).astype(np.int64)
        chosen = np.empty(4, np.int64)
        k.by_direction(
            np.frombuffer(b"".join(cooked) + bytes(64), np.uint8).copy(), address, captured, 4, 0, 0, link, chosen
        )
        assert chosen.tolist() == [0, 0, 1, -1]
