"""What happens to a port under a capture: its link, its MTU, its queues, its rings."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress

import pytest

from nic_rig import WAYS, capturing, facts_of, goes_on, send
from rig import LiveRig, Wire, check_identity, flow_frames, until
from wirecap.config.capture import PoolConfig
from wirecap.lab import testbed as lab
from wirecap.linux import ethtool, netns

pytestmark = pytest.mark.live


def test_what_the_nic_itself_loses(nic):
    """A burst into a short ring: if the NIC counts what it loses, that is what is missing, and the identity holds."""
    inside, sent = nic.nics[0].inside, 3000
    now, _ = netns.call(nic.name, ethtool.most_descriptors, inside) or (0, 0)
    if now:
        with suppress(OSError):
            netns.call(nic.name, ethtool.set_descriptors, inside, 64)
    try:
        with capturing(nic, "generic", pool=PoolConfig(64, 400)) as rig:
            with Wire(nic.nics[0].outside) as wire:
                wire.send(flow_frames(sent))
            settled = until(rig.ended)
            until(lambda: rig.delivered >= settled)
            rig.stop()
            check_identity(rig.engine)
            received = rig.engine.summary().total("received")
            lost = rig.source.losses.so_far()
    finally:
        if now:
            netns.call(nic.name, ethtool.set_descriptors, inside, now)
    if not lost:
        pytest.skip("nothing was lost, or this NIC does not count it")
    assert received + lost[inside]["nic_no_buffer"] <= sent


def flap(inside):
    for state in ("down", "up"):
        subprocess.run(["ip", "link", "set", inside, state], check=True, timeout=60)


def other_mtu(inside):
    for mtu in ("1400", "1500"):
        subprocess.run(["ip", "link", "set", inside, "mtu", mtu], check=True, timeout=60)


def reset(inside):
    """For rings of another size a driver resets the device."""
    now, _ = ethtool.most_descriptors(inside) or (0, 0)
    if not now:
        pytest.skip("the driver has no rings of another size")
    for count in (now // 2, now):
        ethtool.set_descriptors(inside, count)


CHANGES = {"link": flap, "mtu": other_mtu, "reset": reset}
"""What is done to a port under a capture."""


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", WAYS)
def test_a_change_under_a_capture(nic, frames, way, change):
    """A flap of the link, another MTU, a reset: what is sent afterwards arrives, and the identity holds over all."""
    with capturing(nic, way) as rig:
        send(nic, rig, frames[:50])
        try:
            netns.call(nic.name, CHANGES[change], nic.nics[0].inside)
        except OSError as error:
            pytest.skip(f"the driver refuses it: {error.strerror}")
        forgotten = any("what comes afterwards is missed" in line for line in netns.call(nic.name, rig.source.warnings))
        if forgotten:
            until(lambda: facts_of(nic).state in ("up", "unknown"))
            before = lab.received(nic.nics[0].inside, nic.name)
            with Wire(nic.nics[0].outside) as wire:
                until(lambda: wire.send(frames[:1]) or lab.received(nic.nics[0].inside, nic.name) > before)
            time.sleep(1)
            assert rig.delivered == 50, "the driver runs the program again: captures need not warn of it any more"
        else:
            goes_on(nic, rig, frames[100:150])
        rig.stop()
        check_identity(rig.engine)
        assert rig.drops() == {}
    if forgotten:
        pytest.skip("the driver leaves the program out afterwards, and the capture has said so")


def test_more_queues_under_a_capture(nic):
    """Queues that come while packets are captured are nobody's: the capture says so once."""
    inside = nic.nics[0].inside
    in_use, _, kind = netns.call(nic.name, ethtool.most_channels, inside) or (0, 0, "")
    if in_use < 2:
        pytest.skip("this NIC has one queue")
    try:
        netns.call(nic.name, ethtool.set_channels, inside, kind, in_use - 1)
    except OSError as error:
        pytest.skip(f"the driver keeps its queues: {error.strerror}")
    try:
        with LiveRig(nic, pool=PoolConfig(64, 100), engine="xdp", xdp_mode="generic") as rig:
            assert rig.source.news() == []
            netns.call(nic.name, ethtool.set_channels, inside, kind, in_use)
            (line,) = rig.source.news()
            assert f"{inside} has {in_use} receive queues now" in line
            assert rig.source.news() == []
            rig.stop()
            check_identity(rig.engine)
    finally:
        netns.call(nic.name, ethtool.set_channels, inside, kind, in_use)
