"""Ending a capture on a real interface by one's own hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

import wirecap
from rig import Wire, until
from wirecap.lab import testbed as lab
from wirecap.lab.testbed import Testbed
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames


@pytest.mark.live
def test_a_capture_that_was_stopped_gives_what_it_has(testbed: Callable[..., Testbed]) -> None:
    """After ``stop`` the loop gets the packets that were captured, and ends without an error."""
    bed = testbed(queues=1)
    nic = bed.nics[0]
    with wirecap.open(nic.inside, netns=bed.name, M=4, R=16) as capture:
        with Wire(nic.outside) as wire:
            wire.send(bytes(12) + b"\x88\xb5" + bytes([number]) * 46 for number in range(30))
        until(lambda: lab.received(bed.nics[0].inside, bed.name) == 30)
        capture.stop()
        assert [packet[14] for chunk in capture for packet in chunk] == list(range(30))
    assert capture.summary()["packets"]["delivered"] == 30


@pytest.mark.live
def test_a_stop_by_another_thread_is_no_failure(testbed: Callable[..., Testbed]) -> None:
    """While packets come, ``stop`` by another thread ends the loop without an error, and every packet is accounted for:
    the loop looks at the interface all the time, also while the program is being detached.
    """
    bed = testbed(queues=1)
    nic = bed.nics[0]

    def stop(capture: wirecap.Capture) -> None:
        end = time.monotonic() + 30
        while not capture.summary()["packets"]["received"] and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.1)
        capture.stop()

    with LiveFrames(nic.outside, synthetic.udp(60)) as sender:
        for _ in range(10):
            with wirecap.open(nic.inside, netns=bed.name) as capture:
                sending = threading.Thread(target=sender.send, args=(3_000_000,))
                stopping = threading.Thread(target=stop, args=(capture,))
                sending.start()
                stopping.start()
                delivered = sum(len(chunk) for chunk in capture)
                sender.stop()
                sending.join()
                stopping.join()
            packets = capture.summary()["packets"]
            assert packets["delivered"] == delivered > 0
            assert packets["received"] == delivered + packets["dropped"]
            assert "unaccounted" not in packets["drops"]
