"""Network namespaces: list, create and remove them, and run a function inside one.

A named namespace is a mount at /run/netns/NAME, as iproute2 makes it (ip-netns(8)).  Each thread has its own
namespace: ``call`` enters one in a separate thread, so the caller's never changes.  Sockets that the function
opens, and processes that it starts, stay in the namespace after it returns.
"""

from __future__ import annotations

import ctypes
import difflib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from wirecap.errors import SystemCallError, UsageError
from wirecap.linux import syscall
from wirecap.linux.own_thread import on_own_thread

FOLDER = Path("/run/netns")
CLONE_NEWNET = 0x40000000  # linux/sched.h

P = ParamSpec("P")
T = TypeVar("T")


def names() -> list[str]:
    """The named namespaces, sorted, including names on which no namespace is mounted."""
    try:
        return sorted(path.name for path in FOLDER.iterdir())
    except FileNotFoundError:
        return []


def path_of(name: str) -> Path:
    """The file of a namespace: a name under /run/netns, or a path such as /proc/PID/ns/net."""
    path = Path(name) if "/" in name else FOLDER / name
    if name and path.is_file():
        return path
    known = names()
    near = difflib.get_close_matches(name, known)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = f"choose from {', '.join(known)}" if known else "there are none; 'wirecap testbed up' creates one"
    raise UsageError(f"no network namespace {name!r}", hint)


def enter(name: str) -> None:
    """Move the calling thread into a namespace, for good."""
    path = path_of(name)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SystemCallError(f"cannot open {path}: {error.strerror}", error.errno or 0) from None
    try:
        if syscall.libc.setns(descriptor, CLONE_NEWNET):
            raise _refused(name, ctypes.get_errno())
    finally:
        os.close(descriptor)


def _refused(name: str, code: int) -> SystemCallError:
    if code == errno.EPERM:
        hint = "entering a network namespace needs CAP_SYS_ADMIN: run as root"
    elif code == errno.EINVAL:
        hint = f"nothing is mounted on {FOLDER / name}: remove it with 'ip netns delete {name}'"
    else:
        hint = ""
    return SystemCallError(f"cannot enter network namespace {name!r}: {os.strerror(code)}", code, hint)


def call(name: str | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``function(*args, **kwargs)`` in the namespace; None means the caller's own.  Errors pass through."""
    if name is None:
        return function(*args, **kwargs)
    where = name

    def inside() -> T:
        enter(where)
        return function(*args, **kwargs)

    return on_own_thread(inside, "netns")


def call_at_home(function: Callable[[], T]) -> T:
    """Run ``function()`` in the process's own namespace, also where the caller's thread was started in another one."""
    home = Path(f"/proc/{os.getpid()}/ns/net")  # that of the first thread, which is never moved
    if Path("/proc/thread-self/ns/net").readlink() == home.readlink():
        return function()

    def inside() -> T:
        descriptor = os.open(home, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if syscall.libc.setns(descriptor, CLONE_NEWNET):
                raise _refused("of the process", ctypes.get_errno())
        finally:
            os.close(descriptor)
        return function()

    return on_own_thread(inside, "netns")


def call_in_new(function: Callable[[], T]) -> tuple[T, int]:
    """Run ``function()`` in a new, unnamed namespace; returns its result and a descriptor that keeps the namespace."""

    def inside() -> tuple[T, int]:
        if syscall.libc.unshare(CLONE_NEWNET):
            code = ctypes.get_errno()
            raise SystemCallError(
                f"cannot create a network namespace: {os.strerror(code)}", code, "this needs CAP_SYS_ADMIN: run as root"
            )
        descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return function(), descriptor
        except BaseException:
            os.close(descriptor)
            raise

    return on_own_thread(inside, "netns")


def create(name: str) -> None:
    """Create a named namespace that ``ip netns`` sees; its loopback stays down.  An existing one is kept."""
    from pyroute2 import netns

    if name in names() and not _is_mounted(name):
        delete(name)  # left over from a creation that was interrupted
    if name in names():
        return
    try:
        netns.create(name)
    except FileExistsError:
        pass  # someone else was faster
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            hint = "this needs CAP_SYS_ADMIN and CAP_NET_ADMIN: run as root"
        else:
            hint = ""
        message = f"cannot create network namespace {name!r}: {error.strerror or error}"
        raise SystemCallError(message, error.errno or 0, hint) from None


def delete(name: str) -> None:
    """Remove a named namespace, which ends with the last process in it.  It need not exist."""
    from pyroute2 import netns

    try:
        netns.remove(name)
    except FileNotFoundError:
        pass
    except OSError as error:
        hint = "this needs CAP_SYS_ADMIN: run as root" if error.errno in (errno.EPERM, errno.EACCES) else ""
        message = f"cannot remove network namespace {name!r}: {error.strerror or error}"
        raise SystemCallError(message, error.errno or 0, hint) from None


def _is_mounted(name: str) -> bool:
    """Whether a namespace is mounted: it lies on the kernel's own file system, a bare mount point on that of /run."""
    return (FOLDER / name).stat().st_dev != FOLDER.stat().st_dev
