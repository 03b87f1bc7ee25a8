"""What this host, its kernel and its user may do, found out by asking or by trying; nothing is changed.

Shared by ``wirecap doctor`` and by tests that need to know whether they can run.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from wirecap.errors import SystemCallError
from wirecap.linux import capabilities
from wirecap.units import format_size


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: ``good`` is None where it neither helps nor hinders; ``advice`` says what to change."""

    name: str
    good: bool | None
    found: str
    advice: str = ""
    essential: bool = False
    """Without it there is no AF_XDP capture."""


def release() -> tuple[int, int]:
    """The kernel's version: (6, 18)."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(re.match(r"\d*", minor)[0] or 0)  # type: ignore[index]


def available_memory_bytes() -> int:
    """Bytes that can be taken without swapping: MemAvailable, or what the cgroup leaves where that is less."""
    information = Path("/proc/meminfo").read_text()
    available = int(re.search(r"^MemAvailable:\s*(\d+) kB", information, re.MULTILINE)[1]) * 1024  # type: ignore[index]
    return min([available, *_cgroup_rooms()])


def _cgroup_rooms() -> list[int]:
    """memory.max less memory.current of the process's cgroup (version 2) and of those above it."""
    rooms = []
    match = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    place = Path("/sys/fs/cgroup") / (match[1] if match else "")
    while place.is_relative_to("/sys/fs/cgroup"):
        try:
            limit = (place / "memory.max").read_text().strip()
            if limit != "max":
                rooms.append(max(0, int(limit) - int((place / "memory.current").read_text())))
        except (OSError, ValueError):
            pass  # the root group has no limit, and a container may hide the others
        place = place.parent
    return rooms


def check_kernel() -> Finding:
    """Is the kernel new enough?"""
    version = release()
    found = f"Linux {os.uname().release}"
    if version < (5, 11):
        advice = "AF_XDP capture needs Linux 5.11 (BPF memory without RLIMIT_MEMLOCK); take a newer kernel"
        return Finding("kernel", False, found, advice, True)
    if version < (6, 1):
        advice = "from Linux 6.1 on the kernel stamps packets in UTC by itself; here a measured offset is added"
        return Finding("kernel", None, found, advice)
    return Finding("kernel", True, found)


def check_privileges() -> Finding:
    """May the user capture?"""
    who = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
    lacking = capabilities.missing(capabilities.XDP)
    if not lacking:
        return Finding("privileges", True, f"{who} with {', '.join(capabilities.XDP)}")
    some = "" if capabilities.missing(capabilities.PACKET) else ": enough for --engine packet only"
    found = f"{who} without {', '.join(lacking)}{some}"
    return Finding("privileges", False, found, capabilities.hint(capabilities.XDP), True)


def check_bpf() -> Finding:
    """Does the kernel load an XDP program, and with which clock?"""
    from wirecap.linux.xdp_program import best_clock

    def attempt() -> str:
        return {"tai": "stamps in UTC by the kernel", "monotonic": "stamps with a measured offset"}[best_clock()]

    return _tried("XDP programs", attempt, "the kernel needs CONFIG_BPF_SYSCALL=y")


def check_af_xdp() -> Finding:
    """Does the kernel have AF_XDP sockets?"""

    def attempt() -> str:
        socket.socket(44, socket.SOCK_RAW).close()  # AF_XDP (linux/socket.h)
        return "to be had"

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
    """Does the kernel give AF_PACKET rings?"""
    from wirecap.linux import memory, packet

    def attempt() -> str:
        region = memory.Region(1 << 20)
        ring = packet.Socket(cooked=False)
        try:
            ring.ring(region, 1 << 17, 2, 1)
        finally:
            ring.close()
            region.close()
        return "TPACKET_V3 to be had"

    return replace(_tried("packet rings", attempt, "the kernel needs CONFIG_PACKET=y"), essential=False)


def check_memory(pool_bytes: int) -> Finding:
    """Does the default pool of one queue fit?"""
    available = available_memory_bytes()
    found = f"{format_size(available)} free, {available // pool_bytes} queues of (256, 100)"
    if available < pool_bytes:
        return Finding("memory", False, found, "take a smaller M or R")
    return Finding("memory", True, found)


def check_huge_pages() -> Finding:
    """Are there huge pages for the pool?"""
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
    """How many CPUs may the process use?"""
    number = len(os.sched_getaffinity(0))
    if number == 1:
        return Finding("CPUs", None, "1", "capture and handler threads take turns; two CPUs or more capture faster")
    return Finding("CPUs", True, str(number))
