"""Linux capabilities (capabilities(7)): which of them an engine takes, and how the missing ones are granted."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from wirecap.errors import SystemCallError

BITS = {
    "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_IPC_LOCK": 14, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39,
}  # fmt: skip
"""linux/capability.h."""

XDP = ("CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_BPF")
"""AF_XDP: the socket, the attaching, the program and its maps."""
PACKET = ("CAP_NET_RAW",)
"""AF_PACKET."""


def effective() -> frozenset[str]:
    """Which of BITS the process has now."""
    status = Path("/proc/self/status").read_text()
    bits = int(re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)[1], 16)  # type: ignore[index]
    return frozenset(name for name, bit in BITS.items() if bits >> bit & 1)


def missing(needed: Sequence[str]) -> list[str]:
    """Those of ``needed`` that the process lacks; CAP_SYS_ADMIN includes what CAP_BPF was split from."""
    held = effective()
    return [name for name in needed if name not in held and not (name == "CAP_BPF" and "CAP_SYS_ADMIN" in held)]


def may_subtract_pointers() -> bool:
    """Whether a BPF program of this process may: only CAP_PERFMON (or CAP_SYS_ADMIN) lets it see addresses."""
    return not effective().isdisjoint({"CAP_PERFMON", "CAP_SYS_ADMIN"})


def hint(needed: Sequence[str]) -> str:
    """How ``needed`` is granted: by root, to the interpreter's file, or by systemd to a service."""
    flags = ",".join(name.lower() for name in needed)
    return (
        f"run as root, or 'setcap {flags}=ep {Path(sys.executable).resolve()}',"
        f" or in a systemd unit 'AmbientCapabilities={' '.join(needed)}'"
    )


def require(needed: Sequence[str], engine: str) -> None:
    """SystemCallError that names what the process lacks of ``needed``."""
    lacking = missing(needed)
    if lacking:
        verb = "is" if len(lacking) == 1 else "are"
        message = f"the {engine} engine needs {', '.join(needed)}: {', '.join(lacking)} {verb} missing"
        raise SystemCallError(message, errno.EPERM, hint(needed))
