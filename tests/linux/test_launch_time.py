"""Launch time: what an interface must have for it, each missing part told by name; its clock; what is switched on."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wirecap.cli import whereabouts
from wirecap.lab.testbed import Testbed
from wirecap.linux import ethtool, launch_time, netdev, netlink
from wirecap.linux.rtnetlink import Attributes, Qdisc, Rtnetlink

Make = Callable[..., Testbed]
ROOT = 0xFFFFFFFF


class Device:
    """A NIC that has everything, unless a test takes it away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent, self.clock, self.on, self.refuses = netdev.LAUNCH_TIME | netdev.SENT_TIMESTAMP, 3, {0, 2}, ""
        monkeypatch.setattr(launch_time.netdev, "features", lambda index: netdev.Features(0, self.sent))
        monkeypatch.setattr(launch_time.ethtool, "clock", lambda name: self.clock)
        monkeypatch.setattr(launch_time, "switched_on", lambda index: self.on)
        monkeypatch.setattr(launch_time, "Clock", self._open)

    def _open(self, number: int) -> Device:
        assert number == 3
        if self.refuses:
            raise PermissionError(13, self.refuses)
        return self

    def close(self) -> None: ...


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


def test_nothing_is_missing(device: Device) -> None:
    assert launch_time.lack("eth9", 7, (0, 2)) is None


def test_a_driver_without_it(device: Device) -> None:
    """Stamps alone do not help, as older drivers have them."""
    device.sent = netdev.SENT_TIMESTAMP
    found = launch_time.lack("eth9", 7, (0,))
    assert found
    assert "eth9's driver has no launch time" in found.reason
    assert "this machine's clock" in found.way_out


def test_no_clock_and_one_that_is_refused(device: Device) -> None:
    device.refuses = "Permission denied"
    assert "cannot read eth9's clock /dev/ptp3: Permission denied" in str(launch_time.lack("eth9", 7, (0,)))
    device.clock = -1
    assert "shows no clock of its own" in str(launch_time.lack("eth9", 7, (0,)))


def test_a_queue_on_which_it_is_off(device: Device) -> None:
    """The first of them is named, with the command that switches it on; tc counts classes from 1, in hex."""
    found = launch_time.lack("eth9", 7, (0, 2, 11))
    assert found
    assert found.reason == "launch time is off on queue 11 of eth9"
    assert "tc qdisc replace dev eth9 parent 100:c etf" in found.way_out


def test_doctor_tells_of_drivers_that_have_it(device: Device) -> None:
    """What is on, or what is missing and how to get it; nothing of other NICs."""
    (found,) = whereabouts._launch_time("lo")
    assert (found.good, found.advice) == (True, "")
    assert found.found.endswith("what is sent on queues 0, 2")
    device.on = set()
    (found,) = whereabouts._launch_time("lo")
    assert found.good is None
    assert found.found.endswith("launch time is off on queue 0 of lo")
    assert "tc qdisc" in found.advice
    device.sent = 0
    assert whereabouts._launch_time("lo") == []


def etf(parent: int, flags: int, kind: str = "etf") -> Qdisc:
    return Qdisc(parent, kind, Attributes({1: struct.pack("=iiI", 500_000, time.CLOCK_TAI, flags)}))


def test_queues_with_an_etf_that_leaves_times_to_the_nic() -> None:
    """Below mqprio by number, at the root for queue 0; not one that keeps the times itself, nor another discipline."""
    many = [
        etf(0x01000001, 2), etf(0x01000003, 3), etf(0x01000004, 1), etf(0x01000005, 2, "fq"),
        Qdisc(0x01000006, "etf", Attributes()), Qdisc(ROOT, "mqprio", Attributes()),
    ]  # fmt: skip
    assert launch_time.queues_of(many) == {0, 2}
    assert launch_time.queues_of([etf(ROOT, 2)]) == {0}
    assert launch_time.queues_of([]) == set()


def test_a_clock_is_read_against_the_monotonic_one() -> None:
    """Its offset, to less than the time that the reading took."""
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    found = launch_time.offset_ns(time.CLOCK_BOOTTIME)
    assert abs(found - before) < 30 * 10**9
    assert abs(launch_time.offset_ns(time.CLOCK_MONOTONIC)) < 30 * 10**9


def test_a_clock_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A device that has no time is refused like one that is not there."""
    monkeypatch.setattr(launch_time, "DEVICE", str(tmp_path / "clock{}"))
    with pytest.raises(OSError, match="No such file"):
        launch_time.Clock(0)
    (tmp_path / "clock0").touch()
    with pytest.raises(OSError, match="Invalid argument"):
        launch_time.Clock(0)


def test_what_there_is_not_has_no_clock() -> None:
    """Neither loopback nor a name that no interface has; and stamps are asked of them in vain."""
    for name in ("lo", "nonesuch0"):
        assert ethtool.clock(name) == -1
        launch_time.switch_on_stamps(name)


@pytest.mark.live
def test_queueing_disciplines_are_read(testbed: Make) -> None:
    """Those that were set up, with their place; of this interface only, which has no launch time."""
    from pyroute2 import IPRoute

    bed = testbed(queues=1)
    facts = netlink.interface(bed.nics[0].outside)
    with IPRoute() as route:
        route.tc("add", "pfifo", facts.index, 0x10000)
    with Rtnetlink() as rtnetlink:
        found = [(one.parent, one.kind) for one in rtnetlink.qdiscs(facts.index)]
    assert found == [(ROOT, "pfifo")]
    assert launch_time.switched_on(facts.index) == set()
    assert "has no launch time" in str(launch_time.lack(facts.name, facts.index, (0,)))


def test_what_is_not_given_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stamps of received packets are left as they are by who wants those of sent ones; who sets both reads nothing."""
    asked = []

    def kernel(name: str, request: bytes, channel: object = None, call: int = 0) -> bytes:
        asked.append((call, struct.unpack("3i", request)))
        return struct.pack("3i", 7, 0, 5)

    monkeypatch.setattr(ethtool, "_ask", kernel)
    ethtool.set_timestamps("eth1", sending=1)
    ethtool.set_timestamps("eth1", sending=0, receiving=1)
    assert asked == [(0x89B1, (0, 0, 0)), (0x89B0, (7, 1, 5)), (0x89B0, (0, 0, 1))]
