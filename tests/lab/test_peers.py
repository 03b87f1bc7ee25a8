"""Capture peers: each really receives in the testbed, and its closing numbers are read rightly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from wirecap.errors import WirecapError
from wirecap.lab import peers
from wirecap.lab.testbed import Testbed
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

Make = Callable[..., Testbed]
COUNT = 5000


@pytest.mark.live
@pytest.mark.parametrize("name", peers.CAPTURES)
def test_every_packet_is_accounted_for(testbed: Make, name: str) -> None:
    """At a rate that it stands, a peer counts every packet that was sent, and dropped ones are zero."""
    peer_type = peers.CAPTURES[name]
    reason = peer_type.available()
    if reason:
        pytest.skip(reason)
    bed = testbed(queues=2, gro=peer_type.needs_gro)
    nic = bed.nics[0]
    with peer_type(nic.inside, bed.name, cpu=1) as peer, LiveFrames(nic.outside, synthetic.udp(), cpu=0) as sender:
        if peer.polls:
            peer.settle_s = 8.0  # it may stand still, and nobody can see that
        assert sender.send_paced(COUNT, 10_000) == COUNT
        caught = peer.stop()
    assert (caught.delivered, caught.dropped) == (COUNT, 0)
    assert caught.cpu_s > 0


@pytest.mark.live
@pytest.mark.parametrize("name", ["tcpdump", "dumpcap"])
def test_files_hold_the_packets(testbed: Make, tmp_path: Path, name: str) -> None:
    """With a file a peer writes each packet into it: the file is as long as that many packets are."""
    peer_type = peers.CAPTURES[name]
    reason = peer_type.available()
    if reason:
        pytest.skip(reason)
    bed = testbed(queues=1, gro=True)
    file = tmp_path / "caught"
    with (
        peer_type(bed.nics[0].inside, bed.name, file) as peer,
        LiveFrames(bed.nics[0].outside, synthetic.udp(), cpu=0) as sender,
    ):
        sender.send_paced(1000, 10_000)
        assert peer.stop().delivered == 1000
    assert file.stat().st_size >= 1000 * (60 + 16)


@pytest.mark.live("tcpreplay")
def test_tcpreplay_tells_what_it_sent(testbed: Make, tmp_path: Path) -> None:
    """tcpreplay's closing statistics are read: packets, failures, duration."""
    from dpkt import pcap

    trace = tmp_path / "ten.pcap"
    with trace.open("wb") as file:
        writer = pcap.Writer(file)
        for number in range(10):
            writer.writepkt(synthetic.udp(100), ts=1e9 + number * 0.01)
    bed = testbed(queues=1)
    sent = peers.tcpreplay(bed.nics[0].outside, trace, ("--multiplier=1.0",))
    assert (sent.packets, sent.failed, sent.truncated) == (10, 0, 0)
    assert sent.duration_s > 0.05  # at least what was recorded; how much longer is the machine's matter
    with pytest.raises(WirecapError, match="tcpreplay exited with status"):
        peers.tcpreplay(bed.nics[0].outside, tmp_path / "missing.pcap")


def test_other_words_are_an_error() -> None:
    """Closing statistics that are not the known ones are an error, never a count of nothing."""
    with pytest.raises(WirecapError, match="closing statistics"):
        peers.Tcpdump("x0").parse("tcpdump: x0: You don't have permission to capture on that device")
