"""NICs that may be tested, each in a namespace of its own, as testbeds: ``make test-kernels`` names them."""

from __future__ import annotations

import os
import random

import pytest

from rig import flow_frames, time_limit
from wirecap.lab import testbed as lab
from wirecap.linux import netlink, netns

__all__ = ["time_limit"]

VARIABLE = "WIRECAP_TEST_NICS"
"""Words NAME=NAMESPACE,INSIDE,OUTSIDE: a NIC in a namespace, and one outside that sends to it."""
FRAMES = 600


def _named() -> dict[str, list[str]]:
    words = (word.partition("=") for word in os.environ.get(VARIABLE, "").split())
    return {name: places.split(",") for name, _, places in words}


@pytest.fixture(scope="session", params=list(_named()) or ["none"])
def nic(request: pytest.FixtureRequest) -> lab.Testbed:
    """The NIC as the inner end of a testbed's first pair."""
    if request.param == "none":
        pytest.skip(f"needs a NIC that may be tested: {VARIABLE}, which make test-kernels sets")
    namespace, inside, outside = _named()[request.param]
    facts = netns.call(namespace, netlink.interface, inside)
    end = lab.VethPair(inside, outside, facts.rx_queues, facts.mtu, facts.up, facts.xdp_mode)
    return lab.Testbed(namespace, True, (end,))


@pytest.fixture
def frames() -> list[bytes]:
    """Numbered frames of many flows and all lengths."""
    chance = random.Random(3)
    return [flow_frames(1, chance.choice([60, 128, 700, 1514]), first=number)[0] for number in range(FRAMES)]
