"""What kind of packets a link has: LINKTYPE_ numbers and the names that tcpdump's -y and -L have for them."""

from __future__ import annotations

from wirecap.config import QueueSpec
from wirecap.errors import UsageError
from wirecap.linux import netlink
from wirecap.specs import ANY

ETHERNET, RAW, SLL2 = 1, 101, 276
NAMES = {ETHERNET: ("EN10MB", "Ethernet"), RAW: ("RAW", "Raw IP"), SLL2: ("LINUX_SLL2", "Linux cooked v2")}

_WHOLE = {1: ETHERNET, 772: ETHERNET, 65534: RAW, 519: RAW, 768: RAW, 769: RAW, 776: RAW}
"""ARPHRD_ numbers (linux/if_arp.h) of links whose packets come whole: Ethernet, loopback, IP."""


def of_link(hardware: int | None) -> int:
    """The LINKTYPE_ of an ARPHRD_ number, None for all interfaces: cooked where the link is not a known one."""
    return SLL2 if hardware is None else _WHOLE.get(hardware, SLL2)


def of_interface(spec: QueueSpec) -> int:
    """The LINKTYPE_ of what is captured on an interface.  In its network namespace."""
    return of_link(None if spec.interface == ANY else netlink.interface(spec.interface).hardware)


def number(name: str) -> int:
    """The LINKTYPE_ of a name as ``-y`` takes it."""
    numbers = {short: number for number, (short, _) in NAMES.items()}
    found = numbers.get(name.upper().removeprefix("DLT_"))
    if found is None:
        raise UsageError(f"-y {name}: no such link type", f"there are {', '.join(numbers)}")
    return found


def check(name: str, spec: QueueSpec) -> None:
    """Raise UsageError where an interface has another link type than that of ``-y``."""
    has = of_interface(spec)
    if number(name) != has:
        raise UsageError(f"-y {name}: {spec.interface} has {NAMES[has][0]}", "leave -y out, or take another interface")
