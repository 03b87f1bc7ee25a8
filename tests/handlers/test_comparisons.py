"""Addresses as text in handlers: equal to the fields that they name, and refused where they never could be."""

from __future__ import annotations

import socket

import dpkt
import numpy as np
import pytest

import wirecap
from wirecap.errors import UsageError
from wirecap.handlers.table import bind
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.packet.compare import Number, Pair

pytestmark = pytest.mark.kernel
SERVER = "10.1.1.1"
MAC = bytes.fromhex("02a0000000ff")


def ethernet(source: str) -> bytes:
    if ":" in source:
        payload = dpkt.ip6.IP6(src=socket.inet_pton(socket.AF_INET6, source), dst=bytes(16), nxt=59)
    else:
        payload = dpkt.ip.IP(src=socket.inet_aton(source), dst=socket.inet_aton("192.0.2.1"), p=253)
    return bytes(dpkt.ethernet.Ethernet(src=MAC, dst=bytes(6), data=payload, type=0x86DD if ":" in source else 0x800))


PACKETS = [ethernet(source) for source in ("10.1.1.1", "10.1.1.2", "10.1.1.3", "2001:db8::1", "::1:0:0:0:1")]


@wirecap.handler
def addresses(packet, state):
    state.equal += packet.ip.src == "10.1.1.1"
    state.constant += SERVER == packet.ip.src  # noqa: SIM300  both ways are meant
    state.unequal += packet.ip.src != "10.1.1.1"
    state.among += packet.ip.src in ("10.1.1.1", "10.1.1.3")
    state.others += packet.ip.src not in ("10.1.1.1", "10.1.1.3")
    state.macs += packet.eth.src == "02:A0:00:00:00:ff"
    state.six += packet.ip6.src == "2001:db8:0::1"
    state.not_six += packet.ip6.src != "2001:db8::1"
    state.sixes += packet.ip6.src in ("2001:db8::1", "0:0:0:1::1")
    network = packet.ip
    if network.src == "10.1.1.2":
        state.variable += 1


def run(handler) -> dict[str, int]:
    """The result of a handler for PACKETS."""
    bound = bind(handler)
    bound.compile(lambda name: None)
    bound.connect([1], keep_going=False)
    arena = np.frombuffer(b"".join(PACKETS) + bytes(64), np.uint8).copy()
    sizes = np.array([len(data) for data in PACKETS], np.int64)
    row = (np.cumsum(sizes) - sizes, sizes.astype(np.uint32), sizes.astype(np.uint32), np.zeros(len(PACKETS), np.int64))
    assert bound.process(arena, *row, len(PACKETS), bound.state(0)) == 0
    return bound.result()


def test_addresses_equal_their_text():
    """IPv4, IPv6 and MAC addresses compare with text, beside the field, by a global name, and in tuples."""
    assert run(addresses) == {
        "equal": 1, "constant": 1, "unequal": 4, "among": 2, "others": 3, "macs": 5, "six": 1, "not_six": 4, "sixes": 2,
        "variable": 1,
    }  # fmt: skip


def test_addresses_in_plain_python(tmp_path):
    """The packets of a loop compare in the same way, and their addresses are still numbers."""
    path = tmp_path / "x.pcap"
    with wirecap.write(str(path)) as out:
        for data in PACKETS:
            out.write(data, 1)
    with wirecap.open(str(path)) as capture:
        packets = list(capture.packets())
    assert [packet.ip.src == "10.1.1.1" for packet in packets] == [True, False, False, False, False]
    assert [packet.ip6.src == "2001:db8::1" for packet in packets] == [False, False, False, True, False]
    assert [packet.eth.src for packet in packets] == ["02:a0:00:00:00:ff"] * 5
    assert packets[0].ip.src != "nonsense"
    assert {packets[0].ip.src: "its number"}[0x0A010101]
    assert packets[3].ip6.src == (0x20010DB8 << 32, 1) != Pair((0, 2))
    assert Number(5) + 1 == 6


def test_comparisons_that_can_never_be_true():
    """A text that is no address, or not one of this kind, is refused with the line and the way out."""

    def length(packet, state):
        state.n += packet.length == "60"

    def not_an_address(packet, state):
        state.n += packet.ip.src == "10.1.1"

    def another_kind(packet, state):
        state.n += packet.eth.src == "10.1.1.1"

    def another_version(packet, state):
        state.n += packet.ip.src in ("10.1.1.1", "::1")

    for wrong, message in (
        (length, r"packet.length is compared with '60', which it never is \(compare it with a number\)"),
        (not_an_address, r"packet.ip.src .*'10.1.1'.*an IPv4 address, as in == .192.0.2.1"),
        (another_kind, r"packet.eth.src .*'10.1.1.1'.*a MAC address"),
        (another_version, r"packet.ip.src .*'::1'.*an IPv4 address"),
    ):
        line = wrong.__code__.co_firstlineno + 1
        with pytest.raises(UsageError, match=rf"test_comparisons.py, line {line}: .*{wrong.__name__} .*{message}"):
            bind(wrong).compile(lambda name: None)


@pytest.mark.skipif(PURE, reason="what goes through variables is seen by the compiler only")
def test_comparisons_through_variables():
    """The compiler refuses what the source alone does not show."""

    def network(packet, state):
        port = packet.dst_port
        state.n += port == "domain"

    def changing(packet, state):
        text = "10.1.1.1" if packet.tcp else "10.1.1.2"
        state.n += packet.ip.src == text

    for wrong, message in ((network, "a number is compared with 'domain'"), (changing, "a text that is not constant")):
        with pytest.raises(UsageError, match=f"test_comparisons.py, line .*{wrong.__name__} .*{message}"):
            bind(wrong).compile(lambda name: None)
