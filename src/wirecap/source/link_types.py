"""What kind of packets a link carries: LINKTYPE_ numbers, and tcpdump's names for them (-y, -L)."""

from __future__ import annotations

from wirecap.config.specs import ANY, QueueSpec
from wirecap.errors import UsageError
from wirecap.linux import netlink

ETHERNET, RAW, SLL2 = 1, 101, 276
NAMES = {ETHERNET: ("EN10MB", "Ethernet"), RAW: ("RAW", "Raw IP"), SLL2: ("LINUX_SLL2", "Linux cooked v2")}

_WHOLE = {1: ETHERNET, 772: ETHERNET, 65534: RAW, 519: RAW, 768: RAW, 769: RAW, 776: RAW}
"""ARPHRD_ numbers (linux/if_arp.h) of links whose packets arrive whole: Ethernet, loopback, IP."""


def of_link(hardware: int | None) -> int:
    """The LINKTYPE_ of an ARPHRD_ number (None for all interfaces); cooked if the link is not a known one."""
    return SLL2 if hardware is None else _WHOLE.get(hardware, SLL2)


def of_interface(spec: QueueSpec) -> int:
    """The LINKTYPE_ of what is captured on an interface.  Call it in the interface's network namespace."""
    return of_link(None if spec.interface == ANY else netlink.interface(spec.interface).hardware)


def number(name: str) -> int:
    """The LINKTYPE_ of a name given with ``-y``."""
    numbers = {short: number for number, (short, _) in NAMES.items()}
    found = numbers.get(name.upper().removeprefix("DLT_"))
    if found is None:
        raise UsageError(f"-y: unknown link type {name}", f"use one of {', '.join(numbers)}")
    return found


def check(name: str, spec: QueueSpec) -> None:
    """Raise UsageError if an interface's link type is not that of ``-y``."""
    has = of_interface(spec)
    if number(name) != has:
        raise UsageError(f"-y {name}: {spec.interface} has {NAMES[has][0]}", "leave -y out, or use another interface")
