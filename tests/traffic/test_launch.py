"""Sending by the NIC's clock: when it is taken, how times follow that clock, and what its stamps say at the end.

No NIC here has launch times.  A veth takes the same metadata in copy mode: it ignores the launch times, and the
kernel's stamps, of CLOCK_TAI, stand for the NIC's.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from replay_rig import Receiver, mixed, write_pcap
from rig import time_limit
from wirecap.errors import SystemCallError, UsageError
from wirecap.kernels.pool.pool import Rings
from wirecap.kernels.transmit import launch_queues as k
from wirecap.kernels.transmit import paced_loop as p
from wirecap.kernels.transmit import ring as t
from wirecap.lab.testbed import Testbed
from wirecap.linux import af_xdp, launch_time, netlink, probes
from wirecap.source.memory import answer
from wirecap.source.wires import equip_ring
from wirecap.traffic import ways
from wirecap.traffic.launch_sender import LEAD_NS, Launches, LaunchSender
from wirecap.traffic.recording import Recording
from wirecap.traffic.ring_sender import XdpQueues, xdp_arrays
from wirecap.traffic.sender import Macs
from wirecap.traffic.session import Session
from wirecap.traffic.timing import Timing
from wirecap.traffic.ways import Wish

Make = Callable[..., Testbed]
__all__ = ["time_limit"]
CELLS, CELL = 64, 2048
S = 10**9


class Queues(XdpQueues):
    """One queue, with a NIC in memory behind it that gives no stamps."""

    def __init__(self) -> None:
        self.places, self.interfaces, self.way = [("lo", 0)], ["lo"], "in memory"
        self.send, self.finish = p.send_launch, p.finish_launch
        self.memory = np.zeros(CELLS * CELL, np.uint8)
        self._region = af_xdp.Region(4096)
        data = self._region.bytes
        rings = Rings(data.view(np.int64), data.view(np.uint32), np.zeros(0, np.int64))
        self.arrays = xdp_arrays(rings, 1, CELLS, CELL, self.memory, k.METADATA_BYTES)
        self.words = self.arrays.words.reshape(1, t.TX_WORDS)
        tx, done = af_xdp.Ring(0, 64, 128, 256, CELLS), af_xdp.Ring(192, 196, 0, 2048, CELLS)
        equip_ring(self.words[0], -1, tx, done)
        answer(self.words[0], rings.halves, CELLS, 0, 0)
        self._sockets = []

    def send_error(self) -> int:
        return 0


class Clock:
    """A NIC's clock that is ``ahead_ns`` of the monotonic one."""

    def __init__(self, ahead_ns: int = 0) -> None:
        self.ahead_ns, self.closed = ahead_ns, False

    def offset_ns(self) -> int:
        return self.ahead_ns

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clock() -> Clock:
    return Clock(1000 * S)


@pytest.fixture
def sender(clock: Clock) -> Iterator[LaunchSender]:
    made = LaunchSender(Queues(), Macs(), clock)
    yield made
    made.close()
    assert clock.closed


def times(sender: LaunchSender) -> tuple[int, int]:
    """When this machine hands over what is due at 0, and its launch time in the NIC's clock."""
    assert isinstance(sender.ring, Queues)
    return int(sender.control[p.START_NS]), int(sender.ring.words[0, k.ORIGIN])


def test_frames_are_handed_over_early(sender: LaunchSender) -> None:
    sender.start(5 * S)
    assert times(sender) == (5 * S, 1005 * S + LEAD_NS)


def test_a_clock_that_drifts_is_followed(sender: LaunchSender, clock: Clock) -> None:
    """Launch times stay, so that gaps are the NIC's; this machine hands over earlier or later."""
    sender.start(5 * S)
    for drifted in (700, -900):
        clock.ahead_ns = 1000 * S + drifted
        sender._follow()
        assert times(sender) == (5 * S - drifted, 1005 * S + LEAD_NS)


def test_a_clock_that_is_set_takes_the_times_along(sender: LaunchSender, clock: Clock) -> None:
    """Or frames would lie in the NIC for as long as it was set back, or leave all at once."""
    sender.start(5 * S)
    for ahead in (1037 * S, 3 * S, -4 * S):
        clock.ahead_ns = ahead
        sender._follow()
        assert times(sender) == (5 * S, 5 * S + ahead + LEAD_NS)


def test_a_clock_that_is_gone_ends_nothing(sender: LaunchSender, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The NIC was taken out: that its link is lost is told, by those who look at links."""

    def gone() -> int:
        raise OSError(errno.ENODEV, "No such device")

    sender.start(5 * S)
    before = times(sender)
    monkeypatch.setattr(clock, "offset_ns", gone)
    sender._follow()
    assert times(sender) == before


def test_a_run_without_stamps(sender: LaunchSender, tmp_path: Path) -> None:
    """All is sent, with the launch times of its schedule, and nobody claims to know when it left."""
    file = write_pcap(tmp_path / "a.pcap", [bytes(60)] * 40)
    session = Session(Recording([str(file)], Timing(pps=10_000), 1500), sender)
    outcome = session.run()
    assert (outcome.sent, outcome.nic) == (40, Launches(0))
    assert outcome.latest_ns >= 0
    assert isinstance(sender.ring, Queues)
    launches = sender.ring.memory.view(np.int64).reshape(CELLS, -1)[:, k.LAUNCH_AT // 8]
    launches = np.unique(launches[launches > 0])
    _, origin = times(sender)
    assert set((launches - origin).tolist()) <= {100_000 * n for n in range(40)}


def test_stamps_are_summed_up_over_queues(sender: LaunchSender) -> None:
    """By the extremes and the mean of those that have any."""
    assert isinstance(sender.ring, Queues)
    words = sender._words = np.zeros((3, t.TX_WORDS), np.int64)
    words[0, [k.STAMPED, k.EARLIEST, k.LATEST, k.SUM]] = 2, -5, 25, 20
    words[2, [k.STAMPED, k.EARLIEST, k.LATEST, k.SUM]] = 2, 10, 70, 80
    sender._tell()
    session = Session(Recording([], Timing(pps=1), 1500), sender)
    outcome = session.outcome()
    assert outcome.nic == Launches(4, -5, 25, 70)
    assert outcome.latest_ns == 70


@pytest.mark.parametrize(
    ("wish", "way", "said"),
    [
        (Wish(None, 1518, False, None, launch="on"), "auto", "at full speed packets have no times"),
        (Wish(None, 1518, True, None, launch="on"), "live", "--send live does not reach the NIC's clock"),
        (Wish(None, 1518, True, None, launch="on"), "xdp", "the loopback interface does not support AF_XDP"),
    ],
)
def test_what_excludes_it_is_named(wish: Wish, way: str, said: str) -> None:
    """One line, with what to do."""
    with pytest.raises(UsageError, match=f"--launch-time: {said}") as raised:
        ways.open_sender("lo", way, wish)
    assert raised.value.hint


def test_by_default_nothing_changes_where_it_cannot_be() -> None:
    sender, why = ways.open_sender("lo", "auto", Wish(None, 1518, True, 1000.0, launch="auto"))
    sender.close()
    assert sender.way.startswith("AF_PACKET")
    assert "launch" not in why


def tai() -> Clock:
    return Clock(launch_time.offset_ns(time.CLOCK_TAI))


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every interface has a driver with launch time, a clock, and queues on which it is switched on."""
    monkeypatch.setattr(launch_time, "lack", lambda name, index, queues: None)
    monkeypatch.setattr(launch_time, "Clock", lambda number: tai())


@pytest.mark.live
def test_a_veth_says_what_it_lacks(testbed: Make) -> None:
    name = testbed(queues=1).nics[0].outside
    with pytest.raises(UsageError, match=f"{name}'s driver has no launch time"):
        ways.open_sender(name, "auto", Wish(None, 1518, True, 1000.0, launch="on"))


@pytest.mark.live
@pytest.mark.usefixtures("capable")
def test_copy_mode_is_not_taken_for_it(testbed: Make) -> None:
    """Asked for: refused with the kernel's reason.  By default: this machine's clock, as ever, on the same queue."""
    name = testbed(queues=1).nics[0].outside
    with pytest.raises(UsageError, match=f"^--launch-time: {name} queue 0: zero-copy is refused: ") as raised:
        ways.open_sender(name, "auto", Wish(None, 1518, True, 1000.0, launch="on"))
    assert raised.value.hint == "leave it out"
    sender, _ = ways.open_sender(name, "auto", Wish((0,), 1518, True, 1000.0, launch="auto"))
    sender.close()
    assert sender.way == "AF_XDP transmit (copy mode, queue 0)"


@pytest.mark.live
@pytest.mark.usefixtures("capable")
def test_a_queue_that_is_taken(testbed: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another cause is told as what it is, with its own way out."""
    if probes.release() < (6, 11):
        pytest.skip("the kernel takes frames' metadata since Linux 6.11")
    name = testbed(queues=1).nics[0].outside
    monkeypatch.setattr(ways, "XdpQueues", partial(XdpQueues, copy=[name]))
    owner = XdpQueues([(name, 0)], 2048, copy=[name])
    try:
        with pytest.raises(UsageError) as raised:
            ways.open_sender(name, "xdp", Wish((0,), 1518, True, 1000.0, launch="on"))
    finally:
        owner.close()
    assert raised.value.message == f"--launch-time: {name} queue 0: cannot bind to queue 0: {os.strerror(errno.EBUSY)}"
    assert raised.value.hint.startswith("another AF_XDP socket has the queue: stop its owner")


CAUSES = {
    "lo queue 0: cannot bind: x (stop it)": SystemCallError("lo queue 0: cannot bind: x", errno.EBUSY, "stop it"),
    "cannot open an AF_XDP socket: x (leave it out)": SystemCallError("cannot open an AF_XDP socket: x", errno.EPERM),
    "/dev/ptp7: Permission denied (leave it out)": PermissionError(errno.EACCES, "Permission denied", "/dev/ptp7"),
    "eth1: Operation not supported (leave it out)": OSError(errno.EOPNOTSUPP, "Operation not supported"),
}  # fmt: skip


@pytest.mark.parametrize("said", CAUSES)
def test_the_cause_stands_first(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps a NIC from keeping the times is told as it is, whatever it is."""

    def fail(*_: object) -> None:
        raise CAUSES[said]

    monkeypatch.setattr(ways, "_unfit_for_launch", lambda *_: None)
    monkeypatch.setattr(ways, "_open_launching", fail)
    facts = replace(netlink.interface("lo"), name="eth1")
    with pytest.raises(UsageError) as raised:
        ways._launching([facts], "auto", Wish(None, 1518, True, 1000.0, launch="on"))
    assert str(raised.value) == f"--launch-time: {said}"


@pytest.mark.live
@pytest.mark.usefixtures("capable")
def test_the_kernel_takes_the_metadata(testbed: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every packet arrives as it is in the file, on its queue, and every one is stamped: not before it was handed over,
    and with times of the clock that the launch times are of."""
    if probes.release() < (6, 15):
        pytest.skip("the kernel knows launch times since Linux 6.15")
    bed, packets = testbed(queues=2), mixed(300)
    name = bed.nics[0].outside
    monkeypatch.setattr(ways, "XdpQueues", partial(XdpQueues, copy=[name]))
    plan = Recording([str(write_pcap(tmp_path / "a.pcap", packets))], Timing(pps=2000), netlink.interface(name).mtu)
    with Receiver(bed, len(packets)) as receiver:
        sender, _ = ways.open_sender(name, "auto", Wish((1,), 1518, True, 2000.0, launch="on"))
        try:
            outcome = Session(plan, sender).run()
        finally:
            sender.close()
    assert sender.way == "AF_XDP transmit (copy mode, queue 1, times kept by the NIC's clock)"
    assert receiver.packets == {1: packets}
    assert (outcome.sent, outcome.refused) == (300, 0)
    assert outcome.nic
    assert outcome.nic.stamped == 300
    assert outcome.nic.earliest_ns <= outcome.nic.mean_ns <= outcome.nic.latest_ns == outcome.latest_ns
    assert abs(outcome.nic.earliest_ns) < 30 * S
    assert abs(outcome.nic.latest_ns) < 30 * S
