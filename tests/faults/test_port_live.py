"""A port that comes back while its driver is asked for metadata."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rig import LiveRig, Wire, check_identity, flow_frames, until
from unplugging import Told, plug_in, unplug
from wirecap.lab.testbed import Testbed
from wirecap.linux import metadata, netlink, netns
from wirecap.run.waiting import Waiting

pytestmark = pytest.mark.live
Make = Callable[..., Testbed]


def test_what_comes_back_is_asked_again(testbed: Make) -> None:
    """A program that asks the driver for metadata is bound to its interface: one that returns gets a program anew."""
    bed = testbed(queues=2)
    index = netns.call(bed.name, netlink.index_of, bed.nics[0].inside)
    if metadata.HASH not in netns.call(bed.name, metadata.offered, index):
        pytest.skip("this kernel's veth tells no program of hashes")
    with LiveRig(bed, engine="xdp", keep_going=True, nic_hash=True) as rig:
        waiting = Waiting(rig.engine, rig.config, Told())  # type: ignore[arg-type]
        for turn in range(3):
            with Wire(bed.nics[0].outside) as wire:
                wire.send(flow_frames(200))
            rig.done(turn * 200 + 200)
            if turn == 2:
                break
            unplug(bed)
            until(lambda: rig.engine.running() and rig.source.away())
            waiting()
            plug_in(bed)
            until(lambda: rig.engine.running() and (waiting() or not rig.source.away()))
        assert rig.source._hooks[0].asked.hash
        rig.stop()
        check_identity(rig.engine, received=600)
        assert rig.drops() == {}
