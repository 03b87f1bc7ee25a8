"""Frames that a NIC sends by its own clock: which interfaces can, on which queues that is switched on, their clock.

A driver says over netlink that it has launch time (linux/netdev.py; Linux 6.15: igc, stmmac), in AF_XDP's zero-copy
mode.  The queueing discipline ``etf`` with ``offload`` switches it on for a transmit queue (tc-etf(8)); a driver
ignores launch times on other queues.  Sources: Documentation/networking/xsk-tx-metadata.rst, linux/pkt_sched.h,
linux/ptp_clock.h.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterable
from typing import NamedTuple

from wirecap.errors import SystemCallError
from wirecap.linux import ethtool, netdev
from wirecap.linux.rtnetlink import Qdisc, Rtnetlink

_PARAMETERS, _OFFLOAD, _ROOT = 1, 1 << 1, 0xFFFFFFFF  # TCA_ETF_PARMS, TC_ETF_OFFLOAD_ON, TC_H_ROOT
_LOOKS = 5
DEVICE = "/dev/ptp{}"


class Lack(NamedTuple):
    """Why an interface does not send by launch time, and what to do about it."""

    reason: str
    way_out: str


def lack(name: str, index: int, queues: Iterable[int]) -> Lack | None:
    """What is missing for these transmit queues, in the thread's network namespace; None where nothing is."""
    otherwise = "leave it out, and this machine's clock keeps the times"
    if not netdev.features(index).sent & netdev.LAUNCH_TIME:
        return Lack(f"{name}'s driver has no launch time for AF_XDP (Linux 6.15; igc, stmmac)", otherwise)
    number = ethtool.clock(name)
    if number < 0:
        return Lack(f"{name} shows no clock of its own (ethtool -T {name})", otherwise)
    try:
        Clock(number).close()
    except OSError as error:
        return Lack(
            f"cannot read {name}'s clock {DEVICE.format(number)}: {error.strerror}", "run as root, with this device"
        )
    on = switched_on(index)
    for queue in queues:
        if queue not in on:
            said = f"tc qdisc replace dev {name} parent 100:{queue + 1:x} etf clockid CLOCK_TAI delta 500000 offload"
            return Lack(f"launch time is off on queue {queue} of {name}", f"below an mqprio with handle 100: {said}")
    return None


def switched_on(index: int) -> set[int]:
    """The transmit queues of an interface that have launch time."""
    try:
        with Rtnetlink() as netlink:
            return queues_of(netlink.qdiscs(index))
    except (SystemCallError, OSError):
        return set()


def queues_of(qdiscs: Iterable[Qdisc]) -> set[int]:
    """The transmit queues below an etf that leaves the times to the NIC; one at the root is for queue 0."""
    found = set()
    for qdisc in qdiscs:
        parameters = qdisc.options.get(_PARAMETERS, b"")  # struct tc_etf_qopt: delta, clock, flags
        if qdisc.kind == "etf" and len(parameters) >= 12 and struct.unpack_from("=I", parameters, 8)[0] & _OFFLOAD:
            found.add(0 if qdisc.parent == _ROOT else (qdisc.parent & 0xFFFF) - 1)
    return found


class Clock:
    """A NIC's clock, /dev/ptpN.  Raises OSError where it cannot be read."""

    def __init__(self, number: int) -> None:
        self._fd = os.open(DEVICE.format(number), os.O_RDONLY | os.O_CLOEXEC)
        self._clock = ~self._fd << 3 | 3  # FD_TO_CLOCKID
        try:
            time.clock_gettime_ns(self._clock)
        except OSError:
            self.close()
            raise

    def offset_ns(self) -> int:
        """What to add to the monotonic clock to get this one."""
        return offset_ns(self._clock)

    def close(self) -> None:
        os.close(self._fd)


def offset_ns(clock: int) -> int:
    """A clock less the monotonic one, in ns: read between two looks at that, at the closest of a few pairs."""
    pairs = []
    for _ in range(_LOOKS):
        before, there, after = time.monotonic_ns(), time.clock_gettime_ns(clock), time.monotonic_ns()
        pairs.append((after - before, there - (before + after) // 2))
    return min(pairs)[1]


def switch_on_stamps(name: str) -> None:
    """Have a NIC stamp what it sends, as far as it can; what it does with received packets stays as it is."""
    with contextlib.suppress(OSError):
        ethtool.set_timestamps(name, sending=ethtool.SENDING_ON)
