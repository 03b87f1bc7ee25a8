"""NICs that may be tested, each in a namespace of its own, as testbeds: ``make test-kernels`` names them."""

from __future__ import annotations

import random

import pytest

from nic_rig import VARIABLE, bed_of, named
from rig import flow_frames, time_limit
from wirecap.lab import testbed as lab

__all__ = ["time_limit"]

FRAMES = 600


@pytest.fixture(scope="session", params=list(named()) or ["none"])
def nic(request: pytest.FixtureRequest) -> lab.Testbed:
    """The NIC as the inner end of a testbed's first pair."""
    if request.param == "none":
        pytest.skip(f"needs a NIC that may be tested: {VARIABLE}, which make test-kernels sets")
    return bed_of(request.param)


@pytest.fixture
def frames() -> list[bytes]:
    """Numbered frames of many flows and all lengths."""
    chance = random.Random(3)
    return [flow_frames(1, chance.choice([60, 128, 700, 1514]), first=number)[0] for number in range(FRAMES)]
