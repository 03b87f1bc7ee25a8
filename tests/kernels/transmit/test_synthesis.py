"""Synthetic packets: well-formed, as often as wished, and the same for the same seed."""

from __future__ import annotations

import dpkt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wirecap.errors import UsageError
from wirecap.traffic import synthetic as f
from wirecap.traffic.synthetic import IMIX, Synthetic, Traffic, at_least, parse_sizes
from wirecap.traffic.timing import Timing


def frames_of(traffic, count, **options):
    """The packets of a plan with their queues."""
    plan = Synthetic(traffic, Timing(), 9000, count=count, **options)
    found = []
    for batch in plan.batches():
        for at, size, queue in zip(batch.address, batch.length, batch.queue, strict=True):
            found.append((bytes(batch.arena[at : at + int(size)]), int(queue)))
        batch.release()
    return found


def ones_sum(data):
    total = sum(int.from_bytes(data[k : k + 2].ljust(2, b"\0"), "big") for k in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@settings(max_examples=25, deadline=None)
@given(st.booleans(), st.one_of(st.none(), st.integers(0, 4095)), st.integers(74, 400), st.integers(0, 2**62))
def test_packets_are_well_formed(ipv6, vlan, size, seed):
    """Lengths and checksums of IPv4, IPv6 and UDP are right, with a VLAN tag too, and the payload is the number."""
    for number, (frame, _) in enumerate(frames_of(Traffic(((size, 1.0),), 5, ipv6=ipv6, vlan=vlan, seed=seed), 8)):
        assert len(frame) == size
        ethernet = dpkt.ethernet.Ethernet(frame)
        assert vlan is None or ethernet.vlan_tags[0].id == vlan
        network = ethernet.data
        assert isinstance(network, dpkt.ip6.IP6 if ipv6 else dpkt.ip.IP)
        segment = bytes(network.data)
        assert (
            network.data.ulen
            == len(segment)
            == size - len(frame[: 14 + (4 if vlan is not None else 0)]) - (40 if ipv6 else 20)
        )
        if not ipv6:
            assert ones_sum(bytes(network)[:20]) == 0xFFFF
            assert network.len == size - 14 - (4 if vlan is not None else 0)
        pseudo = network.src + network.dst + bytes([0, 17]) + len(segment).to_bytes(2, "big")
        assert ones_sum(pseudo + segment) == 0xFFFF
        assert segment[8:] == number.to_bytes(8, "big") + bytes(len(segment) - 16)


def test_same_seed_same_packets():
    """The same seed gives the same bytes, another one others; all flows differ from each other."""
    traffic = Traffic(IMIX, 50, zipf=1.0, seed=7)
    once = frames_of(traffic, 500)
    assert once == frames_of(traffic, 500)
    assert once != frames_of(Traffic(IMIX, 50, zipf=1.0, seed=8), 500)
    assert (
        len({(flow.source, flow.destination, flow.source_port) for flow in map(f.flow_of, range(100_000))}) == 100_000
    )


@pytest.mark.parametrize("zipf", [0.0, 1.2])
def test_flows_come_as_often_as_they_should(zipf):
    """Counts of 10 flows over 6,000 packets are within five standard deviations of uniform or Zipf shares."""
    count = 6000
    packets = frames_of(Traffic(((60, 1.0),), 10, zipf=zipf), count)
    of_flow = {bytes(f.headers_of([f.flow_of(n)]).bytes[0, 26:34]): n for n in range(10)}
    found = np.bincount([of_flow[frame[26:34]] for frame, _ in packets], minlength=10)
    wanted = np.array([1 / (n + 1) ** zipf for n in range(10)])
    wanted *= count / wanted.sum()
    assert (abs(found - wanted) < 5 * np.sqrt(wanted)).all()


def test_queues_get_their_shares_and_keep_flows_together():
    """With --shares 70,20,10 the queues get these parts, and a flow is never on two queues."""
    packets = frames_of(Traffic(((60, 1.0),), 30, shares=(70, 20, 10)), 6000, queues=3)
    found = np.bincount([queue for _, queue in packets], minlength=3) / 6000
    assert np.allclose(found, [0.7, 0.2, 0.1], atol=0.03)
    homes = {}
    for frame, queue in packets:
        assert homes.setdefault(frame[26:38], queue) == queue


def test_sizes_as_people_write_them():
    """One size, a mix by name, a range, a mix with weights."""
    assert parse_sizes("60") == ((60, 1.0),)
    assert parse_sizes("IMIX") == IMIX
    assert parse_sizes("64-66") == ((64, 1 / 3), (65, 1 / 3), (66, 1 / 3))
    assert parse_sizes("60:7,1514:1") == ((60, 7.0), (1514, 1.0))


@pytest.mark.parametrize(("ipv6", "vlan"), [(False, None), (True, None), (True, 7)])
def test_sizes_that_grow_to_their_headers(ipv6, vlan):
    """IMIX over IPv6 and with a tag: the shortest frame is as long as its headers, the others are what they were."""
    shortest = f.headers_bytes(ipv6, vlan)
    sizes = at_least(shortest, IMIX)
    assert [size for size, _ in sizes] == [max(60, shortest), 590, 1514]
    found = frames_of(Traffic(sizes, ipv6=ipv6, vlan=vlan), 200)
    assert {len(frame) for frame, _ in found} == {size for size, _ in sizes}


@pytest.mark.parametrize("wrong", ["", "x", "60:-1", "60-50", "10", "70000", "60:0"])
def test_sizes_that_cannot_be(wrong):
    """A size that cannot be is refused with the forms that can."""
    with pytest.raises(UsageError):
        parse_sizes(wrong)


@pytest.mark.parametrize("traffic", [Traffic(((41, 1.0),)), Traffic(((60, 1.0),), ipv6=True), Traffic(((9015, 1.0),))])
def test_frames_that_cannot_be(traffic):
    """A frame shorter than its headers, or longer than the MTU allows, is a usage error."""
    with pytest.raises(UsageError):
        Synthetic(traffic, Timing(), 9000, count=1)
