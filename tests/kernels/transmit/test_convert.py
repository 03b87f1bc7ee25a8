"""Packets of other link types become Ethernet frames or IP packets, each with its EtherType; the rest is counted."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from wirecap.kernels.transmit import convert as k

IP4 = bytes.fromhex("4500001c0001000040110000") + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + bytes(8)
IP6 = bytes.fromhex("60000000000811400000")[:8] + bytes(32) + bytes(8)
ARP = bytes.fromhex("0001080006040001") + bytes(20)
MAC = bytes.fromhex("02000000000a")


def sll(protocol: int, hardware: int, payload: bytes, address: bytes = MAC, kind: int = 0) -> bytes:
    """LINKTYPE_LINUX_SLL."""
    return struct.pack("!HHH8sH", kind, hardware, len(address), address, protocol) + payload


def sll2(protocol: int, hardware: int, payload: bytes, address: bytes = MAC, kind: int = 0) -> bytes:
    """LINKTYPE_LINUX_SLL2."""
    return struct.pack("!HHIHBB8s", protocol, 0, 3, hardware, kind, len(address), address) + payload


def ethernet(kind: int, payload: bytes, source: bytes = bytes(6)) -> bytes:
    return bytes(6) + source + struct.pack("!H", kind) + payload


class Rows:
    """Packets one after the other in an arena, their places in the file as timestamps."""

    def __init__(self, packets: list[bytes], cut: int = 0) -> None:
        self.n = len(packets)
        self.captured = np.array([len(packet) for packet in packets], np.uint32)
        self.original = self.captured + np.uint32(cut)
        self.address = (np.cumsum(self.captured) - self.captured).astype(np.int64)
        self.arena = np.frombuffer(b"".join(packets) + bytes(16), np.uint8).copy()
        self.timestamp, self.queue = np.arange(self.n), np.arange(self.n) * 10
        self.counts = np.zeros(k.COUNTS, np.int64)
        self.sourceless = np.zeros(self.n, np.int64)

    def packets(self, n: int, arena: np.ndarray) -> list[tuple[int, bytes]]:
        """(place in the file, bytes) of the first n."""
        found = zip(self.timestamp[:n], self.address[:n], self.captured[:n], strict=True)
        assert self.queue[:n].tolist() == (self.timestamp[:n] * 10).tolist()
        return [(int(place), arena[at : at + int(size)].tobytes()) for place, at, size in found]

    def to_ethernet(self, link: int) -> list[tuple[int, bytes]]:
        out = np.zeros(int(self.captured.sum()) + self.n * k.MOST_GROWTH, np.uint8)
        n = k.to_ethernet(
            self.arena, self.address, self.captured, self.original, self.timestamp, self.queue, self.n, link, out,
            self.sourceless, self.counts,
        )  # fmt: skip
        return self.packets(n, out)

    def to_ip(self, link: int) -> list[tuple[int, bytes]]:
        n = k.to_ip(
            self.arena, self.address, self.captured, self.original, self.timestamp, self.queue, self.n, link,
            self.counts,
        )  # fmt: skip
        return self.packets(n, self.arena)


@pytest.mark.parametrize(("make", "link"), [(sll, k.SLL), (sll2, k.SLL2)])
def test_cooked_packets_get_their_own_ethertype(make, link):
    """IPv4, IPv6, ARP, VLAN tags, tunnels and 802.2 become frames; netlink, 802.11 and CAN are counted by name."""
    tagged = bytes.fromhex("00070800") + IP4
    rows = Rows([
        make(0x0800, 1, IP4), make(0x86DD, 65534, IP6, b""), make(0x0806, 1, ARP), make(0x8100, 1, tagged),
        make(0, 824, bytes(40)), make(4, 803, bytes(40)), make(4, 1, b"\x42\x42\x03" + bytes(35)),
        make(0x000C, 280, bytes(16)), make(0x0800, 778, IP4, bytes(4)), make(0x0800, 772, IP4, bytes(6)),
        make(0x0800, 1, IP4)[:10],
    ])  # fmt: skip
    assert rows.to_ethernet(link) == [
        (0, ethernet(0x0800, IP4, MAC)), (1, ethernet(0x86DD, IP6)), (2, ethernet(0x0806, ARP, MAC)),
        (3, ethernet(0x8100, tagged, MAC)), (6, ethernet(38, b"\x42\x42\x03" + bytes(35), MAC)),
        (8, ethernet(0x0800, IP4)), (9, ethernet(0x0800, IP4)),
    ]  # fmt: skip
    assert rows.sourceless[:7].tolist() == [0, 1, 0, 0, 0, 1, 1]
    assert {number: int(count) for number, count in enumerate(rows.counts) if count} == {
        k.NETLINK: 1, k.WIRELESS: 1, k.NO_ETHERTYPE: 1, k.CUT_HEADER: 1,
    }  # fmt: skip


@pytest.mark.parametrize("link", k.RAW)
def test_raw_ip_says_its_version(link):
    """The version's nibble is the EtherType; what is neither is counted."""
    rows = Rows([IP4, IP6, b"\x10" + bytes(30), IP4])
    assert rows.to_ethernet(link) == [
        (0, ethernet(0x0800, IP4)),
        (1, ethernet(0x86DD, IP6)),
        (3, ethernet(0x0800, IP4)),
    ]
    assert rows.counts[k.NOT_IP] == 1


@pytest.mark.parametrize(("link", "order"), [(k.NULL, "<"), (k.NULL, ">"), (k.LOOP, ">")])
def test_null_and_loopback_have_address_families(link, order):
    """AF_INET, and AF_INET6 as each system has it, in either byte order; OSI's is counted."""
    families = {2: (0x0800, IP4), 10: (0x86DD, IP6), 24: (0x86DD, IP6), 28: (0x86DD, IP6), 30: (0x86DD, IP6)}
    rows = Rows([struct.pack(order + "I", family) + body for family, (_, body) in families.items()]
                + [struct.pack(order + "I", 7) + IP4])  # fmt: skip
    assert [frame for _, frame in rows.to_ethernet(link)] == [ethernet(*wanted) for wanted in families.values()]
    assert rows.counts[k.NOT_IP] == 1


def test_lengths_of_cut_packets_move_with_the_header():
    """What the capture had cut stays known."""
    rows = Rows([IP4], cut=100)
    rows.to_ethernet(101)
    assert (rows.captured[0], rows.original[0]) == (14 + len(IP4), 114 + len(IP4))


def test_ethernet_becomes_ip():
    """The header, VLAN tags and the padding of a short frame go; what is not IP is counted, lost tags too."""
    tag = bytes.fromhex("88a80005810000070800")
    frames = [ethernet(0x0800, IP4 + bytes(18)), bytes(12) + tag + IP4, ethernet(0x0806, ARP), ethernet(0x86DD, IP6),
              ethernet(38, bytes(38)), ethernet(0x0800, IP4)[:13]]  # fmt: skip
    rows = Rows(frames)
    assert rows.to_ip(1) == [(0, IP4), (1, IP4), (3, IP6)]
    assert (rows.counts[k.NOT_IP], rows.counts[k.UNTAGGED], rows.counts[k.CUT_HEADER]) == (2, 1, 1)


def test_cooked_becomes_ip():
    """Of cooked packets IP is left, with its tags and padding gone; raw IP stays as it is."""
    tagged = bytes.fromhex("000786dd") + IP6
    rows = Rows([sll2(0x0800, 1, IP4 + bytes(18)), sll2(0x8100, 1, tagged), sll2(0x0806, 1, ARP)])
    assert rows.to_ip(k.SLL2) == [(0, IP4), (1, IP6)]
    assert Rows([sll(0x0800, 1, IP4 + bytes(18))]).to_ip(k.SLL) == [(0, IP4)]
    assert Rows([IP4, IP6]).to_ip(101) == [(0, IP4), (1, IP6)]
