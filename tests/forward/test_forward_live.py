"""``wirecap forward``, live: real traffic in on one NIC, tcpdump behind the other, and what may go wrong in between."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import threading
import time
from contextlib import ExitStack

import dpkt
import pytest

from forward_rig import (
    AT_REST,
    EXAMPLE,
    LEAVE,
    MTU,
    Running,
    by_flow,
    caught,
    frames_of,
    receiving_in_order,
    replay,
    tcpdump,
)
from rig import Wire, flow_frames, until
from wirecap.lab import testbed as lab
from wirecap.linux import netlink, netns


@pytest.mark.live("tcpreplay", "tcpdump")
@pytest.mark.parametrize("mode", ["basic", "advanced"])
def test_a_real_trace_goes_through(testbed, mixed_trace, tmp_path, mode):
    """What a real trace sends in comes out at the far side: the same packets, byte for byte, in order."""
    bed = testbed(queues=1, nics=2, mtu=MTU)
    near, far = bed.nics
    with (
        Running(bed, near.inside, far.inside, "--cell", "4096", "--mode", mode, *AT_REST, *LEAVE) as forward,
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
    """With --both two traces pass each other, four queues each: both arrive whole, each flow in its order."""
    bed = testbed(queues=4, nics=2, mtu=MTU)
    one, other = bed.nics
    with ExitStack() as stack:
        at_rest = ("-R", "128", "--ring", "32768")  # each queue holds its part of a trace, twice
        forward = stack.enter_context(
            Running(bed, one.inside, other.inside, "--both", "--cell", "4096", *at_rest, *LEAVE)
        )
        for nic in bed.nics:
            stack.enter_context(receiving_in_order(nic.outside))
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
    assert summary["packets"]["reordered"] == 0
    assert summary["directions"] == [
        {"from": near.inside, "to": [far.inside], "received": len(sent), "forwarded": len(sent)}
        for near, far in ((one, other), (other, one))
    ]
    assert [sorted(side) == sorted(sent) for side in found] == [True, True]
    flows = by_flow(sent)
    assert len(flows) > 1000
    assert [key for side in map(by_flow, found) for key in flows if side.get(key) != flows[key]] == []


@pytest.mark.live("tcpdump")
@pytest.mark.parametrize("mode", ["native", "generic"])
def test_jumbo_frames_go_through(testbed, tmp_path, mode):
    """Frames that take several cells pass each other both ways, byte for byte, each counted once."""
    bed = testbed(queues=1, nics=2, mtu=9000)
    chance = random.Random(9)
    sent = []
    for way in range(2):
        sizes = [chance.choice([60, 1514, 1792, 1793, 9014, chance.randrange(60, 9014)]) for _ in range(400)]
        sent.append([flow_frames(1, 60, first=way)[0][:50] + chance.randbytes(size - 50) for size in sizes])
    with ExitStack() as stack:
        inside = [nic.inside for nic in bed.nics]
        forward = stack.enter_context(Running(bed, *inside, "--both", "--xdp-mode", mode, *LEAVE))
        dumps = [stack.enter_context(tcpdump(nic.outside, tmp_path / nic.outside)) for nic in bed.nics]
        wires = [stack.enter_context(Wire(nic.outside)) for nic in bed.nics]
        for one, other in zip(*sent, strict=True):
            wires[0].send([one])
            wires[1].send([other])
        found = [caught(d, tmp_path / nic.outside, 400) for d, nic in zip(dumps, bed.nics, strict=True)]
        summary = forward.end()
    assert summary["packets"]["received"] == summary["packets"]["forwarded"] == 800
    assert summary["packets"]["drops"] == {}
    assert found == sent[::-1]


def network_of(frame: bytes) -> tuple[int, int]:
    """(EtherType behind the VLAN tags, where the network header begins)."""
    at = 12
    while frame[at : at + 2] in (b"\x81\0", b"\x88\xa8", b"\x91\0"):
        at += 4
    return int.from_bytes(frame[at : at + 2], "big"), at + 2


def routed(frame: bytes, vlan: int) -> bytes | None:
    """What examples/router.py makes of a frame: ttl, then next_hop, then tag; None where it is too old."""
    kind, at = network_of(frame)
    data = bytearray(frame)
    if kind == dpkt.ethernet.ETH_TYPE_IP and len(frame) >= at + 20:
        if frame[at + 8] <= 1:
            return None
        end = at + (frame[at] & 15) * 4
        data[at + 8] -= 1
        data[at + 10 : at + 12] = bytes(2)
        data[at + 10 : at + 12] = dpkt.in_cksum(bytes(data[at:end])).to_bytes(2, "big")
    elif kind == dpkt.ethernet.ETH_TYPE_IP6 and len(frame) >= at + 40 and frame[at] >> 4 == 6:
        if frame[at + 7] <= 1:
            return None
        data[at + 7] -= 1
    data[:12] = bytes.fromhex("020000000002 020000000001")
    return bytes(data[:12] + b"\x81\0" + vlan.to_bytes(2, "big") + data[12:])


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
        Running(bed, near.inside, far.inside, "--cell", "4096", *row, *AT_REST, *LEAVE) as forward,
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


def set_up(namespace: str | None, interface: str, up: bool) -> None:
    from pyroute2 import IPRoute

    def change() -> None:
        with IPRoute() as route:
            route.link("set", index=netlink.interface(interface).index, state="up" if up else "down")

    netns.call(namespace, change)


def operational(namespace: str | None, interface: str) -> bool:
    """Whether a link passes packets, which it does a moment after it is set up."""
    return netns.call(namespace, netlink.interface, interface).state == "up"


def so_far(forward: Running, what: str) -> int:
    """How many packets were forwarded, or dropped, by the counters that a forwarder printed last on SIGUSR1."""
    os.kill(forward.child.pid, signal.SIGUSR1)
    time.sleep(0.05)
    last = forward.child.output.rpartition(" so far")[2]
    return sum(map(int, re.findall(rf"(\d+) packets? {what}", last)))


@pytest.mark.live
@pytest.mark.parametrize("end", ["inside", "outside"])
def test_an_outgoing_nic_that_goes_down_and_comes_back(testbed, end):
    """While the outgoing NIC, or its other end, is down, packets are dropped by name and the capture goes on; then they
    leave again."""
    bed = testbed(queues=1, nics=2)
    near, far = bed.nics
    place = (bed.name, far.inside) if end == "inside" else (None, far.outside)
    with Running(bed, near.inside, far.inside, "--tx-wait", "1ms") as forward, Wire(near.outside) as wire:
        wire.send(flow_frames(1000))
        until(lambda: lab.received(far.outside) >= 1000)
        set_up(*place, up=False)
        wire.send(flow_frames(12_000, first=1000))  # which the pool has room for, however busy the machine is
        until(lambda: so_far(forward, "dropped") > 9000)
        set_up(*place, up=True)
        until(lambda: operational(bed.name, far.inside) and operational(None, far.outside))
        sent = 13_000
        while lab.received(far.outside) < 2000:
            wire.send(flow_frames(1000, first=sent))
            sent += 1000
            again = time.monotonic() + 5
            while lab.received(far.outside) < 2000 and time.monotonic() < again:
                time.sleep(0.01)
        summary = forward.end()
    packets = summary["packets"]
    assert packets["received"] == sent
    assert packets["forwarded"] >= 2000
    assert set(packets["drops"]) <= {"tx_ring_full", "tx_refused"}
    assert packets["dropped"] > 9_000


@pytest.mark.live
@pytest.mark.parametrize("both", [(), ("--both",)], ids=["one way", "both ways"])
def test_a_deleted_outgoing_nic_ends_the_run(testbed, both):
    """A NIC that went away cannot come back to its socket: the run ends by itself with its name and exit status 1."""
    bed = testbed(queues=1, nics=2)
    near, far = bed.nics
    with Running(bed, near.inside, far.inside, *both) as forward, Wire(near.outside) as wire:
        wire.send(flow_frames(1000))
        until(lambda: lab.received(far.outside) >= 1000)
        subprocess.run(["ip", "link", "del", far.outside], check=True, timeout=60)
        ended = forward.child.end(None, 90)
    assert ended.status == 1, ended.output
    assert f"{far.inside} is gone" in ended.output
    assert "1000 packets received" in ended.output


@pytest.mark.live
def test_a_killed_forwarder_leaves_clean_interfaces(testbed):
    """After kill -9 no program and no socket is left, and the next forwarder starts."""
    bed = testbed(queues=2, nics=2)
    one, other = bed.nics
    with Running(bed, one.inside, other.inside, "--both") as forward:
        os.kill(forward.child.pid, signal.SIGKILL)
        until(lambda: not forward.child.running)
    for nic in bed.nics:
        until(lambda nic=nic: netns.call(bed.name, netlink.interface, nic.inside).xdp_mode == "")
    with Running(bed, one.inside, other.inside, "--both") as forward, Wire(one.outside) as wire:
        before = lab.received(other.outside)
        wire.send(flow_frames(100))
        until(lambda: lab.received(other.outside) >= before + 100)
        assert forward.end()["packets"]["forwarded"] == 100


@pytest.mark.live
def test_counts_so_far(testbed):
    """SIGUSR1 prints a forwarder's counters, and it forwards on; SIGUSR2, as it writes no file, changes nothing."""
    bed = testbed(queues=1, nics=2)
    near, far = bed.nics
    with Running(bed, near.inside, far.inside) as forward, Wire(near.outside) as wire:
        wire.send(flow_frames(20))
        until(lambda: so_far(forward, "forwarded") == 20)
        os.kill(forward.child.pid, signal.SIGUSR2)
        wire.send(flow_frames(20))
        until(lambda: lab.received(far.outside) >= 40)
        summary = forward.end()
    assert summary["packets"]["forwarded"] == 40
