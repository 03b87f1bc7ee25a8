"""Frames from nothing are frames: dpkt, that shares no code with us, reads them."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirecap.errors import UsageError
from wirecap.traffic import synthetic


@given(st.integers(42, 9000), st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 65535), st.integers(0, 65535))
def test_a_reader_finds_what_was_asked_for(length: int, source: object, target: object, sport: int, dport: int) -> None:
    """Length, addresses, ports and the IP header's checksum are right for any choice."""
    frame = synthetic.udp(length, str(source), str(target), sport, dport)
    packet = dpkt.ethernet.Ethernet(frame)
    assert len(frame) == length
    assert isinstance(packet.data.data, dpkt.udp.UDP)
    assert (packet.data.src, packet.data.dst) == (source.packed, target.packed)  # type: ignore[attr-defined]
    assert (packet.data.data.sport, packet.data.data.dport) == (sport, dport)
    assert packet.data.len == length - 14
    assert packet.data.data.ulen == length - 34
    assert synthetic.internet_checksum(frame[14:34]) == 0


@pytest.mark.parametrize("length", [41, 65550])
def test_impossible_lengths(length: int) -> None:
    """A frame shorter than its headers or longer than IPv4 allows is refused."""
    with pytest.raises(UsageError, match=f"{length}"):
        synthetic.udp(length)
