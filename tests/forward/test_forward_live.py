"""``wirecap forward``, live: real traffic in on one NIC, tcpdump behind the other, and what may go wrong in between."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dpkt
import pytest

from rig import Wire, flow_frames, read_pcap, until
from wirecap.lab import process
from wirecap.lab.far_end import FarEnd
from wirecap.lab.testbed import Testbed
from wirecap.linux import netlink, netns

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "router.py"
MTU = 3498
"""The most that a veth takes while its other end has an XDP program."""


class Running:
    """A forwarder as a user runs it; ``end`` is Ctrl-C, and the summary."""

    def __init__(self, bed: Testbed, *arguments: str) -> None:
        self.file = Path(f"/tmp/{bed.name}.json")
        command = [sys.executable, "-m", "wirecap", "forward", *arguments]
        self.child = process.Child([*command, "--netns", bed.name, "--summary-json", str(self.file)])
        self.child.wait_for("^wirecap: forwarding", 90)

    def end(self, status: int = 0) -> dict[str, Any]:
        ended = self.child.end(signal.SIGINT)
        assert ended.status == status, ended.output
        summary: dict[str, Any] = json.loads(self.file.read_text())
        packets = summary["packets"]
        assert packets["received"] == packets["delivered"] + packets["filtered_out"] + packets["dropped"]
        assert packets["dropped"] == sum(packets["drops"].values())
        assert packets["forwarded"] == packets["delivered"] == sum(row["forwarded"] for row in summary["outputs"])
        assert "unaccounted" not in packets["drops"]
        return summary

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.end(signal.SIGKILL)
        self.file.unlink(missing_ok=True)


@contextmanager
def tcpdump(interface: str, file: Path) -> Iterator[process.Child]:
    """tcpdump of what comes in on an interface of this namespace; it has it all when it has ended."""
    command = ["tcpdump", "-i", interface, "-Q", "in", "-n", "-B", "65536", "--immediate-mode", "-U", "-Z", "root"]
    with process.Child([*command, "-w", str(file)]) as child:
        child.wait_for("listening on")
        yield child


def caught(child: process.Child, file: Path, wanted: int) -> list[bytes]:
    """Wait until tcpdump's file has so many packets, end it; the packets."""
    until(lambda: file.stat().st_size > 24 and len(whole(file)) >= wanted, 20)
    ended = child.end(signal.SIGINT)
    assert re.search(r"^0 packets dropped by kernel", ended.output, re.MULTILINE), ended.output
    return [packet.data for packet in read_pcap(file)]


def whole(file: Path) -> list[int]:
    """Where the packets of a growing file begin."""
    octets, at, found = file.read_bytes(), 24, []
    while at + 16 <= len(octets) and (end := at + 16 + int.from_bytes(octets[at + 8 : at + 12], "little")) <= len(
        octets
    ):
        found.append(at)
        at = end
    return found


def frames_of(trace: Path, mtu: int = MTU) -> list[bytes]:
    return [packet.data for packet in read_pcap(trace) if len(packet.data) <= mtu + 14]


def replay(interface: str, trace: Path, *options: str) -> None:
    ended = process.run(["tcpreplay", "-i", interface, *(options or ("--mbps=200",)), str(trace)])
    assert ended.status == 0, ended.output


@pytest.mark.live("tcpreplay", "tcpdump")
@pytest.mark.parametrize("mode", ["basic", "advanced"])
def test_a_real_trace_goes_through(testbed, mixed_trace, tmp_path, mode):
    """What a real trace sends in comes out at the far side: the same packets, byte for byte, in order."""
    bed = testbed(queues=1, nics=2, mtu=MTU)
    near, far = bed.nics
    with (
        Running(bed, near.inside, far.inside, "--cell", "4096", "--mode", mode) as forward,
        tcpdump(far.outside, tmp_path / "far.pcap") as dump,
    ):
        replay(near.outside, mixed_trace)
        sent = frames_of(mixed_trace)
        found = caught(dump, tmp_path / "far.pcap", len(sent))
        summary = forward.end()
    assert summary["packets"]["received"] == summary["packets"]["forwarded"] == len(sent)
    assert found == sent


@pytest.mark.live("tcpreplay", "tcpdump")
def test_both_directions_at_once(testbed, mixed_trace, tmp_path):
    """With --both two traces pass each other, four queues each, and both arrive whole, every packet once."""
    bed = testbed(queues=4, nics=2, mtu=MTU)
    one, other = bed.nics
    with ExitStack() as stack:
        forward = stack.enter_context(Running(bed, one.inside, other.inside, "--both", "--cell", "4096"))
        dumps = [stack.enter_context(tcpdump(nic.outside, tmp_path / nic.outside)) for nic in bed.nics]
        threads = [threading.Thread(target=replay, args=(nic.outside, mixed_trace)) for nic in bed.nics]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sent = frames_of(mixed_trace)
        found = [caught(d, tmp_path / nic.outside, len(sent)) for d, nic in zip(dumps, bed.nics, strict=True)]
        summary = forward.end()
    assert summary["packets"]["forwarded"] == 2 * len(sent)
    assert summary["packets"]["drops"] == {}
    assert [sorted(side) for side in found] == [sorted(sent)] * 2


def network_of(frame: bytes) -> tuple[int, int]:
    """(EtherType behind the VLAN tags, where the network header begins)."""
    at = 12
    while frame[at : at + 2] in (b"\x81\0", b"\x88\xa8", b"\x91\0"):
        at += 4
    return int.from_bytes(frame[at : at + 2], "big"), at + 2


def routed(frame: bytes, vlan: int) -> bytes | None:
    """What examples/router.py makes of a frame: ttl, then next_hop, then tag; None where it is too old."""
    kind, at = network_of(frame)
    octets = bytearray(frame)
    if kind == dpkt.ethernet.ETH_TYPE_IP and len(frame) >= at + 20:
        if frame[at + 8] <= 1:
            return None
        end = at + (frame[at] & 15) * 4
        octets[at + 8] -= 1
        octets[at + 10 : at + 12] = bytes(2)
        octets[at + 10 : at + 12] = dpkt.in_cksum(bytes(octets[at:end])).to_bytes(2, "big")
    elif kind == dpkt.ethernet.ETH_TYPE_IP6 and len(frame) >= at + 40 and frame[at] >> 4 == 6:
        if frame[at + 7] <= 1:
            return None
        octets[at + 7] -= 1
    octets[:12] = bytes.fromhex("020000000002 020000000001")
    return bytes(octets[:12] + b"\x81\0" + vlan.to_bytes(2, "big") + octets[12:])


@pytest.mark.live("tcpreplay", "tcpdump")
def test_handlers_change_packets_on_their_way(testbed, mixed_trace, tmp_path):
    """TTL with its checksum, MAC addresses and a VLAN tag are changed in every packet, as dpkt does it; the rest is
    left alone, and packets that are too old are dropped by name."""
    bed = testbed(queues=1, nics=2, mtu=MTU)
    near, far = bed.nics
    row = [word for name in ("ttl", "next_hop", "tag:vlan=42") for word in ("--handler", f"{EXAMPLE}:{name}")]
    sent = [frame for frame in frames_of(mixed_trace) if checksum_right(frame)]
    expected = [changed for changed in (routed(frame, 42) for frame in sent) if changed]
    trace = tmp_path / "in.pcap"
    with trace.open("wb") as file:
        writer = dpkt.pcap.Writer(file, snaplen=65535)
        for number, frame in enumerate(sent):
            writer.writepkt(frame, number * 1e-5)
    with (
        Running(bed, near.inside, far.inside, "--cell", "4096", *row) as forward,
        tcpdump(far.outside, tmp_path / "far.pcap") as dump,
    ):
        replay(near.outside, trace, "--mbps=200")
        found = caught(dump, tmp_path / "far.pcap", len(expected))
        summary = forward.end()
    assert found == expected
    assert summary["packets"]["drops"].get("by_handler", 0) == len(sent) - len(expected)
    assert summary["handlers"][0]["result"]["too_old"] == len(sent) - len(expected)


def checksum_right(frame: bytes) -> bool:
    """False for packets of a trace that were cut, or whose checksum a NIC was to fill in: an update keeps it wrong."""
    kind, at = network_of(frame)
    if kind != dpkt.ethernet.ETH_TYPE_IP:
        return True
    header = frame[at : at + (frame[at] & 15) * 4]
    return len(header) >= 20 and frame[at] >> 4 == 4 and dpkt.in_cksum(header) == 0


def flow_of(frame: bytes, first_fragments: dict[Any, Any]) -> Any:
    """The connection that a frame belongs to, whichever way it goes: addresses and ports, by dpkt.

    first_fragments: what the first fragments of datagrams said, to be kept from one frame to the next.
    """
    eth = dpkt.ethernet.Ethernet(frame)
    ip = eth.data
    if not isinstance(ip, (dpkt.ip.IP, dpkt.ip6.IP6)):
        return frozenset((eth.src, eth.dst))
    flow = ip.p, frozenset((ip.src, ip.dst))
    fragmented = isinstance(ip, dpkt.ip.IP) and bool(ip.mf or ip.offset)
    datagram = (ip.src, ip.dst, ip.p, ip.id) if fragmented else None
    if fragmented and ip.offset:
        return first_fragments.get(datagram, flow)
    ports = bytes(ip.data)[:4]
    if ip.p in (dpkt.ip.IP_PROTO_TCP, dpkt.ip.IP_PROTO_UDP) and len(ports) == 4:
        flow = ip.p, frozenset(((ip.src, ports[:2]), (ip.dst, ports[2:])))
    if fragmented:
        first_fragments[datagram] = flow
    return flow


@pytest.mark.live("tcpreplay", "tcpdump")
def test_a_fan_out_spreads_flows_over_tcpdumps(testbed, mixed_trace, tmp_path):
    """Three tcpdumps behind --to: every packet is seen once, each connection by one of them, both its directions."""
    bed = testbed(queues=2, nics=4, mtu=MTU)
    near, *outs = bed.nics
    with ExitStack() as stack:
        names = ",".join(nic.inside for nic in outs)
        forward = stack.enter_context(Running(bed, near.inside, "--to", names, "--balance", "flow", "--cell", "4096"))
        dumps = [stack.enter_context(tcpdump(nic.outside, tmp_path / nic.outside)) for nic in outs]
        replay(near.outside, mixed_trace)
        sent = frames_of(mixed_trace)
        until(lambda: sum(len(whole(tmp_path / nic.outside)) for nic in outs) >= len(sent), 30)
        found = [caught(d, tmp_path / nic.outside, 0) for d, nic in zip(dumps, outs, strict=True)]
        summary = forward.end()
    assert summary["packets"]["forwarded"] == len(sent)
    assert sorted(frame for side in found for frame in side) == sorted(sent)
    assert min(map(len, found)) > len(sent) // 20
    where: dict[Any, set[int]] = {}
    for number, side in enumerate(found):
        fragments: dict[Any, Any] = {}
        for frame in side:
            where.setdefault(flow_of(frame, fragments), set()).add(number)
    assert len(where) > 100
    assert all(len(places) == 1 for places in where.values())


@pytest.mark.live
def test_two_nics_into_one_and_one_nic_into_two(testbed):
    """Pairs may share an outgoing NIC, and split an incoming one by its queues; every packet leaves where it is to."""
    bed = testbed(queues=2, nics=3)
    a, b, c = bed.nics
    with (
        Running(bed, a.inside, c.inside, "--pair", f"{b.inside},{c.inside}") as forward,
        FarEnd(c.outside) as end,
        Wire(a.outside) as one,
        Wire(b.outside) as other,
    ):
        one.send(flow_frames(300))
        other.send(flow_frames(200))
        until(lambda: end.packets == 500)
        summary = forward.end()
    assert summary["packets"]["drops"] == {}
    assert sum(row["forwarded"] for row in summary["outputs"] if row["interface"] == c.inside) == 500
    with (
        Running(bed, f"{a.inside}@0", b.inside, "--pair", f"{a.inside}@1,{c.inside}") as forward,
        FarEnd(b.outside) as first,
        FarEnd(c.outside) as second,
        Wire(a.outside) as wire,
    ):
        wire.send(flow_frames(500))
        until(lambda: first.packets + second.packets == 500)
        arrived = [first.packets, second.packets]
        assert [row["received"] for row in forward.end()["per_queue"]] == arrived
        assert min(arrived) > 100


@pytest.mark.live
@pytest.mark.parametrize("handlers", [(), ("--handler", f"{EXAMPLE}:ttl")])
def test_the_bare_ring_forwards_too(testbed, handlers):
    """With --engine direct handler threads receive and send by themselves, and every packet is accounted for."""
    bed = testbed(queues=2, nics=2)
    near, far = bed.nics
    with (
        Running(bed, near.inside, far.inside, "--engine", "direct", *handlers) as forward,
        FarEnd(far.outside) as end,
        Wire(near.outside) as wire,
    ):
        wire.send(flow_frames(20_000))
        until(lambda: end.packets > 1000)
        summary = forward.end()
        arrived = end.packets
    assert summary["engine"] == "direct"
    assert summary["packets"]["received"] == 20_000
    assert summary["packets"]["forwarded"] == arrived
    assert set(summary["packets"]["drops"]) <= {"ring_full", "tx_ring_full"}


def set_up(namespace: str, interface: str, up: bool) -> None:
    from pyroute2 import IPRoute

    def change() -> None:
        with IPRoute() as route:
            route.link("set", index=netlink.interface(interface).index, state="up" if up else "down")

    netns.call(namespace, change)


@pytest.mark.live
@pytest.mark.parametrize("end", ["inside", "outside"])
def test_an_outgoing_nic_that_goes_down_and_comes_back(testbed, end):
    """While the outgoing NIC, or its other end, is down, packets are dropped by name and the capture goes on; then they
    leave again."""
    bed = testbed(queues=1, nics=2)
    near, far = bed.nics
    place = (bed.name, far.inside) if end == "inside" else (None, far.outside)
    with Running(bed, near.inside, far.inside, "-R", "20", "--tx-wait", "1ms") as forward, Wire(near.outside) as wire:
        wire.send(flow_frames(1000))
        time.sleep(0.3)
        set_up(*place, up=False)
        wire.send(flow_frames(20_000, first=1000))
        time.sleep(0.3)
        set_up(*place, up=True)
        time.sleep(0.3)
        wire.send(flow_frames(1000, first=21_000))
        time.sleep(0.3)
        summary = forward.end()
    packets = summary["packets"]
    assert packets["received"] == 22_000
    assert packets["forwarded"] >= 2000
    assert set(packets["drops"]) <= {"tx_ring_full", "tx_refused"}
    assert packets["dropped"] > 15_000


@pytest.mark.live
def test_a_killed_forwarder_leaves_clean_interfaces(testbed):
    """After kill -9 no program and no socket is left, and the next forwarder starts."""
    bed = testbed(queues=2, nics=2)
    one, other = bed.nics
    with Running(bed, one.inside, other.inside, "--both") as forward:
        os.kill(forward.child.pid, signal.SIGKILL)
        until(lambda: not forward.child.running)
    for nic in bed.nics:
        assert netns.call(bed.name, netlink.interface, nic.inside).xdp_mode == ""
    with Running(bed, one.inside, other.inside, "--both") as forward, Wire(one.outside) as wire:
        wire.send(flow_frames(100))
        time.sleep(0.3)
        assert forward.end()["packets"]["forwarded"] == 100
