"""What is changed on a NIC while it is captured."""

from __future__ import annotations

import pytest

from rig import LiveRig, until
from wirecap.linux import ethtool, netns
from wirecap.observe.live_line import Progress
from wirecap.run.waiting import Waiting

pytestmark = pytest.mark.live


class Said(Progress):
    """Keeps warnings."""

    def __init__(self):
        self.lines = []

    def warn(self, line):
        self.lines.append(line)


def test_queues_that_come_are_told_once(testbed):
    """ethtool -L under a capture: packets of the new queue are missed, and a line says so, wherever it is asked."""
    bed = testbed(queues=2)
    inside = bed.nics[0].inside
    netns.call(bed.name, ethtool.set_channels, inside, "rx", 1)
    said = Said()
    with LiveRig(bed, engine="xdp", xdp_mode="generic") as rig:
        waiting = Waiting(rig.engine, rig.config, said)
        waiting()
        assert said.lines == []
        netns.call(bed.name, ethtool.set_channels, inside, "rx", 2)
        until(lambda: waiting() or said.lines)
        assert f"{inside} has 2 receive queues now, and had 1" in said.lines[0]
        netns.call(bed.name, ethtool.set_channels, inside, "rx", 1)
        assert rig.source.news() == []
        rig.stop()
    assert len(said.lines) == 1
