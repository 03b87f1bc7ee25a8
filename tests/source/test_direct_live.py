"""--engine direct: handler threads on a bare receive ring, the paper's Type II engines."""

from __future__ import annotations

import threading

import pytest

import wirecap
from rig import Gate, LiveRig, Wire, check_identity, flow_frames, number_of, read_pcapng, until
from wirecap.config.capture import PoolConfig, WriteConfig
from wirecap.errors import UsageError
from wirecap.handlers.pipeline import Pipeline
from wirecap.lab import testbed as lab
from wirecap.linux import netlink, netns

pytestmark = pytest.mark.live


def test_frames_arrive_whole(testbed, tmp_path):
    """What arrives slowly enough is written, once each, in time order; there is no capture thread."""
    bed = testbed(queues=2)
    sent = [frame for size in (60, 333, 1514) for frame in flow_frames(200, size, first=size * 1000)]
    path = tmp_path / "out.pcapng"
    with LiveRig(bed, engine="direct", write=WriteConfig(path=str(path)), ring=4096) as rig:
        assert rig.engine._capture == []
        with Wire(bed.nics[0].outside) as wire:
            for first in range(0, len(sent), 50):
                wire.send(sent[first : first + 50])
                rig.done(first + 50)
        rig.stop()
        check_identity(rig.engine, received=len(sent))
        assert rig.drops() == {}
        assert rig.application.writer.late == 0
    found = read_pcapng(path)
    assert sorted(packet.data for packet in found) == sorted(sent)


def test_a_busy_handler_loses_what_the_ring_cannot_hold(testbed):
    """While the handler is at work nobody takes packets: of a burst the ring's 1,024 descriptors are left."""
    bed = testbed(queues=1)
    with LiveRig(bed, engine="direct", handlers=["pkt_handler:rate=10"]) as rig:
        assert (rig.config.ring, rig.config.pool.M * rig.config.pool.R) == (1024, 1024)
        with Wire(bed.nics[0].outside) as wire:
            wire.send(flow_frames(1))
            until(lambda: rig.delivered == 1)
            wire.send(flow_frames(5_000, first=1))
        until(lambda: rig.engine.summary().total("received") == 5_001)
        rig.stop(give_up=True)
        check_identity(rig.engine, received=5_001)
        drops = rig.drops()
        assert set(drops) == {"ring_full", "unread_at_stop"}
        assert drops["unread_at_stop"] <= 1024
        assert 5_000 - 1024 - (rig.delivered - 1) <= drops["ring_full"] <= 5_001 - 1024 + 1


def test_a_chunk_may_be_the_whole_ring(testbed):
    """With -M as large as the ring all that lies in it is one batch, whose cells come back together, as netmap's do:
    while 60 packets of a ring of 64 are handled, 4 more find room."""
    bed = testbed(queues=1)
    gate = Gate()
    pipeline = Pipeline([gate.handler])
    with LiveRig(bed, engine="direct", ring=64, pool=PoolConfig(256, 2), application=pipeline) as rig:
        assert (rig.config.pool.M, rig.config.pool.R) == (64, 1)
        with Wire(bed.nics[0].outside) as wire:
            wire.send(flow_frames(1))
            until(lambda: gate.sizes == [1])
            wire.send(flow_frames(60, first=1))
            until(lambda: rig.engine.summary().total("received") == 61)
            gate.let_go()
            until(lambda: gate.sizes == [1, 60])
            wire.send(flow_frames(20, first=61))
        until(lambda: rig.engine.summary().total("received") == 81)
        rig.engine.abandon()
        gate.let_go(100)
        rig.stop(give_up=True)
        check_identity(rig.engine, received=81)
        assert rig.drops() == {"ring_full": 16, "unread_at_stop": 4}


@pytest.mark.parametrize("queues", ["@0", "@0-1"])
def test_chunks_for_a_program(testbed, queues):
    """wirecap.open receives in the caller's own loop."""
    bed = testbed(queues=2)
    nic = bed.nics[0]
    seen = []
    with (
        Wire(nic.outside) as wire,
        wirecap.open(nic.inside + queues, engine="direct", netns=bed.name, duration_s=60) as capture,
    ):
        wire.send(flow_frames(300))
        until(lambda: lab.received(bed.nics[0].inside, bed.name) == 300)
        for chunk in capture:
            seen += [number_of(bytes(packet)) for packet in chunk]
            if len(seen) == capture.summary()["packets"]["received"]:
                capture.stop()
    assert len(seen) == len(set(seen)) > 50
    packets = capture.summary()["packets"]
    assert packets["received"] == packets["delivered"] == len(seen)
    assert packets["drops"] == {}


def test_python_handlers(testbed):
    """A handler in Python is called by the thread that receives."""
    bed = testbed(queues=1)
    seen = []

    @wirecap.chunk_handler
    def note(chunk):
        seen.extend(number_of(bytes(packet)) for packet in chunk)

    def send():
        until(lambda: netns.call(bed.name, netlink.interface, bed.nics[0].inside).xdp_mode)
        with Wire(bed.nics[0].outside) as wire:
            wire.send(flow_frames(200))

    thread = threading.Thread(target=send)
    thread.start()
    wirecap.capture(bed.nics[0].inside, note, engine="direct", netns=bed.name, count=200, duration_s=60)
    thread.join()
    assert seen == list(range(200))


def test_advanced_mode_is_refused(testbed):
    """There is nothing to hand to a buddy."""
    with pytest.raises(UsageError, match="the direct engine has no advanced mode"):
        LiveRig(testbed(queues=2), engine="direct", mode="advanced")
