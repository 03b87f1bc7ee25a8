"""Recordings of other link types onto Ethernet, and Ethernet onto a tunnel: each packet with its own EtherType."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replay_rig import Receiver, write_pcap
from rig import time_limit, until
from wirecap.cli import main
from wirecap.lab.testbed import Testbed
from wirecap.traffic import synthetic

__all__ = ["time_limit"]
Make = Callable[..., Testbed]

OWN, DESTINATION = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
MAC = bytes.fromhex(OWN.replace(":", ""))
IP4 = synthetic.udp(100)[14:]
IP6 = struct.pack("!IHBB", 6 << 28, 8, 17, 64) + bytes(32) + bytes(8)
ARP = bytes.fromhex("0001080006040001") + bytes(20)
TAGGED = bytes.fromhex("00070800") + IP4


def sll(protocol: int, payload: bytes, hardware: int = 1) -> bytes:
    return struct.pack("!HHH8sH", 0, hardware, 6, MAC, protocol) + payload


def sll2(protocol: int, payload: bytes, hardware: int = 1) -> bytes:
    return struct.pack("!HHIHBB8s", protocol, 0, 3, hardware, 0, 6, MAC) + payload


COOKED = [(0x0800, IP4), (0x86DD, IP6), (0x0806, ARP), (0x8100, TAGGED)]
FILES = {  # link type: packets, the frames without their addresses that come of them, and what is said of the others
    113: ([*(sll(*one) for one in COOKED), sll(0, bytes(40), 824)], COOKED, "1 packet not sent: a netlink message"),
    276: ([*(sll2(*one) for one in COOKED), sll2(4, bytes(40), 803)], COOKED, "1 packet not sent: an 802.11 frame"),
    101: ([IP4, IP6, b"\0" * 30], COOKED[:2], "1 packet not sent: neither IPv4 nor IPv6"),
    0: ([struct.pack("<I", 2) + IP4, struct.pack(">I", 30) + IP6, bytes(4)], COOKED[:2], "1 packet not sent: neither"),
    108: ([struct.pack(">I", 2) + IP4, struct.pack(">I", 24) + IP6], COOKED[:2], ""),
}  # fmt: skip


@pytest.mark.live
@pytest.mark.parametrize("link", FILES)
def test_recordings_go_onto_ethernet(
    testbed: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], link: int
) -> None:
    """The addresses are those asked for; without --smac the recorded one, or the interface's own; in every loop."""
    bed = testbed(queues=1)
    packets, wanted, said = FILES[link]
    file, outside = write_pcap(tmp_path / "a.pcap", packets, link=link), bed.nics[0].outside
    own = Path(f"/sys/class/net/{outside}/address").read_text().strip() if link < 113 else OWN
    for extra, source in (([], own), (["--smac", "02:00:00:00:00:0c", "--send", "packet"], "02:00:00:00:00:0c")):
        with Receiver(bed, 3 * len(wanted)) as receiver:
            assert main.run(["replay", "-t", "-l", "3", "-i", outside, "--dmac", DESTINATION, *extra, str(file)]) == 0
        addresses = bytes.fromhex((DESTINATION + source).replace(":", ""))
        assert receiver.packets[0] == [addresses + struct.pack("!H", kind) + data for kind, data in wanted] * 3
        assert said.replace("1 packet", "3 packets") in capsys.readouterr().err
    assert main.run(["replay", "-t", "-i", outside, str(file)]) == 2
    assert "its packets have no Ethernet addresses" in capsys.readouterr().err
    wireless = write_pcap(tmp_path / "b.pcap", [bytes(60)], link=105)
    assert main.run(["replay", "-t", "-i", outside, str(wireless)]) == 1
    assert "1 packet not sent: neither Ethernet nor IP: link type 105 (802.11)\n" in capsys.readouterr().err


@pytest.fixture
def tunnel(fresh_name: str) -> Iterator[tuple[str, int]]:
    """A tun interface, which takes IP packets, and the descriptor where they come out."""
    from pyroute2 import IPRoute

    if not Path("/dev/net/tun").exists():
        pytest.skip("needs /dev/net/tun")
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"{fresh_name}t"
    try:
        fcntl.ioctl(
            descriptor, 0x400454CA, struct.pack("16sH", name.encode(), 0x1001)
        )  # TUNSETIFF, IFF_TUN | IFF_NO_PI
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        with IPRoute() as route:
            route.link("set", index=route.link_lookup(ifname=name)[0], state="up")
        yield name, descriptor
    finally:
        os.close(descriptor)


def take(descriptor: int, wanted: int) -> list[bytes]:
    """Everything that came out of a tunnel, once it is so many packets."""
    found: list[bytes] = []

    def came() -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(os.read(descriptor, 65536))
        return len(found) >= wanted

    until(came)
    return found


@pytest.mark.live
def test_ethernet_goes_onto_a_tunnel(
    tunnel: tuple[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """IP packets come out, without padding and VLAN tags, which is said; the rest is counted; options for Ethernet and
    generated frames are refused."""
    name, descriptor = tunnel
    frames = [bytes(12) + struct.pack("!H", kind) + data for kind, data in COOKED]
    frames.append(bytes(12) + b"\x08\0" + struct.pack("!BBHIBBHII", 0x45, 0, 28, 0, 64, 17, 0, 1, 2) + bytes(8 + 18))
    file = write_pcap(tmp_path / "a.pcap", frames)
    assert main.run(["replay", "-t", "-i", name, str(file)]) == 0
    assert take(descriptor, 4) == [IP4, IP6, IP4, frames[-1][14:42]]
    printed = capsys.readouterr().err
    assert "\n4 packets sent" in printed
    assert "\n1 packet not sent: neither IPv4 nor IPv6\n" in printed
    assert "\n1 packet sent without VLAN tags, which an IP interface does not have\n" in printed
    padded = frames[-1][14:]
    for link, packets in ((101, [IP4, IP6]), (113, [sll(0x0800, padded)]), (276, [sll2(0x0800, padded)])):
        file = write_pcap(tmp_path / "b.pcap", packets, link=link)
        assert main.run(["replay", "-t", "-i", name, str(file)]) == 0
        assert take(descriptor, len(packets)) == ([IP4, IP6] if link == 101 else [padded[:28]])
    capsys.readouterr()
    for arguments, message in (
        (["replay", "--dmac", OWN, str(file)], f"{name} takes IP packets, which have no Ethernet addresses"),
        (["replay", "--send", "xdp", str(file)], "AF_XDP sends Ethernet frames"),
        (["generate", "--count", "1"], "takes IP packets, and these are Ethernet frames"),
    ):
        assert main.run([arguments[0], "-i", name, *arguments[1:]]) == 2
        assert message in capsys.readouterr().err
