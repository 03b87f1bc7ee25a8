"""Which capture threads let packets lie for a while: those of handlers and writers, where that costs no accuracy."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import wirecap
from rig import LiveRig
from wirecap.config.capture import CaptureConfig
from wirecap.handlers.pipeline import Pipeline
from wirecap.kernels.xdp.capture_loop import LAZY
from wirecap.linux import busy_poll
from wirecap.run import build
from wirecap.source import rings, xdp
from wirecap.source.memory import MemorySource
from wirecap.source.source import CaptureSettings


@pytest.mark.parametrize("forwarder", [None, SimpleNamespace()])
def test_not_those_of_a_forwarder(forwarder):
    source = MemorySource(1, 64)
    try:
        config = CaptureConfig(read_file="any")
        engine = build.engine_of(config, source, Pipeline([], None, forwarder=forwarder))
        assert engine._settings.lazy == (forwarder is None)
    finally:
        source.close()


@pytest.mark.parametrize("lazy", [False, True])
def test_the_loop_is_told(monkeypatch, lazy):
    told = []
    monkeypatch.setattr(rings, "capture_loop", lambda pool, rings, mine, words, *_: told.append(words[LAZY]))
    rings.run_capture(SimpleNamespace(tallies=np.zeros((1, 1), np.int64)), None, [0], -1, CaptureSettings(lazy=lazy))
    assert told == [lazy]


@pytest.fixture
def told(monkeypatch):
    """The settings with which capture threads of the AF_XDP engine begin."""
    told, real = [], xdp.run_capture

    def noted(pool, rings, mine, wait_fd, settings):
        told.append(settings.lazy)
        real(pool, rings, mine, wait_fd, settings)

    monkeypatch.setattr(xdp, "run_capture", noted)
    return told


@pytest.mark.live
@pytest.mark.parametrize(
    ("options", "lazy"), [({}, True), ({"time_stamps": "host_lowprec"}, False), ({"busy_poll": True}, False)]
)
def test_not_where_time_counts(testbed, monkeypatch, told, options, lazy):
    """With host_lowprec packets have the time at which the thread looks; who polls busily wants them at once."""
    real = busy_poll.napi_of
    monkeypatch.setattr(busy_poll, "napi_of", lambda descriptor: real(descriptor) or 1)  # older drivers name none
    with LiveRig(testbed(queues=1), engine="xdp", **options) as rig:
        rig.stop()
    assert told == [lazy]


@pytest.mark.live
def test_not_those_of_a_reader(testbed, told):
    bed = testbed(queues=1)
    with wirecap.open(bed.nics[0].inside, netns=bed.name, engine="xdp"):
        pass
    assert told == [False]
