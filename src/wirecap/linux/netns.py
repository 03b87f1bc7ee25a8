"""Network namespaces: list, make and remove them, and run a function inside one.

A named namespace is a mount at /run/netns/NAME, as iproute2 lays it (ip-netns(8)).  A namespace belongs
to a thread: ``call`` enters it in a thread of its own, so that the caller's never changes.  Sockets,
and processes that the function starts, stay in the namespace after it returns.
"""

from __future__ import annotations

import ctypes
import difflib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from wirecap.errors import SystemCallError, UsageError
from wirecap.linux import syscall

FOLDER = Path("/run/netns")
CLONE_NEWNET = 0x40000000  # linux/sched.h

P = ParamSpec("P")
T = TypeVar("T")


def names() -> list[str]:
    """The named namespaces, sorted; a name without a namespace mounted on it counts too."""
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
        hint = f"there are: {', '.join(known)}" if known else "there are none; 'wirecap testbed up' makes one"
    raise UsageError(f"no network namespace {name!r}", hint)


def enter(name: str) -> None:
    """Move the calling thread into a namespace, for good."""
    path = path_of(name)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SystemCallError(f"open {path}: {error.strerror}", error.errno or 0) from None
    try:
        if syscall.libc.setns(descriptor, CLONE_NEWNET):
            raise _refused(name, ctypes.get_errno())
    finally:
        os.close(descriptor)


def _refused(name: str, code: int) -> SystemCallError:
    if code == errno.EPERM:
        hint = "entering a network namespace needs CAP_SYS_ADMIN: run as root"
    elif code == errno.EINVAL:
        hint = f"nothing is mounted on {FOLDER / name}: 'ip netns delete {name}' removes the remains"
    else:
        hint = ""
    return SystemCallError(f"network namespace {name!r}: setns: {os.strerror(code)}", code, hint)


def call(name: str | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``function(*args, **kwargs)`` in the namespace; None is the caller's own.  Errors pass through."""
    if name is None:
        return function(*args, **kwargs)
    where = name

    def inside() -> T:
        enter(where)
        return function(*args, **kwargs)

    return _in_thread(inside)


def call_in_new(function: Callable[[], T]) -> tuple[T, int]:
    """``function()`` in a new namespace without a name, and a descriptor that keeps the namespace until closed."""

    def inside() -> tuple[T, int]:
        if syscall.libc.unshare(CLONE_NEWNET):
            code = ctypes.get_errno()
            raise SystemCallError(f"unshare: {os.strerror(code)}", code, "this needs CAP_SYS_ADMIN: run as root")
        descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return function(), descriptor
        except BaseException:
            os.close(descriptor)
            raise

    return _in_thread(inside)


def _in_thread(function: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="netns", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def create(name: str) -> None:
    """Make a named namespace that ``ip netns`` sees; its loopback stays down.  One that exists is kept."""
    from pyroute2 import netns

    if name in names() and not _is_mounted(name):
        delete(name)  # the remains of a creation that was cut short
    if name in names():
        return
    try:
        netns.create(name)
    except FileExistsError:
        pass  # somebody else was faster
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            hint = "this needs CAP_SYS_ADMIN and CAP_NET_ADMIN: run as root"
        else:
            hint = ""
        message = f"cannot make network namespace {name!r}: {error.strerror or error}"
        raise SystemCallError(message, error.errno or 0, hint) from None


def delete(name: str) -> None:
    """Remove a named namespace; it ends when the last process in it does.  None of that name: no error."""
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
    """A mounted namespace lies on the kernel's own file system, the bare mount point on /run's."""
    return (FOLDER / name).stat().st_dev != FOLDER.stat().st_dev
