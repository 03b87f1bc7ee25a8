"""TCP between two hosts whose frames take several cells, through ``wirecap forward``."""

from __future__ import annotations

import subprocess

import pytest

from forward_rig import Running
from hosts import INET, INET6, apart, tcp
from wirecap.linux import af_xdp

__all__ = ["apart"]

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not af_xdp.joins_cells(), reason="this kernel has no packets of several cells (Linux 6.6)"),
]


def with_mtu(hosts, mtu):
    """Give all four ends an MTU."""
    between, one, other = hosts
    ends = [(between.name, end) for end in between.ends] + [(host.namespace, host.interface) for host in (one, other)]
    for namespace, interface in ends:
        command = ["ip", "-n", namespace, "link", "set", interface, "mtu", str(mtu)]
        subprocess.run(command, check=True, timeout=60)


@pytest.mark.parametrize(
    ("mode", "mtu", "cell"), [("native", 9000, "2048"), ("native", 30_000, "2048"), ("generic", 65_000, "4096")]
)
def test_hosts_talk_in_large_frames(apart, mode, mtu, cell):
    """What one host sends, the other gets, both ways, and each frame is counted once."""
    with_mtu(apart, mtu)
    between, one, other = apart
    with Running(between, *between.ends, "--both", "--xdp-mode", mode, "--cell", cell) as running:
        for family in (INET, INET6):
            tcp(one, other, family)
        summary = running.end()
    assert summary["packets"]["drops"] == {}
    assert summary["bytes"]["received"] / summary["packets"]["received"] > 1500
