"""Flows of lost packets, from the 64 bytes that are kept of some."""

from __future__ import annotations

import random

import pytest

from wirecap.forensics.flows import FLOWS_MOST, Flows, flow_of

scapy = pytest.importorskip("scapy.all")


def head(packet: object) -> bytes:
    return bytes(packet)[:64]


ETHER = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}


@pytest.mark.parametrize(
    ("layers", "name"),
    [
        (lambda s: s.IP(src="10.0.0.1", dst="10.0.0.2") / s.UDP(sport=5, dport=53), "udp 10.0.0.1:5 > 10.0.0.2:53"),
        (lambda s: s.IP(src="10.0.0.1", dst="10.0.0.2") / s.TCP(sport=80, dport=1), "tcp 10.0.0.1:80 > 10.0.0.2:1"),
        (lambda s: s.IP(src="1.2.3.4", dst="5.6.7.8", options=s.IPOption_NOP()) / s.UDP(sport=7, dport=8),
         "udp 1.2.3.4:7 > 5.6.7.8:8"),
        (lambda s: s.Dot1Q(vlan=7) / s.IP(src="1.2.3.4", dst="5.6.7.8") / s.UDP(sport=7, dport=8),
         "udp 1.2.3.4:7 > 5.6.7.8:8"),
        (lambda s: s.IPv6(src="2001:db8::1", dst="2001:db8::2") / s.TCP(sport=443, dport=9),
         "tcp [2001:db8::1]:443 > [2001:db8::2]:9"),
        (lambda s: s.IP(src="1.2.3.4", dst="5.6.7.8", frag=100) / (b"x" * 30), "protocol 0 1.2.3.4 > 5.6.7.8"),
        (lambda s: s.IP(src="1.2.3.4", dst="5.6.7.8", frag=100, proto=17) / (b"x" * 30), "udp 1.2.3.4 > 5.6.7.8"),
        (lambda s: s.IP(src="1.2.3.4", dst="5.6.7.8") / s.ICMP(), "icmp 1.2.3.4 > 5.6.7.8"),
        (lambda s: s.ARP(), "arp"),
    ],
)  # fmt: skip
def test_flows_as_scapy_writes_them(layers, name):
    """Addresses and ports as in the packet, no ports where there are none; a sample counts for all it stands for."""
    header = head(scapy.Ether(**ETHER) / layers(scapy))
    assert flow_of(header) == name
    flows = Flows()
    flows.add(header, 41)
    flows.add(header, 1)
    assert flows.most(5) == [(name, 42)]


def test_what_is_cut_short_is_still_told():
    """However few bytes there are, there is a name and no error."""
    whole = head(scapy.Ether(**ETHER) / scapy.IP(src="10.0.0.1", dst="10.0.0.2") / scapy.UDP(sport=5, dport=53))
    flows = Flows()
    for size in range(len(whole)):
        flows.add(whole[:size], 1)
    assert sum(count for _, count in flows.most(1000)) == len(whole)


def test_many_flows_take_bounded_memory():
    """Of more flows than are told apart the large ones stay."""
    flows, numbers = Flows(), random.Random(5)
    header = bytearray(head(scapy.Ether(**ETHER) / scapy.IP(src="10.0.0.1", dst="10.0.0.2") / scapy.UDP()))
    for number in range(3 * FLOWS_MOST):
        header[26:30] = numbers.randbytes(4)
        flows.add(bytes(header), 1)
        if number % 3 == 0:
            header[26:30] = bytes([10, 0, 0, 9])
            flows.add(bytes(header), 2)
    assert len(flows._packets) <= FLOWS_MOST
    ((name, count), *_) = flows.most(1)
    assert name.startswith("udp 10.0.0.9:")
    assert count == 2 * FLOWS_MOST
