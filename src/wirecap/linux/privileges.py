"""Giving up what a process may do (capabilities(7), prctl(2)): what it runs afterwards cannot get it back."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from wirecap.errors import SystemCallError
from wirecap.linux.capabilities import BITS
from wirecap.linux.own_thread import on_own_thread
from wirecap.linux.syscall import call, libc

_CAPBSET_READ, _CAPBSET_DROP, _NO_NEW_PRIVILEGES, _AMBIENT = 23, 24, 38, 47  # linux/prctl.h
_AMBIENT_CLEAR_ALL = 4
_NOBODY = 65534
_VERSION_3 = 0x20080522  # linux/capability.h

THREAD = "privileges"
"""How the name of a thread begins that lives as long as one of these functions, and does with its rights as told."""

T = TypeVar("T")


def give_up_privileges(folder: str) -> None:
    """Become the owner of a folder, where that is possible, with no capability, and none to be had by running anything.

    Raises SystemCallError if the kernel does not take them.
    """
    owner = Path(folder or ".").stat()
    _drop_bounding_set()
    if os.geteuid() == 0 and owner.st_uid:
        os.setgroups([])
        os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
        os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
    _gain_nothing_new()
    _set_capabilities(0)


def keep_only(names: Iterable[str]) -> None:
    """Leave the calling thread those of these capabilities that it has, and no way to others by running anything.

    Raises SystemCallError if the kernel does not take the rest.
    """
    _drop_bounding_set()
    _gain_nothing_new()
    _set_capabilities(sum(1 << BITS[name] for name in set(names)) & _permitted())


def reached_without(paths: Iterable[str]) -> bool:
    """Whether this user opens these files, or makes them in their folders, also without any capability."""

    def limited() -> bool:
        _set_capabilities(0)
        return all(map(_may_open, paths))

    return on_own_thread(limited, THREAD)


def _may_open(name: str) -> bool:
    path = Path(name).absolute()
    if path.exists() and not os.access(path, os.W_OK):
        return False
    folder = next(one for one in path.parents if one.is_dir() or one == Path("/"))  # the others are made
    return os.access(folder, os.W_OK | os.X_OK)


def _permitted() -> int:
    header, held = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    call("reading capabilities", libc.capget(header, held))
    return held[1] | held[4] << 32


def _set_capabilities(bits: int) -> None:
    """Of the calling thread: effective and permitted ones; none are inherited."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    call("giving up capabilities", libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)))


def _drop_bounding_set() -> None:
    for number in range(64):
        if libc.prctl(_CAPBSET_READ, number, 0, 0, 0) == 1:
            with contextlib.suppress(SystemCallError):  # who may not change the set gets none of it from it either
                call("giving up a capability", libc.prctl(_CAPBSET_DROP, number, 0, 0, 0))


def _gain_nothing_new() -> None:
    libc.prctl(_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)  # older kernels have no ambient capabilities
    call("giving up privileges", libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))


@dataclass(frozen=True)
class User:
    uid: int
    gid: int
    home: str


def ordinary_user() -> User | None:
    """Who a program may run as that needs no rights: whoever called sudo(8), or nobody; None if we are not root."""
    if os.geteuid() != 0:
        return None
    number = os.environ.get("SUDO_UID", "")
    try:
        found = pwd.getpwuid(int(number)) if number.isdecimal() and int(number) else pwd.getpwnam("nobody")
    except (KeyError, OverflowError):
        return User(_NOBODY, _NOBODY, "/")
    return User(found.pw_uid, found.pw_gid, found.pw_dir)


def without_privileges(start: Callable[[], T]) -> T:
    """What ``start`` returns, called where a process that it starts gets no capability that its user has not.

    The user is left to ``start``.  It runs on a thread of its own, which has the limits and ends.
    """

    def limited() -> T:
        _drop_bounding_set()
        _gain_nothing_new()
        return start()

    return on_own_thread(limited, THREAD)
