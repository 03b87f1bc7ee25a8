"""Ending a capture on a real interface by one's own hand."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

import wirecap
from wirecap.lab.testbed import Testbed


@pytest.mark.live
def test_a_capture_that_was_stopped_gives_what_it_has(testbed: Callable[..., Testbed]) -> None:
    """After ``stop`` the loop gets the packets that were captured, and ends without an error."""
    bed = testbed(queues=1)
    nic = bed.nics[0]
    with wirecap.open(nic.inside, netns=bed.name, M=4, R=16) as capture:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((nic.outside, 0))
            for number in range(30):
                sender.send(bytes(12) + b"\x88\xb5" + bytes([number]) * 46)
        capture.stop()
        assert [packet[14] for chunk in capture for packet in chunk] == list(range(30))
    assert capture.summary()["packets"]["delivered"] == 30
