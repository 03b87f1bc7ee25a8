"""Linux capabilities (capabilities(7)): which ones there are, and how the missing ones are granted."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

BITS = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_IPC_LOCK": 14, "CAP_SYS_ADMIN": 21, "CAP_BPF": 39}
"""linux/capability.h."""

XDP = ("CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_BPF")
"""What an AF_XDP capture takes: the socket, the attaching, the program and its maps."""
PACKET = ("CAP_NET_RAW",)
"""What an AF_PACKET capture takes."""


def effective() -> frozenset[str]:
    """Which of BITS the process has now; CAP_SYS_ADMIN includes what CAP_BPF was split from."""
    status = Path("/proc/self/status").read_text()
    bits = int(re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)[1], 16)  # type: ignore[index]
    held = {name for name, bit in BITS.items() if bits >> bit & 1}
    return frozenset(held | {"CAP_BPF"} if "CAP_SYS_ADMIN" in held else held)


def missing(needed: Sequence[str]) -> list[str]:
    """Those of ``needed`` that the process does not have."""
    held = effective()
    return [name for name in needed if name not in held]


def hint(needed: Sequence[str]) -> str:
    """How to grant what is missing of ``needed``: by file capabilities of the interpreter, or by systemd."""
    names = missing(needed) or list(needed)
    flags = ",".join(name.lower() for name in needed)
    python = Path(sys.executable).resolve()
    lacks = f"{', '.join(names)} {'are' if len(names) > 1 else 'is'} missing"
    return (
        f"{lacks}: run as root, or setcap {flags}=ep {python}, or in a systemd unit"
        f" AmbientCapabilities={' '.join(needed)}"
    )
