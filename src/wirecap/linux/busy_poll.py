"""Preferred busy polling (Documentation/networking/napi.rst): a NIC interrupts only when nobody polls its queues.

The settings of an interface are files of sysfs, of which each network namespace has its own.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from wirecap.errors import SystemCallError
from wirecap.linux import probes, syscall
from wirecap.linux.af_xdp import AF_XDP
from wirecap.linux.own_thread import on_own_thread

SO_BUSY_POLL, SO_INCOMING_NAPI_ID, SO_PREFER_BUSY_POLL, SO_BUSY_POLL_BUDGET = 46, 56, 69, 70  # asm-generic/socket.h
POLL_US = 20
BUDGET = 64
"""Packets of one poll: as many as a driver takes at once."""
WANTED = {"napi_defer_hard_irqs": "2", "gro_flush_timeout": "200000"}
"""Empty polls before interrupts come back, and ns after which the kernel polls by itself: twice the longest sleep."""
NAMED_AT_BIND = (6, 13)
"""From this Linux on a socket polls what the driver named before it was bound; before, what brings packets."""
CLONE_NEWNS = 0x20000  # linux/sched.h
MS_REC, MS_PRIVATE = 0x4000, 1 << 18  # linux/mount.h
T = TypeVar("T")


def prefer(descriptor: int) -> str:
    """Let a bound AF_XDP socket's reads poll its queue; "" or why it cannot be."""
    with socket.socket(AF_XDP, socket.SOCK_RAW, 0, os.dup(descriptor)) as one:
        try:
            one.setsockopt(socket.SOL_SOCKET, SO_PREFER_BUSY_POLL, 1)
            one.setsockopt(socket.SOL_SOCKET, SO_BUSY_POLL, POLL_US)
            one.setsockopt(socket.SOL_SOCKET, SO_BUSY_POLL_BUDGET, BUDGET)
        except OSError as error:
            return os.strerror(error.errno or 0).lower()
    if not napi_of(descriptor) and probes.release() >= NAMED_AT_BIND:
        return "the driver does not tell the kernel which polls serve this queue"
    return ""


def napi_of(descriptor: int) -> int:
    """The kernel's number for the polls that serve an AF_XDP socket's queue; 0 if it knows none, or none yet."""
    with socket.socket(AF_XDP, socket.SOCK_RAW, 0, os.dup(descriptor)) as one:
        return one.getsockopt(socket.SOL_SOCKET, SO_INCOMING_NAPI_ID)


class Deferral:
    """Interrupts of an interface put off while somebody polls it; ``close`` puts back what there was.

    ``refused``: why that is not possible, or "".  Create it in the interface's network namespace.
    """

    def __init__(self, name: str) -> None:
        self._files: list[tuple[int, str]] = []
        self.refused = ""
        try:
            _with_sysfs(name, lambda: self._set(name))
        except (OSError, SystemCallError) as error:
            self.refused = os.strerror(error.errno or 0).lower()

    def _set(self, name: str) -> None:
        for file, value in WANTED.items():
            fd = os.open(f"/sys/class/net/{name}/{file}", os.O_RDWR | os.O_CLOEXEC)
            self._files.append((fd, os.pread(fd, 64, 0).decode().strip()))
            os.pwrite(fd, value.encode(), 0)

    def close(self) -> None:
        for fd, before in self._files:
            try:
                os.pwrite(fd, before.encode(), 0)
            except OSError:  # the interface is gone
                pass
            os.close(fd)
        self._files = []


def state(name: str) -> dict[str, int]:
    """``threaded`` and WANTED's files of an interface, as far as they can be read; in its network namespace."""

    def read() -> dict[str, int]:
        found = {}
        for file in ("threaded", *WANTED):
            try:
                found[file] = int(Path(f"/sys/class/net/{name}/{file}").read_text())
            except (OSError, ValueError):
                continue
        return found

    try:
        return _with_sysfs(name, read)
    except (OSError, SystemCallError):
        return {}


def _with_sysfs(name: str, function: Callable[[], T]) -> T:
    """Call the function where /sys shows the calling thread's network namespace."""
    index = socket.if_nametoindex(name)
    try:
        if int(Path(f"/sys/class/net/{name}/ifindex").read_text()) == index:
            return function()
    except OSError:
        pass

    def inside() -> T:
        libc = syscall.libc
        syscall.call("cannot leave the mount namespace", libc.unshare(CLONE_NEWNS))
        syscall.call(
            "cannot keep mounts apart", libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
        )
        syscall.call("cannot mount sysfs", libc.mount(b"sysfs", b"/sys", b"sysfs", ctypes.c_ulong(0), None))
        return function()

    return on_own_thread(inside, "sysfs")
