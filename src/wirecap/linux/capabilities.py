"""Linux capabilities (capabilities(7)): which ones an engine needs, and how to grant those that are missing."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from wirecap.errors import SystemCallError

BITS = {
    "CAP_DAC_OVERRIDE": 1, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_IPC_LOCK": 14, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39,
}  # fmt: skip
"""linux/capability.h."""

XDP = ("CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_BPF")
"""For AF_XDP: opening the socket, attaching the program, loading it and its maps."""
PACKET = ("CAP_NET_RAW",)
"""For AF_PACKET."""


def effective() -> frozenset[str]:
    """The capabilities of BITS that the process has now.  Raises SystemCallError without /proc."""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        message = "/proc is not mounted: it tells what this process may do"
        raise SystemCallError(message, errno.ENOENT, "mount -t proc proc /proc") from None
    bits = int(re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)[1], 16)  # type: ignore[index]
    return frozenset(name for name, bit in BITS.items() if bits >> bit & 1)


def missing(needed: Sequence[str]) -> list[str]:
    """The ones of ``needed`` that the process lacks; CAP_SYS_ADMIN includes CAP_BPF, which was split from it."""
    held = effective()
    return [name for name in needed if name not in held and not (name == "CAP_BPF" and "CAP_SYS_ADMIN" in held)]


def may_subtract_pointers() -> bool:
    """Whether this process's BPF programs may subtract pointers, which takes CAP_PERFMON (or CAP_SYS_ADMIN)."""
    return not effective().isdisjoint({"CAP_PERFMON", "CAP_SYS_ADMIN"})


def hint(needed: Sequence[str]) -> str:
    """How to grant ``needed``: run as root, set it on the interpreter's file, or have systemd grant it to a service."""
    flags = ",".join(name.lower() for name in needed)
    return (
        f"run as root, or run 'setcap {flags}=ep {Path(sys.executable).resolve()}', which holds for every program that"
        " this interpreter runs: do it to a copy that only the right group may execute,"
        f" or put 'AmbientCapabilities={' '.join(needed)}' in a systemd unit"
    )


def require(needed: Sequence[str], engine: str) -> None:
    """Raise SystemCallError naming the capabilities of ``needed`` that the process lacks."""
    lacking = missing(needed)
    if lacking:
        verb = "is" if len(lacking) == 1 else "are"
        which = f", which {verb}" if lacking == list(needed) else f": {', '.join(lacking)} {verb}"
        message = f"the {engine} engine needs {', '.join(needed)}{which} missing"
        raise SystemCallError(message, errno.EPERM, hint(needed))
