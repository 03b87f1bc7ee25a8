"""Replay onto two interfaces: each packet leaves where tcpprep, its direction or its flow puts it, and in order."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from replay_rig import Receiver, write_pcap
from rig import time_limit
from wirecap.cli import main
from wirecap.lab.testbed import Testbed
from wirecap.traffic import synthetic

__all__ = ["time_limit"]
Make = Callable[..., Testbed]
N = 3000


def talk(count: int) -> list[bytes]:
    """Clients 10.1.x.7 and their server, which answers two of three packets; each packet has its number."""
    packets = []
    for number in range(count):
        client, server = f"10.1.{number // 3 % 200}.7", "192.0.2.9"
        there = {
            "source": client,
            "destination": server,
            "source_port": 5000 + number // 3 % 40,
            "destination_port": 53,
        }
        back = {"source": server, "destination": client, "source_port": 53, "destination_port": 5000 + number // 3 % 40}
        frame = synthetic.udp(60 + number % 900, **(back if number % 3 else there))  # type: ignore[arg-type]
        packets.append(frame[:42] + number.to_bytes(8, "big") + frame[50:])
    return packets


def sides(packets: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Those of the clients, and those of the server."""
    return list(packets[::3]), [packet for number, packet in enumerate(packets) if number % 3]


def both(bed: Testbed, wanted: Sequence[Sequence[bytes]], send: Callable[[], object]) -> tuple[Receiver, Receiver]:
    """What arrives on the two NICs while ``send`` runs; as many as are wanted."""
    with Receiver(bed, len(wanted[0])) as one, Receiver(bed, len(wanted[1]), nic=1) as two:
        send()
    return one, two


def replay(bed: Testbed, *arguments: object) -> None:
    names = [nic.outside for nic in bed.nics]
    assert main.run(["replay", "-i", names[0], "-I", names[1], *map(str, arguments)]) == 0


@pytest.mark.live("tcpreplay", "tcpprep")
@pytest.mark.parametrize("way", ["xdp", "packet"])
def test_cache_file_splits_as_in_tcpreplay(
    testbed: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    """On each side the same packets as from tcpreplay, those that the cache leaves out not; counted by interface."""
    bed, packets = testbed(queues=1, nics=2), talk(N)
    file, cache = write_pcap(tmp_path / "a.pcap", packets, gap_us=10), tmp_path / "a.cache"
    prep = ["tcpprep", "-c", "192.0.2.0/24", "-X", "P:1,4-9,2000-3000", "-i", str(file), "-o", str(cache)]
    subprocess.run(prep, check=True, capture_output=True)
    kept = [n for n in range(1999) if n != 0 and not 3 <= n < 9]
    clients = [packets[n] for n in kept if n % 3 == 0]
    servers = [packets[n] for n in kept if n % 3]
    names = [nic.outside for nic in bed.nics]
    other = ["tcpreplay", "-q", "-i", names[0], "-I", names[1], "-c", str(cache), "--pps=20000", str(file)]
    theirs = both(bed, (servers, clients), lambda: subprocess.run(other, check=True, capture_output=True))
    ours = both(bed, (servers, clients), lambda: replay(bed, "-c", cache, "--send", way, "-t", file))
    for mine, its in zip(ours, theirs, strict=True):
        assert mine.packets[0] == its.packets[0]
    assert sorted(map(len, (ours[0].packets[0], ours[1].packets[0]))) == sorted((len(clients), len(servers)))
    printed = capsys.readouterr().err
    assert f"{N - len(kept)} packets not sent: left out by the cache file" in printed
    assert f"\n{names[0]}: {len(ours[0].packets[0])} packets sent\n{names[1]}: " in printed


@pytest.mark.live
@pytest.mark.parametrize("way", ["xdp", "packet"])
@pytest.mark.parametrize("speed", ["--topspeed", "--speed=1"])
def test_order_and_times_hold_across_both(testbed: Make, tmp_path: Path, way: str, speed: str) -> None:
    """By flow: the clients' packets on one side, the server's on the other, in the recorded order and, if wanted, at
    the recorded times.

    A busy machine may wake the sender, or look at one of the two interfaces, late: one of five goes has to be on time.
    """
    bed, packets = testbed(queues=1, nics=2), talk(N)
    file = write_pcap(tmp_path / "a.pcap", packets, gap_us=300)
    for _ in range(5):
        one, two = both(bed, sides(packets), lambda: replay(bed, "--send", way, speed, file))
        assert (one.packets[0], two.packets[0]) == sides(packets)
        times = {int.from_bytes(packet[42:50], "big"): at for side in (one, two)
                 for packet, at in zip(side.packets[0], side.timestamps, strict=True)}  # fmt: skip
        arrived = np.array([times[number] for number in range(N)])
        in_order = (np.diff(arrived) >= 0).all()
        late = arrived - arrived[0] - np.arange(N) * 300_000
        median = np.median(abs(late - late.min()))
        if in_order and (speed != "--speed=1" or median < 500_000):
            return
    pytest.fail(f"in order: {in_order}, late by {median} ns in the median")


def write_pcapng(path: Path, packets: Sequence[bytes], links: tuple[int, int] = (1, 1)) -> Path:
    """The server's packets are outgoing ones (epb_flags), and of the second interface."""

    def block(kind: int, body: bytes) -> bytes:
        size = struct.pack("<I", len(body) + 12)
        return struct.pack("<I", kind) + size + body + size

    blocks = [
        block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)),
        *[block(1, struct.pack("<HHI", link, 0, 0)) for link in links],
    ]
    for number, data in enumerate(packets):
        outgoing = bool(number % 3)
        head = struct.pack("<5I", outgoing, 0, number, len(data), len(data)) + data + bytes(-len(data) % 4)
        blocks.append(block(6, head + struct.pack("<HHIHH", 2, 4, 1 + outgoing, 0, 0)))
    path.write_bytes(b"".join(blocks))
    return path


@pytest.mark.live
def test_direction_and_interface_of_the_recording(testbed: Make, tmp_path: Path) -> None:
    """Incoming packets leave on -i, outgoing ones on -I; or those of the file's first interface, and of its second; and
    each side gets addresses of its own."""
    bed, packets = testbed(queues=1, nics=2), talk(600)
    file = write_pcapng(tmp_path / "a.pcapng", packets)
    for split in ([], ["--split-by", "direction"], ["--split-by", "interface"]):
        one, two = both(bed, sides(packets), lambda split=split: replay(bed, "-t", *split, file))  # type: ignore[misc]
        assert (one.packets[0], two.packets[0]) == sides(packets)
    macs = "02:00:00:00:0a:01,02:00:00:00:0a:02"
    one, two = both(bed, sides(packets), lambda: replay(bed, "-t", "--dmac", macs, file))
    assert [{packet[:6].hex() for packet in side.packets[0]} for side in (one, two)] == [
        {"020000000a01"},
        {"020000000a02"},
    ]
    assert one.packets[0][0][6:] == packets[0][6:]


@pytest.mark.live
def test_interface_of_the_recording_without_packets(
    testbed: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That only one interface is in the file is said; one that cannot be sent is refused if it has packets."""
    bed, packets, file = testbed(queues=1, nics=2), talk(2), tmp_path / "a.pcapng"
    replay(bed, "-t", "-l", 3, "--split-by", "interface", write_pcapng(file, packets[:1], (1, 113)))
    assert "\n3 packets sent on one side: there are none of another interface" in capsys.readouterr().err
    replay(bed, "-t", "--split-by", "interface", write_pcapng(file, packets))
    assert "on one side" not in capsys.readouterr().err
    assert main.run(["replay", "-t", "-i", bed.nics[0].outside, str(write_pcapng(file, packets, (1, 113)))]) == 2
    assert "its packets have no Ethernet addresses" in capsys.readouterr().err


@pytest.mark.live
def test_what_two_interfaces_need(testbed: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cache of another file, one that is none, one interface twice, options without -I: one line each."""
    bed, file = testbed(queues=1, nics=2), write_pcap(tmp_path / "a.pcap", talk(9))
    short, wrong = tmp_path / "short", tmp_path / "wrong"
    short.write_bytes(struct.pack("!8s4sQHH", b"tcpprep\0", b"04", 4, 4, 2) + b"-a\xff")
    wrong.write_bytes(b"hello")
    two = ["-i", bed.nics[0].outside, "-I", bed.nics[1].outside]
    for arguments, message in (
        ([*two, "-c", str(short)], f"{short} has 4 packets, and {file} has more"),
        ([*two, "-c", str(wrong)], f"{wrong}: not a cache file of tcpprep"),
        ([*two[:3], bed.nics[0].outside], f"-i and -I are both {bed.nics[0].outside}"),
        ([*two[:2], "-c", str(short)], "--cachefile needs a second interface"),
        ([*two, "--queues", "0,1"], "-I and several --queues cannot be combined"),
        ([*two, "--send", "live"], "live frames leave on one interface"),
        ([*two, "--split-by", "interface"], f"{file}: only pcapng files say which interface recorded a packet"),
    ):
        assert main.run(["replay", "-q", *arguments, str(file)]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
