"""--busy-poll: the capture thread takes packets from the NIC, every packet is accounted for, and all is put back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rig import until
from wirecap.cli import main, whereabouts
from wirecap.config.capture import CaptureConfig
from wirecap.config.specs import QueueSpec
from wirecap.errors import UsageError
from wirecap.handlers.pipeline import Pipeline
from wirecap.kernels.base.jit import PURE
from wirecap.linux import busy_poll, netns, probes
from wirecap.run import build
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

pytestmark = pytest.mark.skipif(PURE, reason="captures run compiled")
QUIET = {"napi_defer_hard_irqs": 0, "gro_flush_timeout": 0, "threaded": 0}


def polled():
    """Packets that busy polling has received so far, of the calling thread's network namespace."""
    names, values = (line.split() for line in Path("/proc/thread-self/net/netstat").read_text().splitlines()[:2])
    return int(dict(zip(names, values, strict=True))["BusyPollRxPackets"])


@pytest.mark.live
def test_every_packet_by_polling(testbed, monkeypatch):
    """Each packet that the interface took is accounted for; interrupts are put off meanwhile, and not after it.

    Where the driver names its polls, ours brought some; where not, the capture is made to believe it.
    """
    bed = testbed(queues=1)
    nic = bed.nics[0]
    if netns.call(bed.name, busy_poll.state, nic.inside).keys() != QUIET.keys():
        pytest.skip("a kernel that does not put off interrupts")
    real = busy_poll.napi_of
    monkeypatch.setattr(busy_poll, "napi_of", lambda descriptor: real(descriptor) or 1)
    config = CaptureConfig(sources=(QueueSpec(nic.inside),), netns=bed.name, engine="xdp", busy_poll=True)
    source = build.source_of(config)
    try:
        application = Pipeline([], None)
        engine = build.engine_of(config, source, application)
        build.prepare(source, application)
        netns.call(bed.name, engine.start)
        assert not [note for note in netns.call(bed.name, source.warnings) if "busy polling" in note]
        assert netns.call(bed.name, busy_poll.state, nic.inside)["napi_defer_hard_irqs"] == 2
        assert not netns.call(bed.name, whereabouts._polling, nic.inside)
        sent = 0

        def some_by_polling():
            """A capture thread that has no CPU while packets come polls for none."""
            nonlocal sent
            with LiveFrames(nic.outside, synthetic.udp(60)) as sender:
                sent += sender.send_paced(20_000, 100_000)
            until(lambda: engine.summary().total("delivered") + engine.summary().total("dropped") >= sent)
            return netns.call(bed.name, polled) > 0 or not real(source.descriptor(0))

        until(some_by_polling)
        engine.stop()
        summary = engine.summary()
        assert summary.total("received") == sent
        assert summary.total("delivered") + summary.total("dropped") == sent
    finally:
        source.close()
    assert netns.call(bed.name, busy_poll.state, nic.inside) == QUIET


@pytest.mark.live
def test_what_the_kernel_refuses_is_a_line(testbed, monkeypatch, capfd):
    """Without it in the kernel, or where nobody may put off interrupts, a capture goes on and a line says so."""
    bed = testbed(queues=1)
    inside = bed.nics[0].inside
    line = ["capture", "--netns", bed.name, "-i", inside, "--busy-poll", "--duration", "0.1"]
    monkeypatch.setattr(busy_poll, "napi_of", lambda descriptor: 1)
    with monkeypatch.context() as files:
        files.setattr(busy_poll, "WANTED", {"nonesuch": "2"})
        assert main.run(line) == 0
        assert re.search(r"busy polling: \S+ goes on interrupting: no such file", capfd.readouterr().err)
    with monkeypatch.context() as options:
        options.setattr(busy_poll, "SO_PREFER_BUSY_POLL", 9999)
        assert main.run(line) == 0
        told = capfd.readouterr().err
        assert "busy polling: protocol not available: the kernel goes on polling by itself" in told
    monkeypatch.setattr(busy_poll, "napi_of", lambda descriptor: 0)
    monkeypatch.setattr(probes, "release", lambda: (6, 13))
    assert main.run(line) == 0
    assert "busy polling: the driver does not tell the kernel which polls serve" in capfd.readouterr().err
    assert netns.call(bed.name, busy_poll.state, inside) == QUIET  # or packets would wait for a poll that never comes


@pytest.mark.live
def test_interrupts_that_were_left_put_off_are_told(testbed):
    """What a capture left that was killed is a finding, with the command that mends it; and threaded NAPI is told."""
    bed = testbed(queues=1, gro=True)  # with GRO a veth has polls
    inside = bed.nics[0].inside
    deferral = netns.call(bed.name, busy_poll.Deferral, inside)
    assert deferral.refused == ""
    (found,) = netns.call(bed.name, whereabouts._polling, inside)
    assert f"echo 0 > /sys/class/net/{inside}/gro_flush_timeout" in found.advice
    deferral.close()
    assert not netns.call(bed.name, whereabouts._polling, inside)

    def thread():
        busy_poll._with_sysfs(inside, lambda: Path(f"/sys/class/net/{inside}/threaded").write_text("1"))

    netns.call(bed.name, thread)
    (found,) = netns.call(bed.name, whereabouts._polling, inside)
    assert found.name == f"{inside} NAPI"


def test_only_for_af_xdp(capfd):
    """An engine that has no such sockets refuses the option, whether it was asked for or chosen."""
    for engine in ("packet", "direct"):
        with pytest.raises(UsageError, match="--busy-poll does not apply"):
            CaptureConfig(sources=(QueueSpec("eth1"),), engine=engine, busy_poll=True)
    assert main.run(["capture", "-i", "lo", "--busy-poll"]) == 2
    assert "would be captured by the packet engine" in capfd.readouterr().err
