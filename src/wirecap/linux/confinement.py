"""What a capture's own process keeps of its rights once packets come: next to nothing (capabilities(7), seccomp(2)).

Capabilities belong to threads.  Each thread that starts gives up its own before anything else runs in it; the main
thread does so once all is set up, and keeps what another filter, an interface that is back, and the end take.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from wirecap.config.sources import may_run_xdp
from wirecap.linux import capabilities, privileges, seccomp

CAPTURE = "wirecap capture "
"""How threads are called that take packets from a NIC and do nothing else."""
PUBLISHER = "wirecap publisher"
"""The thread that serves metrics."""
EXEMPT = ("netns", "sysfs", privileges.THREAD)
"""How the names of threads begin that do something for the one that starts them, with its rights, and end."""
_MAPS_ARE_FREE = (5, 19)
"""Since this Linux, who has a BPF map's descriptor may read it without CAP_BPF."""


class Confinement:
    """For a process that runs one capture and nothing else.

    engine: as asked for; "" if no interface is captured from.  netns: whether interfaces are in a network namespace.
    port: what metrics are served on, 0 for none.  printing: whether a child prints.  paths: the files that are opened
    while packets come, and at the end.  seccomp: whether to refuse system calls, too.
    """

    def __init__(
        self, engine: str = "", netns: bool = False, port: int = 0, printing: bool = False, paths: Sequence[str] = (),
        seccomp: bool = False,
    ) -> None:  # fmt: skip
        self._netns, self._seccomp = netns, seccomp
        self._main, self._others, self._publishing = set[str](), set[str](), set[str]()
        xdp = bool(engine) and may_run_xdp(engine)
        if engine:
            self._main |= {"CAP_NET_ADMIN", *(capabilities.XDP if xdp else capabilities.PACKET)}
        if xdp:
            self._main |= {"CAP_PERFMON", "CAP_IPC_LOCK"}
        if netns:
            self._main |= {"CAP_SYS_ADMIN"}
        if printing:
            self._main |= {"CAP_KILL"}  # the printer has become another user
        if 0 < port < 1024:
            self._publishing |= {"CAP_NET_BIND_SERVICE"}  # a port in use is tried again
        if xdp and _release() < _MAPS_ARE_FREE:
            self._others |= {"CAP_BPF"}
        self._paths = paths

    def begin(self) -> None:
        """From now on threads that start give up theirs.  Raises UsageError if seccomp is asked for in vain."""
        if self._seccomp:
            seccomp.require()
        if not privileges.reached_without(self._paths):
            self._others |= {"CAP_DAC_OVERRIDE"}
        threading.setprofile(self._first)

    def _first(self, frame: FrameType, event: str, argument: object) -> None:
        """Called by a thread before its first line."""
        sys.setprofile(None)
        name = threading.current_thread().name
        if name.startswith(EXEMPT):
            return
        capturing = name.startswith(CAPTURE)
        kept = set[str]() if capturing else self._others
        privileges.keep_only(kept | self._publishing if name == PUBLISHER else kept)
        if self._seccomp:
            seccomp.refuse(seccomp.BY_CAPTURE_THREADS if capturing else seccomp.BY_OTHERS)

    def settle(self) -> None:
        """All is set up: the calling thread, the main one, gives up the rest."""
        privileges.keep_only(self._main | self._others | self._publishing)
        if self._seccomp:
            seccomp.refuse(seccomp.NEVER if self._netns else seccomp.NEVER | seccomp.ENTERING)


def _release() -> tuple[int, ...]:
    """The kernel's version, as far as it is made of numbers: (6, 1)."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return tuple(map(int, found.groups())) if found else _MAPS_ARE_FREE
