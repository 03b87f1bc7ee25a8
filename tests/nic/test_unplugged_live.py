"""A PCI device that is taken out under a capture with ``--keep-going``, and put back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nic_rig import WAYS, capturing, goes_on, send
from rig import check_identity, until
from unplugging import Told
from wirecap.linux import ethtool, netns
from wirecap.run.waiting import Waiting

pytestmark = pytest.mark.live
PCI = Path("/sys/bus/pci")


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, timeout=60)


def put_back(nic, address, queues):
    """Under its old name, in its old place, with as many queues as it had; queues: (number, kind) or None."""
    inside, interfaces = nic.nics[0].inside, Path("/sys/class/net")
    (PCI / "rescan").write_text("1")
    found = until(lambda: [path.name for path in interfaces.iterdir() if address in path.resolve().parts])
    ip("link", "set", found[0], "netns", nic.name, "name", inside)
    now = netns.call(nic.name, ethtool.most_channels, inside)
    if queues and now and now[0] != queues[0]:
        netns.call(nic.name, ethtool.set_channels, inside, queues[1], queues[0])
    ip("-n", nic.name, "link", "set", inside, "up", "promisc", "on")


@pytest.mark.parametrize("way", WAYS)
def test_taken_out_and_put_back(nic, frames, way):
    """It is waited for and captured on again; with zero-copy, or a group of sockets, the capture ends and says so."""
    inside = nic.nics[0].inside
    address = netns.call(nic.name, ethtool.bus, inside)
    if not (PCI / "devices" / address / "remove").exists():
        pytest.skip("it is no PCI device")
    in_use, _, kind = netns.call(nic.name, ethtool.most_channels, inside) or (1, 1, "")
    with capturing(nic, way, keep_going=True) as rig:
        waits = not rig.source.describe()["zero_copy"] and (way != "packet" or len(rig.source.queues) == 1)
        told = Told()
        waiting = Waiting(rig.engine, rig.config, told)
        send(nic, rig, frames[:50])
        (PCI / "devices" / address / "remove").write_text("1")
        try:
            until(lambda: not rig.engine.running() or rig.source.away())
            assert rig.engine.running() == waits
            waiting()
        finally:
            put_back(nic, address, (in_use, kind) if in_use > 1 else None)
        if waits:
            until(lambda: rig.engine.running() and (waiting() or not rig.source.away()))
            assert "is back" in told.lines[-1]
            goes_on(nic, rig, frames[100:150])
        else:
            assert "is gone" in str(rig.engine.failure())
        rig.stop()
        check_identity(rig.engine)
        assert rig.drops() == {}
