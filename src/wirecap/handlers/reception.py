"""Where programs that read a capture come in: a socket named after each interface, and who is let through."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable

from wirecap.errors import SystemCallError
from wirecap.kernels.libpcap.layout import SOCKET_PREFIX
from wirecap.linux import holders

BACKLOG = 64
PAUSE_S = 0.01
"""How long not to look after a program could neither be let in nor be turned away."""
_SHORT_OF = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.ETOOMANYREFS}
"""What this process or this host has too little of: the program that asked is not to blame."""


class Reception:
    """The sockets of interfaces, in the network namespace of the thread that makes this.

    Raises SystemCallError if another process has the name of one.
    """

    def __init__(self, interfaces: Iterable[str]) -> None:
        self.listeners: list[socket.socket] = []
        self._turned_away: Counter[str] = Counter()
        self._spare = -1
        try:
            self._spare = os.eventfd(0, os.EFD_CLOEXEC)
            for interface in interfaces:
                self._listen(interface)
        except BaseException:
            self.close()
            raise

    def _listen(self, interface: str) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listeners.append(listener)
        listener.setblocking(False)
        name = SOCKET_PREFIX + interface
        try:
            listener.bind(f"\0{name}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise _taken(interface, name) from None
        listener.listen(BACKLOG)

    def accept(self, interface: int) -> socket.socket | None:
        """The next program's channel; None if it is another user's, or gone, or if there is no descriptor for it."""
        try:
            channel, _ = self.listeners[interface].accept()
        except OSError as error:
            self._turn_away(self.listeners[interface], error)
            return None
        try:
            trusted = holders.credentials(channel)[1] in (0, os.geteuid())
            channel.setblocking(False)
        except OSError:
            trusted = False
        if not trusted:
            channel.close()
            return None
        return channel

    def _turn_away(self, listener: socket.socket, error: OSError) -> None:
        """Let a program in and out by a descriptor that was kept for this: one that waits keeps waking its thread."""
        if error.errno in (errno.EAGAIN, errno.ECONNABORTED):  # it does not wait any more
            return
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        try:
            listener.accept()[0].close()
            self.count(error)
        except OSError:
            time.sleep(PAUSE_S)
        try:
            self._spare = os.eventfd(0, os.EFD_CLOEXEC)
        except OSError:
            time.sleep(PAUSE_S)

    def count(self, error: OSError) -> None:
        """Remember that a program was turned away, if that was for want of something."""
        if error.errno in _SHORT_OF:
            self._turned_away[os.strerror(error.errno).lower()] += 1

    @property
    def notes(self) -> list[str]:
        counts = self._turned_away.items()
        return [f"{n} program{'' if n == 1 else 's'} turned away: {why}" for why, n in counts]

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()
        self.listeners = []
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1


def _taken(interface: str, name: str) -> SystemCallError:
    """Why an interface cannot be shared: any user's program can have its name."""
    who, user = holders.of_name(name)
    if not who:
        message, hint = f"{interface}: another program holds the name @{name}", "root sees whose it is: ss -xap"
    elif user in (0, os.geteuid()):
        message, hint = f"{interface}: another wirecap shares this interface: {who}", "one is enough"
    else:
        message = f"{interface}: user {user} holds the name @{name}, by which programs find a capture: {who}"
        hint = "stop that process"
    return SystemCallError(message, errno.EADDRINUSE, hint)
