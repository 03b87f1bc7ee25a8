"""What this host, its kernel, drivers and user can do, found out by asking or trying, without changing anything.

Shared by ``wirecap doctor`` and by tests that need to know whether they can run.
"""

from __future__ import annotations

import enum
import errno
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wirecap.errors import SystemCallError
from wirecap.linux import capabilities
from wirecap.units import format_size


class XdpFeature(enum.IntFlag):
    """enum xdp_act of the kernel's netdev specification."""

    BASIC = 1
    REDIRECT = 2
    TRANSMIT = 4
    ZERO_COPY = 8
    OFFLOAD = 16
    RECEIVE_SEGMENTS = 32
    TRANSMIT_SEGMENTS = 64


_DEV_GET = 1  # NETDEV_CMD_DEV_GET
_ATTRIBUTES = (("UNSPEC", "none"), ("IFINDEX", "uint32"), ("PAD", "hex"), ("XDP_FEATURES", "uint64"))


def xdp_features() -> dict[int, XdpFeature] | None:
    """Features by interface index, in the calling thread's network namespace; None if the kernel cannot say."""
    from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, genlmsg
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.generic import GenericNetlinkSocket

    policy = tuple((number, *attribute) for number, attribute in enumerate(_ATTRIBUTES))
    message_type: Any = type("netdev_message", (genlmsg,), {"nla_map": policy})
    with GenericNetlinkSocket() as socket:
        try:
            socket.bind("netdev", message_type)
            message = message_type()
            message["cmd"], message["version"] = _DEV_GET, 1
            replies = list(socket.nlm_request(message, msg_type=socket.prid, msg_flags=NLM_F_REQUEST | NLM_F_DUMP))
        except NetlinkError:
            return None
    return {reply.get_attr("IFINDEX"): XdpFeature(reply.get_attr("XDP_FEATURES") or 0) for reply in replies}


def features_of(index: int) -> XdpFeature | None:
    """Those of one interface; None if the kernel cannot say."""
    found = xdp_features()
    return None if found is None else found.get(index, XdpFeature(0))


def describe_xdp_features(features: XdpFeature) -> str:
    """``native, zero-copy``, ``native`` or ``generic``."""
    if XdpFeature.REDIRECT not in features:
        return "generic"  # AF_XDP needs the redirect; without it only the kernel's generic hook is left
    return "native, zero-copy" if XdpFeature.ZERO_COPY in features else "native"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: ``good`` is None if the finding neither helps nor hurts; ``advice`` says what to change."""

    name: str
    good: bool | None
    found: str
    advice: str = ""
    essential: bool = False
    """Whether AF_XDP capture is impossible without it."""
    loses: bool = False
    """Whether packets are lost as it is, if it is not good."""


def release() -> tuple[int, int]:
    """The kernel's version: (6, 18)."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(re.match(r"\d*", minor)[0] or 0)  # type: ignore[index]


def available_memory_bytes() -> int:
    """Bytes that can be used without swapping: MemAvailable, or what the cgroup allows if that is less."""
    information = Path("/proc/meminfo").read_text()
    available = int(re.search(r"^MemAvailable:\s*(\d+) kB", information, re.MULTILINE)[1]) * 1024  # type: ignore[index]
    return min([available, *_cgroup_rooms()])


def _cgroup_rooms(root: Path = Path("/sys/fs/cgroup"), mine: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What the limits of the process's memory cgroup, and of those above it, leave (both versions of cgroups)."""
    rooms = []
    text = mine.read_text()
    versions = (
        (root, r"^0::/(.*)$", "memory.max", "memory.current"),
        (
            root / "memory",
            r"^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:/(.*)$",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
        ),
    )
    for top, pattern, most, used in versions:
        match = re.search(pattern, text, re.MULTILINE)
        place = top / (match[1] if match else "")
        while place.is_relative_to(top):
            try:
                limit = (place / most).read_text().strip()
                if limit != "max":
                    rooms.append(max(0, int(limit) - int((place / used).read_text())))
            except (OSError, ValueError):
                pass  # the root group has no limit, and a container may hide the others
            place = place.parent
    return rooms


def check_kernel() -> Finding:
    """Check whether the kernel is new enough."""
    version = release()
    found = f"Linux {os.uname().release}"
    if version < (5, 11):
        advice = "install a newer kernel: AF_XDP capture needs Linux 5.11 (BPF memory without RLIMIT_MEMLOCK)"
        return Finding("kernel", False, found, advice, True)
    if version < (6, 1):
        advice = "from Linux 6.1 on, the kernel timestamps packets in UTC itself; here a measured offset is added"
        return Finding("kernel", None, found, advice)
    return Finding("kernel", True, found)


def check_privileges() -> Finding:
    """Check whether the user may capture."""
    who = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
    lacking = capabilities.missing(capabilities.XDP)
    if not lacking:
        return Finding("privileges", True, f"{who} with {', '.join(capabilities.XDP)}")
    some = "" if capabilities.missing(capabilities.PACKET) else ": enough for --engine packet only"
    found = f"{who} without {', '.join(lacking)}{some}"
    return Finding("privileges", False, found, capabilities.hint(capabilities.XDP), True)


def check_bpf() -> Finding:
    """Check whether the kernel loads an XDP program, with which clock, and for which packets it reads that."""
    from wirecap.linux.polls import Polls
    from wirecap.linux.xdp_program import GROUP, best_clock

    def attempt() -> str:
        clock = {"tai": "in UTC from the kernel", "monotonic": "with a measured offset"}[best_clock()]
        try:
            Polls().close()
        except SystemCallError:
            return f"timestamps {clock}, a reading of the clock for each packet (CAP_PERFMON: for {GROUP})"
        return f"timestamps {clock}, a reading of the clock for up to {GROUP} packets of a poll"

    return _tried("XDP programs", attempt, "the kernel needs CONFIG_BPF_SYSCALL=y")


def check_af_xdp() -> Finding:
    """Check whether the kernel has AF_XDP sockets, and for which frames."""
    from wirecap.linux import af_xdp

    def attempt() -> str:
        socket.socket(44, socket.SOCK_RAW).close()  # AF_XDP (linux/socket.h)
        return f"available, for frames {'of any size' if af_xdp.joins_cells() else 'that fit a cell (6.6: any size)'}"

    return _tried("AF_XDP sockets", attempt, "the kernel needs CONFIG_XDP_SOCKETS=y")


def _tried(name: str, attempt: Callable[[], str], advice: str) -> Finding:
    try:
        return Finding(name, True, attempt())
    except (OSError, SystemCallError) as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            return Finding(name, False, "not permitted", capabilities.hint(capabilities.XDP), True)
        reason = error.message if isinstance(error, SystemCallError) else os.strerror(error.errno or 0)
        return Finding(name, False, reason.lower(), advice, True)


def check_packet_rings() -> Finding:
    """Check whether the kernel has AF_PACKET rings."""
    from wirecap.linux import af_packet, af_xdp

    def attempt() -> str:
        region = af_xdp.Region(1 << 20)
        ring = af_packet.Socket(cooked=False)
        try:
            ring.ring(region, 1 << 17, 2, 1)
        finally:
            ring.close()
            region.close()
        return "TPACKET_V3 available"

    return replace(_tried("packet rings", attempt, "the kernel needs CONFIG_PACKET=y"), essential=False)


def check_memory(pool_bytes: int) -> Finding:
    """Check whether the default pool of one queue fits."""
    available = available_memory_bytes()
    found = f"{format_size(available)} free, enough for {available // pool_bytes} queues of (256, 100)"
    if available < pool_bytes:
        return Finding("memory", False, found, "use a smaller M or R")
    return Finding("memory", True, found)


def check_huge_pages() -> Finding:
    """Check whether there are huge pages for the pool."""
    information = Path("/proc/meminfo").read_text()
    free = int((re.search(r"^HugePages_Free:\s*(\d+)", information, re.MULTILINE) or ("", "0"))[1])
    size = int((re.search(r"^Hugepagesize:\s*(\d+)", information, re.MULTILINE) or ("", "0"))[1]) * 1024
    try:
        modes = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
        transparent = (re.search(r"\[(\w+)\]", modes) or ("", "never"))[1]
    except OSError:
        transparent = "never"
    if free:
        return Finding("huge pages", True, f"{free} of {format_size(size)} reserved; transparent: {transparent}")
    if transparent != "never":
        return Finding("huge pages", True, f"none reserved; transparent: {transparent}")
    advice = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, or sysctl vm.nr_hugepages=100"
    return Finding("huge pages", None, "none", advice)


def check_processors() -> Finding:
    """Check how many CPUs the process may use."""
    number = len(os.sched_getaffinity(0))
    if number == 1:
        return Finding(
            "CPUs", None, "1", "capture and handler threads take turns; with two or more CPUs they run at once"
        )
    return Finding("CPUs", True, str(number))
