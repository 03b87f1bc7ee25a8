"""``wirecap forward --both`` between a NIC of a virtual machine and a veth beside it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from forward_rig import LEAVE, Running, tcpdump, whole
from nic_rig import LARGER, WAYS, bed_of, capturing, facts_of, named
from rig import Wire, until
from wirecap.config.capture import PoolConfig
from wirecap.lab.testbed import Testbed, VethPair
from wirecap.linux import ethtool, netlink, netns, probes

pytestmark = pytest.mark.live("tcpdump")
FEW = 50
"""Frames at a time: an emulated NIC has a short ring."""


@pytest.fixture
def far(nic: Testbed) -> Iterator[VethPair]:
    """A veth whose one end is beside the NIC."""
    inside, outside = "far0", "far1"
    subprocess.run(["ip", "link", "add", inside, "netns", nic.name, "type", "veth", "peer", outside], check=True)
    for where in (["-n", nic.name, "link", "set", inside], ["link", "set", outside]):
        subprocess.run(["ip", *where, "up"], check=True, timeout=60)
    yield VethPair(inside, outside, 1, 1500, True, "")
    subprocess.run(["ip", "link", "delete", outside], check=True, timeout=60)


@pytest.fixture
def other(nic: Testbed) -> Iterator[VethPair]:
    """Another NIC whose driver has zero-copy, put beside this one with all its queues."""
    found = [name for name in ("virtio-net", "igb") if name in named() and named()[name][0] != nic.name]
    if facts_of(nic).driver not in ("virtio_net", "igb") or not found:
        pytest.skip("this NIC, or any other here, has no zero-copy")
    bed = bed_of(found[0])
    in_use, _, kind = netns.call(bed.name, ethtool.most_channels, bed.nics[0].inside) or (1, 1, "")
    for here, there in ((bed.name, nic.name), (nic.name, bed.name)):
        subprocess.run(["ip", "-n", here, "link", "set", bed.nics[0].inside, "netns", there], check=True, timeout=60)
        up = ["ip", "-n", there, "link", "set", bed.nics[0].inside, "up", "promisc", "on"]
        subprocess.run(up, check=True, timeout=60)
        if in_use > 1:
            netns.call(there, ethtool.set_channels, bed.nics[0].inside, kind, in_use)
        if there == nic.name:
            yield bed.nics[0]


@pytest.mark.parametrize("way", [way for way in WAYS if way != "packet"])
def test_both_ways(nic, far, frames, tmp_path, way):
    """Frames pass each other, byte for byte; beside a veth a NIC with zero-copy takes copy mode, and a line says so."""
    with capturing(nic, way):
        pass  # it skips where there is no such way
    cell = LARGER if way == "zero-copy" else PoolConfig().cell
    summary, told = pass_each_other(nic, far, frames, tmp_path, WAYS[way]["xdp_mode"], cell)
    assert not summary["zero_copy"]
    able = way != "generic" and probes.XdpFeature.ZERO_COPY in netns.call(nic.name, features, nic.nics[0].inside)
    assert able == (f"the driver of {far.inside} has no zero-copy" in told)


def test_both_ways_with_zero_copy(nic, other, frames, tmp_path):
    """Of two NICs each sends the other's cells, and gives them back."""
    for name in (nic.nics[0].inside, other.inside):
        if probes.XdpFeature.ZERO_COPY not in netns.call(nic.name, features, name):
            pytest.skip("the driver of this kernel has no zero-copy for this NIC")
    summary, _ = pass_each_other(nic, other, frames, tmp_path, "native", LARGER)
    assert summary["zero_copy"]


def features(name):
    return probes.features_of(netlink.index_of(name)) or ()


def pass_each_other(nic, far, frames, folder, mode, cell):
    """Frames go both ways between a NIC and another beside it, and arrive; returns the summary and what was printed."""
    near, ways = nic.nics[0], [frames[:300], frames[300:]]
    with ExitStack() as stack:
        asked = ["--xdp-mode", mode, "--cell", str(cell)]
        forward = stack.enter_context(Running(nic, near.inside, far.inside, "--both", *asked, *LEAVE))
        for name in (near.inside, far.inside):
            until(lambda name=name: netns.call(nic.name, netlink.interface, name).state in ("up", "unknown"))
        ends = (near.outside, far.outside)
        files = [folder / end for end in ends]
        dumps = [stack.enter_context(tcpdump(*both)) for both in zip(ends, files, strict=True)]
        wires = [stack.enter_context(Wire(end)) for end in ends]
        for first in range(0, 300, FEW):
            for wire, sent in zip(wires, ways, strict=True):
                wire.send(sent[first : first + FEW])
            for file in files:
                until(lambda file=file, due=first + FEW: len(ours(file)) >= due, 60)
        for dump in dumps:
            dump.end(signal.SIGINT, 60)
        summary = forward.end()
    assert [sorted(ours(file)) for file in files] == [sorted(sent) for sent in ways[::-1]]
    assert summary["packets"]["drops"] == {}
    return summary, forward.child.output


def ours(file):
    """The IPv4 frames of a pcap file that grows: others are what the machine itself says on a new link."""
    data = file.read_bytes()
    found = [data[at + 16 :][: int.from_bytes(data[at + 8 : at + 12], "little")] for at in whole(file)]
    return [frame for frame in found if frame[12:14] == b"\x08\x00"]
