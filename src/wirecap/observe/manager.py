"""What a service manager is told (sd_notify(3)): that packets are captured, that threads turn, how it goes, the end."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

LONGEST_S = 10.0
"""Seconds between two lines about how the capture goes."""


class Manager:
    """The manager at the other end of NOTIFY_SOCKET; without that variable nothing is told to anybody.

    It expects a ping within WATCHDOG_USEC, if that is set and meant for this process (WATCHDOG_PID); ``beat`` sends
    four in that time, as long as ``turning`` says that all capture threads have turned since the last one.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address  # an abstract socket (unix(7))
        self._watched_s = 0.0
        expected, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
        if expected.isdecimal() and pid in ("", str(os.getpid())):
            self._watched_s = int(expected) * 1e-6
        self.every_s = min(self._watched_s / 4 or LONGEST_S, LONGEST_S) if address else float("inf")
        self._next = 0.0

    def ready(self) -> None:
        self._send("READY=1")
        self._next = time.monotonic() + self.every_s

    def beat(self, turning: Callable[[], bool], status: Callable[[], str]) -> None:
        """Send a ping and a line about the state, if it is time for one."""
        now = time.monotonic()
        if not self._address or now < self._next:
            return
        self._next = now + self.every_s
        turned = turning()
        line = f"STATUS={status()}" if turned else "STATUS=A capture thread hangs."
        self._send(line + ("\nWATCHDOG=1" if turned and self._watched_s else ""))

    def stopping(self, status: str = "Taking what has arrived, and ending.") -> None:
        self._send(f"STOPPING=1\nSTATUS={status}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),  # nobody listens: no reason to end a capture
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as channel,
        ):
            channel.sendto(message.encode(), self._address)
