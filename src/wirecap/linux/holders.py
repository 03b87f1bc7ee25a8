"""Which process has what another one cannot get: an interface's XDP program, a queue's AF_XDP socket, a name.

Read from /proc, which shows other users' descriptors to root alone; the answer is then "".
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
_RINGS = re.compile(r"rw-s (?:100000000|180000000) .*socket:")
"""A mapped fill or completion ring (the offsets of linux/if_xdp.h), which only AF_XDP sockets have."""
_CREDENTIALS = "iII"
"""struct ucred: process, user, group"""


def of_program(program: int) -> str:
    """``wirecap (process 123)`` for who keeps an XDP program attached or loaded, "" if nobody is found.

    program: its id, which is the same in every namespace.
    """
    wanted = f"prog_id:\t{program}\n"
    return _named(pid for pid in _others() if any(wanted in text for text in _descriptors(pid)))


def way_out(interface: str, owner: str) -> str:
    """What to do about an XDP program; owner: what ``of_program`` found."""
    return (
        "stop that process"
        if owner
        else (
            "run this as root, outside the container, to see whose it is;"
            f" 'ip link set {interface} xdp off' detaches only one that no process holds"
        )
    )


def of_lock(status: os.stat_result) -> str:
    """The process that holds a lock on a file (proc_locks(5))."""
    where = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    rows = (line.split() for line in _read(PROC / "locks").splitlines())
    return _named(int(row[4]) for row in rows if len(row) > 5 and row[5] == where and int(row[4]) > 0)


def of_sockets() -> str:
    """The processes that have AF_XDP sockets, on whatever queue: the kernel may not say more."""
    return _named(pid for pid in _others() if _RINGS.search(_read(PROC / str(pid) / "maps")))


def of_name(name: str) -> tuple[str, int]:
    """(who holds an abstract SOCK_SEQPACKET name of this network namespace, its user's number); ("", -1) if unknown.

    The kernel tells everybody who listens at it, and root who has bound it only.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.setblocking(False)
        try:
            asking.connect(f"\0{name}")
        except OSError:
            pass
        else:
            pid, user = credentials(asking)
            return (_named(iter([pid])), user) if pid else ("", -1)  # 0: it is in another PID namespace
    rows = (line.split() for line in _read(PROC / "thread-self" / "net" / "unix").splitlines())
    sockets = {f"socket:[{row[6]}]" for row in rows if row[7:] == [f"@{name}"]}
    for pid in _all():
        if not sockets.isdisjoint(_targets(pid)):
            with suppress(OSError):  # gone in the meantime
                return _named(iter([pid])), (PROC / str(pid)).stat().st_uid
    return "", -1


def credentials(channel: socket.socket) -> tuple[int, int]:
    """(process, user) at the other end of a Unix socket, as they were when it connected or listened (unix(7))."""
    asked = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(_CREDENTIALS))
    pid, user, _ = struct.unpack(_CREDENTIALS, asked)
    return int(pid), int(user)


def _others() -> Iterator[int]:
    return (pid for pid in _all() if pid != os.getpid())


def _all() -> Iterator[int]:
    return (int(path.name) for path in PROC.iterdir() if path.name.isdecimal())


def _targets(pid: int) -> Iterator[str]:
    """What a process has open, as far as this user may see it."""
    with suppress(OSError):
        for path in (PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):  # closed in the meantime
                yield str(path.readlink())


def _descriptors(pid: int) -> Iterator[str]:
    """What the kernel says about the BPF objects that a process has open."""
    try:
        paths = list((PROC / str(pid) / "fd").iterdir())
    except OSError:
        return
    for path in paths:
        try:
            target = str(path.readlink())
        except OSError:  # closed in the meantime
            continue
        if "bpf" in target:
            yield _read(PROC / str(pid) / "fdinfo" / path.name)


def _named(pids: Iterator[int]) -> str:
    return ", ".join(f"{_read(PROC / str(pid) / 'comm').strip() or '?'} (process {pid})" for pid in pids)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
